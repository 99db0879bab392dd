//! Observations on the network, links and virtual services. `routes` has the routes to the pods of other nodes.

pub(in crate::host) mod routes;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio_util::sync::DropGuard;

use crate::host::{HostResult, VirtualService};

/// One HTTPS GET.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpsRequest {
    /// Whole URL, scheme `https` (or `http` for a loopback health port).
    pub url: String,
    /// PEM file with the roots to trust. Without one, no server is trusted over `https`: the failed handshake tells that one is there.
    pub ca: Option<PathBuf>,
    /// PEM files with our certificate and key.
    pub client: Option<(PathBuf, PathBuf)>,
    /// For connection, handshake and answer together.
    pub timeout: Duration,
}

/// The answer. A body of more than 1 MiB is an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpsResponse {
    /// Status code.
    pub status: u16,
    /// The body.
    pub body: String,
    /// The certificate that the server showed, in DER; none without TLS.
    pub certificate: Option<Vec<u8>>,
}

/// A network link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// Whether it is administratively up.
    pub up: bool,
    /// Its addresses with prefix length.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Its IPv4 addresses whose network has no route over this link, although the kernel makes one for each.
    pub unrouted: Vec<IpAddr>,
}

/// Another host that sends VRRP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VrrpSender {
    /// The router id in its messages.
    pub router_id: u8,
    /// Its address.
    pub address: IpAddr,
}

/// How far a claim on an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimKind {
    /// A host asks whether it may have the claim.
    New,
    /// A host has the claim already.
    Held,
}

/// What came of the claim on an address.
#[derive(Debug)]
pub enum ClaimOutcome {
    /// No other host claims the address.
    Claimed(ClaimedAddress),
    /// Other hosts claim it, too: their hardware addresses. A conflict of RFC 5227.
    Conflict(BTreeSet<String>),
}

/// A claim on an address. It ends when this is dropped.
#[derive(Debug, Default)]
pub struct ClaimedAddress {
    _end: Option<DropGuard>,
}

impl ClaimedAddress {
    /// A claim that `end` ends.
    pub(in crate::host) fn until(end: DropGuard) -> Self {
        Self { _end: Some(end) }
    }
}

/// Probes, links and virtual services.
#[async_trait::async_trait]
pub trait Network {
    /// Fetches a URL; an answer of any status is `Ok`. Cancel safe.
    async fn https_get(&self, request: &HttpsRequest) -> HostResult<HttpsResponse>;

    /// Opens and closes a TCP connection. Cancel safe.
    async fn tcp_connect(&self, address: SocketAddr, timeout: Duration) -> HostResult<()>;

    /// The hardware address of the host that has this address on a network of this host; `None` if no host has it. Finds also a host that
    /// drops all packets of TCP. The kernel asks for it anew. Takes at most nine seconds. Cancel safe.
    async fn neighbour(&self, address: IpAddr) -> HostResult<Option<String>>;

    /// The hardware addresses of all other hosts on a link that answer ARP for one of these addresses, as heard in this time. An address for
    /// which none answers is left out. At most 16 hosts are returned for each. Needs the capability `CAP_NET_RAW`. Cancel safe.
    async fn address_holders(
        &self,
        link: &str,
        addresses: &[Ipv4Addr],
        during: Duration,
    ) -> HostResult<BTreeMap<Ipv4Addr, BTreeSet<String>>>;

    /// Claims an address that this host is to have later, on a link with ARP, as long as the claim is kept. First it listens: a host that claims
    /// the same address in this time is a conflict, and no claim is kept. A held claim is in conflict with other held ones only: a host that asks for a new
    /// one hears it and withdraws. With a time of zero it does not listen. A host that already has the address is
    /// not noticed; ask [`Network::address_holders`] for it. Needs the capability `CAP_NET_RAW`. Cancel safe.
    async fn claim_address(
        &self,
        link: &str,
        address: Ipv4Addr,
        during: Duration,
        kind: ClaimKind,
    ) -> HostResult<ClaimOutcome>;

    /// Who sends VRRP over IPv4 to this host or to all hosts on a link, as heard in this time, also if the packet filter drops it. At most 64
    /// senders are returned. Needs the capability `CAP_NET_RAW`. Cancel safe.
    async fn vrrp_senders(&self, link: &str, during: Duration) -> HostResult<BTreeSet<VrrpSender>>;

    /// All links, sorted by name. Cancel safe.
    async fn links(&self) -> HostResult<Vec<Link>>;

    /// The link of this name. Cancel safe.
    async fn link(&self, name: &str) -> HostResult<Option<Link>>;

    /// Sets a link up (`IFF_UP`). The kernel makes the routes for its IPv4 addresses again.
    ///
    /// # Errors
    /// There is no such link.
    async fn set_link_up(&self, name: &str) -> HostResult<()>;

    /// Removes a link. Fine if there is none.
    async fn remove_link(&self, name: &str) -> HostResult<()>;

    /// All virtual services of IPVS; none where the kernel has no IPVS. Cancel safe.
    async fn virtual_services(&self) -> HostResult<Vec<VirtualService>>;

    /// Removes a virtual service with its servers. Fine if there is none.
    async fn remove_virtual_service(&self, service: &VirtualService) -> HostResult<()>;
}
