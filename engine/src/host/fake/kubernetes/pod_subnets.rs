//! Pod subnets in the cluster of a fake host, with the API server's conflicts: one claim of each subnet, and a node's subnet never changes.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use crate::host::fake::fake_host::FakeHost;
use crate::host::fake::world::World;
use crate::host::{ClusterAccess, ClusterNode, HostResult, PodSubnets, SubnetClaim, SubnetNode};

const DEADLINE: Duration = Duration::from_secs(10);

#[async_trait::async_trait]
impl PodSubnets for FakeHost {
    async fn subnet_nodes(&self, access: &ClusterAccess) -> HostResult<Vec<SubnetNode>> {
        self.observe("subnet_nodes", "all", DEADLINE, |world| {
            world.reach(access, "list the nodes")?;
            let nodes = world.cluster.nodes.iter();
            let nodes = nodes.map(|(name, node)| SubnetNode {
                name: name.clone(),
                uid: node.uid.clone(),
                subnets: subnet(node.pod_cidr.as_deref()).into_iter().collect(),
                addresses: node.addresses.clone(),
                created: node.created,
            });
            Ok(nodes.collect())
        })
        .await
    }

    async fn subnet_claims(&self, access: &ClusterAccess) -> HostResult<Vec<SubnetClaim>> {
        self.observe("subnet_claims", "all", DEADLINE, |world| {
            world.reach(access, "list the claims of pod subnets")?;
            Ok(world.cluster.subnet_claims.values().cloned().collect())
        })
        .await
    }

    async fn claim_subnet(&self, access: &ClusterAccess, claim: &SubnetClaim) -> HostResult<bool> {
        let about = claim.subnet.to_string();
        self.mutate("claim_subnet", about, DEADLINE, |world| {
            world.reach(access, &format!("claim the pod subnet {}", claim.subnet))?;
            let claims = &mut world.cluster.subnet_claims;
            let free = !claims.contains_key(&claim.subnet);
            if free {
                claims.insert(claim.subnet, claim.clone());
            }
            Ok(free)
        })
        .await
    }

    async fn release_subnet(&self, access: &ClusterAccess, claim: &SubnetClaim) -> HostResult<()> {
        let about = claim.subnet.to_string();
        self.mutate("release_subnet", about, DEADLINE, |world| {
            world.reach(access, &format!("release the pod subnet {}", claim.subnet))?;
            let claims = &mut world.cluster.subnet_claims;
            if claims
                .get(&claim.subnet)
                .is_some_and(|its| its.uid == claim.uid)
            {
                claims.remove(&claim.subnet);
            }
            Ok(())
        })
        .await
    }

    async fn assign_subnet(&self, access: &ClusterAccess, claim: &SubnetClaim) -> HostResult<bool> {
        let about = claim.node.as_str();
        self.mutate("assign_subnet", about, DEADLINE, |world| {
            world.reach(access, &format!("give node {} a pod subnet", claim.node))?;
            let node = world.cluster.nodes.get_mut(&claim.node);
            let Some(node) = node.filter(|node| node.uid == claim.uid) else {
                return Ok(false);
            };
            let wanted = claim.subnet.to_string();
            Ok(*node.pod_cidr.get_or_insert(wanted.clone()) == wanted)
        })
        .await
    }
}

fn subnet(text: Option<&str>) -> Option<IpNet> {
    text?.parse().ok()
}

impl World {
    /// What the garbage collector does: it removes the claims whose node is gone.
    pub fn collect_subnet_claims(&mut self) {
        let alive = |claim: &SubnetClaim| {
            let mut nodes = self.cluster.nodes.values();
            nodes.any(|node| node.uid == claim.uid)
        };
        let kept = self.cluster.subnet_claims.values();
        let kept = kept.filter(|claim| alive(claim)).cloned();
        let kept = kept.map(|claim| (claim.subnet, claim)).collect();
        self.cluster.subnet_claims = kept;
    }

    /// Registers another node with its pod subnet and its address, as its kubelet and a master would; replaces one of the same name.
    pub fn join_node(&mut self, name: &str, pod_cidr: &str, address: IpAddr) {
        let node = ClusterNode {
            uid: self.cluster.next_uid(),
            pod_cidr: Some(pod_cidr.to_owned()),
            addresses: vec![address],
            ..ClusterNode::default()
        };
        self.cluster.nodes.insert(name.to_owned(), node);
    }

    /// Removes a node, as `kubectl delete node` does; its claim stays until it is collected.
    pub fn remove_node(&mut self, name: &str) {
        self.cluster.nodes.remove(name);
    }
}
