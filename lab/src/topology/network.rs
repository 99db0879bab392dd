//! The network of a lab: a bridge of its own and a subnet that collides with nothing.

use std::fs;
use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::record::LABEL;
use crate::cache::hex;
use crate::docker::Docker;

/// Creates the network of the lab `name` in the first free subnet, and gives that subnet.
pub(crate) fn create(docker: &Docker, name: &str, network: &str) -> Result<Ipv4Addr> {
    let table = fs::read_to_string("/proc/net/route").unwrap_or_default();
    let bridge = format!("nl-{}", &hex(&Sha256::digest(name.as_bytes()))[..10]);
    let mut refusal = None;
    for subnet in candidates(name).filter(|subnet| !routed(*subnet, &table)) {
        let result = docker.text(&[
            "network",
            "create",
            "--label",
            &format!("{LABEL}={name}"),
            "--subnet",
            &format!("{subnet}/24"),
            "--gateway",
            &with_last_octet(subnet, 1).to_string(),
            "--opt",
            &format!("com.docker.network.bridge.name={bridge}"),
            network,
        ]);
        match result {
            Ok(_) => return Ok(subnet),
            Err(error) if error.to_string().contains("overlaps") => refusal = Some(error),
            Err(error) => {
                return Err(error.context(format!("cannot create the network of the lab `{name}`")));
            }
        }
    }
    Err(refusal.unwrap_or_else(|| anyhow::anyhow!("the machine has routes for all of them")))
        .context(
            "no /24 in 172.30.0.0/15 is free; take a lab down with `cargo xtask down --lab NAME`",
        )
}

/// The subnets a lab may take, in its own order of preference: 172.30.0.0/24 to 172.31.255.0/24, starting at one that depends on
/// the name. Docker inside the hosts allocates subnets from 172.17 on, so it does not collide with them.
fn candidates(name: &str) -> impl Iterator<Item = Ipv4Addr> {
    let digest = Sha256::digest(name.as_bytes());
    let start = u16::from_be_bytes([digest[0], digest[1]]);
    (0..512_u16).map(move |offset| {
        let at = start.wrapping_add(offset) % 512;
        let [high, low] = at.to_be_bytes();
        Ipv4Addr::new(172, 30 + high, low, 0)
    })
}

/// True if one of the machine's routes (in the form of `/proc/net/route`), other than the default, covers the subnet.
fn routed(subnet: Ipv4Addr, table: &str) -> bool {
    let field = |word: &str| {
        u32::from_str_radix(word, 16)
            .map(u32::swap_bytes)
            .unwrap_or(0)
    };
    table.lines().skip(1).any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (Some(destination), Some(mask)) = (words.get(1), words.get(7)) else {
            return false;
        };
        let mask = field(mask);
        mask != 0 && u32::from(subnet) & mask == field(destination) & mask
    })
}

/// Another address of the same /24.
pub(crate) fn with_last_octet(subnet: Ipv4Addr, last: u8) -> Ipv4Addr {
    let [a, b, c, _] = subnet.octets();
    Ipv4Addr::new(a, b, c, last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_lab_has_its_own_order_of_all_subnets() {
        let all: BTreeSet<Ipv4Addr> = candidates("default").collect();
        assert_eq!(all.len(), 512);
        assert!(
            all.iter()
                .all(|subnet| matches!(subnet.octets(), [172, 30 | 31, _, 0]))
        );
        assert_ne!(candidates("default").next(), candidates("other").next());
    }

    #[test]
    fn sees_routes_that_cover_a_subnet() {
        let table = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n\
                     eth0 00000000 010200C0 0003 0 0 0 00000000 0 0 0\n\
                     br0 00051EAC 00000000 0001 0 0 0 00FFFFFF 0 0 0\n";
        assert!(routed(Ipv4Addr::new(172, 30, 5, 0), table));
        assert!(!routed(Ipv4Addr::new(172, 30, 6, 0), table));
    }
}
