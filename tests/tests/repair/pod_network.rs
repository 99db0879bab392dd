//! The pods' network between nodes: what a repair restores of it, and what never leads to one.

use std::net::IpAddr;

use behaviour::{Bringup, block_on};
use engine::exec::{Recording, Runner, failed_phases, restart_set};
use engine::host::fake::{FakeHost, FaultPlan, WorldSnapshot, difference};
use engine::model::Outcome;
use engine::resource::MaskedSecrets;

fn failed(bringup: &Bringup, host: &FakeHost) -> Vec<String> {
    let failed = failed_phases(&bringup.check(host));
    failed.iter().map(ToString::to_string).collect()
}

/// Repairs what fails. Returns the names of the phases that are restarted.
fn repair(bringup: &Bringup, host: &FakeHost) -> Vec<String> {
    let ignored = Recording::default();
    let runner = Runner::new(
        &bringup.plan,
        host,
        &bringup.facts,
        &MaskedSecrets,
        &ignored,
    );
    let set = restart_set(&bringup.plan, &failed_phases(&bringup.check(host)));
    let outcome = block_on(runner.restart(&set, &[])).expect("it is written down");
    assert_eq!(outcome, Outcome::Converged);
    set.iter().map(ToString::to_string).collect()
}

/// A free address of the host's first network.
fn neighbour(host: &FakeHost, last: u8) -> IpAddr {
    let links = block_on(engine::host::Network::links(host)).expect("the host answers");
    let mut addresses = links.iter().flat_map(|link| &link.addresses);
    let found = addresses.find_map(|(address, prefix)| match address {
        IpAddr::V4(four) if *prefix <= 24 && !four.is_loopback() => Some(*four),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    });
    let [a, b, c, _] = found.expect("the host has a network").octets();
    IpAddr::from([a, b, c, last])
}

#[test]
fn flushed_rules_come_back_and_nothing_else_is_restarted() {
    let (bringup, host) = Bringup::brought_up("cp-1");
    let up = host.snapshot();
    for (family, input) in [
        ("iptables", "*nat\n-F POSTROUTING\nCOMMIT\n"),
        ("iptables", "*nat\n-F PF9-MASQUERADE\nCOMMIT\n"),
        (
            "iptables",
            "*filter\n-D FORWARD -j PF9-FORWARD\n-F PF9-FORWARD\n-X PF9-FORWARD\nCOMMIT\n",
        ),
    ] {
        host.with_world_mut(|world| world.firewall_input(family, input));
        assert_eq!(failed(&bringup, &host), ["pod-network"], "{input}");
        assert_eq!(repair(&bringup, &host), ["pod-network"], "{input}");
        assert_eq!(failed(&bringup, &host), [""; 0], "{input}");
    }
    // The order of the jumps may differ: kube-proxy and the role write theirs at different times.
    let chains = |snapshot: &WorldSnapshot| {
        let all = snapshot.resources();
        let ours = all.filter(|(name, _)| name.starts_with("chain ") && name.contains(" PF9-"));
        ours.map(|(name, rules)| format!("{name}: {rules}"))
            .collect::<Vec<_>>()
    };
    assert_eq!(chains(&up).len(), 2);
    assert_eq!(chains(&host.snapshot()), chains(&up));
}

#[test]
fn a_node_that_joins_gets_a_route_and_one_that_leaves_loses_it() {
    let (bringup, host) = Bringup::brought_up("cp-1");
    let via = neighbour(&host, 77);
    host.with_world_mut(|world| world.join_node("w-1", "10.20.7.0/24", via));
    assert_eq!(failed(&bringup, &host), ["node-routes"]);
    assert_eq!(repair(&bringup, &host), ["node-routes"]);
    let routes = host.with_world(|world| world.node_routes());
    assert_eq!(routes, [("10.20.7.0/24".to_owned(), via.to_string())]);
    assert_eq!(failed(&bringup, &host), [""; 0]);
    host.with_world_mut(|world| world.remove_node("w-1"));
    assert_eq!(repair(&bringup, &host), ["node-routes"]);
    assert_eq!(host.with_world(|world| world.node_routes()), []);
}

/// A node that no route can lead to is named. It is a warning: neither a repair nor a clean of this host would help.
#[test]
fn a_node_that_cannot_be_reached_restarts_nothing() {
    let (bringup, host) = Bringup::brought_up("cp-1");
    let elsewhere = IpAddr::from([203, 0, 113, 9]);
    host.with_world_mut(|world| world.join_node("far", "10.20.7.0/24", elsewhere));
    assert_eq!(failed(&bringup, &host), [""; 0]);
    let health = format!("{:?}", bringup.check(&host));
    assert!(
        health.contains("node far has address 203.0.113.9"),
        "{health}"
    );
}

#[test]
fn routes_stay_while_the_nodes_cannot_be_listed() {
    let (bringup, host) = Bringup::brought_up("cp-1");
    let via = neighbour(&host, 77);
    host.with_world_mut(|world| world.join_node("w-1", "10.20.7.0/24", via));
    repair(&bringup, &host);
    host.set_faults(FaultPlan::none().fail("subnet_nodes", "all"));
    assert_eq!(failed(&bringup, &host), [""; 0]);
    assert_eq!(host.with_world(|world| world.node_routes()).len(), 1);
}

#[test]
fn a_clean_takes_back_chains_and_routes_and_no_others() {
    let bringup = Bringup::of("cp-1");
    let host = bringup.populated_host();
    host.with_world_mut(|world| {
        let subnet = "10.99.0.0/24".parse().expect("a network");
        world.foreign_route(subnet, "10.99.0.0/24 dev eth0");
    });
    let before = host.snapshot();
    let run = bringup.apply(&host);
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    let via = neighbour(&host, 77);
    host.with_world_mut(|world| world.join_node("w-1", "10.20.7.0/24", via));
    repair(&bringup, &host);
    let run = Bringup::clean(&host, true);
    assert_eq!(run.outcome, Outcome::Cleaned, "{}", run.text());
    let of_network = |line: &String| {
        let kinds = ["route ", "foreign route ", "chain "];
        let resource = line.get(2..).unwrap_or_default();
        kinds.iter().any(|kind| resource.starts_with(kind))
    };
    let left: Vec<String> = difference(&before, &host.snapshot())
        .into_iter()
        .filter(of_network)
        .collect();
    assert_eq!(left, [""; 0]);
}
