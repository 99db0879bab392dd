//! Which hosts on a link have an address: all that answer ARP for it, not only the one that the kernel believes (`neighbour`). The claim on an
//! address that this host is to have later is made of the same frames ([`claim`]).
//!
//! It sends probes of RFC 5227, which name no address of the sender, so no host changes its table of neighbours. Linux answers a probe
//! only for an address of its own; other routers with proxy ARP may answer for all addresses, and the caller has to tell them apart.

pub(super) mod claim;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind, Read as _};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{SockaddrStorage, bind};
use socket2::{Domain, Protocol, Socket, Type};

use crate::host::{HostError, HostResult};

/// The type of ARP's frames.
const ETHER_TYPE: u16 = 0x0806;
/// An Ethernet link, in the kernel's list of links and in ARP.
const ETHERNET: u16 = 1;
/// The shortest frame of Ethernet without its checksum.
const FRAME: usize = 60;
/// The length of the parts of a frame that have a meaning here.
const LENGTH: usize = 42;
/// From the type of the frame to the lengths of ARP's addresses: IPv4 over Ethernet.
const HEADER: [u8; 8] = [0x08, 0x06, 0x00, 0x01, 0x08, 0x00, 6, 4];
/// How often each address is asked for: a frame may be lost.
const TIMES: u32 = 3;
/// Most hosts that are named for an address.
const HOLDERS: usize = 16;
/// Shortest wait for a frame. A socket takes a wait of zero for one without end.
const SHORTEST: Duration = Duration::from_millis(1);

/// What a question has in place of the hardware address that it asks for. RFC 5227 wants zeros; hosts ignore it.
const QUESTION: Hardware = [0; 6];

/// A hardware address of Ethernet.
type Hardware = [u8; 6];

/// Asks for this time. An address for which no host answers is left out. Blocks.
///
/// # Errors
/// There is no such Ethernet link, or this process may not ask: it needs the capability `CAP_NET_RAW`.
pub(super) fn holders(
    link: &str,
    addresses: &[Ipv4Addr],
    during: Duration,
) -> HostResult<BTreeMap<Ipv4Addr, BTreeSet<String>>> {
    let asked = ask(link, addresses, during, QUESTION, answer);
    asked.map_err(|error| HostError::service(format!("ask over ARP on {link}"), error))
}

fn ask(
    link: &str,
    addresses: &[Ipv4Addr],
    during: Duration,
    target: Hardware,
    heard: impl Fn(&[u8], Hardware) -> Option<(Ipv4Addr, Hardware)>,
) -> io::Result<BTreeMap<Ipv4Addr, BTreeSet<String>>> {
    let (link_address, own) = ethernet(link)?;
    let protocol = Protocol::from(i32::from(ETHER_TYPE.to_be()));
    let mut socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol))?;
    // The kernel's list has no protocol for the link, so the socket keeps its own.
    bind(socket.as_raw_fd(), &link_address)?;
    let started = Instant::now();
    let mut sent = 0;
    let mut found: BTreeMap<Ipv4Addr, BTreeSet<String>> = BTreeMap::new();
    let mut frame = [0; 1500];
    loop {
        let elapsed = started.elapsed();
        if sent < TIMES && elapsed >= during / TIMES * sent {
            for address in addresses {
                socket.send(&probe(own, *address, target))?;
            }
            sent += 1;
        }
        let left = during.saturating_sub(elapsed);
        if left.is_zero() {
            return Ok(found);
        }
        // Not longer than until the next probes.
        socket.set_read_timeout(Some(left.min(during / (TIMES * 2)).max(SHORTEST)))?;
        let received = match socket.read(&mut frame) {
            Ok(length) => frame.get(..length),
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => None,
                _ => return Err(error),
            },
        };
        if let Some((address, hardware)) = received.and_then(|frame| heard(frame, own))
            && addresses.contains(&address)
        {
            let holders = found.entry(address).or_default();
            if holders.len() < HOLDERS {
                holders.insert(shown(hardware));
            }
        }
    }
}

/// The address of a link in the kernel, for sockets, and its hardware address.
fn ethernet(link: &str) -> io::Result<(SockaddrStorage, Hardware)> {
    let all = getifaddrs().map_err(io::Error::from)?;
    let mut link_addresses = all
        .filter(|entry| entry.interface_name == link)
        .filter_map(|entry| entry.address);
    let found = link_addresses.find_map(|link_address| {
        let its = link_address.as_link_addr()?;
        let is_ethernet = its.hatype() == ETHERNET && its.halen() == 6;
        let own = its.addr().filter(|_| is_ethernet)?;
        Some((link_address, own))
    });
    found.ok_or_else(|| io::Error::new(ErrorKind::NotFound, "there is no such Ethernet link"))
}

/// The question to all hosts who has this address, or the claim on it.
fn probe(own: Hardware, address: Ipv4Addr, target: Hardware) -> Vec<u8> {
    let mut frame = Vec::with_capacity(FRAME);
    frame.extend([0xff; 6]);
    frame.extend(own);
    frame.extend(HEADER);
    frame.extend([0, 1]);
    frame.extend(own);
    frame.extend([0; 4]);
    frame.extend(target);
    frame.extend(address.octets());
    frame.resize(FRAME, 0);
    frame
}

/// The address and the hardware address of the host that answers with this frame; `None` if it is no answer to this host.
fn answer(frame: &[u8], own: Hardware) -> Option<(Ipv4Addr, Hardware)> {
    let frame: &[u8; LENGTH] = frame.get(..LENGTH)?.try_into().ok()?;
    let is_answer = frame[12..20] == HEADER && frame[20..22] == [0, 2];
    let hardware: Hardware = frame[22..28].try_into().ok()?;
    let address: [u8; 4] = frame[28..32].try_into().ok()?;
    let is_ours = frame[32..38] == own && hardware != own;
    (is_answer && is_ours).then_some((Ipv4Addr::from(address), hardware))
}

fn shown(hardware: Hardware) -> String {
    hardware.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) const OWN: Hardware = [2, 0x42, 0xac, 0x1e, 0, 11];
    pub(super) const OTHER: Hardware = [2, 0x42, 0xac, 0x1e, 0, 7];
    pub(super) const ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 100);

    /// The answer of the kernel to a probe of `OWN`.
    pub(super) fn kernel_answer() -> Vec<u8> {
        let mut frame = [OWN, OTHER].concat();
        frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
        frame.extend(OTHER);
        frame.extend([172, 30, 0, 100]);
        frame.extend(OWN);
        frame.extend([0, 0, 0, 0]);
        frame
    }

    #[test]
    fn a_probe_names_no_address_of_the_sender() {
        let frame = probe(OWN, ADDRESS, QUESTION);
        assert_eq!(frame.len(), FRAME);
        assert_eq!(frame[..6], [0xff; 6], "it is for all hosts");
        assert_eq!(frame[6..12], OWN);
        assert_eq!(frame[20..22], [0, 1], "it is a request");
        assert_eq!(frame[28..32], [0; 4]);
        assert_eq!(frame[32..38], [0; 6]);
        assert_eq!(frame[38..42], ADDRESS.octets());
        assert_eq!(answer(&frame, OWN), None, "it is no answer");
    }

    #[test]
    fn an_answer_names_the_holder() {
        assert_eq!(answer(&kernel_answer(), OWN), Some((ADDRESS, OTHER)));
        assert_eq!(shown(OTHER), "02:42:ac:1e:00:07");
    }

    #[test]
    fn a_frame_that_is_no_answer_to_this_host_is_left_out() {
        let changed = |at: usize, byte: u8| {
            let mut frame = kernel_answer();
            frame[at] = byte;
            answer(&frame, OWN)
        };
        assert_eq!(changed(21, 1), None, "a request");
        assert_eq!(changed(13, 0), None, "IPv4");
        assert_eq!(changed(37, 12), None, "to another host");
        assert_eq!(changed(27, 11), None, "from this host");
        let whole = kernel_answer();
        for length in 0..LENGTH {
            assert_eq!(answer(&whole[..length], OWN), None, "{length}");
        }
    }

    #[test]
    fn a_link_without_ethernet_is_named() {
        for link in ["no-link", "lo"] {
            let error = holders(link, &[ADDRESS], SHORTEST).expect_err("it is no Ethernet");
            assert!(error.to_string().contains(link), "{error}");
        }
    }
}
