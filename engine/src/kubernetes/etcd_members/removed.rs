//! Which masters were removed from the cluster: their hosts must not add themselves again.
//!
//! A host whose disk was emptied looks like a new one. So a removal (`nodelet cluster remove`) leaves a mark in etcd, and an export of the
//! cluster's keys (`nodelet pki export`) leaves a permit: the host may join until its join file ends. Their revisions tell which of them came
//! last. A host that joins again lifts its mark.
//!
//! There is one key of each kind for each name of a host, so they do not grow. A learner that never was a master has no mark.

use std::time::SystemTime;

use humantime::{format_rfc3339_seconds, parse_rfc3339};

use crate::host::{EtcdKey, Host, HostResult};

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

/// Marks the master of this name as removed, unless it is: a mark that is there may be older than a permit, and stays so.
///
/// # Errors
/// etcd does not answer with quorum.
pub async fn ensure_mark(host: &dyn Host, endpoints: &[String], name: &str) -> HostResult<()> {
    match marked(host, endpoints, name).await? {
        Some(_) => Ok(()),
        None => mark(host, endpoints, name).await,
    }
}

/// The mark of this master, if there is one that counts.
async fn marked(host: &dyn Host, endpoints: &[String], name: &str) -> HostResult<Option<EtcdKey>> {
    let mark = host.get_key(endpoints, &format!("{REMOVED}{name}")).await?;
    Ok(mark.filter(|mark| mark.value == MARKED))
}

/// Lifts the mark of this master. Fine if there is none.
///
/// # Errors
/// etcd does not answer with quorum.
pub async fn lift(host: &dyn Host, endpoints: &[String], name: &str) -> HostResult<()> {
    match marked(host, endpoints, name).await? {
        Some(_) => {
            host.put_key(endpoints, &format!("{REMOVED}{name}"), LIFTED)
                .await
        }
        None => Ok(()),
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

/// Whether a host of some name may add itself to etcd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It may: it was not removed, or the keys were exported to it again.
    MayJoin,
    /// It was removed.
    Removed,
    /// The keys were exported to it again, and that join file has ended by the clock of this host.
    PermitEnded,
}

/// Whether the host of this name may add itself. Cancel safe.
///
/// # Errors
/// etcd does not answer with quorum.
pub async fn standing(host: &dyn Host, endpoints: &[String], name: &str) -> HostResult<Standing> {
    let Some(mark) = marked(host, endpoints, name).await? else {
        return Ok(Standing::MayJoin);
    };
    let permit = host
        .get_key(endpoints, &format!("{EXPORTED}{name}"))
        .await?;
    let Some(permit) = permit.filter(|permit| permit.revision > mark.revision) else {
        return Ok(Standing::Removed);
    };
    let until = parse_rfc3339(&permit.value);
    Ok(match until.is_ok_and(|until| host.now() < until) {
        true => Standing::MayJoin,
        false => Standing::PermitEnded,
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
        export().await;
        assert_eq!(standing("m-3").await, Standing::MayJoin);
        mark(&host, &endpoints, "m-3").await.expect("it answers");
        assert_eq!(standing("m-3").await, Standing::Removed);
        assert_eq!(standing("m-4").await, Standing::MayJoin);
        export().await;
        assert_eq!(standing("m-3").await, Standing::MayJoin);
        // An interrupted removal goes on after that export.
        let again = ensure_mark(&host, &endpoints, "m-3").await;
        again.expect("it answers");
        assert_eq!(standing("m-3").await, Standing::MayJoin);
        host.pause(HOUR).await;
        assert_eq!(standing("m-3").await, Standing::PermitEnded);
        export().await;
        lift(&host, &endpoints, "m-3").await.expect("it answers");
        host.pause(HOUR).await;
        assert_eq!(standing("m-3").await, Standing::MayJoin, "it has joined");
        let again = ensure_mark(&host, &endpoints, "m-3").await;
        again.expect("it answers");
        assert_eq!(standing("m-3").await, Standing::Removed);
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
        let asked = standing(&host, &endpoints, "m-3").await;
        asked.expect_err("no member answers");
    }
}
