//! Gives nodes their pods' subnets, in place of the controller-manager's `nodeipam`, which delays all later controllers by ten seconds.
//!
//! Any number of masters may allocate at the same time. A subnet is first claimed, by creating an object named after the subnet, then set
//! on its node. The API server refuses the second creation, so a subnet has one claim at a time, and a node is given a subnet only while
//! the node has the claim of it. A claim is deleted only when its node cannot be given that subnet any more: the node is gone (the garbage
//! collector deletes the claim) or has another subnet, which never changes. So two nodes never get the same subnet.
//!
//! Subnets that nodes have without a claim, from the controller-manager or from an operator, are claimed before anything is allocated.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::host::{ClusterAccess, HostError, PodSubnets, SubnetClaim, SubnetNode};

/// How often an allocation starts again because the node or its claim was changed in the meantime.
const ROUNDS: usize = 5;

/// The network that nodes get their subnets from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubnetPool {
    /// The pods' network of the cluster.
    pub network: IpNet,
    /// The prefix length of a node's subnet.
    pub prefix: u8,
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
    #[error("find a free pod subnet for node {node}: all subnets of length /{} in {} are taken, by {nodes} nodes and {claims} claims", pool.prefix, pool.network)]
    Exhausted {
        /// The node that gets none.
        node: String,
        /// Where subnets come from.
        pool: SubnetPool,
        /// Nodes with a subnet.
        nodes: usize,
        /// Claims of subnets.
        claims: usize,
    },
    /// Another client changed the node or its claim each time.
    #[error("give node {node} a pod subnet: the node was changed each time")]
    Contended {
        /// The node.
        node: String,
    },
}

/// The first subnet of the pool that overlaps no node's subnet and no claim.
#[must_use]
pub fn next_free(nodes: &[SubnetNode], claims: &[SubnetClaim], pool: SubnetPool) -> Option<IpNet> {
    let assigned = nodes.iter().flat_map(|node| &node.subnets);
    let taken = assigned.chain(claims.iter().map(|claim| &claim.subnet));
    let taken = taken.map(IpNet::trunc).collect::<BTreeSet<IpNet>>();
    // Subnets of the pool's own length either are equal or do not overlap; the others are few.
    let odd = |subnet: &&IpNet| subnet.prefix_len() != pool.prefix;
    let odd: Vec<&IpNet> = taken.iter().filter(odd).collect();
    let mut candidates = pool.network.subnets(pool.prefix).ok()?;
    candidates.find(|candidate| {
        !taken.contains(candidate) && !odd.iter().any(|other| overlap(candidate, other))
    })
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

/// Claims what nodes have already. Two nodes with one subnet are reported: no allocator makes such a pair.
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
        let of_the_pool = |subnet: &&IpNet| overlap(subnet, &pool.network);
        for subnet in node.subnets.iter().filter(of_the_pool) {
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
        let assigned = nodes.iter().flat_map(|node| &node.subnets);
        claim.uid == node.uid
            && claim.subnet.prefix_len() == pool.prefix
            && pool.network.contains(&claim.subnet)
            && !assigned
                .into_iter()
                .any(|other| overlap(&claim.subnet, other))
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
    })
}

#[cfg(test)]
mod tests;
