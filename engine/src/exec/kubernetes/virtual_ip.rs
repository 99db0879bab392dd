//! Whether a virtual address works, as far as this host can tell.
//!
//! [`Asked::Here`] is about this node only. Which master holds the address is left to the masters, and another check is about
//! an API server that is down here: keepalived is then right to release the address, and restarting it would not help.
//! [`Asked::Elsewhere`] tells people that no other host serves the API over the address; a restart here would not help either.
//! An address moves within seconds, so a failure is checked again before it is reported.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use crate::host::{Host, HostError, HostResult, HttpsRequest};
use crate::model::chain;
use crate::resource::ResourceResult;

/// How long an address may take to move: keepalived's own checks take three seconds to notice an API server that is down. One that runs and
/// is not ready keeps the address for 18 s or longer, and `here` does not report that.
const GRACE: Duration = Duration::from_secs(5);
/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(500);
/// Bound on one answer.
const TIMEOUT: Duration = Duration::from_secs(2);

/// How long to listen for answers of ARP.
const LISTEN: Duration = Duration::from_secs(1);

/// A virtual address, as one host sees it.
pub(in crate::exec) struct VirtualIp<'a> {
    pub(in crate::exec) address: IpAddr,
    pub(in crate::exec) port: u16,
    pub(in crate::exec) ca: &'a Path,
    pub(in crate::exec) asked: Asked<'a>,
}

/// What a check asks about a virtual address.
pub(in crate::exec) enum Asked<'a> {
    /// Whether this host does its part.
    Here {
        /// The link that has the address if this host holds it.
        link: &'a str,
        /// Whether other masters may hold it.
        shared: bool,
    },
    /// Whether the API answers over it if another host holds it.
    Elsewhere,
}

impl VirtualIp<'_> {
    /// Checks until the address works, at most for [`GRACE`]; returns why it does not.
    ///
    /// # Errors
    /// The host cannot tell which addresses it has.
    pub(in crate::exec) async fn problem_after_wait(
        &self,
        host: &dyn Host,
    ) -> ResourceResult<Option<String>> {
        let started = host.elapsed();
        loop {
            let reason = match self.asked {
                Asked::Here { link, shared } => self.here(host, link, shared).await?,
                Asked::Elsewhere => self.elsewhere(host).await?,
            };
            if reason.is_none() || host.elapsed().saturating_sub(started) >= GRACE {
                return Ok(reason);
            }
            host.pause(PAUSE).await;
        }
    }

    async fn here(
        &self,
        host: &dyn Host,
        link: &str,
        shared: bool,
    ) -> ResourceResult<Option<String>> {
        let address = self.address;
        let Some(found) = host.link(link).await? else {
            return Ok(Some(format!("there is no interface {link}")));
        };
        if found.addresses.iter().any(|(held, _)| *held == address) {
            let mut silent = self.api(host, address).await;
            // Then another phase fails, and keepalived decides whether the address moves.
            if silent.is_some() && self.api(host, loopback(address)).await.is_some() {
                silent = None;
            }
            return Ok(silent.map(|why| {
                format!("this host holds {address}, and the API does not answer over it: {why}")
            }));
        }
        if shared || self.api(host, loopback(address)).await.is_some() {
            return Ok(None);
        }
        Ok(Some(format!(
            "{address} is not on {link}, no other master could hold it, and this host's API server answers; see `journalctl -u keepalived -n 50`"
        )))
    }

    async fn elsewhere(&self, host: &dyn Host) -> ResourceResult<Option<String>> {
        let address = self.address;
        let links = host.links().await?;
        let mut held = links.iter().flat_map(|link| &link.addresses);
        // `here` is about a host that holds it.
        if held.any(|(one, _)| *one == address) {
            return Ok(None);
        }
        let silent = match self.ready(host, loopback(address)).await {
            Ok(200) => self.api(host, address).await,
            // All API servers may be slow, but each of them accepts connections.
            Err(HostError::Deadline { .. }) => {
                let place = SocketAddr::new(address, self.port);
                let connected = host.tcp_connect(place, TIMEOUT).await;
                let why = connected.err().map(|error| chain(&error).join(": "));
                return Ok(why.map(|why| {
                    format!(
                        "this host's API server accepts connections and does not answer in time, and at {address} no connection is accepted: {why}; see this host's network, and `nodelet status` and `journalctl -u keepalived -n 50` on each master"
                    )
                }));
            }
            // A host whose own API server is down says nothing about the cluster.
            Ok(_) | Err(_) => return Ok(None),
        };
        Ok(silent.map(|why| {
            format!(
                "this host's API server answers, but no master serves the API over {address}: {why}; see `nodelet status` and `journalctl -u keepalived -n 50` on each master"
            )
        }))
    }

    /// Why the API does not answer at an address.
    async fn api(&self, host: &dyn Host, at: IpAddr) -> Option<String> {
        match self.ready(host, at).await {
            Ok(200) => None,
            Ok(status) => Some(format!("{} answers {status}", self.url(at))),
            Err(error) => Some(chain(&error).join(": ")),
        }
    }

    /// The status with which the API server at an address says whether it is ready.
    async fn ready(&self, host: &dyn Host, at: IpAddr) -> HostResult<u16> {
        let request = HttpsRequest {
            url: self.url(at),
            ca: Some(self.ca.to_path_buf()),
            client: None,
            timeout: TIMEOUT,
        };
        let response = host.https_get(&request).await?;
        Ok(response.status)
    }

    fn url(&self, at: IpAddr) -> String {
        format!("https://{}/readyz", SocketAddr::new(at, self.port))
    }
}

/// Says which other hosts have an address that this host has; `None` if none answers, or if this host does not have it. Takes a second. Cancel
/// safe.
///
/// # Errors
/// The link cannot be read or used.
pub(in crate::exec) async fn duplicate(
    host: &dyn Host,
    address: Ipv4Addr,
    link: &str,
) -> ResourceResult<Option<String>> {
    let found = host.link(link).await?;
    let own = found.iter().flat_map(|link| &link.addresses);
    if !own.map(|(one, _)| *one).any(|one| one == address) {
        return Ok(None);
    }
    let holders = host.address_holders(link, &[address], LISTEN).await?;
    let others: Vec<&str> = holders.values().flatten().map(String::as_str).collect();
    Ok((!others.is_empty()).then(|| {
        format!(
            "{address} is also an address of another host on {link} (hardware address {}); if that host is a master of this cluster, set MASTER_IP and MASTER_VIP_VROUTER_ID alike on both \
             (`nodelet cluster status` names what differs), and start nodeletd on both, so that keepalived of \
             each knows the other (`nodelet masters --address ADDRESS`, with the own address of each, does it at once); if it began a cluster of its own, run `nodelet stop` on one of the two, \
             and on it `nodelet clean --purge` after that",
            others.join(", ")
        )
    }))
}

/// This host, in the same IP version.
fn loopback(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::{FakeHost, FaultPlan};

    const VIP: &str = "172.30.0.100";
    const CA: &str = "/ca.crt";

    /// What a check says of a host that holds the address or not, whose API answers here and over the address.
    async fn check(held: bool, local: bool, over: bool, shared: bool) -> Option<String> {
        let link = "eth0";
        ask(held, local, over, Asked::Here { link, shared }).await
    }

    async fn ask(held: bool, local: bool, over: bool, asked: Asked<'_>) -> Option<String> {
        let mut host = FakeHost::new().with_file(CA, "roots");
        let mut addresses = vec![("172.30.0.11".parse().unwrap(), 24)];
        if held {
            addresses.push((VIP.parse().unwrap(), 32));
        }
        host.with_world_mut(|world| world.link("eth0", true, &addresses));
        for (answers, at) in [(local, "127.0.0.1"), (over, VIP)] {
            if answers {
                host = host.with_endpoint(&format!("{at}:443"), 200, "ok");
            }
        }
        VirtualIp {
            address: VIP.parse().unwrap(),
            port: 443,
            ca: Path::new(CA),
            asked,
        }
        .problem_after_wait(&host)
        .await
        .unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn the_holder_of_the_virtual_ip_serves_the_api() {
        assert_eq!(check(true, true, true, false).await, None);
        let silent = check(true, true, false, false).await.unwrap();
        assert!(silent.contains("does not answer over it"), "{silent}");
        // Its API server is not ready: keepalived keeps or releases the address, and a restart would not help.
        assert_eq!(check(true, false, false, true).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_without_the_virtual_ip_needs_peers_or_no_api() {
        assert_eq!(check(false, true, false, true).await, None);
        assert_eq!(check(false, false, false, false).await, None);
        let lost = check(false, true, false, false).await.unwrap();
        assert!(lost.contains("is not on eth0"), "{lost}");
    }

    #[tokio::test(start_paused = true)]
    async fn people_are_told_if_no_other_host_serves_the_virtual_ip() {
        for (held, local, over, is_fine) in [
            (false, true, true, true),
            (false, true, false, false),
            // The other check is about this host.
            (true, true, false, true),
            // Nothing works here, so it is not known whose fault it is.
            (false, false, false, true),
        ] {
            let said = ask(held, local, over, Asked::Elsewhere).await;
            assert_eq!(said.is_none(), is_fine, "{held} {local} {over}: {said:?}");
            let text = said.unwrap_or_default();
            assert!(is_fine || text.contains("no master serves"), "{text}");
        }
    }

    /// Each API server accepts connections, and none answers in time.
    #[tokio::test(start_paused = true)]
    async fn an_address_that_no_master_holds_is_reported_while_all_are_slow() {
        for (held_elsewhere, is_told) in [(true, false), (false, true)] {
            let mut host =
                FakeHost::new()
                    .with_file(CA, "roots")
                    .with_endpoint("127.0.0.1:443", 200, "ok");
            host.with_world_mut(|world| {
                world.link("eth0", true, &[("172.30.0.11".parse().unwrap(), 24)]);
            });
            if held_elsewhere {
                host = host.with_endpoint(&format!("{VIP}:443"), 200, "ok");
            }
            host.set_faults(FaultPlan::none().hang("https_get", "*"));
            let one = VirtualIp {
                address: VIP.parse().unwrap(),
                port: 443,
                ca: Path::new(CA),
                asked: Asked::Elsewhere,
            };
            let said = one.problem_after_wait(&host).await.unwrap();
            assert_eq!(said.is_some(), is_told, "{said:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_missing_interface_is_named() {
        let host = FakeHost::new();
        let one = VirtualIp {
            address: VIP.parse().unwrap(),
            port: 443,
            ca: Path::new(CA),
            asked: Asked::Here {
                link: "eth9",
                shared: true,
            },
        };
        let reason = one.problem_after_wait(&host).await.unwrap();
        assert_eq!(reason.as_deref(), Some("there is no interface eth9"));
    }

    #[tokio::test]
    async fn another_host_with_the_address_is_named() {
        let vip: Ipv4Addr = VIP.parse().unwrap();
        for (held, other, says) in [
            (true, true, "02:00:00:00:00:12"),
            (true, false, ""),
            (false, true, ""),
        ] {
            let host = FakeHost::new();
            host.with_world_mut(|world| {
                let addresses: &[_] = if held { &[(vip.into(), 32)] } else { &[] };
                world.link("eth0", true, addresses);
                if other {
                    world.answer_arp(vip, &["02:00:00:00:00:12"]);
                }
            });
            let found = duplicate(&host, vip, "eth0").await.unwrap();
            assert_eq!(found.is_some(), !says.is_empty(), "{held}, {other}");
            assert!(found.unwrap_or_default().contains(says));
        }
    }
}
