//! Other nodes of the cluster that join, move or leave: routes lead to their pods.
//!
//! Each kubelet writes to its node all the time, so an event counts only if a subnet or an address has changed. A route that is deleted
//! on this host is an event of `links`.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::IpAddr;

use anyhow::{Context as _, Result};
use engine::host::ClusterAccess;
use engine::host::live::{NodeEvent, watch_nodes};

use super::trigger::Triggers;
use crate::pass::WatchList;

/// Most nodes that are remembered: Kubernetes has 5,000 at most. Changes of others are noticed by the next pass.
const NODES: usize = 10_000;

pub(super) async fn listen(targets: WatchList, triggers: Triggers) -> Result<()> {
    let Some(spec) = targets.node_routes else {
        return std::future::pending().await;
    };
    let access = ClusterAccess::with(&spec.kubeconfig);
    let mut nodes = OtherNodes::of(spec.node);
    watch_nodes(&access, None, |event| nodes.tell(event, &triggers))
        .await
        .context("listen to the API server")
}

/// What decides about a route.
type WayToNode = (Option<String>, Vec<IpAddr>);

/// The nodes that one watch has reported.
#[derive(Debug)]
struct OtherNodes {
    own: String,
    nodes: BTreeMap<String, WayToNode>,
    /// Whether all existing nodes have been reported.
    listed: bool,
}

impl OtherNodes {
    fn of(own: String) -> Self {
        Self {
            own,
            nodes: BTreeMap::new(),
            listed: false,
        }
    }

    fn tell(&mut self, event: NodeEvent, triggers: &Triggers) {
        let event = match event {
            NodeEvent::Seen { name, .. } | NodeEvent::Gone { name } if name == self.own => return,
            NodeEvent::Seen { name, node } => {
                let way = (node.pod_cidr, node.addresses);
                let has_room = self.nodes.len() < NODES || self.nodes.contains_key(&name);
                if self.nodes.get(&name) == Some(&way) || !has_room {
                    return;
                }
                self.nodes.insert(name.clone(), way);
                format!("the way to the pods of node {name} has changed")
            }
            NodeEvent::Gone { name } => {
                if self.nodes.remove(&name).is_none() {
                    return;
                }
                format!("node {name} has left")
            }
            NodeEvent::Listed => {
                self.listed = true;
                "the other nodes have changed".to_owned()
            }
        };
        // A list repeats what an earlier watch has reported, so it is compared with that as a whole.
        if self.listed && triggers.has_changed("other nodes", self.fingerprint()) {
            triggers.add(event);
        }
    }

    /// The same for the same nodes; empty without nodes, which is the state at the beginning.
    fn fingerprint(&self) -> String {
        if self.nodes.is_empty() {
            return String::new();
        }
        let mut hasher = DefaultHasher::new();
        self.nodes.hash(&mut hasher);
        format!("{:x}", hasher.finish())
    }
}

#[cfg(test)]
mod tests {
    use engine::host::ClusterNode;

    use super::*;

    fn seen(name: &str, subnet: &str, address: &str, message: &str) -> NodeEvent {
        NodeEvent::Seen {
            name: name.to_owned(),
            node: Box::new(ClusterNode {
                pod_cidr: Some(subnet.to_owned()).filter(|subnet| !subnet.is_empty()),
                addresses: address.parse().into_iter().collect(),
                ready_message: message.to_owned(),
                ..ClusterNode::default()
            }),
        }
    }

    fn gone(name: &str) -> NodeEvent {
        NodeEvent::Gone {
            name: name.to_owned(),
        }
    }

    #[test]
    fn only_subnets_and_addresses_of_other_nodes_count() {
        let triggers = Triggers::default();
        let mut nodes = OtherNodes::of("cp-1".to_owned());
        let mut events_for = |event: NodeEvent| {
            nodes.tell(event, &triggers);
            triggers.take().join(", ")
        };
        let changed = "the way to the pods of node w-1 has changed";
        for (event, expected) in [
            (seen("cp-1", "10.20.0.0/24", "172.30.0.11", ""), ""),
            (NodeEvent::Listed, ""),
            (seen("w-1", "", "172.30.0.12", "1"), changed),
            (seen("w-1", "", "172.30.0.12", "2"), ""),
            (seen("w-1", "10.20.1.0/24", "172.30.0.12", "2"), changed),
            (seen("w-1", "10.20.1.0/24", "172.30.0.12", "3"), ""),
            (seen("w-1", "10.20.1.0/24", "172.30.0.13", "3"), changed),
            (seen("cp-1", "10.20.0.0/24", "172.30.0.99", "3"), ""),
            (gone("w-2"), ""),
            (gone("w-1"), "node w-1 has left"),
            (gone("w-1"), ""),
        ] {
            let what = format!("{event:?}");
            assert_eq!(events_for(event), expected, "{what}");
        }
    }

    /// A watch ends every few minutes. The list of the next one is an event only if it differs.
    #[test]
    fn a_new_watch_reports_only_what_changed_in_between() {
        let triggers = Triggers::default();
        let watch = |events: Vec<NodeEvent>| {
            let mut nodes = OtherNodes::of("cp-1".to_owned());
            for event in events {
                nodes.tell(event, &triggers);
            }
            nodes.tell(NodeEvent::Listed, &triggers);
            triggers.take().join(", ")
        };
        let one = || seen("w-1", "10.20.1.0/24", "172.30.0.12", "");
        let two = || seen("w-2", "10.20.2.0/24", "172.30.0.13", "");
        let differs = "the other nodes have changed";
        assert_eq!(watch(vec![one(), two()]), differs);
        assert_eq!(watch(vec![two(), one()]), "");
        assert_eq!(watch(vec![two()]), differs);
        assert_eq!(watch(vec![two()]), "");
        assert_eq!(watch(Vec::new()), differs);
        assert_eq!(watch(Vec::new()), "");
    }
}
