//! Which address is this host's own, and who uses the address that the masters are to share.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use ipnet::IpNet;

use super::Asking;
use crate::facts::model::{AddressUser, LinkFacts};
use crate::host::{HostError, HttpsRequest};
use crate::model::chain;

/// Certificate of the cluster's authority on a master.
const AUTHORITY: &str = "/etc/pf9/kube.d/ca/cluster/ca.crt";
/// Bound on a connection and on an answer. A host on the same network answers within milliseconds.
const TIMEOUT: Duration = Duration::from_secs(2);

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
        match self.host.tcp_connect(place, TIMEOUT).await {
            Ok(()) => {}
            // A host that is there refuses a connection; where there is none, no answer comes.
            Err(error) if is_refusal(&error) => {
                let why = format!(
                    "a host is there that has no API server at port {}",
                    place.port()
                );
                return Some(AddressUser::Another(why));
            }
            Err(_) => return Some(AddressUser::Nothing),
        }
        let authority = Path::new(AUTHORITY);
        let entry = self.host.entry(authority);
        if self.answer(&item, entry).await?.is_none() {
            let why = "this host has no authority that could know it".to_owned();
            return Some(AddressUser::Another(why));
        }
        let request = HttpsRequest {
            url: format!("https://{place}/readyz"),
            ca: Some(authority.to_path_buf()),
            client: None,
            timeout: TIMEOUT,
        };
        // Any answer counts: its certificate is one of this cluster's authority.
        Some(match self.host.https_get(&request).await {
            Ok(_) => AddressUser::ThisCluster,
            Err(error) => AddressUser::Another(chain(&error).join(": ")),
        })
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
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use super::*;
    use crate::host::fake::FakeHost;

    const VIP: &str = "172.30.0.100:443";

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
        let taken = FakeHost::new().with_endpoint(VIP, 200, "ok");
        let Some(AddressUser::Another(why)) = user(&taken).await else {
            panic!("a host without an authority knows no other");
        };
        assert!(why.contains("no authority"), "{why}");
        let known = taken.with_file(AUTHORITY, "roots");
        assert_eq!(user(&known).await, Some(AddressUser::ThisCluster));
        let held = FakeHost::new();
        let address = "172.30.0.100".parse().unwrap();
        held.with_world_mut(|world| world.link("eth0", true, &[(address, 32)]));
        assert_eq!(user(&held).await, Some(AddressUser::ThisHost));
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
