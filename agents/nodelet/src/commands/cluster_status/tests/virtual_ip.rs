//! The holder of the virtual IP, and all hosts that have it, found over ARP.

use super::*;

const STRANGER: &str = "02:00:00:00:00:99";
const SECOND: &str = "02:00:00:00:00:12";
const THIRD: &str = "02:00:00:00:00:13";

/// The hosts with these hardware addresses answer ARP for an address.
fn answer(cluster: &Cluster, address: &str, hardware: &[&str]) {
    let address = address.parse().expect("an address");
    cluster
        .host
        .with_world_mut(|world| world.answer_arp(address, hardware));
}

/// This host has the virtual IP.
fn hold_here(cluster: &Cluster) {
    cluster.host.with_world_mut(|world| {
        let addresses = ["172.30.0.11", VIRTUAL_IP];
        let addresses = addresses.map(|one| (one.parse().expect("an address"), 24));
        world.link("eth0", true, &addresses);
    });
}

#[tokio::test(start_paused = true)]
async fn two_masters_with_the_virtual_ip_are_a_problem() {
    let cluster = Cluster::healthy().await;
    answer(&cluster, VIRTUAL_IP, &[SECOND, THIRD]);
    let (problems, code) = cluster.problems().await;
    let says = format!("2 hosts hold the virtual IP {VIRTUAL_IP}: cp-2 ({SECOND}), cp-3 ({THIRD})");
    assert!(problems.starts_with(&says) && code == 2, "{problems}");
    assert!(problems.contains("PF9-VRRP"), "{problems}");
    let status = cluster.status().await;
    let shown = text::screen(&status);
    let says = format!("✗ {VIRTUAL_IP}: held by cp-2 ({SECOND}), cp-3 ({THIRD}); the API answers");
    assert!(shown.contains(&says), "{shown}");
    let metrics = metrics::text(&status);
    let says = "nodelet_cluster_virtual_ip_holders 2\n";
    assert!(metrics.contains(says), "{metrics}");
    // This host and another one.
    answer(&cluster, VIRTUAL_IP, &[SECOND]);
    hold_here(&cluster);
    let (problems, _) = cluster.problems().await;
    assert!(
        problems.contains("cp-1 (this host), cp-2 (02:00:00:00:00:12)"),
        "{problems}"
    );
}

/// Without a quorum, no API server tells the name of this host's node.
#[tokio::test(start_paused = true)]
async fn while_the_nodes_are_not_known_this_host_is_named_once() {
    let cluster = Cluster::healthy().await;
    answer(&cluster, VIRTUAL_IP, &[]);
    hold_here(&cluster);
    let shown = async || text::screen(&cluster.status().await);
    let named = shown().await;
    assert!(named.contains("held by cp-1, this host; "), "{named}");
    cluster
        .host
        .set_faults(FaultPlan::none().fail("nodes", "*"));
    let unnamed = shown().await;
    assert!(unnamed.contains(": held by this host; "), "{unnamed}");
}

#[tokio::test(start_paused = true)]
async fn a_host_with_the_virtual_ip_that_is_no_master_is_a_problem() {
    let cluster = Cluster::healthy().await;
    let says = "2 hosts hold the virtual IP 172.30.0.100: cp-2 (02:00:00:00:00:12), a host that is no master (02:00:00:00:00:99)";
    answer(&cluster, VIRTUAL_IP, &[SECOND, STRANGER]);
    let (problems, code) = cluster.problems().await;
    assert!(problems.starts_with(says) && code == 2, "{problems}");
    assert!(problems.contains("`ip address del`"), "{problems}");
    answer(&cluster, VIRTUAL_IP, &[SECOND]);
    assert_eq!(cluster.problems().await, (String::new(), 0));
    // The certificate of a master proves more than the hardware address of one of its links.
    answer(&cluster, VIRTUAL_IP, &[STRANGER]);
    assert_eq!(cluster.problems().await, (String::new(), 0));
    cluster.host.with_world_mut(|world| {
        world.endpoint_shows(&format!("{VIRTUAL_IP}:443"), b"of another host");
    });
    let says =
        "the virtual IP 172.30.0.100 is held by a host that is no master (02:00:00:00:00:99)";
    let (problems, code) = cluster.problems().await;
    assert!(problems.starts_with(says) && code == 2, "{problems}");
}

/// A host is only called a stranger if all masters are known.
#[tokio::test(start_paused = true)]
async fn if_a_master_does_not_answer_arp_the_only_holder_may_be_that_master() {
    let cluster = Cluster::healthy().await;
    answer(&cluster, "172.30.0.12", &[]);
    let found = cluster.status().await;
    assert_eq!(found.exit().code(), 0, "its certificate tells: {found:#?}");
    answer(&cluster, VIRTUAL_IP, &[STRANGER]);
    cluster.host.with_world_mut(|world| {
        world.endpoint_shows(&format!("{VIRTUAL_IP}:443"), b"of another host");
    });
    let status = cluster.status().await;
    assert_eq!(status.exit().code(), 1, "{status:#?}");
    let unknown = status.unknown.join("\n");
    assert!(
        unknown.contains("no master is known to have the hardware address 02:00:00:00:00:99"),
        "{unknown}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_router_that_answers_for_every_host_holds_nothing() {
    let cluster = Cluster::healthy().await;
    let router = "02:00:00:00:00:01";
    for (address, hardware) in [
        (VIRTUAL_IP, &[SECOND, router][..]),
        ("172.30.0.11", &[router]),
        ("172.30.0.12", &[SECOND, router]),
        ("172.30.0.13", &[THIRD, router]),
    ] {
        answer(&cluster, address, hardware);
    }
    assert_eq!(cluster.problems().await, (String::new(), 0));
}

#[tokio::test(start_paused = true)]
async fn without_the_right_to_ask_the_holders_are_not_known() {
    let cluster = Cluster::healthy().await;
    let faults = FaultPlan::none().fail("address_holders", "eth0");
    cluster.host.set_faults(faults);
    let status = cluster.status().await;
    let ip = status.virtual_ip.as_ref().expect("there is one");
    assert!(ip.holders.reason().is_some(), "{ip:?}");
    assert_eq!(status.exit().code(), 1);
    assert!(!metrics::text(&status).contains("virtual_ip_holders"));
}

/// IPv6 has no ARP. A cluster in which all is well must be able to say so.
#[tokio::test(start_paused = true)]
async fn the_holders_of_an_ipv6_address_are_no_missing_part() {
    let cluster = Cluster::healthy().await;
    let mut status = cluster.status().await;
    let ip = status.virtual_ip.as_mut().expect("there is one");
    ip.holders = Part::unknown("there is no ARP");
    let missing =
        |status: &_| crate::commands::cluster_status::problems::unknown(status).join("\n");
    assert!(missing(&status).contains("all hosts with the virtual IP"));
    let ip = status.virtual_ip.as_mut().expect("there is one");
    ip.address = "fd00::100".parse().expect("an address");
    assert_eq!(missing(&status), "");
}

#[tokio::test(start_paused = true)]
async fn the_holder_of_the_virtual_ip_is_found_by_its_certificate() {
    let cluster = Cluster::healthy().await;
    let holder = async || {
        cluster
            .status()
            .await
            .virtual_ip
            .expect("there is one")
            .holder
    };
    assert_eq!(holder().await, Part::Known("cp-2".to_owned()));
    cluster.host.with_world_mut(|world| {
        world.endpoint_shows(&format!("{VIRTUAL_IP}:443"), b"of another host");
    });
    assert!(holder().await.reason().is_some());
    cluster.host.with_world_mut(|world| {
        let addresses = ["172.30.0.11", VIRTUAL_IP];
        let addresses = addresses.map(|one| (one.parse().expect("an address"), 24));
        world.link("eth0", true, &addresses);
    });
    assert_eq!(holder().await, Part::Known("cp-1".to_owned()));
}

/// A packet filter on the holder drops what comes from outside, and ARP goes on.
#[tokio::test(start_paused = true)]
async fn a_holder_that_does_not_answer_is_named_by_arp() {
    let cluster = Cluster::healthy().await;
    let silent = format!("https://{VIRTUAL_IP}*");
    cluster
        .host
        .set_faults(FaultPlan::none().fail("https_get", &silent));
    let (problems, code) = cluster.problems().await;
    assert_eq!(code, 2);
    for says in [
        "does not answer",
        "on cp-2, which has the address",
        "`systemctl stop keepalived` on it",
    ] {
        assert!(problems.contains(says), "{says}: {problems}");
    }
    let shown = text::screen(&cluster.status().await);
    let says = format!("✗ {VIRTUAL_IP}: held by cp-2 ({SECOND}); the API does not answer");
    assert!(shown.contains(&says), "{shown}");
}
