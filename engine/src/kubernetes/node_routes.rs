//! Which routes a host needs so that its pods reach the pods of other nodes.
//!
//! A kubelet registers its own node and reports its own address, so a node cannot be trusted: its subnet counts only inside the pods'
//! network. If it overlaps that of another node, one of them at most gets a route: see `wins`. A node with a problem never costs another node
//! its route.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::SystemTime;

use ipnet::IpNet;

use crate::facts::reserved_address;
use crate::host::{Link, SubnetNode};

/// Routes to the pods of other nodes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WantedRoutes {
    /// The address of the node, by the subnet of its pods.
    pub routes: BTreeMap<IpNet, IpAddr>,
    /// Subnets of nodes with a problem: a route that is there stays as it is. A route that would draw packets from the node that keeps its
    /// own route does not stay.
    pub kept: BTreeSet<IpNet>,
    /// Why a node gets no route, a sentence each, with the names of the nodes and what to do.
    pub problems: Vec<String>,
}

/// The routes that the node `own` needs to the subnets of the other `nodes` in the pods' `network`. `links` are this host's.
#[must_use]
pub fn wanted_routes(
    own: &str,
    network: IpNet,
    nodes: &[SubnetNode],
    links: &[Link],
) -> WantedRoutes {
    let mut wanted = WantedRoutes::default();
    let overlaps = overlaps(own, network, nodes);
    for node in nodes.iter().filter(|node| node.name != own) {
        for subnet in &node.subnets {
            let overlap = overlaps.get(&(node.name.as_str(), *subnet));
            let via = match overlap {
                Some(overlap) => Err(format!(
                    "node {0} has the pod subnet {subnet}, which overlaps that of node {1}; remove the one that was given its subnet by hand (`nodelet cluster remove {0}` or `nodelet cluster remove {1}`), \
                     and let it join again",
                    node.name, overlap.other
                )),
                None => next_hop(node, *subnet, network, links),
            };
            match via {
                Ok(via) => {
                    wanted.routes.insert(*subnet, via);
                }
                Err(problem) => {
                    if !overlap.is_some_and(|overlap| overlap.wins) {
                        wanted.kept.insert(*subnet);
                    }
                    wanted.problems.push(problem);
                }
            }
        }
    }
    wanted
}

/// The node's address for a route to its subnet, or why there can be no route.
fn next_hop(
    node: &SubnetNode,
    subnet: IpNet,
    network: IpNet,
    links: &[Link],
) -> Result<IpAddr, String> {
    let name = &node.name;
    if !network.contains(&subnet) {
        return Err(format!(
            "node {name} has the pod subnet {subnet}, which is not in the pods' network {network}; remove it (`nodelet cluster remove {name}`), and let it join again"
        ));
    }
    let is_v4 = subnet.addr().is_ipv4();
    let mut of_family = node.addresses.iter().filter(|one| one.is_ipv4() == is_v4);
    let Some(address) = of_family.next().copied() else {
        let family = if is_v4 { "IPv4" } else { "IPv6" };
        return Err(format!(
            "node {name} reports no {family} address (InternalIP), so there is no way to its pods; look at its kubelet (`nodelet status` on its host)"
        ));
    };
    let mut own = links.iter().flat_map(|link| &link.addresses);
    if own.any(|(one, _)| *one == address) {
        return Err(format!(
            "node {name} has address {address}, which is this host's own; give one of the two hosts another address"
        ));
    }
    if is_on_link(address, links) {
        return Ok(address);
    }
    Err(format!(
        "node {name} has address {address}, which is not on a network of this host or is no host's there, and a router between two nodes would have to know the way to each node's pods; give its host an \
         address on the network of the other nodes"
    ))
}

/// Whether a host can have this address on a network of one of these links.
pub(crate) fn is_on_link(address: IpAddr, links: &[Link]) -> bool {
    let mut up = links.iter().filter(|link| link.up);
    up.any(|link| {
        let mut networks = link.addresses.iter();
        networks.any(|(one, prefix)| {
            IpNet::new(*one, *prefix).is_ok_and(|network| is_host_in(&network, address))
        })
    })
}

/// Whether a host in this network can have the address.
fn is_host_in(network: &IpNet, address: IpAddr) -> bool {
    network.contains(&address) && reserved_address(network, address).is_none()
}

/// For each node and subnet in the pods' network that gets no route because of another node's: that node. A sweep over the sorted subnets:
/// of two that overlap, one contains the other.
fn overlaps<'a>(
    own: &str,
    network: IpNet,
    nodes: &'a [SubnetNode],
) -> BTreeMap<(&'a str, IpNet), Overlap<'a>> {
    let present = nodes.iter().find(|node| node.name == own);
    let usual = present.and_then(|node| Some(node.subnets.first()?.prefix_len()));
    let of_node = |node: &'a SubnetNode| node.subnets.iter().map(move |its| (*its, node));
    let all = nodes.iter().flat_map(of_node);
    let mut all: Vec<(IpNet, &SubnetNode)> =
        all.filter(|(subnet, _)| network.contains(subnet)).collect();
    // A network comes before those inside it.
    all.sort_by_key(|(subnet, node)| (subnet.network(), subnet.prefix_len(), node.name.as_str()));
    let rank = |one: (IpNet, &SubnetNode)| Rank::of(own, usual, one);
    let mut found = BTreeMap::new();
    let mut around: Vec<(IpNet, &SubnetNode)> = Vec::new();
    for inner in all {
        around.retain(|(outer, _)| outer.contains(&inner.0));
        for outer in around.iter().filter(|its| its.1.name != inner.1.name) {
            for (loser, other) in [(inner, *outer), (*outer, inner)] {
                if rank(loser).wins(rank(other)) {
                    continue;
                }
                let overlap = Overlap {
                    other: &other.1.name,
                    wins: rank(other).wins(rank(loser)),
                };
                let key = (loser.1.name.as_str(), loser.0);
                let its = found.entry(key).or_insert(overlap);
                if overlap.wins && !its.wins {
                    *its = overlap;
                }
            }
        }
        around.push(inner);
    }
    found
}

/// Why a node gets no route to its subnet.
#[derive(Debug, Clone, Copy)]
struct Overlap<'a> {
    /// A node whose subnet overlaps.
    other: &'a str,
    /// Whether that node keeps its route; otherwise none of them has one.
    wins: bool,
}

/// What decides between two nodes whose subnets overlap.
#[derive(Debug, Clone, Copy)]
struct Rank {
    is_own: bool,
    /// Whether the subnet has the length of this host's own.
    is_usual: bool,
    created: Option<SystemTime>,
}

impl Rank {
    fn of(own: &str, usual: Option<u8>, (subnet, node): (IpNet, &SubnetNode)) -> Self {
        Self {
            is_own: node.name == own,
            is_usual: usual == Some(subnet.prefix_len()),
            created: node.created,
        }
    }

    /// Whether it keeps its route beside the other one. This host's pods come first, then subnets of the length that the cluster gives, then
    /// the node that was registered earlier: a kubelet can choose the subnet of a new node, but not the time. If that is equal or not known,
    /// neither of them wins.
    fn wins(self, other: Self) -> bool {
        if self.is_own != other.is_own {
            return self.is_own;
        }
        if self.is_usual != other.is_usual {
            return self.is_usual;
        }
        match (self.created, other.created) {
            (Some(its), Some(others)) => its < others,
            (None, _) | (_, None) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, subnets: &[&str], addresses: &[&str]) -> SubnetNode {
        SubnetNode {
            name: name.to_owned(),
            uid: name.to_owned(),
            subnets: subnets.iter().map(|one| one.parse().unwrap()).collect(),
            addresses: addresses.iter().map(|one| one.parse().unwrap()).collect(),
            created: None,
        }
    }

    /// A node that was registered at this second.
    fn at(second: u64, node: SubnetNode) -> SubnetNode {
        let created = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(second);
        SubnetNode {
            created: Some(created),
            ..node
        }
    }

    fn links() -> Vec<Link> {
        let link = |name: &str, up, addresses: &[(&str, u8)]| Link {
            name: name.to_owned(),
            up,
            addresses: addresses
                .iter()
                .map(|(address, prefix)| (address.parse().unwrap(), *prefix))
                .collect(),
            unrouted: Vec::new(),
        };
        vec![
            link("eth0", true, &[("172.30.0.11", 24), ("fd00:1::b", 64)]),
            link("eth1", false, &[("192.168.7.1", 24)]),
            link("lo", true, &[("10.0.0.1", 32)]),
        ]
    }

    fn wanted(nodes: &[SubnetNode]) -> (Vec<String>, Vec<String>, String) {
        let network = "10.20.0.0/16".parse().unwrap();
        let wanted = wanted_routes("cp-1", network, nodes, &links());
        let routes = wanted.routes.iter();
        (
            routes
                .map(|(subnet, via)| format!("{subnet} {via}"))
                .collect(),
            wanted.kept.iter().map(ToString::to_string).collect(),
            wanted.problems.join("; "),
        )
    }

    #[test]
    fn each_other_node_gets_a_route_to_each_of_its_subnets() {
        let (routes, kept, problems) = wanted(&[
            node("cp-1", &["10.20.0.0/24"], &["172.30.0.11"]),
            node("w-1", &["10.20.1.0/24"], &["fd00:1::c", "172.30.0.12"]),
            node("w-2", &["10.20.2.0/24", "10.20.3.0/24"], &["172.30.0.13"]),
            node("new", &[], &["172.30.0.14"]),
        ]);
        let expected = [
            "10.20.1.0/24 172.30.0.12",
            "10.20.2.0/24 172.30.0.13",
            "10.20.3.0/24 172.30.0.13",
        ];
        assert_eq!(routes, expected);
        assert_eq!((kept, problems.as_str()), (Vec::new(), ""));
    }

    #[test]
    fn routes_of_ipv6_lead_over_addresses_of_ipv6() {
        let nodes = [node(
            "w-1",
            &["fd00:20:1::/64"],
            &["172.30.0.12", "fd00:1::c"],
        )];
        let network = "fd00:20::/32".parse().unwrap();
        let wanted = wanted_routes("cp-1", network, &nodes, &links());
        let via: IpAddr = "fd00:1::c".parse().unwrap();
        assert_eq!(wanted.routes.into_values().collect::<Vec<_>>(), [via]);
    }

    #[test]
    fn addresses_that_no_host_can_have_lead_to_no_node() {
        for (address, is_host) in [
            ("172.30.0.1", true),
            ("172.30.0.0", false),
            ("172.30.0.255", false),
            ("fd00:1::1", true),
            ("fd00:1::", false),
        ] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(is_on_link(address, &links()), is_host, "{address}");
        }
    }

    #[test]
    fn a_node_with_a_problem_is_named_and_costs_no_other_node_its_route() {
        let good = node("w-1", &["10.20.1.0/24"], &["172.30.0.12"]);
        let cases: [(SubnetNode, &str); 7] = [
            (
                node("bad", &["10.20.9.0/24"], &["172.31.0.13"]),
                "node bad has address 172.31.0.13, which is not on a network of this host",
            ),
            // A link that is down, and an address without a network, lead nowhere.
            (
                node("bad", &["10.20.9.0/24"], &["192.168.7.2"]),
                "not on a network of this host",
            ),
            (
                node("bad", &["10.20.9.0/24"], &["10.0.0.2"]),
                "not on a network of this host",
            ),
            (
                node("bad", &["10.20.9.0/24"], &["172.30.0.11"]),
                "node bad has address 172.30.0.11, which is this host's own",
            ),
            (
                node("bad", &["10.20.9.0/24"], &["fd00:1::d"]),
                "node bad reports no IPv4 address",
            ),
            // A kubelet may register its node with any subnet.
            (
                node("bad", &["0.0.0.0/1"], &["172.30.0.13"]),
                "node bad has the pod subnet 0.0.0.0/1, which",
            ),
            (
                node("bad", &["10.20.0.128/25"], &["172.30.0.13"]),
                "node bad has the pod subnet 10.20.0.128/25, which overlaps that of node cp-1",
            ),
        ];
        for (bad, says) in cases {
            let subnet = bad.subnets[0].to_string();
            let own = node("cp-1", &["10.20.0.0/24"], &["172.30.0.11"]);
            let (routes, kept, problems) = wanted(&[own, bad, good.clone()]);
            assert_eq!(routes, ["10.20.1.0/24 172.30.0.12"], "{subnet}");
            let overlaps = says.contains("overlaps");
            let expected = if overlaps { vec![] } else { vec![subnet] };
            assert_eq!(
                kept, expected,
                "a route for a part of this host's own subnet does not stay"
            );
            assert!(problems.contains(says), "{problems}");
        }
    }

    #[test]
    fn overlapping_subnets_get_no_route_and_both_nodes_are_named() {
        let (routes, kept, problems) = wanted(&[
            node("w-1", &["10.20.1.0/24"], &["172.30.0.12"]),
            node("w-2", &["10.20.1.128/25"], &["172.30.0.13"]),
            node("w-3", &["10.20.3.0/24"], &["172.30.0.14"]),
            node("w-4", &["10.20.3.0/24"], &["172.30.0.15"]),
            node("w-5", &["10.20.5.0/24"], &["172.30.0.16"]),
        ]);
        assert_eq!(routes, ["10.20.5.0/24 172.30.0.16"]);
        assert_eq!(kept, ["10.20.1.0/24", "10.20.1.128/25", "10.20.3.0/24"]);
        for (one, other) in [
            ("w-1", "w-2"),
            ("w-2", "w-1"),
            ("w-3", "w-4"),
            ("w-4", "w-3"),
        ] {
            let problem = format!("overlaps that of node {other}");
            let its = problems
                .split("; ")
                .find(|one_of| one_of.starts_with(&format!("node {one} ")));
            assert!(its.is_some_and(|its| its.ends_with(&problem)), "{problems}");
        }
    }

    /// A kubelet can choose the subnet of a new node, but not the time of its registration.
    #[test]
    fn a_new_node_with_the_subnets_of_others_gets_no_route_and_they_keep_theirs() {
        let own = at(5, node("cp-1", &["10.20.0.0/24"], &["172.30.0.11"]));
        let old = at(1, node("w-1", &["10.20.1.0/24"], &["172.30.0.12"]));
        let later = at(9, node("w-2", &["10.20.2.0/24"], &["172.30.0.13"]));
        let both = ["10.20.1.0/24 172.30.0.12", "10.20.2.0/24 172.30.0.13"];
        // The last two are older than what they overlap: this host's own pods, and a subnet of the length that the cluster gives.
        for (second, odd, other) in [
            (7, "10.20.1.0/24", "w-1"),
            (7, "10.20.1.128/25", "w-1"),
            (2, "10.20.0.0/24", "cp-1"),
            (7, "10.20.0.0/16", "cp-1"),
        ] {
            let odd = at(second, node("odd", &[odd], &["172.30.0.66"]));
            let (routes, kept, problems) = wanted(&[own.clone(), old.clone(), odd, later.clone()]);
            assert_eq!(
                (routes.as_slice(), kept.len()),
                (&both.map(str::to_owned)[..], 0)
            );
            let says = format!("overlaps that of node {other}; remove");
            assert!(
                problems.starts_with("node odd ") && problems.contains(&says),
                "{problems}"
            );
        }
    }
}
