//! Probes from the machine, and its links.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::SockaddrStorage;
use tokio::net::TcpStream;

use super::blocking::{blocking, within};
use super::{LiveHost, https};
use crate::host::{
    CommandSpec, HostError, HostResult, HttpsRequest, HttpsResponse, Link, Network, Processes,
    VirtualService,
};

#[async_trait::async_trait]
impl Network for LiveHost {
    async fn https_get(&self, request: &HttpsRequest) -> HostResult<HttpsResponse> {
        let action = || format!("get {}", request.url);
        within(request.timeout, action, https::get(request)).await
    }

    async fn tcp_connect(&self, address: SocketAddr, timeout: Duration) -> HostResult<()> {
        let action = || format!("connect to {address}");
        within(timeout, action, async {
            TcpStream::connect(address)
                .await
                .map(drop)
                .map_err(|error| HostError::service(action(), error))
        })
        .await
    }

    async fn links(&self) -> HostResult<Vec<Link>> {
        blocking(|| Ok(links(listed()?))).await
    }

    async fn link(&self, name: &str) -> HostResult<Option<Link>> {
        let name = name.to_owned();
        blocking(move || {
            let ours = listed()?.filter(|entry| link_name(entry) == name);
            Ok(links(ours).pop())
        })
        .await
    }

    async fn remove_link(&self, name: &str) -> HostResult<()> {
        if self.link(name).await?.is_none() {
            return Ok(());
        }
        let command = CommandSpec::new(["ip", "link", "delete", "dev", name]);
        match self.run_ok(&command).await {
            // Somebody else was quicker.
            Err(HostError::Exit { .. }) if self.link(name).await?.is_none() => Ok(()),
            result => result.map(drop),
        }
    }

    async fn virtual_services(&self) -> HostResult<Vec<VirtualService>> {
        self.listed_services().await
    }

    async fn remove_virtual_service(&self, service: &VirtualService) -> HostResult<()> {
        self.remove_service(service).await
    }
}

fn listed() -> HostResult<impl Iterator<Item = InterfaceAddress>> {
    getifaddrs()
        .map_err(|errno| HostError::service("list the network links", io::Error::from(errno)))
}

/// The name of the link that an address is on; an address with a label of its own stands there as `link:label`.
fn link_name(entry: &InterfaceAddress) -> &str {
    entry.interface_name.split(':').next().unwrap_or_default()
}

/// The links among all addresses, by name. Every link has at least its hardware address in the list.
fn links(all: impl Iterator<Item = InterfaceAddress>) -> Vec<Link> {
    let mut found: BTreeMap<String, Link> = BTreeMap::new();
    for entry in all {
        let name = link_name(&entry).to_owned();
        let link = found.entry(name.clone()).or_insert_with(|| Link {
            name,
            up: false,
            addresses: Vec::new(),
        });
        link.up |= entry.flags.contains(InterfaceFlags::IFF_UP);
        if let Some(address) = entry.address.as_ref().and_then(ip) {
            let mask = entry.netmask.as_ref().and_then(ip);
            link.addresses.push((address, prefix(mask)));
        }
    }
    found.into_values().collect()
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    let four = address
        .as_sockaddr_in()
        .map(|address| IpAddr::V4(address.ip()));
    four.or_else(|| {
        address
            .as_sockaddr_in6()
            .map(|address| IpAddr::V6(address.ip()))
    })
}

fn prefix(mask: Option<IpAddr>) -> u8 {
    let ones = match mask {
        Some(IpAddr::V4(mask)) => mask.to_bits().count_ones(),
        Some(IpAddr::V6(mask)) => mask.to_bits().count_ones(),
        None => 0,
    };
    u8::try_from(ones).unwrap_or(0)
}
