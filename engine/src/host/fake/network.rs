//! Probes and links of a fake host.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use ipnet::IpNet;
use tokio_util::sync::CancellationToken;

use super::files::file_error;
use super::world::World;
use crate::host::fake::fake_host::FakeHost;
use crate::host::fake::world::program::Program;
use crate::host::{
    ClaimKind, ClaimOutcome, ClaimedAddress, CommandOutput, CommandSpec, HostError, HostResult,
    HttpsRequest, HttpsResponse, Link, Network, NodeRoute, Routes, VirtualService, VrrpSender,
};

const DEADLINE: Duration = Duration::from_secs(30);

#[async_trait::async_trait]
impl Network for FakeHost {
    async fn https_get(&self, request: &HttpsRequest) -> HostResult<HttpsResponse> {
        self.observe("https_get", &request.url, request.timeout, |world| {
            let client = request
                .client
                .iter()
                .flat_map(|(certificate, key)| [certificate, key]);
            for file in request.ca.iter().chain(client) {
                if world.tree.content(file).is_none() {
                    return Err(file_error("read", file, ErrorKind::NotFound.into()));
                }
            }
            let action = || format!("get {}", request.url);
            let (host, port, path) =
                split(&request.url).ok_or_else(|| HostError::service(action(), "invalid URL"))?;
            if let Some(failure) = world.tls_failures.get(&format!("{host}:{port}")) {
                let failure = std::io::Error::other(failure.clone());
                return Err(HostError::service(action(), failure));
            }
            let answer = world.answer(&host, port, &path);
            let (status, body) = answer.ok_or_else(|| refused(action()))?;
            let of_endpoint = world.endpoint_certificates.get(&format!("{host}:{port}"));
            let certificate = match of_endpoint {
                Some(certificate) => Some(certificate.clone()),
                None if world.is_self(&host) => world.shown_certificate(port),
                None => None,
            };
            Ok(HttpsResponse {
                status,
                body,
                certificate,
            })
        })
        .await
    }

    async fn tcp_connect(&self, address: SocketAddr, timeout: Duration) -> HostResult<()> {
        self.observe("tcp_connect", address.to_string(), timeout, |world| {
            let host = address.ip().to_string();
            if world.is_self(&host) && world.ports.contains(&address.port()) {
                return Ok(());
            }
            let answer = world.answer(&host, address.port(), "/");
            // No other host is there to refuse.
            let kind = match world.is_self(&host) {
                true => ErrorKind::ConnectionRefused,
                false => ErrorKind::HostUnreachable,
            };
            answer.map(|_| ()).ok_or_else(|| {
                let source = std::io::Error::from(kind);
                HostError::service(format!("connect to {address}"), source)
            })
        })
        .await
    }

    async fn neighbour(&self, address: IpAddr) -> HostResult<Option<String>> {
        self.observe("neighbour", address.to_string(), DEADLINE, |world| {
            Ok(world.neighbours.get(&address).cloned())
        })
        .await
    }

    async fn address_holders(
        &self,
        link: &str,
        addresses: &[Ipv4Addr],
        during: Duration,
    ) -> HostResult<BTreeMap<Ipv4Addr, BTreeSet<String>>> {
        self.observe("address_holders", link, during, |world| {
            let mut found = world.address_holders.clone();
            found.retain(|address, _| addresses.contains(address));
            Ok(found)
        })
        .await
    }

    async fn claim_address(
        &self,
        link: &str,
        address: Ipv4Addr,
        during: Duration,
        kind: ClaimKind,
    ) -> HostResult<ClaimOutcome> {
        let others = self.observe("claim_address", link, during, |world| {
            let others = world.conflicting_claims.get(&address).into_iter().flatten();
            let conflicts = |its: ClaimKind| kind == ClaimKind::New || its == ClaimKind::Held;
            let others = others
                // It does not listen.
                .filter(|(_, its)| !during.is_zero() && conflicts(**its))
                .map(|(hardware, _)| hardware.clone());
            Ok(others.collect::<BTreeSet<String>>())
        });
        let others = others.await?;
        if !others.is_empty() {
            return Ok(ClaimOutcome::Conflict(others));
        }
        let end = CancellationToken::new();
        let claim = ClaimedAddress::until(end.clone().drop_guard());
        self.with_world_mut(|world| world.claims.push((address, end)));
        Ok(ClaimOutcome::Claimed(claim))
    }

    async fn vrrp_senders(&self, link: &str, during: Duration) -> HostResult<BTreeSet<VrrpSender>> {
        self.observe("vrrp_senders", link, during, |world| {
            Ok(world.vrrp_senders.get(link).cloned().unwrap_or_default())
        })
        .await
    }

    async fn links(&self) -> HostResult<Vec<Link>> {
        self.observe("links", "all", DEADLINE, |world| {
            Ok(world.links_with_virtual_ip())
        })
        .await
    }

    async fn link(&self, name: &str) -> HostResult<Option<Link>> {
        self.observe("link", name, DEADLINE, |world| {
            let mut link = world.links.get(name).cloned();
            if let (Some(link), Some((on, address))) = (&mut link, world.virtual_ip())
                && on == name
            {
                link.addresses.push((address, 32));
            }
            Ok(link)
        })
        .await
    }

    async fn set_link_up(&self, name: &str) -> HostResult<()> {
        self.mutate("set_link_up", name, DEADLINE, |world| {
            let action = || format!("set link {name} up");
            let link = world.links.get_mut(name);
            let link = link.ok_or_else(|| HostError::service(action(), "there is no such link"))?;
            link.up = true;
            Ok(())
        })
        .await
    }

    async fn remove_link(&self, name: &str) -> HostResult<()> {
        self.mutate("remove_link", name, DEADLINE, |world| {
            world.remove_link(name);
            Ok(())
        })
        .await
    }

    async fn virtual_services(&self) -> HostResult<Vec<VirtualService>> {
        self.observe("virtual_services", "all", DEADLINE, |world| {
            Ok(world.virtual_services.iter().cloned().collect())
        })
        .await
    }

    async fn remove_virtual_service(&self, service: &VirtualService) -> HostResult<()> {
        self.mutate(
            "remove_virtual_service",
            service.to_string(),
            DEADLINE,
            |world| {
                world.virtual_services.remove(service);
                Ok(())
            },
        )
        .await
    }
}

#[async_trait::async_trait]
impl Routes for FakeHost {
    async fn node_routes(&self) -> HostResult<Vec<NodeRoute>> {
        self.observe("node_routes", "all", DEADLINE, |world| {
            let route = |(subnet, via): (&IpNet, &IpAddr)| NodeRoute {
                subnet: *subnet,
                via: *via,
            };
            Ok(world.node_routes.iter().map(route).collect())
        })
        .await
    }

    async fn foreign_routes(&self, network: IpNet) -> HostResult<BTreeMap<IpNet, String>> {
        self.observe("foreign_routes", network.to_string(), DEADLINE, |world| {
            let mut routes = world.foreign_routes.clone();
            routes.retain(|subnet, _| network.contains(subnet));
            Ok(routes)
        })
        .await
    }

    async fn set_node_routes(&self, routes: &[NodeRoute]) -> HostResult<()> {
        let subnets = routes.iter().map(|route| route.subnet);
        self.mutate("set_node_routes", list(subnets), DEADLINE, |world| {
            let set: Vec<HostResult<()>> = routes.iter().map(|one| world.set_route(one)).collect();
            set.into_iter().collect()
        })
        .await
    }

    async fn remove_node_routes(&self, subnets: &[IpNet]) -> HostResult<()> {
        let named = list(subnets.iter().copied());
        self.mutate("remove_node_routes", named, DEADLINE, |world| {
            world
                .node_routes
                .retain(|subnet, _| !subnets.contains(subnet));
            Ok(())
        })
        .await
    }
}

/// Subnets as the argument of a call: `10.20.1.0/24 10.20.2.0/24`.
fn list(subnets: impl Iterator<Item = IpNet>) -> String {
    let subnets: Vec<String> = subnets.map(|subnet| subnet.to_string()).collect();
    subnets.join(" ")
}

impl World {
    /// Makes a route to pods of another node as the kernel does.
    fn set_route(&mut self, route: &NodeRoute) -> HostResult<()> {
        let NodeRoute { subnet, via } = *route;
        let refused = |reason: &str| {
            let action = format!("make a route to {subnet} via {via}");
            Err(HostError::service(action, reason.to_owned()))
        };
        if self.foreign_routes.contains_key(&subnet) {
            return refused("RTNETLINK answers: File exists");
        }
        if !self.is_on_link(via) {
            return refused("Error: Nexthop has invalid gateway.");
        }
        self.node_routes.insert(subnet, via);
        Ok(())
    }

    /// Whether a network of a link that is up contains an address.
    fn is_on_link(&self, address: IpAddr) -> bool {
        let mut up = self.links.values().filter(|link| link.up);
        up.any(|link| {
            let mut networks = link.addresses.iter();
            networks.any(|(own, prefix)| {
                let network = IpNet::new(*own, *prefix).expect("a prefix of the address");
                // A broadcast address is no gateway.
                let is_wide = address.is_ipv4() && *prefix < 31;
                let is_reserved = address == network.network() || address == network.broadcast();
                network.contains(&address) && !(is_wide && is_reserved)
            })
        })
    }

    /// The routes to pods of other nodes, each with the node's address.
    #[must_use]
    pub fn node_routes(&self) -> Vec<(String, String)> {
        let routes = self.node_routes.iter();
        routes
            .map(|(subnet, via)| (subnet.to_string(), via.to_string()))
            .collect()
    }

    /// Deletes a route to pods of another node, as another program would.
    pub fn delete_node_route(&mut self, subnet: IpNet) {
        self.node_routes.remove(&subnet);
    }

    /// Adds a route of another program.
    pub fn foreign_route(&mut self, subnet: IpNet, shown: &str) {
        self.foreign_routes.insert(subnet, shown.to_owned());
    }

    /// Makes an endpoint `host:port` answer `ok`, and show this certificate (DER).
    pub fn endpoint_shows(&mut self, endpoint: &str, certificate: &[u8]) {
        let answer = (200, "ok".to_owned());
        self.endpoints.insert(endpoint.to_owned(), answer);
        let certificate = certificate.to_vec();
        self.endpoint_certificates
            .insert(endpoint.to_owned(), certificate);
    }

    /// Another host has this address on a network of this host, and drops all packets of TCP.
    pub fn silent_host(&mut self, address: IpAddr) {
        let hardware = "02:00:00:00:00:07".to_owned();
        self.neighbours.insert(address, hardware);
    }

    /// The other hosts with these hardware addresses, and no more, answer ARP for this address.
    pub fn answer_arp(&mut self, address: Ipv4Addr, hardware: &[&str]) {
        let hardware: BTreeSet<String> = hardware.iter().map(|&one| one.to_owned()).collect();
        match hardware.is_empty() {
            true => self.address_holders.remove(&address),
            false => self.address_holders.insert(address, hardware),
        };
    }

    /// Another host with this hardware address claims this address.
    pub fn add_conflicting_claim(&mut self, address: Ipv4Addr, hardware: &str, kind: ClaimKind) {
        let claims = self.conflicting_claims.entry(address).or_default();
        claims.insert(hardware.to_owned(), kind);
    }

    /// Whether this host claims the address now.
    #[must_use]
    pub fn claims(&self, address: Ipv4Addr) -> bool {
        let mut claims = self.claims.iter();
        claims.any(|(one, end)| *one == address && !end.is_cancelled())
    }

    /// Another host sends VRRP on a link.
    pub fn sends_vrrp(&mut self, link: &str, router_id: u8, address: IpAddr) {
        let sender = VrrpSender { router_id, address };
        let senders = self.vrrp_senders.entry(link.to_owned()).or_default();
        senders.insert(sender);
    }

    /// Adds or replaces a link.
    pub fn link(&mut self, name: &str, up: bool, addresses: &[(IpAddr, u8)]) {
        let link = Link {
            name: name.to_owned(),
            up,
            addresses: addresses.to_vec(),
            unrouted: Vec::new(),
        };
        self.links.insert(name.to_owned(), link);
        self.directory(Path::new("/sys/class/net").join(name));
    }

    /// All links with their addresses, including the virtual IP.
    fn links_with_virtual_ip(&self) -> Vec<Link> {
        let mut links: Vec<Link> = self.links.values().cloned().collect();
        if let Some((on, address)) = self.virtual_ip() {
            for link in links.iter_mut().filter(|link| link.name == on) {
                link.addresses.push((address, 32));
            }
        }
        links
    }

    /// The part of ip(8) that lists addresses.
    pub(crate) fn install_ip_program(&mut self) {
        self.program_does(
            "ip",
            Program::probe(|command: &CommandSpec, world: &World| {
                let words: Vec<&str> = command.argv.iter().map(String::as_str).collect();
                if words[1..] != ["-o", "address", "show"] {
                    return CommandOutput {
                        status: 1,
                        stdout: String::new(),
                        stderr: format!("not known here: {}", words.join(" ")),
                    };
                }
                let mut held = String::new();
                for link in world.links.values() {
                    for (address, prefix) in &link.addresses {
                        let _ = writeln!(held, "1: {} inet {address}/{prefix}", link.name);
                    }
                }
                CommandOutput {
                    status: 0,
                    stdout: held,
                    stderr: String::new(),
                }
            }),
        );
    }

    /// Adds a virtual service of IPVS, as another program on the host would, and loads the module.
    pub fn balance(&mut self, service: &VirtualService) {
        self.load_module("ip_vs");
        self.virtual_services.insert(service.clone());
    }

    /// Deletes the route that the kernel made for an address of a link.
    pub fn remove_route(&mut self, name: &str, address: IpAddr) {
        if let Some(link) = self.links.get_mut(name) {
            link.unrouted.push(address);
        }
    }

    /// Removes a link.
    pub fn remove_link(&mut self, name: &str) {
        self.links.remove(name);
        self.remove(Path::new("/sys/class/net").join(name));
    }

    /// Whether a host in a URL is this one.
    pub(crate) fn is_self(&self, host: &str) -> bool {
        let own = |ip: IpAddr| {
            self.links
                .values()
                .any(|link| link.addresses.iter().any(|(own, _)| *own == ip))
        };
        let virtual_ip = self.virtual_ip().map(|(_, address)| address);
        host == "localhost"
            || host == self.host_name
            || host
                .parse()
                .is_ok_and(|ip: IpAddr| ip.is_loopback() || own(ip) || virtual_ip == Some(ip))
    }

    /// The answer of an endpoint: one that the test has added, or a component on this host.
    fn answer(&self, host: &str, port: u16, path: &str) -> Option<(u16, String)> {
        if let Some(answer) = self.endpoints.get(&format!("{host}:{port}")) {
            return Some(answer.clone());
        }
        if self.is_self(host) {
            self.local_answer(port, path)
        } else {
            None
        }
    }
}

fn refused(action: String) -> HostError {
    HostError::service(action, std::io::Error::from(ErrorKind::ConnectionRefused))
}

/// Host, port and path of a URL.
fn split(url: &str) -> Option<(String, u16, String)> {
    let (scheme, rest) = url.split_once("://")?;
    let (authority, path) = rest
        .split_once('/')
        .map_or((rest, "/".to_owned()), |(a, p)| (a, format!("/{p}")));
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
        _ => (authority, if scheme == "http" { 80 } else { 443 }),
    };
    let host = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    Some((host, port, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_split() {
        let cases = [
            (
                "https://127.0.0.1:4001/health?x=1",
                ("127.0.0.1", 4001, "/health?x=1"),
            ),
            ("https://cp-1", ("cp-1", 443, "/")),
            ("http://[::1]:10248/healthz", ("::1", 10248, "/healthz")),
            ("https://[::1]/x", ("::1", 443, "/x")),
        ];
        for (url, (host, port, path)) in cases {
            assert_eq!(split(url), Some((host.to_owned(), port, path.to_owned())));
        }
    }

    #[tokio::test]
    async fn nothing_listens_on_an_empty_host_and_roots_must_exist() {
        let host = FakeHost::new().with_endpoint("10.0.0.9:443", 200, "ok");
        let request = |url: &str, ca: Option<&str>| HttpsRequest {
            url: url.to_owned(),
            ca: ca.map(Into::into),
            client: None,
            timeout: Duration::from_secs(1),
        };
        assert!(
            host.https_get(&request("https://127.0.0.1:4001/health", None))
                .await
                .is_err()
        );
        assert_eq!(
            host.https_get(&request("https://10.0.0.9/readyz", None))
                .await
                .unwrap()
                .status,
            200
        );
        let missing = host
            .https_get(&request("https://10.0.0.9/readyz", Some("/etc/ca.pem")))
            .await;
        assert_eq!(missing.unwrap_err().to_string(), "read /etc/ca.pem");
    }
}
