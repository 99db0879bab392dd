//! The vote of this host's member: a learner is promoted once all voters work, and it and they are in sync.
//!
//! A host that knows no other master has a vote from the beginning, so nothing is asked. Otherwise this host's own member says whether it is
//! a learner; the others are asked only then.
//!
//! Not here: the decision (`kubernetes::etcd_members`).

use std::path::PathBuf;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::marker;
use crate::host::Host;
use crate::kubernetes::etcd_members::{Me, OWN_ENDPOINT, Promotion, look, promotion};
use crate::kubernetes::masters;
use crate::model::chain;
use crate::resource::{Action, Change, Context, Receipt, Resource, ResourceError, ResourceResult};

/// The vote of a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EtcdPromotedSpec {
    /// The name of the member: that of the node.
    pub name: String,
    /// Its data directory.
    pub data: PathBuf,
    /// Its URL for other members.
    pub peer: String,
}

/// Whether the member has a vote, and what has to be done.
#[derive(Debug)]
pub struct VoteState {
    /// The other masters' members.
    endpoints: Vec<String>,
    promotion: Promotion,
    /// Whether the disk still says that the member has never had a vote.
    is_marked: bool,
}

#[async_trait]
impl Resource for EtcdPromotedSpec {
    type Observed = VoteState;

    fn label(&self) -> String {
        self.name.clone()
    }

    async fn observe(&self, cx: &Context<'_>) -> ResourceResult<VoteState> {
        let masters = masters::read(cx.host).await?;
        let endpoints = masters::endpoints_of_others(&masters, &self.name);
        let is_marked = marker::is_there(cx.host, &self.data).await?;
        let promotion = match cx.absent || endpoints.is_empty() {
            true => Promotion::Voter,
            false => self.decide(cx.host, &endpoints, is_marked).await?,
        };
        Ok(VoteState {
            endpoints,
            promotion,
            is_marked,
        })
    }

    fn diff(&self, observed: &VoteState, absent: bool) -> Option<Change> {
        let needs = match observed.promotion {
            Promotion::Voter => observed.is_marked && !absent && !observed.endpoints.is_empty(),
            Promotion::Wait(_) | Promotion::Promote(_) | Promotion::Gone => true,
        };
        needs.then(|| Change::new(Action::Change).with("member", "learner", "voter"))
    }

    async fn converge(
        &self,
        observed: &VoteState,
        cx: &Context<'_>,
        _: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        match &observed.promotion {
            Promotion::Voter => {}
            // A promotion has no undo: to take a vote away is a decision of its own (`nodelet cluster remove`).
            Promotion::Promote(id) => cx.host.member_promote(&observed.endpoints, *id).await?,
            Promotion::Wait(why) => {
                return Err(ResourceError::Awaited {
                    what: format!(
                        "give {} its vote in etcd: {why}; the next try goes on",
                        self.name
                    ),
                    next: "look at the members on another master (`nodelet etcd members`)"
                        .to_owned(),
                });
            }
            Promotion::Gone => {
                return Err(ResourceError::Unmet {
                    what: format!(
                        "give {} its vote in etcd: the cluster does not list it any more",
                        self.name
                    ),
                    next: "run `nodelet apply`, which adds it again unless it was removed (`nodelet cluster remove`)".to_owned(),
                });
            }
        }
        marker::remove(cx.host, &self.data).await
    }
}

impl EtcdPromotedSpec {
    async fn decide(
        &self,
        host: &dyn Host,
        endpoints: &[String],
        is_marked: bool,
    ) -> ResourceResult<Promotion> {
        match host.member_status(OWN_ENDPOINT).await {
            Ok(own) if !own.learner => return Ok(Promotion::Voter),
            // It is not the member that it will be: without data it joins as a learner.
            Err(_) if !is_marked && !marker::has_data(host, &self.data).await? => {
                return Ok(Promotion::Wait("it has not joined yet".to_owned()));
            }
            // Checks of the phase say that it does not answer. Without a mark it has had a vote.
            Err(_) if !is_marked => return Ok(Promotion::Voter),
            Ok(_) | Err(_) => {}
        }
        let members = match host.member_list(endpoints).await {
            Ok(members) => members,
            Err(error) => {
                return Ok(Promotion::Wait(format!(
                    "no other master answers with quorum: {}",
                    chain(&error).join(": ")
                )));
            }
        };
        let first = look(host, members.clone()).await;
        let second = look(host, members).await;
        // Last, so that its index is not older than those of the others.
        let own = host.member_status(OWN_ENDPOINT).await.ok();
        let me = Me {
            name: &self.name,
            peer: &self.peer,
        };
        let own_index = own.map(|own| own.raft_index);
        Ok(promotion(me, &first, &second, own_index))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::host::fake::FakeHost;
    use crate::host::{ContainerConfig, Containers as _, Files as _};
    use crate::kubernetes::masters::MASTERS;
    use crate::resource::tests::{apply_in, context};

    const DATA: &str = "/var/etcd";
    const MARKER: &str = "/var/etcd/member/nodelet-learner";

    fn spec() -> EtcdPromotedSpec {
        EtcdPromotedSpec {
            name: "m-3".to_owned(),
            data: DATA.into(),
            peer: "https://172.30.0.13:2380".to_owned(),
        }
    }

    /// A host whose learner runs beside two voters.
    async fn host() -> FakeHost {
        let masters = r#"{"version":1,"masters":[{"name":"m-1","address":"172.30.0.11","voter":true},{"name":"m-2","address":"172.30.0.12","voter":true},{"name":"m-3","address":"172.30.0.13","voter":false}]}"#;
        let host = FakeHost::new()
            .with_docker()
            .with_image("etcd:3")
            .with_file(MASTERS, masters)
            .with_file(MARKER, "");
        let config = ContainerConfig::bare("etcd", "etcd:3");
        host.create_container(&config).await.expect("it is made");
        host.start_container("etcd").await.expect("it starts");
        host.with_world_mut(|world| {
            world.etcd.voter("m-1", "172.30.0.11", 11);
            world.etcd.voter("m-2", "172.30.0.12", 12);
            world.etcd.voter("m-3", "172.30.0.13", 13);
            world.etcd.silence("172.30.0.13");
            world.etcd.members[2].learner = true;
        });
        host
    }

    async fn apply(host: &FakeHost) -> ResourceResult<Option<Change>> {
        apply_in(&context(host), &spec(), &mut Receipt::default()).await
    }

    #[tokio::test]
    async fn a_learner_in_sync_is_promoted_once() {
        let host = host().await;
        apply(&host).await.expect("it works").expect("it differs");
        assert!(host.with_world(|world| !world.etcd.members[2].learner));
        assert!(host.with_world(|world| world.text(MARKER)).is_none());
        assert_eq!(apply(&host).await.expect("it works"), None);
    }

    #[tokio::test]
    async fn a_learner_waits_for_all_voters() {
        let host = host().await;
        host.with_world_mut(|world| {
            world
                .etcd
                .states
                .get_mut("https://172.30.0.12:4001")
                .expect("it is there")
                .leader = None
        });
        let error = apply(&host).await.expect_err("it waits");
        assert!(!error.is_permanent(), "{error}");
        assert!(
            error.to_string().contains("m-2: it knows no leader"),
            "{error}"
        );
        assert!(host.with_world(|world| world.etcd.members[2].learner));
    }

    #[tokio::test]
    async fn a_learner_waits_for_a_voter_that_lags() {
        let host = host().await;
        let set_index = |index| {
            host.with_world_mut(|world| {
                let state = world.etcd.states.get_mut("https://172.30.0.12:4001");
                state.expect("it is there").raft_index = index;
            });
        };
        set_index(50);
        let error = apply(&host).await.expect_err("it waits");
        assert!(!error.is_permanent(), "{error}");
        assert!(error.to_string().contains("m-2 by 50 entries"), "{error}");
        assert!(host.with_world(|world| world.etcd.members[2].learner));
        set_index(99);
        apply(&host).await.expect("it works").expect("it differs");
        assert!(host.with_world(|world| !world.etcd.members[2].learner));
    }

    /// A dry run of the join says so, too.
    #[tokio::test]
    async fn a_member_without_data_has_no_vote_yet() {
        let host = host().await;
        host.stop_container("etcd", Duration::from_secs(1))
            .await
            .expect("it stops");
        host.remove_tree(DATA.as_ref()).await.expect("it is gone");
        let observed = spec().observe(&context(&host)).await.expect("it is seen");
        let change = spec().diff(&observed, false).expect("it needs a vote");
        assert_eq!(change.differences[0].after, "voter");
    }

    #[tokio::test]
    async fn a_host_alone_asks_nothing() {
        let host = FakeHost::new();
        assert_eq!(apply(&host).await.expect("it works"), None);
        assert!(
            host.journal()
                .iter()
                .all(|call| !call.name.starts_with("member"))
        );
    }
}
