//! The requirements about ports, links and networks.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::plural;
use crate::facts::model::{AddressUser, Facts, LinkFacts, Listener};
use crate::facts::preflight::{NamedCidr, Verdict};

pub(crate) fn ports_free(facts: &Facts, ports: &[u16]) -> Verdict {
    let Some(listening) = &facts.listening else {
        return Verdict::unknown(
            facts,
            "listening ports",
            &["/proc/net/tcp", "/proc/net/tcp6"],
        );
    };
    let taken: Vec<&Listener> = listening
        .iter()
        .filter(|one| ports.contains(&one.port))
        .collect();
    if taken.is_empty() {
        return Verdict::Met;
    }
    let show = |one: &&Listener| match &one.program {
        Some(program) => format!("{} ({program} on {})", one.port, one.address),
        None => format!("{} (on {})", one.port, one.address),
    };
    let mut shown: Vec<String> = Vec::new();
    for one in &taken {
        // One port on several addresses is one problem.
        if shown.is_empty()
            || !taken
                .iter()
                .any(|other| other.port == one.port && *other < *one)
        {
            shown.push(show(one));
        }
    }
    let first = taken[0].port;
    Verdict::not_met(
        format!(
            "{} in use: {}",
            plural(shown.len(), "TCP port is", "TCP ports are"),
            shown.join(", ")
        ),
        format!(
            "find the process with `ss -ltnp 'sport = :{first}'` and stop it, or choose another port"
        ),
    )
}

pub(crate) fn interface(facts: &Facts, name: &str) -> Verdict {
    let Some(links) = &facts.links else {
        return Verdict::unknown(facts, "links", &["links"]);
    };
    match facts.link(name) {
        Some(link) if link.up => Verdict::Met,
        Some(_) => Verdict::not_met(
            format!("the link {name} is down"),
            format!("bring it up with `ip link set {name} up`"),
        ),
        None => {
            let names: Vec<&str> = links.iter().map(|link| link.name.as_str()).collect();
            Verdict::not_met(
                format!("there is no link {name}; there are {}", names.join(", ")),
                "name one of them",
            )
        }
    }
}

/// Bridges that docker makes: its own, and that of a swarm.
const BRIDGES: [&str; 2] = ["docker0", "docker_gwbridge"];

/// Whether docker has made the link. The bridge of a network that a user has added has the first 12 digits of the network's id.
fn is_of_docker(link: &str) -> bool {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let id = link.strip_prefix("br-");
    BRIDGES.contains(&link) || id.is_some_and(|id| id.len() == 12 && id.bytes().all(is_digit))
}

/// Whether an address with its network is the host's own. keepalived adds the virtual IP with a prefix of full length (/32).
fn is_own(net: &IpNet) -> bool {
    net.prefix_len() < net.max_prefix_len()
}

/// The network of a link that contains the address.
fn network_around(link: &LinkFacts, address: IpAddr) -> Option<&IpNet> {
    let mut own = link.addresses.iter().filter(|net| is_own(net));
    own.find(|net| net.contains(&address))
}

/// What an address is in this network, if no host can have it there. The first and the last IPv4 address are the network's own, but in a network
/// of at most two addresses (RFC 3021). The first IPv6 address belongs to all routers of the network (RFC 4291), but between two routers
/// (RFC 6164).
pub(crate) fn reserved_address(network: &IpNet, address: IpAddr) -> Option<&'static str> {
    let is_first = address == network.network();
    match network {
        IpNet::V4(its) if its.prefix_len() < 31 && is_first => Some("the network address"),
        IpNet::V4(its) if its.prefix_len() < 31 && address == network.broadcast() => {
            Some("the broadcast address")
        }
        IpNet::V6(its) if its.prefix_len() < 127 && is_first => {
            Some("the subnet-router anycast address")
        }
        IpNet::V4(_) | IpNet::V6(_) => None,
    }
}

/// Why no host can have the address on this link, if that is so.
fn reserved_on(link: &LinkFacts, address: IpAddr) -> Option<String> {
    let mut own = link.addresses.iter().filter(|net| is_own(net));
    own.find_map(|net| {
        let what = reserved_address(net, address)?;
        Some(format!(
            "{address} is {what} of {} ({}), which no host can have",
            net.trunc(),
            link.name
        ))
    })
}

pub(crate) fn node_address(facts: &Facts, address: IpAddr) -> Verdict {
    if address.is_ipv6() {
        return Verdict::not_met(
            format!("{address} is no IPv4 address, and nodes reach one another over IPv4"),
            "give the link of the default route an IPv4 address; `ip -4 address` shows those that it has",
        );
    }
    not_reserved(
        facts,
        address,
        "give this host another address of the network",
    )
}

pub(crate) fn usable_address(facts: &Facts, address: IpAddr) -> Verdict {
    not_reserved(facts, address, "choose another address")
}

/// Whether a host can have the address in the networks of this host. An address in other networks is not judged, nor one in the network of a
/// link that is down: it leads nowhere.
fn not_reserved(facts: &Facts, address: IpAddr, remedy: &str) -> Verdict {
    let Some(links) = &facts.links else {
        return Verdict::unknown(facts, "links", &["links"]);
    };
    let mut up = links.iter().filter(|link| link.up);
    match up.find_map(|link| reserved_on(link, address)) {
        Some(problem) => Verdict::not_met(problem, remedy),
        None => Verdict::Met,
    }
}

pub(crate) fn virtual_ip(facts: &Facts, address: IpAddr, interface: &str) -> Verdict {
    if is_of_docker(interface) {
        return Verdict::not_met(
            format!(
                "MASTER_VIP_IFACE: {interface} is a bridge of docker, which leads to containers of this host only"
            ),
            "name the interface by which other hosts reach this one; `ip route` shows it",
        );
    }
    let Some(links) = &facts.links else {
        return Verdict::unknown(facts, "links", &["links"]);
    };
    let Some(link) = facts.link(interface) else {
        return Verdict::not_met(
            format!("MASTER_VIP_IFACE: there is no link {interface}"),
            "name one that `ip link` shows",
        );
    };
    let mut all = links
        .iter()
        .flat_map(|link| link.addresses.iter().map(move |net| (link, net)));
    // If keepalived already holds the virtual IP here, that is fine.
    let holder = all.find(|(_, net)| net.addr() == address && is_own(net));
    if facts.address == Some(address) || holder.is_some() {
        let on = holder.map_or(interface, |(link, _)| link.name.as_str());
        return Verdict::not_met(
            format!(
                "MASTER_IP: {address} is this host's own address (on {on}), so it could never move to another master"
            ),
            "choose an address of the same network that no host has, or set MASTER_VIP_ENABLED: false",
        );
    }
    // The other masters are not asked: keepalived here would take the address from the one that has it.
    if let Some(master) = facts.masters.iter().find(|its| its.address == address) {
        return Verdict::not_met(
            format!(
                "MASTER_IP: {address} is the address of master {}",
                master.name
            ),
            "set it back to the virtual IP of the cluster, as the other masters have it",
        );
    }
    let mut bridges = links.iter().filter(|link| is_of_docker(&link.name));
    if let Some((bridge, net)) =
        bridges.find_map(|bridge| Some((bridge, network_around(bridge, address)?)))
    {
        return Verdict::not_met(
            format!(
                "MASTER_IP: {address} lies in {}, where docker has its containers ({})",
                net.trunc(),
                bridge.name
            ),
            "choose an address of the network in which other hosts reach this one",
        );
    }
    if let Some(problem) = reserved_on(link, address) {
        return Verdict::not_met(
            format!("MASTER_IP: {problem}"),
            "choose another address of this network, one that no host has",
        );
    }
    if network_around(link, address).is_some() {
        return Verdict::Met;
    }
    let networks: Vec<String> = link
        .addresses
        .iter()
        .filter(|net| is_own(net))
        .map(|net| net.trunc().to_string())
        .collect();
    let networks = match networks.as_slice() {
        [] => "has no network".to_owned(),
        some => format!("is in {}", some.join(", ")),
    };
    Verdict::not_met(
        format!(
            "MASTER_IP: {address} lies outside of every network of {interface} (MASTER_VIP_IFACE), which {networks}"
        ),
        "choose an address in one of its networks, or an interface in the network of this address",
    )
}

pub(crate) fn virtual_ip_free(facts: &Facts, address: IpAddr, port: u16) -> Verdict {
    let place = SocketAddr::new(address, port).to_string();
    match facts.address_users.get(&place) {
        None if facts.unknown.contains_key(&place) => {
            Verdict::unknown(facts, "user of the virtual IP", &[&place])
        }
        // A description of a host (`--facts`) does not say what other hosts do.
        None => Verdict::Met,
        Some(AddressUser::Nothing | AddressUser::ThisHost | AddressUser::ThisCluster) => {
            Verdict::Met
        }
        Some(AddressUser::Another(why)) => Verdict::not_met(
            format!(
                "MASTER_IP: {address} is in use by a host that is no master of this cluster: {why}"
            ),
            format!(
                "find it with `ip neigh show {address}`, and choose an address that no host has, or remove it there"
            ),
        ),
    }
}

pub(crate) fn virtual_router_free(facts: &Facts, router_id: u8, link: &str) -> Verdict {
    let item = format!("VRRP on {link}");
    let Some(senders) = facts.vrrp_senders.get(link) else {
        // A link that is not there is named by the requirement about the virtual IP.
        let is_there = facts.links.is_none() || facts.link(link).is_some();
        return match is_there && facts.unknown.contains_key(&item) {
            true => Verdict::unknown(facts, "other senders of VRRP", &[&item]),
            // A description of a host (`--facts`) does not say what other hosts do.
            false => Verdict::Met,
        };
    };
    let is_ours = |address: IpAddr| {
        facts.has_address(address) || facts.masters.iter().any(|its| its.address == address)
    };
    let mut others = senders
        .iter()
        .filter(|sender| sender.router_id == router_id && !is_ours(sender.address));
    match others.next() {
        None => Verdict::Met,
        Some(other) => Verdict::not_met(
            format!(
                "MASTER_VIP_VROUTER_ID: {} sends VRRP with router id {router_id} on {link}, and is no master of this cluster",
                other.address
            ),
            "choose a router id (1 to 255) that no other cluster on this network has, the same on all masters, or stop the sender",
        ),
    }
}

pub(crate) fn cidrs_disjoint(facts: &Facts, named: &[NamedCidr]) -> Verdict {
    let mut networks: Vec<(&str, IpNet)> = Vec::new();
    for one in named {
        let Ok(network) = one.cidr.parse::<IpNet>() else {
            let problem = format!("{} is not a network: `{}`", one.name, one.cidr);
            return Verdict::not_met(
                problem,
                format!("write it as in `{}: 10.20.0.0/16`", one.name),
            );
        };
        if let Some((other, with)) = networks.iter().find(|(_, there)| overlap(there, &network)) {
            return Verdict::not_met(
                format!("{} ({network}) overlaps {other} ({with})", one.name),
                format!("give {} or {other} another network", one.name),
            );
        }
        networks.push((&one.name, network));
    }
    let (Some(links), Some(routes)) = (&facts.links, &facts.routes) else {
        return Verdict::unknown(facts, "networks of the host", &["links", "/proc/net/route"]);
    };
    let own = links.iter().flat_map(|link| {
        link.addresses
            .iter()
            .map(|net| (net.trunc(), link.name.as_str()))
    });
    let routed = routes.iter().map(|route| (route.to, route.link.as_str()));
    for (there, link) in own.chain(routed) {
        if let Some((name, network)) = networks
            .iter()
            .find(|(_, network)| overlap(network, &there))
        {
            return Verdict::not_met(
                format!("{name} ({network}) overlaps {there}, which this host reaches by {link}"),
                format!("give {name} a network that is used nowhere around this host"),
            );
        }
    }
    Verdict::Met
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}
