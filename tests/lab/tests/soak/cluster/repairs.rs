//! The list of faults on a worker and on one of three masters: each repair is predicted, and nothing is restarted that is whole.

use std::collections::BTreeSet;

use lab_suites::{DEPENDENCY_FAULTS, FAULTS, Fault, Node, Watch, predicted_repair};

use super::subject::{Kind, Subject};
use crate::figures::Figures;
use crate::repairs::{survived, take_repair};

/// Only the holder of the virtual IP can have this fault.
const OF_HOLDER: &str = "virtual-ip-deleted";
/// A worker has one kubeconfig for the API. Without it, a prediction cannot ask how the node is, so this is known after apply.
const WITHOUT_KUBECONFIG: &str = "kubeconfig-truncated";

#[test]
#[ignore = "cargo xtask soak runs it"]
fn faults_of_a_worker_are_repaired_as_predicted() {
    let worker = Subject::joined(Kind::Worker, "faults-worker");
    are_repaired(
        &worker,
        |fault| !fault.master && !fault.vip,
        "Repairs of a worker",
    );
}

#[test]
#[ignore = "cargo xtask soak runs it"]
fn faults_of_one_of_three_masters_are_repaired_as_predicted() {
    let master = Subject::joined(Kind::OneOfThree, "faults-master");
    are_repaired(&master, |_| true, "Repairs of one of three masters");
}

fn are_repaired(subject: &Subject, happens: impl Fn(&Fault) -> bool, title: &str) {
    let watch = Watch::start(subject);
    let mut figures = Figures::default();
    for fault in FAULTS.iter().filter(|fault| happens(fault)) {
        if fault.name == OF_HOLDER {
            subject.take_virtual_ip();
        }
        let first = subject.first().host();
        fault
            .prepare_cluster(first, subject.host())
            .expect("it can happen");
        if subject.is_worker() && fault.name == WITHOUT_KUBECONFIG {
            let fidelity = predicted_repair(subject, &watch, fault);
            for miss in fidelity.misses.iter().filter(|miss| !miss.is_left_open()) {
                figures.reject(&format!("{}: {miss}", fault.name));
            }
            continue;
        }
        take_repair(subject, &watch, fault, &mut figures);
    }
    figures.publish(
        title,
        "As above, on a host that has joined a cluster. A worker without its kubeconfig has no row: what the masters know is known after apply. The faults of what nodeletd depends on are not among them: the soaks \
         `dependencies_of_a_worker` and\n`dependencies_of_one_of_three_masters` assert what is restarted after these. Written and asserted by\n\
         `cargo xtask soak --write repaired_as_predicted`.",
    );
}

#[test]
#[ignore = "cargo xtask soak runs it"]
fn dependencies_of_a_worker_fail_without_other_changes() {
    let worker = Subject::joined(Kind::Worker, "trials-worker");
    are_survived(&worker, |fault| !fault.master && !fault.vip);
}

#[test]
#[ignore = "cargo xtask soak runs it"]
fn dependencies_of_one_of_three_masters_fail_without_other_changes() {
    let master = Subject::joined(Kind::OneOfThree, "trials-master");
    are_survived(&master, |_| true);
}

fn are_survived(subject: &Subject, happens: impl Fn(&Fault) -> bool) {
    let phases = phases_of(subject);
    let watch = Watch::start(subject);
    let faults = DEPENDENCY_FAULTS.iter().filter(|fault| happens(fault));
    let wrong: Vec<String> = faults
        .filter_map(|fault| {
            let has = |phase: &str| phases.contains(phase);
            survived(subject, &watch, fault, has, !subject.is_worker())
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The phases that the host has.
fn phases_of(node: &Node) -> BTreeSet<String> {
    let planned: serde_json::Value = node.nodelet(&["plan", "--json"]).exits(0).json();
    let phases = planned["plan"]["phases"].as_array().expect("a list");
    let has = phases.iter().filter(|phase| phase["skipped"].is_null());
    let names = has.filter_map(|phase| phase["name"].as_str());
    names.map(str::to_owned).collect()
}
