//! Probes from the machine, and its links.
//!
//! Contains TCP connections, the links with their addresses and routes as the kernel lists them, and the removal of a link. `https` makes
//! one request, with a certificate of a client if the probe has one. `routes` has the routes to pods of other nodes, `etcd` the calls on the
//! members of etcd, `arp`, `neighbour` and `vrrp` tell about other hosts on the same network; `arp` also claims an address.
//!
//! A probe opens a new connection and closes it again.
//!
//! Not here: requests to the API server (`kubernetes`) and to docker (`docker`), virtual services (`kernel::ipvs`), which errors last
//! (`error_class`), and what a failed probe means (`exec::check`). Start with this file.

mod arp;
mod etcd;
pub(in crate::host::live) mod https;
mod neighbour;
mod routes;
mod vrrp;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use ipnet::Ipv4Net;
use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::SockaddrStorage;
use tokio::net::TcpStream;

use super::blocking::{blocking, within};
use super::{LiveHost, files};
use crate::host::{
    ClaimKind, ClaimOutcome, CommandSpec, HostError, HostResult, HttpsRequest, HttpsResponse, Link,
    Network, Processes, VirtualService, VrrpSender,
};

/// The routes of IPv4.
const ROUTES: &str = "/proc/net/route";
/// More than a hundred thousand routes.
const MAX: u64 = 16 * 1024 * 1024;

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

    async fn neighbour(&self, address: IpAddr) -> HostResult<Option<String>> {
        neighbour::hardware_address(self, address).await
    }

    async fn address_holders(
        &self,
        link: &str,
        addresses: &[Ipv4Addr],
        during: Duration,
    ) -> HostResult<BTreeMap<Ipv4Addr, BTreeSet<String>>> {
        let (link, addresses) = (link.to_owned(), addresses.to_vec());
        blocking(move || arp::holders(&link, &addresses, during)).await
    }

    async fn claim_address(
        &self,
        link: &str,
        address: Ipv4Addr,
        during: Duration,
        kind: ClaimKind,
    ) -> HostResult<ClaimOutcome> {
        let name = link.to_owned();
        let conflicts = move || arp::claim::conflicts(&name, address, during, kind);
        let conflicts = blocking(conflicts).await?;
        if !conflicts.is_empty() {
            return Ok(ClaimOutcome::Conflict(conflicts));
        }
        Ok(ClaimOutcome::Claimed(arp::claim::keep(link, address)?))
    }

    async fn vrrp_senders(&self, link: &str, during: Duration) -> HostResult<BTreeSet<VrrpSender>> {
        let link = link.to_owned();
        blocking(move || vrrp::senders(&link, during)).await
    }

    async fn links(&self) -> HostResult<Vec<Link>> {
        blocking(|| with_routes(links(listed()?))).await
    }

    async fn link(&self, name: &str) -> HostResult<Option<Link>> {
        let name = name.to_owned();
        blocking(move || {
            let its = listed()?.filter(|entry| link_name(entry) == name);
            Ok(with_routes(links(its))?.pop())
        })
        .await
    }

    async fn set_link_up(&self, name: &str) -> HostResult<()> {
        let command = CommandSpec::new(["ip", "link", "set", "dev", name, "up"]);
        self.run_ok(&command).await.map(drop)
    }

    async fn remove_link(&self, name: &str) -> HostResult<()> {
        if self.link(name).await?.is_none() {
            return Ok(());
        }
        let command = CommandSpec::new(["ip", "link", "delete", "dev", name]);
        match self.run_ok(&command).await {
            // Another program has removed it first.
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

/// The name of the link that an address is on; an address with a label of its own is listed as `link:label`.
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
            unrouted: Vec::new(),
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

/// These links with the addresses that have no route.
fn with_routes(mut links: Vec<Link>) -> HostResult<Vec<Link>> {
    if links.is_empty() {
        return Ok(links);
    }
    let routes = files::read(Path::new(ROUTES), MAX)?.unwrap_or_default();
    let routes = String::from_utf8_lossy(&routes);
    for link in &mut links {
        link.unrouted = unrouted(link, &routes);
    }
    Ok(links)
}

/// The addresses whose network has no route over the link, according to `/proc/net/route`. That file has one line for each route: the link
/// first, then the network as a number in the machine's byte order; the mask is the eighth column.
fn unrouted(link: &Link, routes: &str) -> Vec<IpAddr> {
    let number = |word: Option<&&str>| {
        let number = u32::from_str_radix(word?, 16).ok()?;
        Some(Ipv4Addr::from(number.to_ne_bytes()))
    };
    let routed: Vec<Ipv4Net> = routes
        .lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let of_the_link = words.first() == Some(&link.name.as_str());
            let network = number(words.get(1))?;
            let mask = number(words.get(7))?;
            let network = Ipv4Net::with_netmask(network, mask).ok()?;
            of_the_link.then_some(network)
        })
        .collect();
    let addresses = link.addresses.iter().filter_map(|(address, prefix)| {
        let IpAddr::V4(four) = address else {
            return None;
        };
        let network = Ipv4Net::new(*four, *prefix).ok()?.trunc();
        // The kernel makes a route for a network only, and while the link is up.
        let has_none = link.up && *prefix < 32 && !routed.contains(&network);
        has_none.then_some(*address)
    });
    addresses.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel writes it.
    const ROUTES: &str =
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t01001EAC\t0003\t0\t0\t0\t00000000\t0\t0\t0
cni0\t0000140A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
eth0\t00001EAC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
";

    #[test]
    fn an_address_whose_network_no_route_leads_to_is_found() {
        let link = |name: &str, addresses: &[(&str, u8)]| Link {
            name: name.to_owned(),
            up: true,
            addresses: addresses
                .iter()
                .map(|(address, prefix)| (address.parse().unwrap(), *prefix))
                .collect(),
            unrouted: Vec::new(),
        };
        let cni0 = link("cni0", &[("10.20.0.1", 24), ("fe80::1", 64)]);
        let none: [IpAddr; 0] = [];
        assert_eq!(unrouted(&cni0, ROUTES), none);
        let address: IpAddr = "10.20.0.1".parse().unwrap();
        let without: String = ROUTES
            .lines()
            .filter(|line| !line.starts_with("cni0"))
            .map(|line| format!("{line}\n"))
            .collect();
        assert_eq!(unrouted(&cni0, &without), [address]);
        // A virtual IP has no network of its own, and a link that is down no routes.
        let eth0 = link("eth0", &[("172.30.0.11", 16), ("172.30.0.100", 32)]);
        assert_eq!(unrouted(&eth0, ROUTES), none);
        let down = Link { up: false, ..cni0 };
        assert_eq!(unrouted(&down, &without), none);
    }

    /// A prediction keeps what it has seen first, so a list must not say less. The routes of `lo` are in another table.
    #[tokio::test]
    async fn a_list_of_links_says_what_a_look_at_one_says() {
        let host = LiveHost::new();
        let listed = host.links().await.unwrap();
        let listed = listed.into_iter().find(|link| link.name == "lo");
        assert_eq!(listed, host.link("lo").await.unwrap());
        assert!(
            listed.is_some_and(|lo| !lo.unrouted.is_empty()),
            "it is not told"
        );
    }
}
