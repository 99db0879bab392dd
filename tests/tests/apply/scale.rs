//! A host with many resources of other owners: the role is applied, checked and removed as on any other host, touches nothing of
//! theirs, and asks the host no more than on a host with nothing else.
//!
//! The test counts calls and measures no time: code that asks about each of ten thousand resources makes too many calls.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use behaviour::{Bringup, block_on, foreign_container};
use engine::exec::{FailureCounts, PhaseHealth, Recording, Runner, unmet};
use engine::facts::{FactQuery, gather_with};
use engine::host::fake::FakeHost;
use engine::host::{ContainerConfig, RestartPolicy, Transport, VirtualService};
use engine::model::Outcome;
use engine::resource::MaskedSecrets;

const RULES: usize = 20_000;
const ADDRESSES: usize = 1_000;
const CONTAINERS: usize = 10_000;
const PODS: usize = 250;

fn address(number: usize) -> Ipv4Addr {
    let number = u32::try_from(number).expect("a small number");
    Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + number)
}

fn services(port: u16) -> impl Iterator<Item = VirtualService> {
    (0..ADDRESSES).map(move |number| VirtualService {
        transport: Transport::Tcp,
        at: SocketAddr::new(address(number).into(), port),
    })
}

/// A link with a thousand addresses, and virtual services of IPVS on them.
fn balance(host: &FakeHost, link: &str, port: u16) {
    host.with_world_mut(|world| {
        let held: Vec<(IpAddr, u8)> = (0..ADDRESSES).map(|n| (address(n).into(), 32)).collect();
        world.link(link, true, &held);
        for service in services(port) {
            world.balance(&service);
        }
    });
}

/// Firewall rules of another owner, as of a blocklist.
fn block(host: &FakeHost) {
    host.with_world_mut(|world| {
        let rule = |n: usize| {
            format!(
                "-s {}/32 -m comment --comment \"blocked -j KUBE-X\" -j DROP",
                address(n)
            )
        };
        let half = RULES / 2;
        for (from, chain) in [(0, "FORWARD"), (half, "BLOCKLIST")] {
            let rules = (from..from + half).map(rule).collect();
            world.firewall_rules("iptables", "filter", chain, rules);
        }
    });
}

/// Containers of another owner.
fn add_foreign_containers(host: &FakeHost) {
    host.with_world_mut(|world| {
        for number in 0..CONTAINERS {
            world.container(ContainerConfig {
                restart: RestartPolicy::UnlessStopped,
                labels: BTreeMap::from([("team".to_owned(), format!("{}", number % 7))]),
                ..foreign_container(&format!("theirs-{number}"))
            });
        }
    });
}

type Counts = BTreeMap<&'static str, usize>;

/// The calls that `work` makes, by name.
fn calls<T>(host: &FakeHost, work: impl FnOnce() -> T) -> (Counts, T) {
    host.clear_journal();
    let done = work();
    let mut counts = Counts::new();
    for call in host.journal() {
        *counts.entry(call.name).or_default() += 1;
    }
    (counts, done)
}

/// A status pass: what nodeletd asks the host every minute.
fn pass(bringup: &Bringup, host: &FakeHost) -> Vec<PhaseHealth> {
    block_on(async {
        let usual = FactQuery::for_a_plan();
        let facts = gather_with(host, &usual)
            .await
            .expect("the host has a name");
        let asked = usual.and_requirements(unmet(&bringup.plan, &facts.met_before));
        assert_eq!(asked, FactQuery::for_a_plan(), "all was met when it came");
        let ignored_events = Recording::default();
        let runner = Runner::new(&bringup.plan, host, &facts, &MaskedSecrets, &ignored_events);
        let failed_preconditions = runner.failed_preconditions().await.expect("the host tells");
        assert!(failed_preconditions.is_empty(), "{failed_preconditions:?}");
        let health = runner
            .check_again(Duration::ZERO, &FailureCounts::default())
            .await;
        assert!(runner.due().await.problems.is_empty());
        health
    })
}

/// Asserts that each call is made hardly more often on a host with many resources than on one with nothing else.
fn assert_few_more_calls(what: &str, much: &Counts, little: &Counts) {
    for (name, count) in much {
        let usual = little.get(name).copied().unwrap_or(0);
        assert!(
            *count <= usual + 2,
            "{what}: {count} times `{name}`, and {usual} times on a host with nothing else"
        );
    }
}

fn verbs(bringup: &Bringup, host: &FakeHost) -> Vec<(&'static str, Counts)> {
    let before = host.snapshot();
    let mut seen = Vec::new();
    let (counts, plan) = calls(host, || bringup.predict(host));
    assert_eq!(plan.outcome, Outcome::Predicted, "{}", plan.text());
    seen.push(("plan", counts));
    let (counts, apply) = calls(host, || bringup.apply(host));
    assert_eq!(apply.outcome, Outcome::Converged, "{}", apply.text());
    seen.push(("apply", counts));
    let (counts, health) = calls(host, || pass(bringup, host));
    assert!(
        health.iter().all(PhaseHealth::all_conditions_hold),
        "{health:#?}"
    );
    seen.push(("pass", counts));
    let (counts, again) = calls(host, || bringup.apply(host));
    assert_eq!(again.changes(), [""; 0]);
    seen.push(("a second apply", counts));
    let (counts, clean) = calls(host, || Bringup::clean(host, false));
    assert_eq!(clean.outcome, Outcome::Cleaned, "{}", clean.text());
    seen.push(("clean", counts));
    let left = bringup.not_cleaned(&before, host, false);
    assert_eq!(left, [""; 0]);
    seen
}

#[test]
fn many_foreign_resources_cost_no_extra_calls_and_stay() {
    let bringup = Bringup::of("cp-1");
    let host = |settled: bool| {
        let host = bringup
            .bare_host()
            .with_kubernetes(|rules| rules.leaves_traces = true);
        if settled {
            block(&host);
            add_foreign_containers(&host);
            balance(&host, "lb0", 80);
        }
        host
    };
    let (much, little) = (host(true), host(false));
    let of_others = much.with_world(|world| world.firewall_count());
    assert_eq!(of_others, RULES);
    let seen = verbs(&bringup, &much);
    for ((what, counts), (_, usual)) in seen.iter().zip(verbs(&bringup, &little)) {
        assert_few_more_calls(what, counts, &usual);
    }
    assert_eq!(much.with_world(|world| world.firewall_count()), RULES);
    let runs = (0..CONTAINERS)
        .all(|n| much.with_world(|world| world.container_runs(&format!("theirs-{n}"))));
    assert!(runs, "the containers of others go on");
}

/// With many Services kube-proxy itself has many virtual services, too.
#[test]
fn a_thousand_virtual_services_go_with_kube_proxy_and_those_of_others_stay() {
    let bringup = Bringup::of("cp-2-ipvs");
    let host = bringup.bare_host();
    let before = host.snapshot();
    let apply = bringup.apply(&host);
    assert_eq!(apply.outcome, Outcome::Converged, "{}", apply.text());
    block(&host);
    // kube-proxy has ended by itself, so that the fake one does not restore its rules.
    host.with_world_mut(|world| world.remove_container("proxy"));
    balance(&host, "kube-ipvs0", 443);
    // The API's own Service, which exists from the beginning.
    host.with_world_mut(|world| {
        let mut held: Vec<(IpAddr, u8)> = (0..ADDRESSES).map(|n| (address(n).into(), 32)).collect();
        held.push(([10, 21, 0, 1].into(), 32));
        world.link("kube-ipvs0", true, &held);
    });
    let elsewhere: SocketAddr = "203.0.113.1:80".parse().expect("an address");
    let theirs = VirtualService {
        transport: Transport::Tcp,
        at: elsewhere,
    };
    host.with_world_mut(|world| world.balance(&theirs));
    let (counts, clean) = calls(&host, || Bringup::clean(&host, false));
    assert_eq!(clean.outcome, Outcome::Cleaned, "{}", clean.text());
    let left = bringup.not_cleaned(&before, &host, false).into_iter();
    let left: Vec<String> = left
        .filter(|line| !line.contains("BLOCKLIST") && !line.contains("filter FORWARD"))
        .filter(|line| !line.contains("module ip_vs"))
        .collect();
    assert_eq!(left, ["+ virtual service TCP 203.0.113.1:80: balanced"]);
    let removals = counts["remove_virtual_service"];
    assert!(
        (ADDRESSES..ADDRESSES + 10).contains(&removals),
        "{removals}"
    );
    let lists = counts.get("virtual_services").copied().unwrap_or(0);
    assert!(lists < 10, "{lists} lists of all virtual services");
}

/// Pods of the cluster's tenants, which kubelet labels like those of the control plane.
#[test]
fn a_pass_makes_no_more_requests_with_many_tenant_pods() {
    let bringup = Bringup::of("cp-1");
    let host = bringup.bare_host();
    let apply = bringup.apply(&host);
    assert_eq!(apply.outcome, Outcome::Converged, "{}", apply.text());
    let (before, health) = calls(&host, || pass(&bringup, &host));
    assert!(
        health.iter().all(PhaseHealth::all_conditions_hold),
        "{health:#?}"
    );
    host.with_world_mut(|world| {
        for number in 0..PODS {
            world.tenants_pod(&format!("tenant-{number}"), "app", "example/app:1");
        }
    });
    let all = host.with_world(|world| world.container_names().len());
    assert!(all > 2 * PODS, "{all} containers");
    let (after, health) = calls(&host, || pass(&bringup, &host));
    assert!(
        health.iter().all(PhaseHealth::all_conditions_hold),
        "{health:#?}"
    );
    assert_eq!(after, before);
}

/// A pass lists the containers once for all checks, inspects only our containers, and runs three programs at most.
#[test]
fn a_pass_makes_each_expensive_request_once() {
    let bringup = Bringup::of("cp-1");
    let host = bringup.bare_host();
    let apply = bringup.apply(&host);
    assert_eq!(apply.outcome, Outcome::Converged, "{}", apply.text());
    let ours: Vec<String> = host.with_world(|world| {
        let all = world.container_names();
        all.into_iter()
            .filter(|name| world.container_runs(name))
            .collect()
    });
    let (counts, health) = calls(&host, || pass(&bringup, &host));
    assert!(
        health.iter().all(PhaseHealth::all_conditions_hold),
        "{health:#?}"
    );
    let count = |name: &str| counts.get(name).copied().unwrap_or(0);
    assert_eq!(count("containers"), 1, "{counts:#?}");
    // Each of our containers may be inspected for a check, and for a step that has to be as planned.
    assert!(
        count("container") <= 2 * ours.len(),
        "{ours:?}: {counts:#?}"
    );
    let inspected = host.journal();
    let mut inspected = inspected.iter().filter(|call| call.name == "container");
    assert!(
        inspected.all(|call| ours.contains(&call.argument)),
        "{ours:?}"
    );
    // The live host asks dpkg once for all packages.
    let programs = count("run") + usize::from(count("package_version") > 0);
    assert!(programs <= 3, "{:#?}", host.journal());
    for dear in ["virtual_services", "package_file"] {
        assert_eq!(count(dear), 0, "{dear}");
    }
}
