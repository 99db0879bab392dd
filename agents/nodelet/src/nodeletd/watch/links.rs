//! Links, addresses and routes of the role that are removed, by the kernel's events (rtnetlink).
//!
//! Each pod has a link, an address and routes of its own, so events of what is not the role's are ignored.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use engine::host::ROUTE_PROTOCOL;
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use super::trigger::Triggers;
use super::{FIRST_PAUSE, LONGEST_PAUSE};
use crate::pass::WatchList;

/// Links, addresses and routes, of IPv4 and IPv6 (`RTNLGRP_…` of `rtnetlink(7)`).
const GROUPS: [u32; 5] = [1, 5, 7, 9, 11];
/// Longer than any message of these groups.
const MESSAGE: usize = 64 * 1024;

pub(super) async fn listen(targets: WatchList, triggers: Triggers) -> Result<()> {
    let has_routes = targets.node_routes.is_some();
    if targets.links.is_empty() && targets.addresses.is_empty() && !has_routes {
        return std::future::pending().await;
    }
    let action = "listen to the kernel's network events";
    #[expect(
        deprecated,
        reason = "its successor is unsafe for types that may give another descriptor later, which an OwnedFd does not"
    )]
    let socket = AsyncFd::with_interest(subscribed().context(action)?, Interest::READABLE);
    let socket = socket.context(action)?;
    let mut links = Links::of(&targets);
    let mut buffer = vec![0; MESSAGE];
    let (mut pause, mut lost_at) = (FIRST_PAUSE, None::<Instant>);
    loop {
        let mut ready = socket.readable().await.context(action)?;
        let read = ready.try_io(|socket| {
            let socket = socket.get_ref().as_raw_fd();
            Ok(recv(socket, &mut buffer, MsgFlags::empty())?)
        });
        match read {
            Ok(Ok(length)) => {
                for event in links.observe(&buffer[..length.min(MESSAGE)]) {
                    triggers.add(event);
                }
            }
            // The socket still works; events that did not fit are lost.
            Ok(Err(error)) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {
                triggers.add("network events were lost".to_owned());
                links = Links::of(&targets);
                if lost_at.is_some_and(|lost| lost.elapsed() > LONGEST_PAUSE) {
                    pause = FIRST_PAUSE;
                }
                lost_at = Some(Instant::now());
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            Ok(Err(error)) => return Err(error).context(action),
            Err(_not_yet) => {}
        }
        // A storm of events must not keep the rest of the daemon waiting.
        tokio::task::yield_now().await;
    }
}

/// A socket that receives the kernel's events.
fn subscribed() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let (family, protocol) = (AddressFamily::Netlink, SockProtocol::NetlinkRoute);
    let socket = socket(family, SockType::Raw, flags, protocol)?;
    // A group is a bit, counted from 1.
    let groups = GROUPS.iter().fold(0, |all, group| all | 1 << (group - 1));
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    Ok(socket)
}

/// The role's links and addresses, as far as they are known.
#[derive(Debug)]
struct Links {
    /// Names by index. A link that is made again gets another index.
    indices: BTreeMap<u32, String>,
    /// Links that were last seen to be down.
    down: BTreeSet<String>,
    names: BTreeSet<String>,
    addresses: BTreeSet<IpAddr>,
    /// Whether the role makes routes to the pods of other nodes.
    node_routes: bool,
}

impl Links {
    fn of(targets: &WatchList) -> Self {
        let names: BTreeSet<String> = targets.links.iter().cloned().collect();
        let index = |name: &String| Some((if_nametoindex(name.as_str()).ok()?, name.clone()));
        Self {
            indices: names.iter().filter_map(index).collect(),
            down: BTreeSet::new(),
            names,
            addresses: targets.addresses.iter().copied().collect(),
            node_routes: targets.node_routes.is_some(),
        }
    }

    /// The events from a datagram of messages. An invalid message ends the datagram.
    fn observe(&mut self, mut datagram: &[u8]) -> Vec<String> {
        let mut events = Vec::new();
        while let Some((kind, body, rest)) = message(datagram) {
            let event = match kind {
                NEW_LINK | DELETED_LINK => self.link(kind, body),
                DELETED_ADDRESS => self.address(body),
                DELETED_ROUTE => self.route(body),
                _ => None,
            };
            events.extend(event);
            datagram = rest;
        }
        events
    }

    /// `struct ifinfomsg`: family, padding, type (2), index (4), flags (4), change (4).
    fn link(&mut self, kind: u16, body: &[u8]) -> Option<String> {
        let (index, flags) = (number(body, 4)?, number(body, 8)?);
        let name = attributes(body.get(16..)?).find(|(kind, _)| *kind == IFLA_IFNAME);
        let name = name.and_then(|(_, name)| std::str::from_utf8(name).ok());
        let name = name?.trim_end_matches('\0');
        if !self.names.contains(name) {
            return None;
        }
        if kind == DELETED_LINK {
            self.indices.remove(&index);
            self.down.remove(name);
            return Some(format!("link {name} deleted"));
        }
        self.indices.insert(index, name.to_owned());
        if flags & IFF_UP != 0 {
            self.down.remove(name);
            return None;
        }
        let news = self.down.insert(name.to_owned());
        news.then(|| format!("link {name} down"))
    }

    /// `struct ifaddrmsg`: family, prefix length, flags, scope, index (4).
    fn address(&self, body: &[u8]) -> Option<String> {
        let link = self.indices.get(&number(body, 4)?);
        let mut addresses = attributes(body.get(8..)?)
            .filter(|(kind, _)| matches!(*kind, IFA_ADDRESS | IFA_LOCAL))
            .filter_map(|(_, address)| ip(address));
        let address = addresses.clone().next()?;
        match link {
            Some(link) => Some(format!("address {address} of {link} deleted")),
            None => {
                let address = addresses.find(|address| self.addresses.contains(address))?;
                Some(format!("address {address} deleted"))
            }
        }
    }

    /// `struct rtmsg`: family, lengths of destination and source, type of service, table, protocol, scope, type, flags (4).
    fn route(&self, body: &[u8]) -> Option<String> {
        let cached = number(body, 8)? & RTM_F_CLONED != 0;
        if self.node_routes && body.get(5) == Some(&ROUTE_PROTOCOL) {
            let to = attributes(body.get(12..)?).find(|(kind, _)| *kind == RTA_DST);
            let to = ip(to?.1)?;
            return (!cached).then(|| format!("route to the pods of a node ({to}) deleted"));
        }
        let out = attributes(body.get(12..)?).find(|(kind, _)| *kind == RTA_OIF);
        let link = self.indices.get(&number(out?.1, 0)?)?;
        let local = body.get(7) != Some(&RTN_UNICAST);
        (!cached && !local).then(|| format!("route over {link} deleted"))
    }
}

const NEW_LINK: u16 = 16;
const DELETED_LINK: u16 = 17;
const DELETED_ADDRESS: u16 = 21;
const DELETED_ROUTE: u16 = 25;
const IFLA_IFNAME: u16 = 3;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTN_UNICAST: u8 = 1;
const IFF_UP: u32 = 1;
const RTM_F_CLONED: u32 = 0x200;

/// The first message of a datagram: its type, its body, and what comes after it. `struct nlmsghdr`: length (4), type (2), flags (2),
/// sequence (4), port (4).
fn message(datagram: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::try_from(number(datagram, 0)?).ok()?;
    let kind = half(datagram, 4)?;
    let body = datagram.get(16..length)?;
    let rest = datagram.get(padded(length)..).unwrap_or_default();
    Some((kind, body, rest))
}

/// `struct rtattr`, one after the other: length (2), type (2), value.
fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> + Clone {
    std::iter::from_fn(move || {
        let length = usize::from(half(rest, 0)?);
        let kind = half(rest, 2)? & !NESTED;
        let value = rest.get(4..length)?;
        rest = rest.get(padded(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// Flags in the type of an attribute.
const NESTED: u16 = 0xC000;

/// Messages and attributes begin at multiples of four bytes.
fn padded(length: usize) -> usize {
    length.saturating_add(3) & !3
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_ne_bytes(bytes.try_into().ok()?))
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(|four| Ipv4Addr::from(four).into());
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(|six| Ipv6Addr::from(six).into()))
        .ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const CNI: u32 = 7;
    const POD: u32 = 8;

    fn links() -> Links {
        let mut links = Links::of(&WatchList {
            links: vec!["cni0-of-a-test".to_owned()],
            addresses: vec!["172.30.0.100".parse().expect("an address")],
            ..WatchList::default()
        });
        let seen = links.observe(&link(NEW_LINK, CNI, "cni0-of-a-test", IFF_UP));
        assert_eq!(seen, [""; 0], "a new link is no event");
        links
    }

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).expect("it is short");
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(padded(bytes.len()), 0);
        bytes
    }

    fn framed(kind: u16, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(16 + body.len()).expect("it is short");
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(body);
        bytes
    }

    fn link(kind: u16, index: u32, name: &str, flags: u32) -> Vec<u8> {
        let mut body = vec![0; 4];
        body.extend(index.to_ne_bytes());
        body.extend(flags.to_ne_bytes());
        body.extend([0; 4]);
        body.extend(attribute(4, &1500u32.to_ne_bytes()));
        body.extend(attribute(IFLA_IFNAME, format!("{name}\0").as_bytes()));
        framed(kind, &body)
    }

    fn address(kind: u16, index: u32, address: [u8; 4]) -> Vec<u8> {
        let mut body = vec![2, 24, 0, 0];
        body.extend(index.to_ne_bytes());
        body.extend(attribute(IFA_ADDRESS, &address));
        body.extend(attribute(IFA_LOCAL, &address));
        framed(kind, &body)
    }

    fn route(index: u32, kind: u8, flags: u32) -> Vec<u8> {
        let mut body = vec![2, 24, 0, 0, 254, 2, 253, kind];
        body.extend(flags.to_ne_bytes());
        body.extend(attribute(1, &[10, 20, 0, 0]));
        body.extend(attribute(RTA_OIF, &index.to_ne_bytes()));
        framed(DELETED_ROUTE, &body)
    }

    #[test]
    fn removed_role_containers_are_events_and_pods_are_not() {
        const NEW_ADDRESS: u16 = 20;
        let name = "cni0-of-a-test";
        let cases: Vec<(&str, Vec<u8>, &[&str])> = vec![
            (
                "its link",
                link(DELETED_LINK, CNI, name, 0),
                &["link cni0-of-a-test deleted"],
            ),
            (
                "its link goes down",
                link(NEW_LINK, CNI, name, 0),
                &["link cni0-of-a-test down"],
            ),
            (
                "its link changes",
                link(NEW_LINK, CNI, name, IFF_UP | 2),
                &[],
            ),
            (
                "a pod's link comes",
                link(NEW_LINK, POD, "veth1", IFF_UP),
                &[],
            ),
            (
                "a pod's link goes",
                link(DELETED_LINK, POD, "veth1", 0),
                &[],
            ),
            (
                "an address of its link",
                address(DELETED_ADDRESS, CNI, [10, 20, 0, 1]),
                &["address 10.20.0.1 of cni0-of-a-test deleted"],
            ),
            (
                "a new address",
                address(NEW_ADDRESS, CNI, [10, 20, 0, 1]),
                &[],
            ),
            (
                "its address on another link",
                address(DELETED_ADDRESS, 2, [172, 30, 0, 100]),
                &["address 172.30.0.100 deleted"],
            ),
            (
                "another address",
                address(DELETED_ADDRESS, 2, [172, 30, 0, 11]),
                &[],
            ),
            (
                "a route over its link",
                route(CNI, RTN_UNICAST, 0),
                &["route over cni0-of-a-test deleted"],
            ),
            (
                "a route that the kernel cached",
                route(CNI, RTN_UNICAST, RTM_F_CLONED),
                &[],
            ),
            ("the local route of an address", route(CNI, 2, 0), &[]),
            ("another route", route(POD, RTN_UNICAST, 0), &[]),
        ];
        for (what, datagram, events) in cases {
            assert_eq!(links().observe(&datagram), events, "{what}");
        }
    }

    /// A route to the pods of another node leaves over a link that is not the role's.
    #[test]
    fn a_route_to_another_node_is_known_by_its_protocol() {
        let of_protocol = |protocol: u8| {
            let mut datagram = route(POD, RTN_UNICAST, 0);
            // After the header of the message.
            datagram[16 + 5] = protocol;
            datagram
        };
        let expected = ["route to the pods of a node (10.20.0.0) deleted"];
        let mut with_routes = links();
        with_routes.node_routes = true;
        assert_eq!(with_routes.observe(&of_protocol(ROUTE_PROTOCOL)), expected);
        assert_eq!(with_routes.observe(&of_protocol(3)), [""; 0]);
        assert_eq!(links().observe(&of_protocol(ROUTE_PROTOCOL)), [""; 0]);
    }

    #[test]
    fn a_link_that_is_made_anew_is_known_by_its_new_index() {
        let mut links = links();
        let name = "cni0-of-a-test";
        links.observe(&link(DELETED_LINK, CNI, name, 0));
        links.observe(&link(NEW_LINK, 12, name, IFF_UP));
        assert_eq!(links.observe(&route(CNI, RTN_UNICAST, 0)), [""; 0]);
        let first_event = links.observe(&route(12, RTN_UNICAST, 0));
        assert_eq!(first_event, ["route over cni0-of-a-test deleted"]);
    }

    #[test]
    fn a_link_that_stays_down_is_reported_once() {
        let mut links = links();
        let down = link(NEW_LINK, CNI, "cni0-of-a-test", 0);
        assert_eq!(links.observe(&down).len(), 1);
        assert_eq!(links.observe(&down), [""; 0]);
        links.observe(&link(NEW_LINK, CNI, "cni0-of-a-test", IFF_UP));
        assert_eq!(links.observe(&down).len(), 1);
    }

    #[test]
    fn several_messages_come_in_one_datagram_and_a_cut_one_ends_it() {
        let mut datagram = link(NEW_LINK, POD, "veth1", IFF_UP);
        datagram.extend(address(DELETED_ADDRESS, CNI, [10, 20, 0, 1]));
        assert_eq!(links().observe(&datagram).len(), 1);
        for length in 0..datagram.len() {
            assert_eq!(links().observe(&datagram[..length]), [""; 0]);
        }
        // A message with an invalid length ends the datagram as well.
        for length in [0u32, 4, 15, u32::MAX] {
            let mut wrong = datagram.clone();
            wrong[..4].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(links().observe(&wrong), [""; 0], "{length}");
        }
    }

    /// The kernel sends these events to every process, without privileges.
    #[tokio::test]
    async fn the_kernel_lets_us_listen() {
        let targets = WatchList {
            links: vec!["lo".to_owned()],
            ..WatchList::default()
        };
        let triggers = Triggers::default();
        let listening = tokio::spawn(listen(targets, triggers.clone()));
        let waited = tokio::time::timeout(Duration::from_millis(100), triggers.wait()).await;
        assert!(waited.is_err(), "{:?}", triggers.take());
        assert!(!listening.is_finished(), "it goes on listening");
        listening.abort();
    }
}
