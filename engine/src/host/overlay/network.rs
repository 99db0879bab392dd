//! Links, virtual services, and probes: asked below as long as nothing was changed above. `firewall` has the packet filter, `routes` the
//! routes to pods of other nodes.

mod firewall;
mod routes;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::OverlayHost;
use crate::host::{
    ClaimKind, ClaimOutcome, HostError, HostResult, HttpsRequest, HttpsResponse, Link, Network,
    VirtualService, VrrpSender,
};

#[async_trait::async_trait]
impl Network for OverlayHost<'_> {
    async fn https_get(&self, request: &HttpsRequest) -> HostResult<HttpsResponse> {
        self.unchanged(&format!("get {}", request.url))?;
        self.lower.https_get(request).await
    }

    async fn tcp_connect(&self, address: SocketAddr, timeout: Duration) -> HostResult<()> {
        self.unchanged(&format!("connect to {address}"))?;
        self.lower.tcp_connect(address, timeout).await
    }

    async fn neighbour(&self, address: IpAddr) -> HostResult<Option<String>> {
        self.lower.neighbour(address).await
    }

    async fn address_holders(
        &self,
        link: &str,
        addresses: &[Ipv4Addr],
        during: Duration,
    ) -> HostResult<BTreeMap<Ipv4Addr, BTreeSet<String>>> {
        self.lower.address_holders(link, addresses, during).await
    }

    /// A prediction sends nothing.
    async fn claim_address(
        &self,
        link: &str,
        address: Ipv4Addr,
        during: Duration,
        kind: ClaimKind,
    ) -> HostResult<ClaimOutcome> {
        self.upper.claim_address(link, address, during, kind).await
    }

    async fn vrrp_senders(&self, link: &str, during: Duration) -> HostResult<BTreeSet<VrrpSender>> {
        self.lower.vrrp_senders(link, during).await
    }

    async fn links(&self) -> HostResult<Vec<Link>> {
        for link in self.lower.links().await? {
            if self.known().links.insert(link.name.clone()) {
                self.upper
                    .with_world_mut(|world| world.links.insert(link.name.clone(), link));
            }
        }
        self.upper.links().await
    }

    async fn link(&self, name: &str) -> HostResult<Option<Link>> {
        self.fetch_link(name).await?;
        self.upper.link(name).await
    }

    async fn set_link_up(&self, name: &str) -> HostResult<()> {
        self.changes();
        self.fetch_link(name).await?;
        self.upper.set_link_up(name).await
    }

    async fn remove_link(&self, name: &str) -> HostResult<()> {
        self.changes();
        self.fetch_link(name).await?;
        self.upper.remove_link(name).await
    }

    async fn virtual_services(&self) -> HostResult<Vec<VirtualService>> {
        self.fetch_virtual_services().await?;
        self.upper.virtual_services().await
    }

    async fn remove_virtual_service(&self, service: &VirtualService) -> HostResult<()> {
        self.changes();
        self.fetch_virtual_services().await?;
        self.upper.remove_virtual_service(service).await
    }
}

impl OverlayHost<'_> {
    /// An error once anything was changed: the answer after a change is known after apply.
    pub(super) fn unchanged(&self, action: &str) -> HostResult<()> {
        if self.known().changed {
            return Err(HostError::service(action, "it is known after apply"));
        }
        Ok(())
    }

    async fn fetch_virtual_services(&self) -> HostResult<()> {
        if self.known().virtual_services {
            return Ok(());
        }
        let services = self.lower.virtual_services().await?;
        self.known().virtual_services = true;
        self.upper
            .with_world_mut(|world| world.virtual_services.extend(services));
        Ok(())
    }

    async fn fetch_link(&self, name: &str) -> HostResult<()> {
        if self.known().links.contains(name) {
            return Ok(());
        }
        let link = self.lower.link(name).await?;
        self.known().links.insert(name.to_owned());
        if let Some(link) = link {
            self.upper
                .with_world_mut(|world| world.links.insert(name.to_owned(), link));
        }
        Ok(())
    }
}
