//! Gives nodes their pods' subnets, in place of the controller-manager's `nodeipam`, which delays all later controllers by ten seconds.
//!
//! Any number of masters may allocate at the same time. A subnet is first claimed, by creating an object named after the subnet, then set
//! on its node. The API server refuses the second creation, so a subnet has one claim at a time, and a node is given a subnet only while
//! the node has the claim of it. A claim is deleted only when its node cannot be given that subnet any more: the node is gone (the garbage
//! collector deletes the claim) or has another subnet, which never changes. So two nodes never get the same subnet.
//!
//! Subnets that nodes have without a claim, from the controller-manager or from an operator, are claimed before anything is allocated, if
//! the pool could have given them. A kubelet may register its node with any subnet: others are left free while the pool has room, and no longer.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::host::{ClusterAccess, HostError, PodSubnets, SubnetClaim, SubnetNode};

/// How often an allocation starts again because the node or its claim was changed in the meantime.
const ROUNDS: usize = 5;
/// Most claims that an error names.
const NAMED: usize = 5;

/// The network that nodes get their subnets from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubnetPool {
    /// The pods' network of the cluster.
    pub network: IpNet,
    /// The prefix length of a node's subnet.
    pub prefix: u8,
}

impl SubnetPool {
    /// Whether a node may get this subnet from the pool.
    fn gives(&self, subnet: &IpNet) -> bool {
        subnet.prefix_len() == self.prefix && self.network.contains(subnet)
    }
}

impl std::fmt::Display for SubnetPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a /{} of {}", self.prefix, self.network)
    }
}

/// Why a node got no subnet.
#[derive(Debug, Error)]
pub enum PodSubnetError {
    /// The API server did not do what was asked.
    #[error(transparent)]
    Api(#[from] HostError),
    /// The node is not registered.
    #[error("find node {node}")]
    NoNode {
        /// Its name.
        node: String,
    },
    /// All subnets are taken.
    #[error("find a free pod subnet for node {node}: all subnets of length /{} in {} are taken, by {nodes} nodes and {claims} claims{odd}", pool.prefix, pool.network)]
    Exhausted {
        /// The node that gets none.
        node: String,
        /// Where subnets come from.
        pool: SubnetPool,
        /// Nodes with a subnet.
        nodes: usize,
        /// Claims of subnets.
        claims: usize,
        /// Claims of another length, each with its node: one of them may take the whole pool. Empty if there are none.
        odd: String,
    },
    /// Another client changed the node or its claim each time.
    #[error("give node {node} a pod subnet: the node was changed each time")]
    Contended {
        /// The node.
        node: String,
    },
}

/// The first subnet of the pool that overlaps no node's subnet and no claim. A kubelet may register its node with any subnet, so if there is
/// no such subnet, those of nodes count only if they are of the pool and of its length: one node takes one subnet at most.
#[must_use]
pub fn next_free(nodes: &[SubnetNode], claims: &[SubnetClaim], pool: SubnetPool) -> Option<IpNet> {
    let assigned = || nodes.iter().flat_map(|node| &node.subnets);
    let claimed = || claims.iter().map(|claim| &claim.subnet);
    let all: Vec<&IpNet> = assigned().chain(claimed()).collect();
    first_free(pool.network, pool.prefix, &all).or_else(|| {
        let regular = assigned().filter(|subnet| pool.gives(subnet));
        let taken: Vec<&IpNet> = regular.chain(claimed()).collect();
        first_free(pool.network, pool.prefix, &taken)
    })
}

/// The first subnet of this length in the network that overlaps none of `taken`. Halves the network, so its size does not matter.
fn first_free(network: IpNet, prefix: u8, taken: &[&IpNet]) -> Option<IpNet> {
    let here = taken.iter().copied();
    let here: Vec<&IpNet> = here.filter(|its| overlap(its, &network)).collect();
    if here.is_empty() {
        return network.subnets(prefix).ok()?.next();
    }
    if here.iter().any(|its| its.contains(&network)) || network.prefix_len() >= prefix {
        return None;
    }
    let mut halves = network.subnets(network.prefix_len() + 1).ok()?;
    halves.find_map(|half| first_free(half, prefix, &here))
}

fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(other) || other.contains(one)
}

/// Gives one node a subnet, unless it has one; returns the node's subnet.
///
/// # Errors
/// See [`PodSubnetError`]. The next attempt uses the claim of an interrupted attempt.
pub async fn allocate<A: PodSubnets + ?Sized>(
    api: &A,
    access: &ClusterAccess,
    name: &str,
    pool: SubnetPool,
) -> Result<IpNet, PodSubnetError> {
    for _ in 0..ROUNDS {
        let nodes = api.subnet_nodes(access).await?;
        let Some(node) = nodes.iter().find(|node| node.name == name) else {
            return Err(PodSubnetError::NoNode {
                node: name.to_owned(),
            });
        };
        let mut claims = api.subnet_claims(access).await?;
        claim_assigned(api, access, &nodes, &mut claims, pool).await?;
        if let Some(subnet) = node.subnets.first() {
            return Ok(*subnet);
        }
        let claim = match left_claim(node, &nodes, &claims, pool) {
            Some(claim) => claim,
            None => claim_free(api, access, node, &nodes, claims, pool).await?,
        };
        if api.assign_subnet(access, &claim).await? {
            return Ok(claim.subnet);
        }
        api.release_subnet(access, &claim).await?;
    }
    Err(PodSubnetError::Contended {
        node: name.to_owned(),
    })
}

/// Gives a subnet to each node without one. Returns these nodes, each with its result.
///
/// # Errors
/// The nodes cannot be listed.
pub async fn allocate_all<A: PodSubnets + ?Sized>(
    api: &A,
    access: &ClusterAccess,
    pool: SubnetPool,
) -> Result<Vec<(String, Result<IpNet, PodSubnetError>)>, PodSubnetError> {
    let mut results = Vec::new();
    for node in api.subnet_nodes(access).await? {
        if node.subnets.is_empty() {
            let result = allocate(api, access, &node.name, pool).await;
            results.push((node.name, result));
        }
    }
    Ok(results)
}

/// Claims what nodes have already. Two nodes with one subnet are reported: no allocator makes such a pair. A subnet that the pool does not
/// give is not claimed: a kubelet may register its node with the whole pool, and a claim would take it from all other nodes.
async fn claim_assigned<A: PodSubnets + ?Sized>(
    api: &A,
    access: &ClusterAccess,
    nodes: &[SubnetNode],
    claims: &mut Vec<SubnetClaim>,
    pool: SubnetPool,
) -> Result<(), PodSubnetError> {
    let mut claimed: BTreeSet<IpNet> = claims.iter().map(|claim| claim.subnet).collect();
    let mut owners: BTreeMap<IpNet, &str> = BTreeMap::new();
    for node in nodes {
        for subnet in node.subnets.iter().filter(|subnet| pool.gives(subnet)) {
            if let Some(other) = owners.insert(*subnet, &node.name) {
                tracing::warn!(
                    "nodes {other} and {} have the same pod subnet {subnet}; delete one of the nodes and restart its kubelet",
                    node.name
                );
            }
            if claimed.insert(*subnet) {
                let claim = SubnetClaim {
                    subnet: *subnet,
                    node: node.name.clone(),
                    uid: node.uid.clone(),
                };
                // If another allocator was faster, the subnet is claimed as well.
                api.claim_subnet(access, &claim).await?;
                claims.push(claim);
            }
        }
    }
    Ok(())
}

/// A claim of this node that an earlier attempt made and did not use.
fn left_claim(
    node: &SubnetNode,
    nodes: &[SubnetNode],
    claims: &[SubnetClaim],
    pool: SubnetPool,
) -> Option<SubnetClaim> {
    let usable = |claim: &&SubnetClaim| {
        let mut assigned = nodes.iter().flat_map(|node| &node.subnets);
        claim.uid == node.uid
            && pool.gives(&claim.subnet)
            && !assigned.any(|other| claim.subnet == *other)
    };
    claims.iter().find(usable).cloned()
}

/// Claims the first subnet that can be claimed.
async fn claim_free<A: PodSubnets + ?Sized>(
    api: &A,
    access: &ClusterAccess,
    node: &SubnetNode,
    nodes: &[SubnetNode],
    mut claims: Vec<SubnetClaim>,
    pool: SubnetPool,
) -> Result<SubnetClaim, PodSubnetError> {
    // Each round takes one subnet out of the pool, so this ends.
    while let Some(subnet) = next_free(nodes, &claims, pool) {
        let claim = SubnetClaim {
            subnet,
            node: node.name.clone(),
            uid: node.uid.clone(),
        };
        if api.claim_subnet(access, &claim).await? {
            return Ok(claim);
        }
        claims.push(claim);
    }
    Err(PodSubnetError::Exhausted {
        node: node.name.clone(),
        pool,
        nodes: nodes.iter().filter(|node| !node.subnets.is_empty()).count(),
        claims: claims.len(),
        odd: odd(&claims, pool),
    })
}

/// The claims that the pool does not give, as the end of a sentence.
fn odd(claims: &[SubnetClaim], pool: SubnetPool) -> String {
    let odd = claims
        .iter()
        .filter(|claim| overlap(&claim.subnet, &pool.network) && !pool.gives(&claim.subnet));
    let odd = odd.take(NAMED);
    let odd: Vec<String> = odd
        .map(|claim| format!("{} of node {}", claim.subnet, claim.node))
        .collect();
    match odd.is_empty() {
        true => String::new(),
        false => format!("; of another length are {}", odd.join(", ")),
    }
}

#[cfg(test)]
mod tests;
