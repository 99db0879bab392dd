//! What the role has on the host, by name: nodeletd watches it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use engine::plan::{Plan, Probe};
use engine::resource::{NodeRoutesSpec, NodeSpec, Spec, working_unit};
use serde::{Deserialize, Serialize};

use super::allocation::Allocation;
use super::signing::Signing;

/// Names of what a plan has on its host. They change with the plan.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WatchList {
    /// Names of containers.
    pub(crate) containers: Vec<String>,
    /// Names of units.
    pub(crate) units: Vec<String>,
    /// Directories whose files are ours.
    pub(crate) directories: Vec<PathBuf>,
    /// Names of links. Events of the link itself, of its addresses and of the routes over it count.
    #[serde(default)]
    pub(crate) links: Vec<String>,
    /// Addresses, on any link.
    #[serde(default)]
    pub(crate) addresses: Vec<IpAddr>,
    /// Nodes of the cluster, as steps of the role make them.
    #[serde(default)]
    pub(crate) nodes: Vec<NodeSpec>,
    /// The routes to pods of other nodes, as a step of the role makes them.
    #[serde(default)]
    pub(crate) node_routes: Option<NodeRoutesSpec>,
    /// How this host assigns pod subnets to nodes of the cluster; `None` if it may not change anything.
    #[serde(default)]
    pub(crate) allocation: Option<Allocation>,
    /// How this host signs certificates of nodes; `None` if it does not, or if it may not change anything.
    #[serde(default)]
    pub(crate) signing: Option<Signing>,
    /// The address of this master's member of etcd, whose list of masters this host follows; `None` if this host is no master, or may not
    /// change anything.
    #[serde(default)]
    pub(crate) masters: Option<IpAddr>,
    /// The one of `directories` that contains the settings; the daemon writes nothing to it.
    pub(crate) settings: PathBuf,
}

impl WatchList {
    /// What this plan has on its host, whose address is given.
    pub(super) fn of(plan: &Plan, address: Option<IpAddr>, config: &Path) -> Self {
        let mut containers = Vec::new();
        let mut units = Vec::new();
        let mut links = BTreeSet::new();
        let mut nodes = Vec::new();
        let mut node_routes = None;
        let mut directories = BTreeSet::from([config.to_path_buf()]);
        for step in plan.phases.iter().flat_map(|phase| &phase.steps) {
            match &step.spec {
                Spec::Container(container) => containers.push(container.name.clone()),
                Spec::Service(service) => {
                    units.push(service.unit.clone());
                    units.extend(working_unit(&service.unit).map(str::to_owned));
                }
                Spec::Link(link) if link.carries_pods => {
                    links.insert(link.name.clone());
                }
                Spec::Node(node) => nodes.push(node.clone()),
                Spec::NodeRoutes(routes) => node_routes = Some(routes.clone()),
                _ => {}
            }
            let files = step.spec.paths();
            directories.extend(
                files
                    .iter()
                    .filter_map(|file| file.parent())
                    .map(Path::to_path_buf),
            );
        }
        let mut addresses = BTreeSet::new();
        for check in plan.phases.iter().flat_map(|phase| &phase.checks) {
            match &check.probe {
                Probe::LinkUp(link) | Probe::LinkAddressed(link) => {
                    links.insert(link.clone());
                }
                Probe::VirtualIp { address, .. } | Probe::AddressHeld(address) => {
                    addresses.insert(*address);
                }
                _ => {}
            }
        }
        let mut allocations = nodes.iter().filter_map(|node: &NodeSpec| {
            let kubeconfig = node.kubeconfig.clone();
            let pool = node.pod_subnets?;
            Some(Allocation { pool, kubeconfig })
        });
        let signing = Signing::of(plan);
        Self {
            allocation: allocations.next_back(),
            masters: address.filter(|_| signing.is_some()),
            signing,
            links: links.into_iter().collect(),
            addresses: addresses.into_iter().collect(),
            nodes,
            node_routes,
            containers,
            units,
            directories: directories.into_iter().collect(),
            settings: config.to_path_buf(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pass::tests::plan_of_master;

    #[tokio::test]
    async fn link_and_node_events_are_watched() {
        let plan = plan_of_master().await;
        let address = "172.30.0.11".parse().ok();
        let found = WatchList::of(&plan, address, Path::new("/etc/pf9/nodelet"));
        assert_eq!(found.links, ["cni0", "docker0", "eth0"]);
        let containerd = "containerd.service".to_owned();
        assert!(found.units.contains(&containerd), "{:?}", found.units);
        let virtual_ip: IpAddr = "172.30.0.100".parse().expect("an address");
        assert_eq!(found.addresses, [virtual_ip]);
        let nodes: Vec<&str> = found.nodes.iter().map(|node| node.name.as_str()).collect();
        assert_eq!(nodes, ["cp-1"]);
        let routes = found.node_routes.expect("there are routes to other nodes");
        assert_eq!(routes.node, "cp-1");
        assert!(routes.kubeconfig.ends_with("local-admin.yaml"));
        let allocation = found.allocation.expect("subnets are given");
        assert_eq!(allocation.pool.to_string(), "a /24 of 10.20.0.0/16");
        assert!(allocation.kubeconfig.ends_with("local-admin.yaml"));
        assert!(found.signing.is_some(), "certificates are signed");
        assert_eq!(found.masters, address);
    }

    #[tokio::test]
    async fn only_a_master_follows_the_list_of_masters() {
        let mut plan = plan_of_master().await;
        plan.phases.retain(|phase| phase.name.as_str() != "certs");
        let address = "172.30.0.11".parse().ok();
        let found = WatchList::of(&plan, address, Path::new("/etc/pf9/nodelet"));
        assert_eq!(found.masters, None);
    }
}
