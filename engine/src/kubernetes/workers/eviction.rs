//! How a node is emptied before it is deleted, that of a worker and that of a master.

use std::time::Duration;

use serde_json::json;

use crate::host::{ClusterAccess, ClusterNode, Host, HostResult, RemainingPod};

/// Cordons a node, and evicts its pods within `timeout`. Returns the pods that are left. Cancel safe: the next call goes on.
///
/// # Errors
/// The API server does not answer or refuses.
pub async fn empty_node(
    host: &dyn Host,
    access: &ClusterAccess,
    (name, node): (&str, &ClusterNode),
    timeout: Duration,
) -> HostResult<Vec<RemainingPod>> {
    if !node.unschedulable {
        let cordon = json!({ "spec": { "unschedulable": true } });
        host.patch_node(access, name, &cordon).await?;
    }
    // What runs on another host is not known here.
    host.evict_pods(access, name, None, timeout).await
}

/// Whether the pods that are left hold up the deletion of their node. Pods on a node that is not Ready cannot end, so they hold up nothing;
/// `force` deletes the node in any case.
#[must_use]
pub fn hold_up(left: &[RemainingPod], node: &ClusterNode, force: bool) -> bool {
    !left.is_empty() && node.ready == Some(true) && !force
}
