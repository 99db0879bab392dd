//! Whether etcd has a quorum, as far as this host can see. The decision is in the engine (`kubernetes::etcd_members`).

use std::time::Duration;

use anyhow::{Result, bail};
use engine::exec::etcd_members;
use engine::host::Host;
use engine::kubernetes::etcd_members::without_quorum;

use super::client::api::MEMBER;

/// Bound on the questions to all members. Usually they take 6 s at most: 3 s for the list, and 3 s for the members themselves.
const ASK: Duration = Duration::from_secs(10);
/// What to do without a quorum.
const NEXT: &str = "bring the other masters up (`nodelet etcd members`)";

/// That etcd has no quorum, and what is wrong with each voter; `None` if it has one, and if that is not known. Takes at most 10 s, and changes
/// nothing. Cancel safe.
pub(crate) async fn missing_quorum(host: &dyn Host) -> Option<String> {
    let members = tokio::time::timeout(ASK, etcd_members(host)).await;
    without_quorum(&members.ok()?.ok()?)
}

/// Fails if etcd has no quorum. `action` is for the message. Takes at most 13 s. A member that is only slow is no reason: after its start, a
/// member does not answer before it knows a leader, so the others are asked, too. Cancel safe.
///
/// # Errors
/// This host's member knows no leader; or it does not answer, and no other member knows one.
pub(in crate::etcd) async fn require_quorum(action: &str, host: &dyn Host) -> Result<()> {
    match host.member_status(MEMBER).await {
        Ok(own) => knows_leader(action, own.leader.is_some()),
        Err(_) => match missing_quorum(host).await {
            Some(why) => bail!("{action}: {why}; {NEXT}"),
            None => Ok(()),
        },
    }
}

/// Fails if this host's member knows no leader: its data may lack what the other masters have written since then.
///
/// # Errors
/// It knows none.
pub(in crate::etcd) fn knows_leader(action: &str, knows: bool) -> Result<()> {
    match knows {
        true => Ok(()),
        false => {
            bail!("{action}: this host's member knows no leader, so etcd has no quorum; {NEXT}")
        }
    }
}

#[cfg(test)]
mod tests {
    use engine::host::EtcdStatus;
    use engine::host::fake::FakeHost;
    use engine::kubernetes::masters::MASTERS;

    use super::*;

    /// One of three masters. No member answers yet.
    fn master() -> FakeHost {
        let entry = |last: u64| {
            format!(r#"{{"name":"m-{last}","address":"172.30.0.{last}","voter":true}}"#)
        };
        let entries = [11, 12, 13].map(entry).join(",");
        let listed = format!(r#"{{"version":1,"masters":[{entries}]}}"#);
        FakeHost::new().with_file(MASTERS, listed)
    }

    async fn refused(host: &FakeHost) -> String {
        let refused = require_quorum("back up etcd", host).await;
        let refused = refused.expect_err("there is no quorum");
        refused.to_string()
    }

    #[tokio::test]
    async fn without_a_quorum_the_reason_and_the_next_step_are_named() {
        let host = master();
        // It was started, and waits for the others.
        let said = refused(&host).await;
        for part in [
            "back up etcd: etcd has no quorum",
            "of its 3 voters 2 have to work",
            "m-12: ",
            "`nodelet etcd members`",
        ] {
            assert!(said.contains(part), "{said}");
        }
        host.with_world_mut(|world| {
            let own = (MEMBER.to_owned(), EtcdStatus::default());
            world.etcd.states.extend([own]);
        });
        let said = refused(&host).await;
        assert!(said.contains("knows no leader"), "{said}");
        assert!(said.contains("`nodelet etcd members`"), "{said}");
    }

    /// A busy member may answer later.
    #[tokio::test]
    async fn a_member_that_is_slow_is_no_missing_quorum() {
        let host = master();
        host.with_world_mut(|world| {
            for last in [11, 12, 13] {
                let address = format!("172.30.0.{last}");
                world.etcd.voter(&format!("m-{last}"), &address, last);
            }
            world.etcd.silence("172.30.0.11");
        });
        let required = require_quorum("back up etcd", &host).await;
        required.expect("two of three have a leader");
        assert_eq!(missing_quorum(&host).await, None);
    }

    #[tokio::test]
    async fn of_an_only_master_that_does_not_answer_nothing_is_known() {
        let host = FakeHost::new();
        assert_eq!(missing_quorum(&host).await, None);
        let required = require_quorum("back up etcd", &host).await;
        required.expect("its own silence is named later");
    }
}
