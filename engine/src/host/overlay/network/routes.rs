//! Routes to the pods of other nodes: fetched from below the first time; changes stay in the upper world.

use std::collections::BTreeMap;

use ipnet::IpNet;

use crate::host::overlay::OverlayHost;
use crate::host::{HostResult, Network as _, NodeRoute, Routes};

#[async_trait::async_trait]
impl Routes for OverlayHost<'_> {
    async fn node_routes(&self) -> HostResult<Vec<NodeRoute>> {
        self.fetch_routes().await?;
        self.upper.node_routes().await
    }

    async fn foreign_routes(&self, network: IpNet) -> HostResult<BTreeMap<IpNet, String>> {
        self.lower.foreign_routes(network).await
    }

    async fn set_node_routes(&self, routes: &[NodeRoute]) -> HostResult<()> {
        self.changes();
        self.fetch_routes().await?;
        // The upper world makes a route only to a network of its links.
        self.links().await?;
        self.upper.set_node_routes(routes).await
    }

    async fn remove_node_routes(&self, subnets: &[IpNet]) -> HostResult<()> {
        self.changes();
        self.fetch_routes().await?;
        self.upper.remove_node_routes(subnets).await
    }

    fn shows_present_routes(&self) -> bool {
        self.hints.routes
    }
}

impl OverlayHost<'_> {
    async fn fetch_routes(&self) -> HostResult<()> {
        if self.known().routes {
            return Ok(());
        }
        let routes = self.lower.node_routes().await?;
        self.known().routes = true;
        let routes = routes.into_iter().map(|route| (route.subnet, route.via));
        self.upper
            .with_world_mut(|world| world.node_routes.extend(routes));
        Ok(())
    }
}
