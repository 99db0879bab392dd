//! Who sends VRRP (RFC 5798) over IPv4 on a link: the messages to this host and those to all hosts.
//!
//! It listens and sends nothing but the membership in the group, which ends with the socket. A message that this host's packet filter
//! drops is not heard.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind, Read as _};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use nix::net::if_::if_nametoindex;
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};

use crate::host::{HostError, HostResult, VrrpSender};

/// The protocol number of VRRP.
const PROTOCOL: u8 = 112;
/// The group of all hosts that take part in VRRP.
const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);
/// The time to live of each message: a router has forwarded none of them.
const TIME_TO_LIVE: u8 = 255;
/// Most senders.
const SENDERS: usize = 64;
/// Shortest wait for a message. A socket takes a wait of zero for one without end.
const SHORTEST: Duration = Duration::from_millis(1);

/// Listens for this time. Blocks.
///
/// # Errors
/// There is no such link, or this process may not listen: it needs the capability `CAP_NET_RAW`.
pub(super) fn senders(link: &str, during: Duration) -> HostResult<BTreeSet<VrrpSender>> {
    let listened = listen(link, during);
    listened.map_err(|error| HostError::service(format!("listen to VRRP on {link}"), error))
}

fn listen(link: &str, during: Duration) -> io::Result<BTreeSet<VrrpSender>> {
    let index = if_nametoindex(link).map_err(io::Error::from)?;
    let protocol = Protocol::from(i32::from(PROTOCOL));
    let mut socket = Socket::new(Domain::IPV4, Type::RAW, Some(protocol))?;
    socket.bind_device(Some(link.as_bytes()))?;
    socket.join_multicast_v4_n(&GROUP, &InterfaceIndexOrAddress::Index(index))?;
    let started = Instant::now();
    let mut heard = BTreeSet::new();
    let mut packet = [0; 1500];
    while heard.len() < SENDERS {
        let left = during.saturating_sub(started.elapsed());
        if left.is_zero() {
            break;
        }
        socket.set_read_timeout(Some(left.max(SHORTEST)))?;
        match socket.read(&mut packet) {
            Ok(length) => heard.extend(packet.get(..length).and_then(sender)),
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => {}
                _ => return Err(error),
            },
        }
    }
    Ok(heard)
}

/// The sender of a packet of IPv4; `None` if it is no message of VRRP 2 or 3.
fn sender(packet: &[u8]) -> Option<VrrpSender> {
    let first = packet.first()?;
    let header = usize::from(first & 0x0f) * 4;
    let is_vrrp = first >> 4 == 4
        && header >= 20
        && *packet.get(8)? == TIME_TO_LIVE
        && *packet.get(9)? == PROTOCOL;
    let from: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
    // The version, and the only type of message there is.
    let is_message = matches!(packet.get(header)?, 0x21 | 0x31);
    (is_vrrp && is_message).then_some(VrrpSender {
        router_id: *packet.get(header + 1)?,
        address: IpAddr::from(from),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A packet from 172.30.0.7 with this first byte of VRRP and router id 51, as keepalived sends it.
    fn packet(first: u8) -> Vec<u8> {
        let header = [
            0x45, 0xc0, 0x00, 0x20, 0x00, 0x01, 0x00, 0x00, 0xff, 0x70, 0x00, 0x00, 172, 30, 0, 7,
            224, 0, 0, 18,
        ];
        let message = [first, 51, 100, 1, 0, 100, 0, 0, 172, 30, 0, 100];
        header.into_iter().chain(message).collect()
    }

    #[test]
    fn a_message_names_its_sender_and_router_id() {
        let expected = VrrpSender {
            router_id: 51,
            address: [172, 30, 0, 7].into(),
        };
        for version in [0x21, 0x31] {
            assert_eq!(sender(&packet(version)), Some(expected));
        }
        // Options make the header longer.
        let mut longer = packet(0x31);
        longer[0] = 0x46;
        longer.splice(20..20, [1, 1, 1, 1]);
        assert_eq!(sender(&longer), Some(expected));
    }

    #[test]
    fn what_is_no_message_is_left_out() {
        assert_eq!(sender(&packet(0x11)), None, "version 1");
        let forwarded = |at: usize, byte: u8| {
            let mut packet = packet(0x31);
            packet[at] = byte;
            sender(&packet)
        };
        assert_eq!(forwarded(8, 254), None, "a router forwarded it");
        assert_eq!(forwarded(9, 17), None, "another protocol");
        assert_eq!(forwarded(0, 0x65), None, "IPv6");
        assert_eq!(forwarded(0, 0x4f), None, "its header is longer than it");
        for length in 0..22 {
            assert_eq!(sender(&packet(0x31)[..length]), None, "{length}");
        }
    }

    #[test]
    fn an_unknown_link_is_named() {
        let error = senders("no-link", Duration::from_millis(1)).expect_err("there is none");
        assert!(error.to_string().contains("no-link"), "{error}");
    }
}
