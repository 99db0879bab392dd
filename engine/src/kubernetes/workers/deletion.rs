//! The deletion of a node at the end of a removal, that of a worker and that of a master.

use crate::host::{ClusterAccess, Host, HostError, HostResult, retried};

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
