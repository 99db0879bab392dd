//! How a node is emptied before it is deleted, that of a worker and that of a master.

use std::time::Duration;

use serde_json::json;

use crate::host::{ClusterAccess, ClusterNode, Host, HostResult, RemainingPod};

/// Pause between two questions whether the node reports.
const LOOK: Duration = Duration::from_secs(10);
/// How long the pods of a node that does not report are still evicted. It may report again meanwhile.
const SILENT: Duration = Duration::from_secs(30);

/// Cordons a node, and evicts its pods within `timeout`. Returns the pods that are left. Cancel safe: the next call goes on.
///
/// If kubelet of the node does not report for about half a minute, it reports no end of a pod either, and the rest of `timeout` is not waited for. So
/// it is after a clean of its host, which has ended the pods, and if the host is lost.
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
    let began = host.elapsed();
    let rest = || timeout.saturating_sub(host.elapsed().saturating_sub(began));
    loop {
        let time = rest();
        // What runs on another host is not known here.
        tokio::select! {
            biased;
            left = host.evict_pods(access, name, None, time) => return left,
            () = until_silent(host, access, name, time) => {}
        }
        let left = host
            .evict_pods(access, name, None, rest().min(SILENT))
            .await;
        let is_over = rest().is_zero();
        let ends = match &left {
            Ok(pods) => pods.is_empty() || is_over || is_silent(host, access, name).await,
            Err(_) => is_over,
        };
        if ends {
            return left;
        }
    }
}

/// Ends when the node does not report any more. Never ends if it reports for `timeout`. Cancel safe.
async fn until_silent(host: &dyn Host, access: &ClusterAccess, name: &str, timeout: Duration) {
    let began = host.elapsed();
    while host.elapsed().saturating_sub(began) < timeout {
        host.pause(LOOK).await;
        if is_silent(host, access, name).await {
            return;
        }
    }
    std::future::pending().await
}

/// Whether the node does not report: the cluster does not know whether it is Ready, and another node is Ready. If no other node is, their path to the
/// API server may be broken, for example the virtual IP. A kubelet that says that it is not Ready may just have started.
async fn is_silent(host: &dyn Host, access: &ClusterAccess, name: &str) -> bool {
    if !matches!(host.node(access, name).await, Ok(Some(node)) if node.ready.is_none()) {
        return false;
    }
    let nodes = host.nodes(access).await.unwrap_or_default();
    let mut others = nodes.iter().filter(|(other, _)| other.as_str() != name);
    others.any(|(_, node)| node.ready == Some(true))
}

/// Whether the pods that are left hold up the deletion of their node. Pods on a node that is not Ready cannot end, so they hold up nothing;
/// `force` deletes the node in any case.
#[must_use]
pub fn hold_up(left: &[RemainingPod], node: &ClusterNode, force: bool) -> bool {
    !left.is_empty() && node.ready == Some(true) && !force
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Clock as _;
    use crate::host::fake::{FakeHost, Fault, FaultKind, FaultPlan, Trigger};
    use crate::kubernetes::admission::tests::master;

    const HOUR: Duration = Duration::from_secs(3600);

    /// A master on whose cluster are `w-1`, of which `Ready` is this, and another node, and on `w-1` a pod that does not end.
    fn with_pod(ready: Option<bool>, other: Option<bool>) -> (FakeHost, ClusterAccess) {
        let (host, access) = master();
        host.with_world_mut(|world| {
            world.node("w-1", of(ready));
            world.node("w-2", of(other));
            world.kubernetes.unevictable = vec![RemainingPod {
                name: "shop/web-1".to_owned(),
                reason: "it does not end".to_owned(),
            }];
        });
        (host, access)
    }

    /// A node that is cordoned already.
    fn of(ready: Option<bool>) -> ClusterNode {
        ClusterNode {
            ready,
            unschedulable: true,
            ..ClusterNode::default()
        }
    }

    /// The evictions of these numbers, from 1, go on until they are given up, or fail at once.
    fn evictions(numbers: &[usize], fault_kind: FaultKind) -> FaultPlan {
        let faults = numbers.iter().map(|number| Fault {
            trigger: Trigger::Mutation(*number),
            fault_kind,
            remaining: Some(1),
        });
        faults.fold(FaultPlan::none(), FaultPlan::with)
    }

    /// How many pods are left; `None` if they are waited for as long as it was asked for.
    async fn left(host: &FakeHost, access: &ClusterAccess) -> Option<HostResult<usize>> {
        let node = of(None);
        let emptied = empty_node(host, access, ("w-1", &node), HOUR);
        let emptied = tokio::time::timeout(HOUR, emptied).await.ok()?;
        Some(emptied.map(|left| left.len()))
    }

    /// The other node tells whether only this host is lost.
    #[tokio::test(start_paused = true)]
    async fn the_pods_of_a_node_that_does_not_report_are_not_awaited() {
        for (ready, other, are_awaited) in [
            (Some(true), Some(true), true),
            (Some(false), Some(true), true),
            (None, Some(true), false),
            (None, Some(false), true),
            (None, None, true),
        ] {
            let (host, access) = with_pod(ready, other);
            host.set_faults(evictions(&[1], FaultKind::Stall));
            let began = host.elapsed();
            let left = left(&host, &access).await;
            let case = format!("{ready:?}, {other:?}");
            assert_eq!(left.is_none(), are_awaited, "{case}");
            if let Some(left) = left {
                assert_eq!(left.expect("it answers"), 1, "{case}");
                assert!(host.elapsed() - began < LOOK + SILENT, "{case}");
            }
        }
    }

    /// It was Unknown at the first look: the path to the API server was broken for a moment for example.
    #[tokio::test(start_paused = true)]
    async fn the_pods_of_a_node_that_reports_again_are_awaited() {
        let (host, access) = with_pod(None, Some(true));
        host.with_world_mut(|world| {
            world.kubernetes.ready_after_eviction = Some("w-1".to_owned());
        });
        host.set_faults(evictions(&[1, 3], FaultKind::Stall));
        let left = left(&host, &access).await;
        assert!(left.is_none(), "{left:?}");
        let journal = host.journal();
        let evictions = journal.iter().filter(|call| call.name == "evict_pods");
        assert_eq!(evictions.count(), 3);
    }

    /// It fails for a node that does not report, while time is left.
    #[tokio::test(start_paused = true)]
    async fn a_list_of_pods_that_fails_once_ends_no_removal() {
        let (host, access) = with_pod(None, Some(true));
        let faults = evictions(&[1], FaultKind::Stall);
        let fails = evictions(&[2], FaultKind::Fail);
        host.set_faults(fails.faults.into_iter().fold(faults, FaultPlan::with));
        let left = left(&host, &access).await;
        let left = left.expect("the third eviction ends");
        assert_eq!(left.expect("it answers"), 1);
    }
}
