//! The deletion of a node at the end of a removal, that of a worker and that of a master.

use std::time::Duration;

use crate::host::{ClusterAccess, Host, HostError, HostResult};

/// How often a question or a change is tried.
const TRIES: u32 = 7;
/// Pause after the first attempt that failed. Each further pause is twice as long, which gives 13 s in all. After a member was removed, etcd
/// may have to elect a leader, and the API server answers with an error until then.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// Deletes the node with this uid. Fine if it is gone: another node that has registered under its name meanwhile stays. The eviction before
/// may have taken an hour. Cancel safe.
///
/// # Errors
/// The API server refuses, or gives no good answer within the attempts, or the node has changed before each of them.
pub(crate) async fn delete_removed(
    host: &dyn Host,
    access: &ClusterAccess,
    name: &str,
    uid: &str,
) -> HostResult<()> {
    retried(host, async || {
        if delete_same(host, access, name, uid).await? {
            return Ok(());
        }
        // It may have changed since it was read: kubelet reports its state.
        Err(HostError::service(
            format!("delete node {name}"),
            "it has changed each time; run the command again",
        ))
    })
    .await
}

/// Tries it until it succeeds or is refused, with growing pauses. Cancel safe if `once` is.
///
/// # Errors
/// The last one.
pub(crate) async fn retried(
    host: &dyn Host,
    once: impl AsyncFn() -> HostResult<()>,
) -> HostResult<()> {
    let (mut attempt, mut pause) = (1, FIRST_PAUSE);
    loop {
        match once().await {
            Err(error) if attempt < TRIES && !matches!(error, HostError::Refused { .. }) => {
                host.pause(pause).await;
                attempt += 1;
                pause *= 2;
            }
            done => return done,
        }
    }
}

/// Whether the node is gone.
async fn delete_same(
    host: &dyn Host,
    access: &ClusterAccess,
    name: &str,
    uid: &str,
) -> HostResult<bool> {
    match host.node(access, name).await?.filter(|its| its.uid == uid) {
        None => Ok(true),
        Some(node) => host.delete_same_node(access, name, &node).await,
    }
}
