//! The removal of a master: its member leaves etcd, and its node is deleted. Another master does it, also if the host is lost.
//!
//! `selection` finds the member that an operator has named, and `marks` keeps its host from joining again. All is decided twice: before the
//! pods are evicted, and right before the member is removed, because the cluster may have changed meanwhile.

mod marks;
mod selection;

use std::net::IpAddr;
use std::slice;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use self::marks::{finish, remove_marked};
use self::selection::{is_entry, nameless_at, node_name, selected};
use super::quorum::endpoints;
use super::quorum::lock::{
    DisruptionLock, WAIT, Wait, held_during_removal, not_given_during_removal,
};
use crate::host::{ClusterAccess, EtcdMember, Host, HostResult, RemainingPod};
use crate::kubernetes::MASTER_LABEL;
use crate::kubernetes::etcd_members::{Loss, Me, OWN_ENDPOINT, QuorumLoss, Seen, after_loss, look};
use crate::kubernetes::masters;
use crate::kubernetes::workers::{WORKER_LABEL, delete_removed, empty_node, hold_up};

/// Life of the lock during the removal of a member: a few calls of etcd.
const LOCKED: Duration = Duration::from_secs(60);

/// How the removal of a master ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MasterRemoval {
    /// It is no member of etcd any more, and has no node.
    Removed {
        /// How many voters are left.
        voters: usize,
        /// Pods that were still there. They end with the node.
        left: Vec<RemainingPod>,
    },
    /// These pods are still on the node. Node and member stay; the node is cordoned.
    PodsLeft(Vec<RemainingPod>),
    /// etcd would lose its quorum. Node and member stay; the node may be cordoned.
    Refused(QuorumLoss),
    /// It is the host on which this runs. Nothing was done.
    ThisHost,
    /// This host's list of masters still names it, but it is no member of etcd and has no node. Nothing was done.
    Before,
    /// Neither a member of etcd nor the node of a master was named. Nothing was done.
    Unknown,
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct MasterToRemove<'a> {
    /// The name of its node and member. A member without a name is named by its hexadecimal id, or by the address of its host.
    pub name: &'a str,
    /// How long its pods may take to end.
    pub within: Duration,
    /// Delete the node even if it is Ready and pods are left.
    pub force: bool,
    /// Remove the member even if etcd loses its quorum.
    pub accepts_quorum_loss: bool,
}

/// Removes a master: its node is cordoned and its pods are evicted, its member leaves etcd, and its node is deleted. If this is interrupted,
/// the next call goes on.
///
/// # Errors
/// The API server or etcd does not answer or refuses, or two members have the name. etcd removes a member only with quorum.
pub async fn remove_master(
    host: &dyn Host,
    access: &ClusterAccess,
    master: &MasterToRemove<'_>,
) -> HostResult<MasterRemoval> {
    let known = masters::read(host).await.unwrap_or_default();
    let endpoints = endpoints(&known);
    let listed = host.member_list(&endpoints).await;
    let list = listed.as_deref().unwrap_or_default();
    let found = selected(master.name, list)?;
    // A learner that never started has no name. Its host may have a Node from before its disk was emptied.
    let name = match found.filter(|member| member.name.is_empty()) {
        Some(nameless) => master_at(host, access, nameless).await?,
        None => None,
    };
    let name = name.or_else(|| node_name(master.name, found, list).map(str::to_owned));
    let node = match &name {
        Some(name) => host.node(access, name).await?,
        None => None,
    };
    // A master's Node may lack its label. Only a member's own name proves that, or an entry of a member that an interrupted call has removed: an
    // address or an id may also be the name of a worker's Node.
    let is_named = found.is_some_and(|member| !member.name.is_empty());
    let is_known = known.iter().any(|one| name.as_ref() == Some(&one.name));
    let node = node.filter(|node| {
        let has = |label| node.labels.contains_key(label);
        is_named || has(MASTER_LABEL) || (is_known && !has(WORKER_LABEL))
    });
    let addresses = node.as_ref().map(|node| node.addresses.clone());
    let addresses = addresses.unwrap_or_default();
    let found = found.or_else(|| nameless_at(&addresses, list));
    if node.is_none() && found.is_none() {
        let is_entry = known.iter().any(|one| is_entry(master.name, one));
        return match listed {
            Ok(_) if is_entry => Ok(MasterRemoval::Before),
            Err(error) if is_entry => Err(error),
            Ok(_) | Err(_) => Ok(MasterRemoval::Unknown),
        };
    }
    let found = found.cloned();
    // Only a list with quorum says whether a master is still a member.
    let members = look(host, listed?).await;
    if let Some(found) = &found
        && let Some(refusal) = refusal(host, master, found, &members).await
    {
        return Ok(refusal);
    }
    let mut left = Vec::new();
    if let Some((name, node)) = name.as_ref().zip(node.as_ref()) {
        left = empty_node(host, access, (name, node), master.within).await?;
        // The eviction takes a while: the node may be Ready by now, or gone.
        let present = host.node(access, name).await?;
        if present.is_some_and(|node| hold_up(&left, &node, master.force)) {
            return Ok(MasterRemoval::PodsLeft(left));
        }
    }
    // Without a node, the name of a member that has none is only what the operator has named.
    let marked = node.as_ref().and(name.as_deref());
    let AfterRemoval { voters, removed } =
        match remove_member(host, &endpoints, master, (marked, &addresses)).await? {
            Ok(after) => after,
            Err(refusal) => return Ok(refusal),
        };
    if let Some(name) = &name {
        // Before the node is deleted: if this is interrupted, the next call finds the node and goes on.
        finish(host, access, &endpoints, name, removed).await?;
    }
    if let Some((name, node)) = name.zip(node) {
        delete_removed(host, access, &name, &node.uid).await?;
    }
    Ok(MasterRemoval::Removed { voters, left })
}

/// The name of the Node of the master at the address of this member; `None` if there is none.
async fn master_at(
    host: &dyn Host,
    access: &ClusterAccess,
    member: &EtcdMember,
) -> HostResult<Option<String>> {
    let nodes = host.nodes(access).await?;
    let mut masters = nodes
        .into_iter()
        .filter(|(_, node)| node.labels.contains_key(MASTER_LABEL));
    let its =
        masters.find(|(_, node)| nameless_at(&node.addresses, slice::from_ref(member)).is_some());
    Ok(its.map(|(name, _)| name))
}

/// The members after a removal.
struct AfterRemoval {
    /// How many voters are left.
    voters: usize,
    /// The id of the removed member; `None` if it was no member any more.
    removed: Option<u64>,
}

/// Looks at the members again, and removes the one that is asked for, if there is one and it may be removed. A member without a name is also
/// found by the addresses of the `node`.
async fn remove_member(
    host: &dyn Host,
    endpoints: &[String],
    master: &MasterToRemove<'_>,
    node: (Option<&str>, &[IpAddr]),
) -> HostResult<Result<AfterRemoval, MasterRemoval>> {
    let lock = match master.accepts_quorum_loss {
        true => DisruptionLock::default(),
        false => locked(host, endpoints, master.name).await?,
    };
    let removed = remove_with_lock(host, endpoints, master, node).await;
    lock.release(host).await;
    removed
}

/// Takes the lock on the members of etcd, so that no master ends its member meanwhile. This host is no exception: another command may run here.
async fn locked(
    host: &dyn Host,
    endpoints: &[String],
    removed: &str,
) -> HostResult<DisruptionLock> {
    let list = host.member_list(endpoints).await?;
    let own = host.member_status(OWN_ENDPOINT).await;
    let own = own.ok().map(|own| own.id);
    let own = list.iter().find(|member| own == Some(member.id));
    let own = own.map_or("without a member", |own| own.name.as_str());
    let holder = format!("{own} (cluster remove {removed})");
    let (endpoints, cancel) = (endpoints.to_vec(), CancellationToken::new());
    match DisruptionLock::take(host, endpoints, &holder, LOCKED, WAIT, &cancel).await {
        Wait::Over(lock) => Ok(lock),
        Wait::HeldBy(other) => Err(held_during_removal(&other)),
        Wait::NotGiven(why) => Err(not_given_during_removal(&why)),
        Wait::Interrupted => Ok(DisruptionLock::default()),
    }
}

async fn remove_with_lock(
    host: &dyn Host,
    endpoints: &[String],
    master: &MasterToRemove<'_>,
    (name, addresses): (Option<&str>, &[IpAddr]),
) -> HostResult<Result<AfterRemoval, MasterRemoval>> {
    let list = host.member_list(endpoints).await?;
    let found = selected(master.name, &list)?.or_else(|| nameless_at(addresses, &list));
    if let Some(found) = found {
        let members = look(host, list.clone()).await;
        if let Some(refusal) = refusal(host, master, found, &members).await {
            return Ok(Err(refusal));
        }
        remove_marked(host, endpoints, (found, name), &list).await?;
    }
    let removed = found.map(|found| found.id);
    let left = list.iter().filter(|member| Some(member.id) != removed);
    let voters = left.filter(|member| !member.learner).count();
    Ok(Ok(AfterRemoval { voters, removed }))
}

/// Why the member must not be removed; `None` if it may.
async fn refusal(
    host: &dyn Host,
    master: &MasterToRemove<'_>,
    member: &EtcdMember,
    members: &[Seen],
) -> Option<MasterRemoval> {
    let own = host.member_status(OWN_ENDPOINT).await;
    if own.is_ok_and(|own| own.id == member.id) {
        return Some(MasterRemoval::ThisHost);
    }
    let me = Me {
        name: master.name,
        peer: member.peer_urls.first().map_or("", String::as_str),
    };
    match after_loss(me, members, Loss::Removal) {
        Err(lost) if !master.accepts_quorum_loss => Some(MasterRemoval::Refused(lost)),
        Ok(()) | Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::kubernetes::quorum::lock::tests::takes_lock;
    use crate::exec::kubernetes::quorum::tests::THREE_MASTERS;
    use crate::host::fake::{FakeHost, FaultPlan};
    use crate::host::{Clock as _, EtcdLock};
    use crate::kubernetes::etcd_members::removed;
    use crate::kubernetes::masters::MASTERS;

    const KUBECONFIG: &str = "/etc/kubeconfig";

    /// The first of three masters.
    fn host() -> FakeHost {
        let host = FakeHost::new()
            .with_file(MASTERS, THREE_MASTERS)
            .with_file(KUBECONFIG, "")
            .with_kubernetes(|rules| rules.remote_api = true);
        host.with_world_mut(|world| {
            for number in 1..=3_u64 {
                let (name, address) = (format!("m-{number}"), format!("172.30.0.1{number}"));
                world.etcd.voter(&name, &address, 10 + number);
                let ip = address.parse().expect("an address");
                world.join_node(&name, &format!("10.20.{number}.0/24"), ip);
                let node = world.cluster.nodes.get_mut(&name).expect("it is there");
                node.labels.insert(MASTER_LABEL.to_owned(), String::new());
            }
            let own = world.etcd.states["https://172.30.0.11:4001"].clone();
            world.etcd.states.insert(OWN_ENDPOINT.to_owned(), own);
        });
        host
    }

    async fn remove(host: &FakeHost, name: &str, accepts_quorum_loss: bool) -> MasterRemoval {
        let access = ClusterAccess::with(KUBECONFIG.as_ref());
        let master = MasterToRemove {
            name,
            within: Duration::from_secs(60),
            force: false,
            accepts_quorum_loss,
        };
        let removal = remove_master(host, &access, &master).await;
        removal.expect("the cluster answers")
    }

    /// A learner that never started.
    fn learner(id: u64, address: &str) -> EtcdMember {
        EtcdMember {
            id,
            name: String::new(),
            peer_urls: vec![format!("https://{address}:2380")],
            client_urls: Vec::new(),
            learner: true,
        }
    }

    /// Whether the third master may not join again.
    async fn is_marked(host: &FakeHost) -> bool {
        let endpoints = ["https://172.30.0.11:4001".to_owned()];
        let standing = removed::standing(host, &endpoints, "m-3").await;
        standing.expect("etcd answers") == removed::Standing::Removed
    }

    fn counts(host: &FakeHost) -> (usize, usize) {
        host.with_world(|world| (world.etcd.members.len(), world.cluster.nodes.len()))
    }

    #[tokio::test]
    async fn a_dead_master_leaves_etcd_and_the_cluster() {
        let host = host();
        host.with_world_mut(|world| world.etcd.silence("172.30.0.13"));
        let removal = remove(&host, "m-3", false).await;
        assert_eq!(
            removal,
            MasterRemoval::Removed {
                voters: 2,
                left: Vec::new()
            }
        );
        assert_eq!(counts(&host), (2, 2));
        assert!(is_marked(&host).await);
        // nodeletd has not written the new list yet.
        assert_eq!(remove(&host, "m-3", false).await, MasterRemoval::Before);
        assert_eq!(remove(&host, "m-4", false).await, MasterRemoval::Unknown);
    }

    /// It stays a member, and may have to join again after its disk was emptied.
    #[tokio::test]
    async fn a_master_that_etcd_does_not_remove_is_not_marked() {
        let host = host();
        host.set_faults(FaultPlan::none().fail("member_remove", "*"));
        let access = ClusterAccess::with(KUBECONFIG.as_ref());
        let master = MasterToRemove {
            name: "m-3",
            within: Duration::from_secs(60),
            force: false,
            accepts_quorum_loss: false,
        };
        let removal = remove_master(&host, &access, &master).await;
        removal.expect_err("etcd does not remove it");
        assert!(!is_marked(&host).await);
        assert_eq!(counts(&host), (3, 3));
    }

    #[tokio::test]
    async fn a_master_that_the_quorum_needs_stays_unless_the_loss_is_accepted() {
        let host = host();
        host.with_world_mut(|world| world.etcd.silence("172.30.0.13"));
        let removal = remove(&host, "m-2", false).await;
        assert!(matches!(removal, MasterRemoval::Refused(_)), "{removal:?}");
        assert_eq!((counts(&host), host.mutations()), ((3, 3), 0));
        let removal = remove(&host, "m-2", true).await;
        assert!(
            matches!(removal, MasterRemoval::Removed { .. }),
            "{removal:?}"
        );
    }

    /// Otherwise that master could end its member between the question and the removal. It may be this host, where another command runs.
    #[tokio::test]
    async fn a_member_is_not_removed_while_a_master_has_the_lock() {
        for holder in ["m-2", "m-1"] {
            let host = host();
            let life = Duration::from_secs(3600);
            takes_lock(&host, holder, life).await;
            let master = MasterToRemove {
                name: "m-3",
                within: Duration::from_secs(1),
                force: false,
                accepts_quorum_loss: false,
            };
            let access = ClusterAccess::with(KUBECONFIG.as_ref());
            let refused = remove_master(&host, &access, &master).await;
            let refused = crate::model::chain(&refused.expect_err("it is held")).join(": ");
            let says = format!("master {holder} has had the lock");
            assert!(refused.contains(&says), "{refused}");
            assert_eq!(counts(&host).0, 3, "the member stays");
            host.pause(life).await;
            let removal = remove(&host, "m-3", false).await;
            assert!(
                matches!(removal, MasterRemoval::Removed { .. }),
                "{removal:?}"
            );
            let next = takes_lock(&host, holder, life).await;
            assert!(matches!(next, EtcdLock::Held { .. }), "{next:?}");
        }
    }

    #[tokio::test]
    async fn a_host_does_not_remove_itself_or_a_worker() {
        let host = host();
        assert_eq!(remove(&host, "m-1", true).await, MasterRemoval::ThisHost);
        host.with_world_mut(|world| {
            let ip = "172.30.0.21".parse().expect("an address");
            world.join_node("w-1", "10.20.9.0/24", ip);
        });
        assert_eq!(remove(&host, "w-1", true).await, MasterRemoval::Unknown);
        assert_eq!(host.mutations(), 0);
    }

    /// It never started, so it has no name and no node.
    #[tokio::test]
    async fn a_learner_without_a_name_is_removed_by_its_id_or_its_address() {
        for named in ["172.30.0.14", "2a"] {
            let host = host();
            host.with_world_mut(|world| {
                world.etcd.members.push(learner(0x2a, "172.30.0.14"));
            });
            assert_eq!(remove(&host, "m-4", false).await, MasterRemoval::Unknown);
            let removed = MasterRemoval::Removed {
                voters: 3,
                left: Vec::new(),
            };
            assert_eq!(remove(&host, named, false).await, removed, "{named}");
            assert_eq!(counts(&host), (3, 3), "{named}");
            let keys = host.with_world(|world| world.etcd.keys());
            assert_eq!(keys, [] as [String; 0], "{named}");
            assert_eq!(remove(&host, named, false).await, MasterRemoval::Unknown);
        }
    }

    /// Its disk was emptied. It has joined again, and its host died before etcd started.
    #[tokio::test]
    async fn a_learner_without_a_name_is_removed_together_with_its_node() {
        for named in ["m-3", "2a", "172.30.0.13"] {
            let host = host();
            host.with_world_mut(|world| {
                world.etcd.silence("172.30.0.13");
                world.etcd.members.pop();
                world.etcd.members.push(learner(0x2a, "172.30.0.13"));
            });
            let removed = MasterRemoval::Removed {
                voters: 2,
                left: Vec::new(),
            };
            assert_eq!(remove(&host, named, false).await, removed, "{named}");
            assert_eq!(counts(&host), (2, 2), "{named}");
            assert!(!host.with_world(|world| world.has_node("m-3")), "{named}");
        }
    }

    /// An earlier call was killed after it had removed the member.
    #[tokio::test]
    async fn an_interrupted_removal_deletes_the_node_also_without_its_label() {
        let host = host();
        host.with_world_mut(|world| {
            world.etcd.members.pop();
            let node = world.cluster.nodes.get_mut("m-3").expect("it is there");
            node.labels.clear();
        });
        let removed = MasterRemoval::Removed {
            voters: 2,
            left: Vec::new(),
        };
        assert_eq!(remove(&host, "m-3", false).await, removed);
        assert_eq!(counts(&host), (2, 2));
        assert!(is_marked(&host).await);
        // A worker has the name meanwhile.
        host.with_world_mut(|world| {
            let ip = "172.30.0.23".parse().expect("an address");
            world.join_node("m-3", "10.20.9.0/24", ip);
            let node = world.cluster.nodes.get_mut("m-3").expect("it is there");
            node.labels.insert(WORKER_LABEL.to_owned(), String::new());
        });
        assert_eq!(remove(&host, "m-3", false).await, MasterRemoval::Before);
        assert_eq!(counts(&host), (2, 3));
    }

    #[tokio::test]
    async fn the_node_of_a_member_is_deleted_also_without_its_label() {
        let host = host();
        host.with_world_mut(|world| {
            let node = world.cluster.nodes.get_mut("m-3").expect("it is there");
            node.labels.clear();
            // The name of this worker's node is also the id of the learner.
            let ip = "172.30.0.21".parse().expect("an address");
            world.join_node("2a", "10.20.9.0/24", ip);
            world.etcd.members.push(learner(0x2a, "172.30.0.14"));
        });
        let removed = MasterRemoval::Removed {
            voters: 2,
            left: Vec::new(),
        };
        for named in ["m-3", "2a"] {
            assert_eq!(remove(&host, named, false).await, removed, "{named}");
        }
        let (members, _) = counts(&host);
        assert_eq!(members, 2);
        assert!(!host.with_world(|world| world.has_node("m-3")));
        assert!(host.with_world(|world| world.has_node("2a")));
    }

    #[tokio::test]
    async fn pods_hold_up_the_removal_of_a_node_that_becomes_ready_during_the_eviction() {
        let host = host();
        let pod = RemainingPod {
            name: "shop/web-1".to_owned(),
            reason: "a budget".to_owned(),
        };
        host.with_world_mut(|world| {
            world.kubernetes.unevictable = vec![pod.clone()];
            world.kubernetes.ready_after_eviction = Some("m-3".to_owned());
        });
        let removal = remove(&host, "m-3", false).await;
        assert_eq!(removal, MasterRemoval::PodsLeft(vec![pod]));
        assert_eq!(counts(&host), (3, 3));
    }

    /// The new host of this name may still join. The host that was removed may not.
    #[tokio::test]
    async fn the_host_that_takes_the_place_of_the_removed_one_is_still_awaited() {
        for (member, is_awaited) in [(Some(13), true), (Some(9), false), (None, false)] {
            let host = host();
            let access = ClusterAccess::with(KUBECONFIG.as_ref());
            let expires = host.now() + Duration::from_secs(3600);
            let noted = masters::exported::note(&host, &access, "m-3", member, expires).await;
            noted.expect("the cluster answers");
            let awaited = async || {
                let open = masters::exported::awaited(&host, &access, &[]).await;
                open.expect("the cluster answers").contains_key("m-3")
            };
            // Interrupted before the node is deleted.
            host.set_faults(FaultPlan::none().fail("delete_node", "m-3"));
            let master = MasterToRemove {
                name: "m-3",
                within: Duration::from_secs(60),
                force: false,
                accepts_quorum_loss: false,
            };
            let removal = remove_master(&host, &access, &master).await;
            removal.expect_err("the node cannot be deleted");
            assert_eq!(awaited().await, is_awaited, "{member:?}");
            host.set_faults(FaultPlan::none());
            let removal = remove(&host, "m-3", false).await;
            let removed = matches!(removal, MasterRemoval::Removed { voters: 2, .. });
            assert!(removed, "{removal:?}");
            assert_eq!(awaited().await, is_awaited, "{member:?}");
            assert_eq!(is_marked(&host).await, !is_awaited, "{member:?}");
        }
    }

    /// While etcd elects a leader, the API server answers with an error.
    #[tokio::test]
    async fn the_record_of_an_export_is_read_again_after_an_error() {
        let host = host();
        host.set_faults(FaultPlan::none().fail("config_map", "*").times(2));
        let removal = remove(&host, "m-3", false).await;
        let removed = matches!(removal, MasterRemoval::Removed { voters: 2, .. });
        assert!(removed, "{removal:?}");
    }

    /// A member that has a name goes together with its node.
    #[tokio::test]
    async fn a_master_is_also_removed_by_its_address() {
        let host = host();
        let removal = remove(&host, "172.30.0.13", false).await;
        let removed = matches!(removal, MasterRemoval::Removed { voters: 2, .. });
        assert!(removed, "{removal:?}");
        assert_eq!(counts(&host), (2, 2));
        assert!(!host.with_world(|world| world.has_node("m-3")));
    }

    /// Another member fails while the pods are evicted: then the quorum needs the master.
    #[tokio::test]
    async fn the_quorum_is_looked_at_again_after_the_eviction() {
        let host = host();
        let failing = Some("172.30.0.12".to_owned());
        host.with_world_mut(|world| world.etcd.fails_during_eviction = failing);
        let removal = remove(&host, "m-3", false).await;
        assert!(matches!(removal, MasterRemoval::Refused(_)), "{removal:?}");
        assert_eq!(counts(&host), (3, 3));
    }

    /// Nothing says who the members are, so a master's node stays.
    #[tokio::test]
    async fn without_quorum_no_master_is_removed() {
        let host = host();
        host.with_world_mut(|world| world.etcd.states.clear());
        let access = ClusterAccess::with(KUBECONFIG.as_ref());
        for name in ["m-2", "m-3"] {
            let master = MasterToRemove {
                name,
                within: Duration::from_secs(60),
                force: true,
                accepts_quorum_loss: true,
            };
            let removal = remove_master(&host, &access, &master).await;
            removal.expect_err("no member answers with quorum");
        }
        assert_eq!((counts(&host), host.mutations()), ((3, 3), 0));
    }
}
