//! Changes by others to the role's node in the cluster: to its labels, its taints or its cordon.
//!
//! kubelet writes to the node all the time, so an event counts only if a step of the role would change something on the node.

use anyhow::{Context as _, Result};
use engine::host::live::{NodeEvent, watch_nodes};
use engine::host::{ClusterAccess, ClusterNode};
use engine::resource::{NodeSpec, Resource as _};

use super::trigger::Triggers;
use crate::pass::WatchList;

pub(super) async fn listen(targets: WatchList, triggers: Triggers) -> Result<()> {
    if targets.nodes.is_empty() {
        return std::future::pending().await;
    }
    let watches = targets.nodes.iter().map(|spec| {
        let triggers = triggers.clone();
        async move {
            let access = ClusterAccess::with(&spec.kubeconfig);
            watch_nodes(&access, Some(&spec.name), |event| {
                tell(spec, event, &triggers)
            })
            .await
        }
    });
    futures::future::try_join_all(watches)
        .await
        .context("listen to the API server")?;
    Ok(())
}

fn tell(spec: &NodeSpec, event: NodeEvent, triggers: &Triggers) {
    match event {
        NodeEvent::Seen { name, node } if name == spec.name => {
            let differs = differences(spec, *node);
            let event = format!("node {name}: {}", differs.join(", "));
            // The same differences are not reported again with each heartbeat of kubelet.
            if triggers.has_changed(&format!("node {name}"), differs.join(", "))
                && !differs.is_empty()
            {
                triggers.add(event);
            }
        }
        NodeEvent::Gone { name } if name == spec.name => {
            triggers.has_changed(&format!("node {name}"), "deleted".to_owned());
            triggers.add(format!("node {name}: deleted"));
        }
        _ => {}
    }
}

/// What a step of the role would change on the node.
fn differences(spec: &NodeSpec, node: ClusterNode) -> Vec<String> {
    let change = spec.diff(&Some(node), false);
    let differences = change.into_iter().flat_map(|change| change.differences);
    differences.map(|one| one.field).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use engine::host::Taint;

    use super::*;

    /// Only the role's own taints count; taints that others set do not.
    #[test]
    fn a_removed_taint_is_reported() {
        let taint = |key: &str| Taint {
            key: key.to_owned(),
            value: "true".to_owned(),
            effect: "NoSchedule".to_owned(),
        };
        let spec = NodeSpec {
            name: "cp-1".to_owned(),
            kubeconfig: "/etc/kubeconfig".into(),
            labels: BTreeMap::new(),
            taints: vec![taint("master")],
            untainted: vec!["unwanted".to_owned()],
            schedulable: true,
            shared_settings: BTreeMap::new(),
            pod_subnets: None,
        };
        let triggers = Triggers::default();
        let events_for = |keys: &[&str]| {
            let node = ClusterNode {
                taints: keys.iter().map(|key| taint(key)).collect(),
                pod_cidr: Some("10.20.0.0/24".to_owned()),
                ..ClusterNode::default()
            };
            let event = NodeEvent::Seen {
                name: "cp-1".to_owned(),
                node: Box::new(node),
            };
            tell(&spec, event, &triggers);
            triggers.take()
        };
        assert_eq!(events_for(&["master"]), [""; 0]);
        assert_eq!(events_for(&["theirs", "master"]), [""; 0]);
        assert_eq!(events_for(&["theirs"]), ["node cp-1: taints"]);
        assert_eq!(events_for(&["master"]), [""; 0]);
        assert_eq!(events_for(&["master", "unwanted"]), ["node cp-1: taints"]);
    }

    #[test]
    fn a_removed_label_is_one_event_and_a_heartbeat_is_none() {
        let label = |value: &str| BTreeMap::from([("role".to_owned(), value.to_owned())]);
        let spec = NodeSpec {
            name: "cp-1".to_owned(),
            kubeconfig: "/etc/kubeconfig".into(),
            labels: label("master"),
            taints: Vec::new(),
            untainted: Vec::new(),
            schedulable: true,
            shared_settings: BTreeMap::new(),
            pod_subnets: None,
        };
        let seen = |labels: BTreeMap<String, String>, message: &str| NodeEvent::Seen {
            name: "cp-1".to_owned(),
            node: Box::new(ClusterNode {
                labels,
                pod_cidr: Some("10.20.0.0/24".to_owned()),
                ready_message: message.to_owned(),
                ..ClusterNode::default()
            }),
        };
        let triggers = Triggers::default();
        let events_for = |event: NodeEvent| {
            tell(&spec, event, &triggers);
            triggers.take()
        };
        assert_eq!(events_for(seen(label("master"), "1")), [""; 0]);
        assert_eq!(events_for(seen(label("master"), "2")), [""; 0]);
        assert_eq!(
            events_for(seen(BTreeMap::new(), "2")),
            ["node cp-1: label role"]
        );
        assert_eq!(events_for(seen(BTreeMap::new(), "3")), [""; 0]);
        assert_eq!(events_for(seen(label("master"), "3")), [""; 0]);
        assert_eq!(
            events_for(seen(label("worker"), "3")),
            ["node cp-1: label role"]
        );
        let gone = |name: &str| NodeEvent::Gone {
            name: name.to_owned(),
        };
        assert_eq!(events_for(gone("cp-1")), ["node cp-1: deleted"]);
        assert_eq!(events_for(gone("cp-2")), [""; 0]);
        assert_eq!(events_for(NodeEvent::Listed), [""; 0]);
    }
}
