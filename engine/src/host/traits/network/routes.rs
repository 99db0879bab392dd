//! Routes to the pods of other nodes. They carry a protocol number of their own, so that routes of others are never taken for ours.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::host::HostResult;

/// The protocol number of our routes (`ip route show proto 92`). Numbers above 4 (`static`) are for programs that keep routes; iproute2's
/// `rt_protos` and the kernel's `rtnetlink.h` name no program for 92.
pub const ROUTE_PROTOCOL: u8 = 92;

/// A route to a node's pods, in the main table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeRoute {
    /// The pods' subnet of the node.
    pub subnet: IpNet,
    /// The node's address, which is on a network of this host.
    pub via: IpAddr,
}

/// Calls on the kernel's main routing tables of IPv4 and IPv6.
#[async_trait::async_trait]
pub trait Routes {
    /// All routes with [`ROUTE_PROTOCOL`], sorted. Cancel safe.
    async fn node_routes(&self) -> HostResult<Vec<NodeRoute>>;

    /// The routes of other programs to `network` and to subnets in it, as `ip route` shows them. Cancel safe.
    async fn foreign_routes(&self, network: IpNet) -> HostResult<BTreeMap<IpNet, String>>;

    /// Makes routes with [`ROUTE_PROTOCOL`], or changes where they lead. A cluster has up to 5,000 of them, so all are made in one call.
    ///
    /// # Errors
    /// A route cannot be made, for example because another program has a route for its subnet. The others are made all the same.
    async fn set_node_routes(&self, routes: &[NodeRoute]) -> HostResult<()>;

    /// Removes the routes with [`ROUTE_PROTOCOL`] to these subnets. A route that is not there is no error.
    ///
    /// # Errors
    /// A route cannot be removed. The others are removed all the same.
    async fn remove_node_routes(&self, subnets: &[IpNet]) -> HostResult<()>;

    /// Whether the routes of now are those that an apply finds. While the API server does not answer, a dry run knows this only from
    /// our own records.
    fn shows_present_routes(&self) -> bool {
        true
    }
}
