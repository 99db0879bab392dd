//! Which address is this host's own, who uses the address that the masters are to share, and who sends VRRP.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use futures::future::join_all;
use ipnet::IpNet;

use super::Asking;
use crate::facts::model::{AddressUser, LinkFacts};
use crate::facts::parse;
use crate::host::{Host, HostError, HttpsRequest, VrrpSender};
use crate::model::chain;

/// All roots of API servers on a master: while authority `cluster` is replaced, another master may show a certificate of either.
const ROOTS: &str = "/etc/pf9/kube.d/certs/apiserver/ca.crt";
/// Certificate of the cluster's authority on a master. A host that joins has it before it has [`ROOTS`].
const AUTHORITY: &str = "/etc/pf9/kube.d/ca/cluster/ca.crt";
/// The routes of IPv4.
const ROUTES: &str = "/proc/net/route";
/// Bound on a connection and on an answer. A host on the same network answers within milliseconds.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How long senders of VRRP are listened for: two messages of the usual interval of a second.
const LISTEN: Duration = Duration::from_millis(2200);

/// Whether this host has a root by which it can tell the API servers of its cluster from those of others. A host that joins gets it while it
/// joins. What cannot be read counts as missing.
pub(crate) async fn has_roots(host: &dyn Host) -> bool {
    for path in [ROOTS, AUTHORITY] {
        if matches!(host.entry(Path::new(path)).await, Ok(Some(_))) {
            return true;
        }
    }
    false
}

/// The first address of a link that other hosts can reach.
pub(super) fn global_address(link: &LinkFacts) -> Option<IpAddr> {
    let global = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => !ip.is_link_local() && !ip.is_loopback(),
        IpAddr::V6(ip) => !ip.is_loopback() && (ip.segments()[0] & 0xffc0) != 0xfe80,
    };
    let mut addresses: Vec<IpAddr> = link
        .addresses
        .iter()
        .map(IpNet::addr)
        .filter(global)
        .collect();
    // IPv4 first, otherwise in the kernel's order: the primary address comes before later ones.
    addresses.sort_by_key(IpAddr::is_ipv6);
    addresses.first().copied()
}

impl Asking<'_> {
    /// Who answers at `place`, an address of the masters and the port of the API server. Asks nothing of the network if this host holds the
    /// address itself.
    pub(super) async fn user_of(&self, place: SocketAddr) -> Option<AddressUser> {
        let item = place.to_string();
        let links = self.answer(&item, self.host.links()).await?;
        let mut own = links.iter().flat_map(|link| &link.addresses);
        if own.any(|(own, _)| *own == place.ip()) {
            return Some(AddressUser::ThisHost);
        }
        let user = match self.host.tcp_connect(place, TIMEOUT).await {
            Ok(()) => {
                let (user, is_foreign) = self.user_by_certificate(place, &item).await?;
                // It serves another cluster, so it is no master of this one, also with the hardware address of one.
                if is_foreign {
                    return Some(user);
                }
                user
            }
            // A host that is there refuses a connection; where there is none, no answer comes.
            Err(error) if is_refusal(&error) => AddressUser::Another(format!(
                "a host is there that has no API server at port {}",
                place.port()
            )),
            // It may drop what is sent to this port, but it answers on its own network.
            Err(_) => self.user_by_hardware(place.ip(), &item).await?,
        };
        // The API server of a master that holds the address may be busy, or may have ended a moment ago.
        Some(match user {
            AddressUser::Another(_) if self.is_of_master(place.ip()).await => {
                AddressUser::ThisCluster
            }
            user => user,
        })
    }

    /// Who has an address at which no connection is accepted or refused.
    async fn user_by_hardware(&self, address: IpAddr, item: &str) -> Option<AddressUser> {
        let neighbour = self.answer(item, self.host.neighbour(address)).await?;
        Some(match neighbour {
            None => AddressUser::Nothing,
            Some(hardware) if self.is_of_gateway(&hardware, address).await => AddressUser::Nothing,
            Some(hardware) => AddressUser::Another(format!(
                "the host with the hardware address {hardware} has it"
            )),
        })
    }

    /// Whose API server accepts connections at `place`, and whether it shows a certificate of an authority that this host does not know.
    async fn user_by_certificate(
        &self,
        place: SocketAddr,
        item: &str,
    ) -> Option<(AddressUser, bool)> {
        let roots = self.roots(item).await?;
        let Some(roots) = roots.first() else {
            let why = "this host has no authority that could know it".to_owned();
            return Some((AddressUser::Another(why), false));
        };
        let request = HttpsRequest {
            url: format!("https://{place}/readyz"),
            ca: Some(roots.to_path_buf()),
            client: None,
            timeout: TIMEOUT,
        };
        // Any answer counts: its certificate is one of this cluster's authority.
        Some(match self.host.https_get(&request).await {
            Ok(_) => (AddressUser::ThisCluster, false),
            Err(error) => {
                let user = AddressUser::Another(chain(&error).join(": "));
                (user, error.is_of_unknown_authority())
            }
        })
    }
}

impl Asking<'_> {
    /// The files of this host with roots of API servers, the one with all of them first.
    async fn roots(&self, item: &str) -> Option<Vec<&'static Path>> {
        let mut found = Vec::new();
        for path in [ROOTS, AUTHORITY].map(Path::new) {
            if self.answer(item, self.host.entry(path)).await?.is_some() {
                found.push(path);
            }
        }
        Some(found)
    }

    async fn gateway(&self) -> Option<IpAddr> {
        let routes = self.text(ROUTES).await;
        let default = routes.and_then(|text| parse::routes(&text).0);
        default.and_then(|way| way.gateway)
    }

    /// Whether this is the hardware address of the default gateway, which is not `address` itself: as a proxy it answers for every address.
    async fn is_of_gateway(&self, hardware: &str, address: IpAddr) -> bool {
        let Some(gateway) = self.gateway().await else {
            return false;
        };
        if gateway == address {
            return false;
        }
        let its = self.host.neighbour(gateway).await.ok().flatten();
        its.is_some_and(|its| its == hardware)
    }

    /// Whether one of the other masters has this address beside its own: both lead to one hardware address, which is not the one of a gateway that
    /// answers for all of them.
    async fn is_of_master(&self, address: IpAddr) -> bool {
        let masters = self.masters().await;
        if masters.is_empty() {
            return false;
        }
        let Ok(Some(hardware)) = self.host.neighbour(address).await else {
            return false;
        };
        let gateway = self.gateway().await;
        let is_master = masters.iter().any(|its| Some(its.address) == gateway);
        if !is_master && self.is_of_gateway(&hardware, address).await {
            return false;
        }
        let asked = masters
            .iter()
            .map(|master| self.host.neighbour(master.address));
        let found = join_all(asked).await;
        let mut found = found.into_iter().flatten().flatten();
        found.any(|its| its == hardware)
    }

    /// Who sends VRRP on these links; a link that could not be listened to is noted and left out.
    pub(super) async fn vrrp_senders(
        &self,
        links: &[String],
    ) -> BTreeMap<String, BTreeSet<VrrpSender>> {
        let asked = links.iter().map(|link| async move {
            let item = format!("VRRP on {link}");
            let heard = self.answer(&item, self.host.vrrp_senders(link, LISTEN));
            Some((link.clone(), heard.await?))
        });
        join_all(asked).await.into_iter().flatten().collect()
    }
}

/// Whether a host has refused the connection.
fn is_refusal(error: &HostError) -> bool {
    let HostError::Service { source, .. } = error else {
        return false;
    };
    let io = source.downcast_ref::<std::io::Error>();
    io.is_some_and(|io| io.kind() == ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Mutex;

    use rustls::CertificateError;

    use super::*;
    use crate::facts::model::{MASTERS, MasterEntry, masters_text};
    use crate::host::fake::FakeHost;

    const VIP: &str = "172.30.0.100:443";
    const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 30, 0, 1));
    const DEFAULT_ROUTE: &str = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n\
        eth0 00000000 01001EAC 0003 0 0 0 00000000 0 0 0\n";

    async fn user(host: &FakeHost) -> Option<AddressUser> {
        let asking = Asking {
            host,
            unknown: Mutex::new(BTreeMap::new()),
        };
        asking.user_of(VIP.parse().unwrap()).await
    }

    #[tokio::test]
    async fn the_user_of_an_address_is_known_by_the_certificate_it_shows() {
        let free = FakeHost::new();
        assert_eq!(user(&free).await, Some(AddressUser::Nothing));
        let silent = FakeHost::new();
        let address = "172.30.0.100".parse().unwrap();
        silent.with_world_mut(|world| world.silent_host(address));
        let Some(AddressUser::Another(why)) = user(&silent).await else {
            panic!("a host that drops packets has the address, too");
        };
        assert!(why.contains("02:00:00:00:00:07"), "{why}");
        let taken = FakeHost::new().with_endpoint(VIP, 200, "ok");
        let Some(AddressUser::Another(why)) = user(&taken).await else {
            panic!("a host without an authority knows no other");
        };
        assert!(why.contains("no authority"), "{why}");
        let known = taken.with_file(AUTHORITY, "root");
        assert_eq!(user(&known).await, Some(AddressUser::ThisCluster));
        let held = FakeHost::new();
        held.with_world_mut(|world| world.link("eth0", true, &[(address, 32)]));
        assert_eq!(user(&held).await, Some(AddressUser::ThisHost));
    }

    /// While the authority is replaced, another master may show a certificate of its successor.
    #[tokio::test]
    async fn all_trusted_roots_are_used_before_the_authority_alone() {
        let host = FakeHost::new().with_file(AUTHORITY, "root");
        let first = async |host: &FakeHost| {
            let asking = Asking {
                host,
                unknown: Mutex::new(BTreeMap::new()),
            };
            let roots = asking.roots(VIP).await.expect("it can be read");
            roots.first().copied()
        };
        assert_eq!(first(&FakeHost::new()).await, None);
        assert_eq!(first(&host).await, Some(Path::new(AUTHORITY)));
        let host = host.with_file(ROOTS, "roots");
        assert_eq!(first(&host).await, Some(Path::new(ROOTS)));
    }

    /// A gateway with proxy ARP answers for every address of the network.
    #[tokio::test]
    async fn an_answer_of_the_default_gateway_is_no_user() {
        let host = FakeHost::new().with_file(ROUTES, DEFAULT_ROUTE);
        let silent = |address: [u8; 4]| {
            host.with_world_mut(|world| world.silent_host(address.into()));
        };
        silent([172, 30, 0, 100]);
        let before = user(&host).await;
        assert!(
            matches!(before, Some(AddressUser::Another(_))),
            "{before:?}"
        );
        silent([172, 30, 0, 1]);
        assert_eq!(user(&host).await, Some(AddressUser::Nothing));
        let asking = Asking {
            host: &host,
            unknown: Mutex::new(BTreeMap::new()),
        };
        let gateway = asking.user_of("172.30.0.1:443".parse().unwrap()).await;
        assert!(
            matches!(gateway, Some(AddressUser::Another(_))),
            "{gateway:?}"
        );
    }

    /// The API server of the master that holds the address may be busy, or may have ended a moment ago.
    #[tokio::test]
    async fn a_host_with_the_hardware_address_of_a_master_is_no_stranger() {
        let address = IpAddr::from([172, 30, 0, 100]);
        let entry = |last: u8| MasterEntry {
            name: format!("cp-{last}"),
            address: [172, 30, 0, last].into(),
            etcd_id: None,
            voter: true,
        };
        let list = masters_text(&[entry(11), entry(12)]).expect("a list");
        let host = FakeHost::new().with_file(MASTERS, list);
        host.with_world_mut(|world| world.silent_host(address));
        for foreign in [None, Some("02:00:00:00:00:12")] {
            host.with_world_mut(|world| {
                let its = foreign.map(|its| (entry(12).address, its.to_owned()));
                world.neighbours.extend(its);
            });
            let found = user(&host).await;
            assert!(matches!(found, Some(AddressUser::Another(_))), "{found:?}");
        }
        host.with_world_mut(|world| world.silent_host(entry(12).address));
        assert_eq!(user(&host).await, Some(AddressUser::ThisCluster));
        // It accepts connections, but this host has no root to verify what it shows.
        let busy = host.with_endpoint(VIP, 200, "ok");
        assert_eq!(user(&busy).await, Some(AddressUser::ThisCluster));
        // A certificate says more than a hardware address.
        let host = busy.with_file(AUTHORITY, "root");
        for (failure, is_master) in [
            (CertificateError::NotValidForName, true),
            (CertificateError::UnknownIssuer, false),
        ] {
            host.with_world_mut(|world| {
                let failure = rustls::Error::InvalidCertificate(failure);
                world.tls_failures.insert(VIP.to_owned(), failure);
            });
            let found = user(&host).await;
            let is_found = found == Some(AddressUser::ThisCluster);
            assert_eq!(is_found, is_master, "{found:?}");
        }
    }

    /// A gateway with proxy ARP answers with one hardware address for a master and for all others.
    #[tokio::test]
    async fn the_hardware_address_of_the_gateway_is_no_masters() {
        let master = MasterEntry {
            name: "cp-2".to_owned(),
            address: [10, 0, 0, 12].into(),
            etcd_id: None,
            voter: true,
        };
        let list = masters_text(std::slice::from_ref(&master)).expect("a list");
        let host = FakeHost::new()
            .with_file(MASTERS, list)
            .with_file(ROUTES, DEFAULT_ROUTE)
            .with_endpoint(VIP, 200, "ok");
        host.with_world_mut(|world| {
            for address in [[172, 30, 0, 100].into(), GATEWAY, master.address] {
                world.silent_host(address);
            }
        });
        let found = user(&host).await;
        assert!(matches!(found, Some(AddressUser::Another(_))), "{found:?}");
    }

    #[tokio::test]
    async fn either_file_of_roots_tells_the_cluster_from_others() {
        assert!(!has_roots(&FakeHost::new()).await);
        for path in [ROOTS, AUTHORITY] {
            let host = FakeHost::new().with_file(path, "root");
            assert!(has_roots(&host).await, "{path}");
        }
    }

    #[test]
    fn only_a_refusal_tells_that_a_host_is_there() {
        let error = |kind: ErrorKind| HostError::service("connect", std::io::Error::from(kind));
        assert!(is_refusal(&error(ErrorKind::ConnectionRefused)));
        assert!(!is_refusal(&error(ErrorKind::HostUnreachable)));
        let silent = HostError::Deadline {
            action: "connect".to_owned(),
            after: TIMEOUT,
        };
        assert!(!is_refusal(&silent));
    }
}
