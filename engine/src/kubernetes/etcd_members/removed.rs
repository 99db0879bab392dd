//! Which masters were removed from the cluster: their hosts must not add themselves again.
//!
//! A host whose disk was emptied looks like a new one. So a removal (`nodelet cluster remove`) leaves a mark in etcd, and an export of the
//! cluster's keys (`nodelet pki export`) leaves a permit: the host may join until its join file ends. Their revisions tell which of them came
//! last. A host that joins lifts the mark that it was permitted to pass.
//!
//! A host and a removal may meet. The host looks for the mark, adds its member, and looks again. The removal writes the mark, and then looks for
//! members of that host. So one of the two always sees the other. A lift names the revision of one mark, and has no effect on a later one.
//!
//! There is one key of each kind for each name of a host, so they do not grow. A learner that never was a master has no mark.

use std::time::SystemTime;

use humantime::{format_rfc3339_seconds, parse_rfc3339};

use crate::host::{Host, HostResult};

/// The key of the mark of a removed master is this and its name.
const REMOVED: &str = "/nodelet/masters/removed/";
/// The value of a mark. An earlier commit lifted a mark with another value.
const MARKED: &str = "removed";
/// The key of a lift is this and the name of the master. The value is the revision of the mark that does not count any more.
const LIFTED: &str = "/nodelet/masters/lifted/";
/// The key of an export is this and the name of the host. The value is the end of its join file (RFC 3339).
const EXPORTED: &str = "/nodelet/masters/exported/";

/// Marks the master of this name as removed. Returns the revision of the mark.
///
/// # Errors
/// etcd does not answer with quorum.
pub async fn mark(host: &dyn Host, endpoints: &[String], name: &str) -> HostResult<u64> {
    host.put_key(endpoints, &format!("{REMOVED}{name}"), MARKED)
        .await
}

/// Marks the master of this name as removed, unless it is: a mark that is there may be older than a permit, and stays so.
///
/// # Errors
/// etcd does not answer with quorum.
pub async fn ensure_mark(host: &dyn Host, endpoints: &[String], name: &str) -> HostResult<()> {
    match marked(host, endpoints, name).await? {
        Some(_) => Ok(()),
        None => mark(host, endpoints, name).await.map(drop),
    }
}

/// The revision of the mark of this master, if there is one that counts.
async fn marked(host: &dyn Host, endpoints: &[String], name: &str) -> HostResult<Option<u64>> {
    let mark = host.get_key(endpoints, &format!("{REMOVED}{name}")).await?;
    let Some(mark) = mark.filter(|mark| mark.value == MARKED) else {
        return Ok(None);
    };
    let lifted = host.get_key(endpoints, &format!("{LIFTED}{name}")).await?;
    let is_lifted = lifted.is_some_and(|lifted| lifted.value == mark.revision.to_string());
    Ok((!is_lifted).then_some(mark.revision))
}

/// Lifts the mark of this master, whichever there is: that of a removal which has failed. Fine if there is none.
///
/// # Errors
/// etcd does not answer with quorum.
pub async fn withdraw(host: &dyn Host, endpoints: &[String], name: &str) -> HostResult<()> {
    match marked(host, endpoints, name).await? {
        Some(revision) => lift(host, endpoints, name, revision).await,
        None => Ok(()),
    }
}

/// Lifts the mark of this master that has this revision. A later one stays.
///
/// # Errors
/// etcd does not answer with quorum.
pub async fn lift(
    host: &dyn Host,
    endpoints: &[String],
    name: &str,
    revision: u64,
) -> HostResult<()> {
    let (key, value) = (format!("{LIFTED}{name}"), revision.to_string());
    host.put_key(endpoints, &key, &value).await.map(drop)
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
    let key = format!("{EXPORTED}{name}");
    host.put_key(endpoints, &key, &until).await.map(drop)
}

/// Whether a host of some name may add itself to etcd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It may: it was not removed, or the keys were exported to it again.
    MayJoin {
        /// The revision of the mark that it may pass, if there is one.
        mark: Option<u64>,
    },
    /// It was removed.
    Removed,
    /// The keys were exported to it again, and that join file has ended by the clock of this host.
    PermitEnded {
        /// The revision of the mark that it might pass until then.
        mark: u64,
    },
}

/// Whether the host of this name may add itself. Cancel safe.
///
/// # Errors
/// etcd does not answer with quorum.
pub async fn standing(host: &dyn Host, endpoints: &[String], name: &str) -> HostResult<Standing> {
    let Some(mark) = marked(host, endpoints, name).await? else {
        return Ok(Standing::MayJoin { mark: None });
    };
    let permit = host
        .get_key(endpoints, &format!("{EXPORTED}{name}"))
        .await?;
    let Some(permit) = permit.filter(|permit| permit.revision > mark) else {
        return Ok(Standing::Removed);
    };
    let until = parse_rfc3339(&permit.value);
    Ok(match until.is_ok_and(|until| host.now() < until) {
        true => Standing::MayJoin { mark: Some(mark) },
        false => Standing::PermitEnded { mark },
    })
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
        let standing = async |name: &str| {
            let standing = standing(&host, &endpoints, name).await;
            standing.expect("it answers")
        };
        let export = async || {
            let until = host.now() + HOUR;
            let permitted = permit(&host, &endpoints, "m-3", until).await;
            permitted.expect("it answers");
        };
        let never_removed = Standing::MayJoin { mark: None };
        export().await;
        assert_eq!(standing("m-3").await, never_removed);
        let first = mark(&host, &endpoints, "m-3").await.expect("it answers");
        let permitted = Standing::MayJoin { mark: Some(first) };
        assert_eq!(standing("m-3").await, Standing::Removed);
        assert_eq!(standing("m-4").await, never_removed);
        export().await;
        assert_eq!(standing("m-3").await, permitted);
        // An interrupted removal goes on after that export.
        let again = ensure_mark(&host, &endpoints, "m-3").await;
        again.expect("it answers");
        assert_eq!(standing("m-3").await, permitted);
        host.pause(HOUR).await;
        let ended = Standing::PermitEnded { mark: first };
        assert_eq!(standing("m-3").await, ended);
        export().await;
        let lifted = lift(&host, &endpoints, "m-3", first).await;
        lifted.expect("it answers");
        host.pause(HOUR).await;
        assert_eq!(standing("m-3").await, never_removed, "it has joined");
        let again = ensure_mark(&host, &endpoints, "m-3").await;
        again.expect("it answers");
        assert_eq!(standing("m-3").await, Standing::Removed);
    }

    /// It was removed again while it joined.
    #[tokio::test]
    async fn a_lift_has_no_effect_on_a_later_mark() {
        let (host, endpoints) = cluster();
        let first = mark(&host, &endpoints, "m-3").await.expect("it answers");
        mark(&host, &endpoints, "m-3").await.expect("it answers");
        let lifted = lift(&host, &endpoints, "m-3", first).await;
        lifted.expect("it answers");
        let standing = standing(&host, &endpoints, "m-3").await;
        assert_eq!(standing.expect("it answers"), Standing::Removed);
    }

    #[tokio::test]
    async fn a_silent_cluster_is_no_permission() {
        let (host, endpoints) = cluster();
        host.with_world_mut(|world| world.etcd.silence("172.30.0.11"));
        let asked = standing(&host, &endpoints, "m-3").await;
        asked.expect_err("no member answers");
    }
}
