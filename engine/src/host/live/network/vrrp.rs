//! Who sends VRRP (RFC 5798) over IPv4 on a link: the messages to this host and those to all hosts.
//!
//! It listens and sends nothing but the membership in the group, which ends with its socket. It also hears what this host's packet filter drops:
//! on a master, the chain `PF9-VRRP` drops the messages of all other clusters.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind, Read as _};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::bind;
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockFilter, Socket, Type};

use crate::host::{HostError, HostResult, VrrpSender};

/// The type of frames with IPv4.
const ETHER_TYPE: u16 = 0x0800;
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

/// Instructions of the kernel's socket filters (classic BPF).
const LOAD_WORD: u16 = 0x20;
const LOAD_BYTE: u16 = 0x30;
const JUMP_IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;
/// In place of an offset: for whom the packet is (`SKF_AD_OFF + SKF_AD_PKTTYPE`).
const PACKET_TYPE: u32 = 0xffff_f004;
/// The type of a packet for another host (`PACKET_OTHERHOST`).
const OTHER_HOST: u32 = 3;

/// Listens for this time. Blocks.
///
/// # Errors
/// There is no such link, or this process may not listen: it needs the capability `CAP_NET_RAW`.
pub(super) fn senders(link: &str, during: Duration) -> HostResult<BTreeSet<VrrpSender>> {
    let listened = listen(link, during);
    listened.map_err(|error| HostError::service(format!("listen to VRRP on {link}"), error))
}

fn listen(link: &str, during: Duration) -> io::Result<BTreeSet<VrrpSender>> {
    let _member = member(link)?;
    let mut socket = messages_on(link)?;
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
                // A link that is down carries no messages.
                ErrorKind::NetworkDown
                | ErrorKind::WouldBlock
                | ErrorKind::TimedOut
                | ErrorKind::Interrupted => {}
                _ => return Err(error),
            },
        }
    }
    Ok(heard)
}

/// A socket that makes this host a member of the group: without a member, the link does not receive the messages to all hosts.
fn member(link: &str) -> io::Result<Socket> {
    let index = if_nametoindex(link).map_err(io::Error::from)?;
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    socket.join_multicast_v4_n(&GROUP, &InterfaceIndexOrAddress::Index(index))?;
    Ok(socket)
}

/// A socket that receives the messages on this link from their IPv4 header on, before the packet filter decides about them.
fn messages_on(link: &str) -> io::Result<Socket> {
    let all = getifaddrs().map_err(io::Error::from)?;
    let mut addresses = all
        .filter(|entry| entry.interface_name == link)
        .filter_map(|entry| entry.address);
    let link_address = addresses.find(|address| address.as_link_addr().is_some());
    let link_address =
        link_address.ok_or_else(|| io::Error::new(ErrorKind::NotFound, "there is no such link"))?;
    let protocol = Protocol::from(i32::from(ETHER_TYPE.to_be()));
    let mut socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol))?;
    // Until it is bound, it receives the packets of all links: they are dropped, and those that came before this filter are thrown away.
    socket.attach_filter(&[SockFilter::new(RETURN, 0, 0, 0)])?;
    socket.set_nonblocking(true)?;
    while let Ok(_length) = socket.read(&mut [0]) {}
    socket.set_nonblocking(false)?;
    bind(socket.as_raw_fd(), &link_address)?;
    // A busy host receives many other packets. Without this filter, they would fill the socket's buffer.
    socket.attach_filter(&[
        SockFilter::new(LOAD_WORD, 0, 0, PACKET_TYPE),
        SockFilter::new(JUMP_IF_EQUAL, 3, 0, OTHER_HOST),
        SockFilter::new(LOAD_BYTE, 0, 0, 9),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, u32::from(PROTOCOL)),
        SockFilter::new(RETURN, 0, 0, u32::from(u16::MAX)),
        SockFilter::new(RETURN, 0, 0, 0),
    ])?;
    Ok(socket)
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
