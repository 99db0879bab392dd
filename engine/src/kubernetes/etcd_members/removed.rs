//! Which masters were removed from the cluster: their hosts must not add themselves again.
//!
//! A host whose disk was emptied looks like a new one. So a removal (`nodelet cluster remove`) leaves a mark in etcd, and an export of the
//! cluster's keys (`nodelet pki export`) leaves one, too: the host may join until its join file ends. Their revisions tell which of them came last,
//! so the clocks of two masters are not compared. A host that joins again lifts its mark.
//!
//! There is one key for each name that a removed master had, so they do not grow. A learner that never was a master has no mark.

use std::time::SystemTime;

use humantime::{format_rfc3339_seconds, parse_rfc3339};

use crate::host::{Host, HostResult};

/// The key of the mark of a removed master is this and its name.
const REMOVED: &str = "/nodelet/masters/removed/";
/// The value of a mark that counts.
const MARKED: &str = "removed";
/// The value of a mark that was lifted.
const LIFTED: &str = "lifted";
/// The key of an export is this and the name of the host. The value is the end of its join file (RFC 3339).
const EXPORTED: &str = "/nodelet/masters/exported/";

/// Marks the master of this name as removed.
///
/// # Errors
/// etcd does not answer with quorum.
pub async fn mark(host: &dyn Host, endpoints: &[String], name: &str) -> HostResult<()> {
    host.put_key(endpoints, &format!("{REMOVED}{name}"), MARKED)
        .await
}

/// Lifts the mark of this master. Fine if there is none.
///
/// # Errors
/// etcd does not answer with quorum.
pub async fn lift(host: &dyn Host, endpoints: &[String], name: &str) -> HostResult<()> {
    let key = format!("{REMOVED}{name}");
    match host.get_key(endpoints, &key).await? {
        Some(mark) if mark.value == MARKED => host.put_key(endpoints, &key, LIFTED).await,
        Some(_) | None => Ok(()),
    }
}

/// Lets the host `name` join until `until`, also if it was removed before.
///
/// # Errors
/// etcd does not answer with quorum.
pub async fn permit(
    host: &dyn Host,
    endpoints: &[String],
    name: &str,
    until: SystemTime,
) -> HostResult<()> {
    let until = format_rfc3339_seconds(until).to_string();
    host.put_key(endpoints, &format!("{EXPORTED}{name}"), &until)
        .await
}

/// Whether the master of this name was removed, and may not join again. Cancel safe.
///
/// # Errors
/// etcd does not answer with quorum.
pub async fn is_marked(host: &dyn Host, endpoints: &[String], name: &str) -> HostResult<bool> {
    let mark = host.get_key(endpoints, &format!("{REMOVED}{name}")).await?;
    let Some(mark) = mark.filter(|mark| mark.value == MARKED) else {
        return Ok(false);
    };
    let exported = host
        .get_key(endpoints, &format!("{EXPORTED}{name}"))
        .await?;
    let is_permitted = exported.is_some_and(|exported| {
        let until = parse_rfc3339(&exported.value);
        exported.revision > mark.revision && until.is_ok_and(|until| host.now() < until)
    });
    Ok(!is_permitted)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::host::Clock as _;
    use crate::host::fake::FakeHost;

    const HOUR: Duration = Duration::from_secs(3600);

    /// A cluster of one other member.
    fn cluster() -> (FakeHost, Vec<String>) {
        let host = FakeHost::new();
        host.with_world_mut(|world| world.etcd.voter("m-1", "172.30.0.11", 11));
        (host, vec!["https://172.30.0.11:4001".to_owned()])
    }

    #[tokio::test]
    async fn a_removed_master_may_join_again_from_its_next_export_until_the_file_ends() {
        let (host, endpoints) = cluster();
        let is_marked = async |name: &str| {
            let marked = is_marked(&host, &endpoints, name).await;
            marked.expect("it answers")
        };
        let export = async || {
            let until = host.now() + HOUR;
            let permitted = permit(&host, &endpoints, "m-3", until).await;
            permitted.expect("it answers");
        };
        export().await;
        assert!(!is_marked("m-3").await);
        mark(&host, &endpoints, "m-3").await.expect("it answers");
        assert!(is_marked("m-3").await, "the export came before");
        assert!(!is_marked("m-4").await);
        export().await;
        assert!(!is_marked("m-3").await);
        host.pause(HOUR).await;
        assert!(is_marked("m-3").await, "the file has ended");
        export().await;
        lift(&host, &endpoints, "m-3").await.expect("it answers");
        host.pause(HOUR).await;
        assert!(!is_marked("m-3").await, "it has joined");
        mark(&host, &endpoints, "m-3").await.expect("it answers");
        assert!(is_marked("m-3").await);
    }

    #[tokio::test]
    async fn a_lift_without_a_mark_writes_nothing() {
        let (host, endpoints) = cluster();
        lift(&host, &endpoints, "m-3").await.expect("it answers");
        assert_eq!(host.mutations(), 0);
    }

    #[tokio::test]
    async fn a_silent_cluster_is_no_permission() {
        let (host, endpoints) = cluster();
        host.with_world_mut(|world| world.etcd.silence("172.30.0.11"));
        let asked = is_marked(&host, &endpoints, "m-3").await;
        asked.expect_err("no member answers");
    }
}
