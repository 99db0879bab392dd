//! The repair of each fault is predicted, and takes no longer than the page of figures says.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use behaviour::{Fidelity, Mismatch, repository};
use lab_suites::{
    DEPENDENCY_FAULTS, Fault, Image, Master, Node, SCALED, Watch, no_repair, predicted_repair,
    restarted,
};
use serde_json::Value;

use crate::figures::Figures;

const MENDED: Duration = Duration::from_secs(150);
/// Half of the time between two passes: a fault that is repaired by then was repaired because of an event.
const SOON: Duration = Duration::from_secs(30);
/// The target for faults that cause an event of the kernel or the API server.
const WATCHED: Duration = Duration::from_secs(5);
/// The target for programs that hang.
const HUNG: Duration = Duration::from_secs(45);
/// Nothing is restarted after these: systemd restarts docker, keepalived sets its address again, or the next pass writes the file
/// again.
const WITHOUT_REPAIR: &[&str] = &[
    "docker-killed",
    "status-deleted",
    "status-garbage",
    "virtual-ip-deleted",
];
/// Nor is anything restarted on a worker after this: its masters put the label back.
const WITHOUT_REPAIR_ON_A_WORKER: &[&str] = &["label-removed"];
/// The images and containers of a docker that does not answer or does not run are known after apply, and all other steps are predicted.
pub(crate) const SILENT: &[&str] = &["docker-hung", "docker-stopped"];
/// Faults that are newer than the figures of the page. The next run that passes gives them rows.
const NEWER: &[&str] = &["containerd-hung", "keepalived-hung", "bridge-down"];

#[test]
#[ignore = "cargo xtask soak runs it"]
fn every_repair_is_predicted() {
    let master = Master::create("repairs", Image::Bare, true);
    master.configure(SCALED);
    master.apply(&[]).exits(0);
    master.load_toolbox();
    let watch = Watch::start(&master);
    let mut figures = Figures::default();
    for fault in Fault::all() {
        take_repair(&master, &watch, fault, &mut figures);
    }
    figures.publish(
        "Repairs",
        "A fault is caused on a master with a virtual IP while nodeletd is paused; its repair is predicted (`nodelet diff --repair`), then \
         made by nodeletd,\nand the two are compared step by step. If a host recovers by itself, no repair may be predicted and none made: such a \
         line has no steps and no percentage. Nor has `containerd-hung`: its repair continues the processes, which is no step.\n`docker-hung` and `docker-stopped` are left out: what a docker has that does not answer or does not run is known after apply. It is asserted\n\
         for both that every other step is predicted. Written and asserted by `cargo xtask soak --write every_repair_is_predicted`.",
    );
}

/// Causes a fault, and compares its repair with its prediction. The prediction of some repairs is not complete, and they get no row.
pub(crate) fn take_repair(node: &Node, watch: &Watch<'_>, fault: &Fault, figures: &mut Figures) {
    let is_healed_by_masters = node.is_worker() && WITHOUT_REPAIR_ON_A_WORKER.contains(&fault.name);
    if is_healed_by_masters || WITHOUT_REPAIR.contains(&fault.name) {
        no_repair(node, watch, fault);
        figures.take(fault.name, &Fidelity::of(&[], &[]));
        return;
    }
    let fidelity = predicted_repair(node, watch, fault);
    if SILENT.contains(&fault.name) {
        let others = |miss: &&Mismatch| !miss.waits_for_runtime();
        for miss in fidelity.misses.iter().filter(others) {
            figures.reject(&format!("{}: {miss}", fault.name));
        }
        return;
    }
    figures.take(fault.name, &fidelity);
}

/// A fault without a row would be a repair that no soak compares with its prediction.
#[test]
fn the_page_has_a_row_for_each_fault() {
    let without_row = [NEWER, SILENT].concat();
    has_a_row_for_each("Repairs", Fault::all(), &without_row);
}

/// Asserts that this section of the page has rows for these faults and no others, and names each fault without a row.
#[track_caller]
pub(crate) fn has_a_row_for_each(
    title: &str,
    faults: impl Iterator<Item = &'static Fault>,
    without_row: &[&str],
) {
    let page = fs::read_to_string(repository().join("docs/fidelity.md"));
    let page = page.expect("the page is checked in");
    let heading = format!("\n## {title}\n");
    let (_, section) = page.split_once(&heading).expect("the section");
    let section = section.split("\n## ").next().unwrap_or_default();
    let names = section
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" |").next());
    let rows: Vec<&str> = names.filter(|name| *name != "situation").collect();
    let faults: Vec<&str> = faults
        .map(|fault| fault.name)
        .filter(|name| !without_row.contains(name))
        .collect();
    assert_eq!(rows, faults, "{title}");
    for name in without_row {
        let named = format!("`{name}`");
        assert!(
            section.contains(&named),
            "{title}: {name} is left out in silence"
        );
    }
}

/// What a repair restarts after each trial, as in the suite `repair`; after a boot everything starts by itself.
const RESTARTS: &[(&str, &str)] = &[
    (
        "var-full",
        "kubelet api-ready node-role kubernetes-ready drain",
    ),
    (
        "nodeletd-killed",
        "etcd etcd-vote api-ready node-role kubernetes-ready drain",
    ),
    (
        "clock-ahead",
        "kubelet api-ready node-role kubernetes-ready drain",
    ),
    (
        "clock-behind",
        "kubelet api-ready node-role kubernetes-ready drain",
    ),
];

/// The same on a worker, where the container that is removed is another one.
const RESTARTS_ON_A_WORKER: &[(&str, &str)] =
    &[("nodeletd-killed", "kube-proxy kubernetes-ready drain")];

/// What else may be restarted on one of several masters: a member of etcd ends if it cannot write down what the others have written.
const BESIDE_OTHERS: &[(&str, &str)] = &[("var-full", "etcd etcd-vote ")];

/// A phase that waits without success takes minutes.
const IN_VAIN: Duration = Duration::from_secs(600);

/// Phases with rules and routes, which a boot takes away. Their repair restarts nothing.
const OF_A_BOOT: [&str; 3] = ["pod-network", "vrrp-firewall", "node-routes"];

/// All runs on the host.
fn all_runs(node: &Node) -> Vec<Value> {
    let history = ["history", "--json", "--last", "1000"];
    let mut history: Value = node.nodelet(&history).exits(0).json();
    let runs = history["runs"].take();
    runs.as_array().expect("a list").clone()
}

/// The phases that runs have changed, but for the first ones.
fn changed_since(node: &Node, runs: usize) -> BTreeSet<String> {
    let new = all_runs(node).into_iter().skip(runs);
    let phases = new.flat_map(|run| run["phases"].as_object().cloned().unwrap_or_default());
    phases.map(|(name, _)| name).collect()
}

#[test]
#[ignore = "cargo xtask soak runs it"]
fn faults_of_dependencies_are_survived_without_other_changes() {
    let master = Master::create("trials", Image::Bare, false);
    master.configure(SCALED);
    master.apply(&[]).exits(0);
    let watch = Watch::start(&master);
    let mut wrong = Vec::new();
    for fault in DEPENDENCY_FAULTS {
        wrong.extend(survived(&master, &watch, fault, |_| true, false));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Causes a fault of what nodeletd depends on. Gives what is wrong: something was restarted that the fault did not break. The host has
/// only some of the phases of [`RESTARTS`]. It may be one of several masters.
pub(crate) fn survived(
    node: &Node,
    watch: &Watch<'_>,
    fault: &Fault,
    has_phase: impl Fn(&str) -> bool,
    beside_others: bool,
) -> Option<String> {
    let vip = node.vip();
    fault.prepare(node.host(), &vip).expect("it can happen");
    watch.wait_until_healthy(MENDED);
    watch.record();
    let runs = all_runs(node).len();
    fault.cause(node.host(), &vip).expect("it happens");
    watch.until(fault.name, MENDED, || {
        fault.is_whole(node.host(), &vip).unwrap_or(false)
    });
    watch.until("the repair is over", MENDED, || watch.is_idle());
    // Clearing the trial breaks something again, so the events are read before. With a wrong clock, for example, conditions do
    // not hold before it is cleared.
    let recorded = match fault.boots {
        // A reboot ends the recorder, too.
        true => Vec::new(),
        false => watch.recorded(),
    };
    fault.clear(node.host(), &vip).expect("it is cleared");
    watch.wait_until_healthy(MENDED);
    if fault.boots {
        let changed = changed_since(node, runs);
        println!("{:<24} {changed:?}", fault.name);
        let others = changed
            .iter()
            .any(|phase| !OF_A_BOOT.contains(&phase.as_str()));
        let history = || node.sh("nodelet history --last 4");
        return others.then(|| format!("{}: something was restarted:\n{}", fault.name, history()));
    }
    let restarted = restarted(&recorded).join(" ");
    println!("{:<24} {restarted}", fault.name);
    let of = |list: &[(&'static str, &'static str)]| {
        let its = list.iter().find(|(name, _)| *name == fault.name);
        its.map(|(_, phases)| *phases)
    };
    let on_a_worker = of(RESTARTS_ON_A_WORKER).filter(|_| node.is_worker());
    let expected: Option<Vec<&str>> = on_a_worker.or(of(RESTARTS)).map(|phases| {
        let its = phases.split(' ').filter(|phase| has_phase(phase));
        its.collect()
    });
    let expected = expected.map(|phases| phases.join(" "));
    let more = of(BESIDE_OTHERS).filter(|_| beside_others);
    let counting = more.and_then(|more| restarted.strip_prefix(more));
    (expected.as_deref() != Some(counting.unwrap_or(&restarted))).then(|| {
        format!(
            "{}: restarted `{restarted}`, expected {expected:?}",
            fault.name
        )
    })
}

/// kubelet ends an API server that hangs. But kubelet is restarted here, too, and a kubelet that starts while the API server hangs
/// never probes it.
#[test]
#[ignore = "cargo xtask soak runs it"]
fn an_api_server_that_hangs_beside_a_stopped_docker_is_ended() {
    const PROCESS: &str = "pgrep -x kube-apiserver || true";
    let master = Master::create("two-faults", Image::Bare, false);
    master.configure(SCALED);
    master.apply(&[]).exits(0);
    let watch = Watch::start(&master);
    watch.wait_until_healthy(MENDED);
    // An API server that was just started has more time to answer.
    let old = "test \"$(ps -o etimes= -C kube-apiserver)\" -gt 300";
    master.wait_for("an API server that has been up", old, IN_VAIN);
    let hung = master.sh(PROCESS);
    master.sh("pkill -STOP -x kube-apiserver; systemctl stop docker.socket docker");
    let began = Instant::now();
    watch.until("another API server", IN_VAIN, || {
        let runs = master.sh(PROCESS);
        !runs.is_empty() && runs != hung
    });
    watch.wait_until_healthy(MENDED);
    println!("{:>5.1} s", began.elapsed().as_secs_f64());
    let history = master.sh("nodelet history --json --last 100");
    assert!(!history.contains("\"clean\""), "{history}");
}

/// Faults, and how long their repair may take with a minute between passes.
const LIMITS: &[(&str, Duration)] = &[
    ("docker-killed", SOON),
    ("docker-stopped", SOON),
    ("docker-hung", HUNG),
    ("etcd-removed", SOON),
    ("etcd-hung", HUNG),
    ("api-hung", HUNG),
    ("kubelet-stopped", SOON),
    ("proxy-removed", SOON),
    ("cni-deleted", SOON),
    ("bridge-deleted", WATCHED),
    ("bridge-address-deleted", WATCHED),
    ("bridge-route-deleted", WATCHED),
    ("label-removed", WATCHED),
    ("kube-env-deleted", SOON),
    ("keepalived-stopped", SOON),
];

/// At the usual interval of a minute only events make a repair quick.
#[test]
#[ignore = "cargo xtask soak runs it"]
fn repairs_take_seconds_at_the_usual_interval() {
    let master = Master::create("repair-times", Image::Bare, true);
    master.configure(&[("KUBE_SERVICE_STATE", "true")]);
    master.apply(&[]).exits(0);
    master.load_toolbox();
    let watch = Watch::start(&master);
    let vip = master.vip();
    let mut late = Vec::new();
    for (name, limit) in LIMITS {
        let fault = Fault::named(name).expect("it is a fault");
        fault.prepare(master.host(), &vip).expect("it can happen");
        watch.wait_until_healthy(MENDED);
        let took = fault
            .repaired_within(master.host(), &vip)
            .unwrap_or_else(|error| panic!("{error:#}\n{}", watch.journal()));
        println!("{name:<24} {:>5.1} s", took.as_secs_f64());
        if took > *limit {
            let (took, limit) = (took.as_secs_f64(), limit.as_secs());
            late.push(format!(
                "{name}: repaired after {took:.1} s, not within {limit} s"
            ));
        }
    }
    watch.wait_until_healthy(MENDED);
    assert!(late.is_empty(), "{}", late.join("\n"));
}
