//! The requirements about addresses, ports and interfaces.

use super::{assert_unmet_after, check, good, unknown};
use crate::facts::{AddressUser, Facts, LinkFacts, Listener, MasterEntry, NamedCidr, Requirement};
use crate::host::VrrpSender;

#[test]
fn a_virtual_ip_is_unused_and_on_link() {
    let wanted = |address: &str, interface: &str| Requirement::VirtualIp {
        address: address.parse().unwrap(),
        interface: interface.to_owned(),
    };
    let mut facts = good();
    facts.address = Some("172.30.0.11".parse().unwrap());
    for (bridge, address) in [
        ("docker0", "172.17.0.1/16"),
        ("br-0a1b2c3d4e5f", "172.18.0.1/16"),
        ("br-lan", "172.19.0.1/16"),
    ] {
        facts.links.as_mut().unwrap().push(LinkFacts {
            name: bridge.to_owned(),
            up: true,
            addresses: vec![address.parse().unwrap()],
        });
    }
    let says = |facts: &Facts, address: &str, interface: &str| {
        wanted(address, interface).check(facts).to_string()
    };
    facts.masters.push(MasterEntry {
        name: "m-2".to_owned(),
        address: "172.30.0.12".parse().unwrap(),
        etcd_id: None,
        voter: true,
    });
    assert_eq!(says(&facts, "172.30.0.100", "eth0"), "met");
    assert_eq!(says(&facts, "172.19.0.100", "br-lan"), "met");
    for (address, interface, problem) in [
        ("172.30.0.11", "eth0", "this host's own address (on eth0)"),
        (
            "172.30.1.1",
            "eth0",
            "outside of every network of eth0 (MASTER_VIP_IFACE), which is in 172.30.0.0/24",
        ),
        ("172.30.0.100", "eth1", "which has no network"),
        (
            "172.17.0.9",
            "eth0",
            "in 172.17.0.0/16, where docker has its containers (docker0)",
        ),
        (
            "172.18.0.9",
            "eth0",
            "in 172.18.0.0/16, where docker has its containers (br-0a1b2c3d4e5f)",
        ),
        (
            "172.17.0.9",
            "docker0",
            "MASTER_VIP_IFACE: docker0 is a bridge of docker, which leads to containers of this host only; \
             name the interface by which other hosts reach this one",
        ),
        (
            "172.18.0.9",
            "br-0a1b2c3d4e5f",
            "br-0a1b2c3d4e5f is a bridge of docker",
        ),
        ("172.30.0.100", "bond0", "there is no link bond0"),
        ("172.30.0.12", "eth0", "the address of master m-2"),
    ] {
        let said = says(&facts, address, interface);
        assert!(said.contains(problem), "{address} on {interface}: {said}");
    }
    // keepalived already holds the address here.
    let eth0 = &mut facts.links.as_mut().unwrap()[0];
    eth0.addresses.push("172.30.0.100/32".parse().unwrap());
    assert_eq!(says(&facts, "172.30.0.100", "eth0"), "met");
}

#[test]
fn a_virtual_ip_is_an_address_that_a_host_can_have() {
    for (own, address, is) in [
        (
            "172.30.0.11/24",
            "172.30.0.0",
            "the network address of 172.30.0.0/24",
        ),
        (
            "172.30.0.11/24",
            "172.30.0.255",
            "the broadcast address of 172.30.0.0/24",
        ),
        ("172.30.0.11/23", "172.30.0.255", ""),
        ("172.30.0.1/31", "172.30.0.0", ""),
        ("172.30.0.0/31", "172.30.0.1", ""),
        (
            "fd00:30::11/64",
            "fd00:30::",
            "the subnet-router anycast address of fd00:30::/64",
        ),
        ("fd00:30::11/64", "fd00:30::ffff:ffff:ffff:ffff", ""),
        ("fd00:30::1/127", "fd00:30::", ""),
    ] {
        let mut facts = good();
        facts.links.as_mut().unwrap()[0].addresses = vec![own.parse().unwrap()];
        let requirement = Requirement::VirtualIp {
            address: address.parse().unwrap(),
            interface: "eth0".to_owned(),
        };
        let expected = match is {
            "" => "met".to_owned(),
            is => format!(
                "MASTER_IP: {address} is {is} (eth0), which no host can have; choose another address of this network, one that no host has"
            ),
        };
        check(&facts, &requirement, &expected);
    }
}

#[test]
fn the_address_of_a_node_is_ipv4_and_one_that_a_host_can_have() {
    let requirement = |address: &str| Requirement::NodeAddress {
        address: address.parse().unwrap(),
    };
    check(&good(), &requirement("172.30.0.11"), "met");
    check(
        &good(),
        &requirement("172.30.0.255"),
        "172.30.0.255 is the broadcast address of 172.30.0.0/24 (eth0), which no host can have; \
         give this host another address of the network",
    );
    for address in ["fd00:30::11", "::ffff:172.30.0.11"] {
        check(
            &good(),
            &requirement(address),
            &format!(
                "{address} is no IPv4 address, and nodes reach one another over IPv4; \
                 give the link of the default route an IPv4 address; `ip -4 address` shows those that it has"
            ),
        );
    }
    unknown(
        &requirement("172.30.0.11"),
        "links",
        "unknown: links: links: permission denied",
    );
}

#[test]
fn the_address_of_the_masters_is_one_that_a_host_can_have() {
    let requirement = |address: &str| Requirement::UsableAddress {
        address: address.parse().unwrap(),
    };
    // One of this host, one of another host, and one in a network that this host does not know.
    for address in ["172.30.0.11", "172.30.0.12", "192.0.2.0", "fd00:30::"] {
        check(&good(), &requirement(address), "met");
    }
    check(
        &good(),
        &requirement("172.30.0.0"),
        "172.30.0.0 is the network address of 172.30.0.0/24 (eth0), which no host can have; choose another address",
    );
    // An address without a network (/32), as clouds give it, and a link that is down.
    let mut facts = good();
    let links = facts.links.as_mut().unwrap();
    links[0].addresses = vec!["172.30.0.0/32".parse().unwrap()];
    links[1].addresses = vec!["192.168.7.1/24".parse().unwrap()];
    for address in ["172.30.0.0", "192.168.7.0"] {
        check(&facts, &requirement(address), "met");
    }
}

#[test]
fn a_virtual_ip_belongs_to_no_host_outside_of_the_cluster() {
    let requirement = Requirement::VirtualIpFree {
        address: "172.30.0.100".parse().unwrap(),
        port: 443,
    };
    unknown(
        &requirement,
        "172.30.0.100:443",
        "unknown: user of the virtual IP: 172.30.0.100:443: permission denied",
    );
    let mut facts = good();
    check(&facts, &requirement, "met");
    for user in [
        AddressUser::Nothing,
        AddressUser::ThisHost,
        AddressUser::ThisCluster,
    ] {
        let place = "172.30.0.100:443".to_owned();
        facts.address_users.insert(place, user);
        assert_eq!(requirement.check(&facts).to_string(), "met");
    }
    let user = AddressUser::Another("unknown issuer".to_owned());
    facts
        .address_users
        .insert("172.30.0.100:443".to_owned(), user);
    check(
        &facts,
        &requirement,
        "MASTER_IP: 172.30.0.100 is in use by a host that is no master of this cluster: unknown issuer; \
         find it with `ip neigh show 172.30.0.100`, and choose an address that no host has, or remove it there",
    );
}

#[test]
fn a_router_id_belongs_to_the_masters_of_one_cluster() {
    let requirement = Requirement::VirtualRouterFree {
        router_id: 51,
        interface: "eth0".to_owned(),
    };
    unknown(
        &requirement,
        "VRRP on eth0",
        "unknown: other senders of VRRP: VRRP on eth0: permission denied",
    );
    let mut facts = good();
    check(&facts, &requirement, "met");
    let nowhere = Requirement::VirtualRouterFree {
        router_id: 51,
        interface: "eth9".to_owned(),
    };
    let why = "listen to VRRP on eth9".to_owned();
    facts.unknown.insert("VRRP on eth9".to_owned(), why);
    check(&facts, &nowhere, "met");
    let sender = |router_id, last: u8| VrrpSender {
        router_id,
        address: [172, 30, 0, last].into(),
    };
    facts.masters = vec![MasterEntry {
        name: "cp-2".to_owned(),
        address: [172, 30, 0, 12].into(),
        etcd_id: None,
        voter: true,
    }];
    // This host, another master, and a sender with another id.
    let harmless = [sender(51, 11), sender(51, 12), sender(52, 7)];
    let link = "eth0".to_owned();
    facts.vrrp_senders.insert(link.clone(), harmless.into());
    check(&facts, &requirement, "met");
    facts.vrrp_senders.insert(link, [sender(51, 7)].into());
    check(
        &facts,
        &requirement,
        "MASTER_VIP_VROUTER_ID: 172.30.0.7 sends VRRP with router id 51 on eth0, and is no master of this cluster; \
         choose a router id (1 to 255) that no other cluster on this network has, the same on all masters, or stop the sender",
    );
}

#[test]
fn ports() {
    let requirement = Requirement::PortsFree(vec![443, 2380]);
    let listener = |port, address: &str, program: Option<&str>| Listener {
        port,
        address: address.parse().unwrap(),
        program: program.map(str::to_owned),
        cgroup: None,
    };
    assert_unmet_after(
        &requirement,
        |facts| {
            facts.listening = Some(vec![
                listener(22, "0.0.0.0", None),
                listener(443, "0.0.0.0", Some("nginx")),
                listener(443, "::", Some("nginx")),
                listener(2380, "127.0.0.1", None),
            ]);
        },
        "TCP ports are in use: 443 (nginx on 0.0.0.0), 2380 (on 127.0.0.1); \
         find the process with `ss -ltnp 'sport = :443'` and stop it, or choose another port",
    );
    unknown(
        &requirement,
        "/proc/net/tcp",
        "unknown: listening ports: /proc/net/tcp: permission denied",
    );
}

#[test]
fn networks() {
    let disjoint = |pods: &str, services: &str| Requirement::CidrsDisjoint {
        named: vec![
            NamedCidr::new("CONTAINERS_CIDR", pods),
            NamedCidr::new("SERVICES_CIDR", services),
        ],
    };
    check(&good(), &disjoint("10.20.0.0/16", "10.21.0.0/16"), "met");
    check(&good(), &disjoint("10.20.0.0/16", "fd00::/108"), "met");
    let cases = [
        (
            "10.20.0.0/16",
            "10.20.1.0/24",
            "SERVICES_CIDR (10.20.1.0/24) overlaps CONTAINERS_CIDR (10.20.0.0/16); \
          give SERVICES_CIDR or CONTAINERS_CIDR another network",
        ),
        (
            "172.30.0.0/16",
            "10.21.0.0/16",
            "CONTAINERS_CIDR (172.30.0.0/16) overlaps 172.30.0.0/24, which this host reaches by eth0; \
          give CONTAINERS_CIDR a network that is used nowhere around this host",
        ),
        (
            "10.20.0.0/16",
            "10.99.7.0/24",
            "SERVICES_CIDR (10.99.7.0/24) overlaps 10.99.0.0/16, which this host reaches by eth0; \
          give SERVICES_CIDR a network that is used nowhere around this host",
        ),
        (
            "10.20.0.0",
            "10.21.0.0/16",
            "CONTAINERS_CIDR is not a network: `10.20.0.0`; write it as in `CONTAINERS_CIDR: 10.20.0.0/16`",
        ),
    ];
    for (pods, services, expected) in cases {
        check(&good(), &disjoint(pods, services), expected);
    }
    let requirement = disjoint("10.20.0.0/16", "10.21.0.0/16");
    unknown(
        &requirement,
        "links",
        "unknown: networks of the host: links: permission denied",
    );
}

#[test]
fn links() {
    let interface = |name: &str| Requirement::Interface {
        name: name.to_owned(),
    };
    check(&good(), &interface("eth0"), "met");
    check(
        &good(),
        &interface("eth1"),
        "the link eth1 is down; bring it up with `ip link set eth1 up`",
    );
    check(
        &good(),
        &interface("bond0"),
        "there is no link bond0; there are eth0, eth1; name one of them",
    );
    unknown(
        &interface("eth0"),
        "x",
        "unknown: links: the facts do not say",
    );
}
