//! The claim on an address that this host is to have later.
//!
//! It is made of probes with a mark, so that a question of another host, or of another program, is no claim. Two hosts that claim the same address at
//! the same time hear each other: RFC 5227, section 2.1.1, calls this a conflict. A host that holds its claim already has another mark, and does not
//! give way to a new one.

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use nix::sys::socket::bind;
use socket2::{Domain, Socket, Type};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::{HEADER, Hardware, LENGTH, ask, ethernet, probe};
use crate::host::{ClaimKind, ClaimedAddress, HostError, HostResult};

/// What a new claim has in place of the hardware address that a question asks for.
const NEW: Hardware = *b"asking";
/// What a claim has there that is held. Earlier versions know no other mark.
const HELD: Hardware = *b"claims";
/// Pause between two probes of a claim. A host that claims the same address later hears several of them before it decides.
const INTERVAL: Duration = Duration::from_millis(200);

/// Claims an address during this time. Returns the hosts that claim it at the same time; a host that has it is not among them. Blocks.
///
/// # Errors
/// As [`super::holders`].
pub(in crate::host::live::network) fn conflicts(
    link: &str,
    address: Ipv4Addr,
    during: Duration,
    kind: ClaimKind,
) -> HostResult<BTreeSet<String>> {
    let (mark, conflicts): (Hardware, &[Hardware]) = match kind {
        ClaimKind::New => (NEW, &[NEW, HELD]),
        ClaimKind::Held => (HELD, &[HELD]),
    };
    let heard = |frame: &[u8], own| claimed(frame, own, conflicts);
    let asked = ask(link, &[address], during, mark, heard);
    let mut asked = asked.map_err(|error| failed(link, address, error))?;
    Ok(asked.remove(&address).unwrap_or_default())
}

/// Goes on to claim an address, until the claim is dropped. Must be called in a runtime of tokio.
///
/// # Errors
/// As [`super::holders`].
pub(in crate::host::live::network) fn keep(
    link: &str,
    address: Ipv4Addr,
) -> HostResult<ClaimedAddress> {
    let (socket, own) = open_socket(link).map_err(|error| failed(link, address, error))?;
    let end = CancellationToken::new();
    let guard = end.clone().drop_guard();
    let (link, frame) = (link.to_owned(), probe(own, address, HELD));
    tokio::spawn(end.run_until_cancelled_owned(async move {
        let mut times = tokio::time::interval(INTERVAL);
        times.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut has_warned = false;
        loop {
            times.tick().await;
            if let Err(error) = socket.send(&frame)
                && !has_warned
            {
                tracing::warn!("could not claim {address} on {link}: {error}");
                has_warned = true;
            }
        }
    }));
    Ok(ClaimedAddress::until(guard))
}

/// A socket that only sends, and the link's hardware address.
fn open_socket(link: &str) -> io::Result<(Socket, Hardware)> {
    let (link_address, own) = ethernet(link)?;
    // A socket without a protocol receives nothing.
    let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
    bind(socket.as_raw_fd(), &link_address)?;
    socket.set_nonblocking(true)?;
    Ok((socket, own))
}

fn failed(link: &str, address: Ipv4Addr, error: io::Error) -> HostError {
    HostError::service(format!("claim {address} over ARP on {link}"), error)
}

/// The address that another host claims with this frame and one of these marks, and its hardware address.
fn claimed(frame: &[u8], own: Hardware, marks: &[Hardware]) -> Option<(Ipv4Addr, Hardware)> {
    let frame: &[u8; LENGTH] = frame.get(..LENGTH)?.try_into().ok()?;
    let is_request = frame[12..20] == HEADER && frame[20..22] == [0, 1];
    let hardware: Hardware = frame[22..28].try_into().ok()?;
    let is_claim = frame[28..32] == [0; 4]
        && marks.iter().any(|mark| frame[32..38] == *mark)
        && hardware != own;
    let address: [u8; 4] = frame[38..42].try_into().ok()?;
    (is_request && is_claim).then_some((Ipv4Addr::from(address), hardware))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{ADDRESS, OTHER, OWN, kernel_answer};
    use super::super::{QUESTION, SHORTEST};
    use super::*;

    #[test]
    fn a_claim_of_another_host_names_its_sender() {
        let claimed = |frame: &[u8], own| super::claimed(frame, own, &[NEW, HELD]);
        let frame = probe(OTHER, ADDRESS, NEW);
        assert_eq!(claimed(&frame, OWN), Some((ADDRESS, OTHER)));
        let held = probe(OTHER, ADDRESS, HELD);
        assert_eq!(claimed(&held, OWN), Some((ADDRESS, OTHER)));
        let only_held = |frame: &[u8]| super::claimed(frame, OWN, &[HELD]);
        assert_eq!(only_held(&held), Some((ADDRESS, OTHER)));
        assert_eq!(only_held(&frame), None, "it gives way");
        assert_eq!(claimed(&frame, OTHER), None, "from this host");
        assert_eq!(claimed(&kernel_answer(), OWN), None, "an answer");
        // Other masters ask for the virtual IP, and so may any host.
        let question = probe(OTHER, ADDRESS, QUESTION);
        assert_eq!(claimed(&question, OWN), None, "a question");
        let mut named = frame.clone();
        named[28..32].copy_from_slice(&[172, 30, 0, 7]);
        assert_eq!(claimed(&named, OWN), None, "its sender has an address");
        for length in 0..LENGTH {
            assert_eq!(claimed(&frame[..length], OWN), None, "{length}");
        }
    }

    #[test]
    fn a_link_without_ethernet_is_named() {
        for link in ["no-link", "lo"] {
            let errors = [
                conflicts(link, ADDRESS, SHORTEST, ClaimKind::New).map(drop),
                keep(link, ADDRESS).map(drop),
            ];
            for error in errors {
                let error = error.expect_err("it is no Ethernet");
                assert!(error.to_string().contains(link), "{error}");
            }
        }
    }
}
