//! The pods' subnets of a cluster's nodes: which node has which, and which are claimed.

use std::net::IpAddr;
use std::time::SystemTime;

use ipnet::IpNet;

use crate::host::{ClusterAccess, HostResult};

/// A node, as far as its pods' subnets go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubnetNode {
    /// Its name.
    pub name: String,
    /// Its uid: a node that registers again under the same name is another node.
    pub uid: String,
    /// Its subnets (`spec.podCIDRs`), none before they are assigned.
    pub subnets: Vec<IpNet>,
    /// Its addresses of the type `InternalIP`, at most one of each family.
    pub addresses: Vec<IpAddr>,
    /// When it was registered, in whole seconds. The API server sets this time, so no kubelet can choose it. `None` if it is not known.
    pub created: Option<SystemTime>,
}

/// A node's claim to a subnet. The API server has at most one claim of each subnet, because the object is named after the subnet. The owner
/// of the claim is the node, so the garbage collector deletes the claim after the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubnetClaim {
    /// The subnet.
    pub subnet: IpNet,
    /// The node's name.
    pub node: String,
    /// The node's uid.
    pub uid: String,
}

/// Calls on the API server, each with the implementation's own deadline (10 s).
#[async_trait::async_trait]
pub trait PodSubnets {
    /// All nodes. Cancel safe.
    async fn subnet_nodes(&self, access: &ClusterAccess) -> HostResult<Vec<SubnetNode>>;

    /// All claims. Cancel safe.
    async fn subnet_claims(&self, access: &ClusterAccess) -> HostResult<Vec<SubnetClaim>>;

    /// Creates a claim. False if the subnet is claimed already, by any node.
    async fn claim_subnet(&self, access: &ClusterAccess, claim: &SubnetClaim) -> HostResult<bool>;

    /// Deletes a claim. Does nothing where the claim is gone or belongs to another node.
    async fn release_subnet(&self, access: &ClusterAccess, claim: &SubnetClaim) -> HostResult<()>;

    /// Sets the subnet of the node with this name and uid. False if that node is gone, or has another subnet, which cannot change any more.
    async fn assign_subnet(&self, access: &ClusterAccess, claim: &SubnetClaim) -> HostResult<bool>;
}
