//! The list of faults on a worker and on one of three masters: each repair is predicted, and nothing is restarted that is whole.

use std::collections::BTreeSet;
use std::time::Duration;

use lab_suites::{
    DEPENDENCY_FAULTS, FAULTS, Fault, Node, Watch, poll, predicted_repair, restarted,
};

use super::subject::{Kind, Subject};
use crate::figures::Figures;
use crate::repairs::{SILENT, has_a_row_for_each, survived, take_repair};

/// Only the holder of the virtual IP can have this fault.
const OF_HOLDER: &str = "virtual-ip-deleted";
/// A worker has one kubeconfig for the API. Without it, a prediction cannot ask how the node is, so this is known after apply.
const WITHOUT_KUBECONFIG: &str = "kubeconfig-truncated";
/// The masters sign another certificate. A prediction asks them for none, so it does not know either which phases read another one.
const TO_BE_SIGNED: &str = "certificate-expired";
/// What is restarted on a worker when the masters have signed it.
const READERS: [&str; 6] = [
    "certs",
    "kubeconfigs",
    "kubelet",
    "node-role",
    "kubernetes-ready",
    "drain",
];
/// On a worker an operator repairs this one.
const LEFT_TO_AN_OPERATOR: &str = "node-deleted";
/// Time limit of a repair, and until nodeletd has seen a fault.
const REPAIRED: Duration = Duration::from_secs(300);
/// nodelet's exit code while another command works on the host.
const OCCUPIED: i32 = 75;

const OF_A_WORKER: &str = "Repairs of a worker";
const OF_ONE_OF_THREE: &str = "Repairs of one of three masters";
/// Faults that are newer than the figures of these sections. The next run that passes gives them rows.
const NEWER_ON_A_WORKER: &[&str] = &[];
const NEWER_ON_ONE_OF_THREE: &[&str] = &[];

/// A worker has no control plane and no virtual IP.
fn happens_on_a_worker(fault: &Fault) -> bool {
    !fault.master && !fault.vip
}

#[test]
#[ignore = "cargo xtask soak runs it"]
fn faults_of_a_worker_are_repaired_as_predicted() {
    let worker = Subject::joined(Kind::Worker, "faults-worker");
    are_repaired(&worker, happens_on_a_worker, OF_A_WORKER);
}

#[test]
#[ignore = "cargo xtask soak runs it"]
fn faults_of_one_of_three_masters_are_repaired_as_predicted() {
    let master = Subject::joined(Kind::OneOfThree, "faults-master");
    are_repaired(&master, |_| true, OF_ONE_OF_THREE);
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
        match fault.name {
            WITHOUT_KUBECONFIG | TO_BE_SIGNED if subject.is_worker() => {
                leaves_open(subject, &watch, fault, &mut figures);
            }
            LEFT_TO_AN_OPERATOR if subject.is_worker() => {
                waits_for_an_operator(subject, &watch, fault);
            }
            _ => take_repair(subject, &watch, fault, &mut figures),
        }
    }
    figures.publish(
        title,
        "As above, also without `docker-hung` and `docker-stopped`, on a host that has joined a cluster. On a worker, `kubeconfig-truncated` and `certificate-expired` have no rows: what the \
         masters know or sign is\nknown after apply. Nor has `node-deleted`: nothing is restarted until an operator runs `nodelet repair kubelet`. The faults of what nodeletd depends on are not among them: the soaks \
         `dependencies_of_a_worker` and\n`dependencies_of_one_of_three_masters` assert what is restarted after these. Written and asserted by\n\
         `cargo xtask soak --write repaired_as_predicted`.",
    );
}

/// What depends on the masters is left open, and all else is predicted.
fn leaves_open(worker: &Subject, watch: &Watch<'_>, fault: &Fault, figures: &mut Figures) {
    let fidelity = predicted_repair(worker, watch, fault);
    let is_to_be_signed = fault.name == TO_BE_SIGNED;
    let wrong = fidelity.misses.iter().filter(|miss| {
        let is_of_reader = is_to_be_signed && miss.predicted.is_none();
        !miss.is_left_open() && !is_of_reader
    });
    for miss in wrong {
        figures.reject(&format!("{}: {miss}", fault.name));
    }
    if is_to_be_signed {
        assert_eq!(restarted(&watch.recorded()), READERS);
    }
}

/// The node of a worker may have been deleted on purpose: nodeletd names the command that registers it again, and restarts nothing.
fn waits_for_an_operator(worker: &Subject, watch: &Watch<'_>, fault: &Fault) {
    let vip = worker.vip();
    fault.prepare(worker.host(), &vip).expect("it can happen");
    watch.wait_until_healthy(REPAIRED);
    watch.record();
    worker.cause(fault);
    let command = fault.operator_on_worker;
    watch.until("nodeletd names the next step", REPAIRED, || {
        let view = watch.view().unwrap_or_default();
        view["phases"].to_string().contains(command)
    });
    watch.passes(2, REPAIRED);
    let predicted = worker.nodelet(&["diff", "--repair", "--json"]);
    assert!(
        predicted.events("phase_started").is_empty(),
        "{}",
        predicted.text()
    );
    assert_eq!(restarted(&watch.recorded()), [""; 0]);
    let is_whole = fault.is_whole(worker.host(), &vip);
    assert!(!is_whole.expect("it answers"), "the node is back");

    let words: Vec<&str> = command.split(' ').skip(1).collect();
    // nodeletd may run a command at the moment.
    let repaired = poll(REPAIRED, || {
        let run = worker.nodelet(&words);
        (!run.exited(OCCUPIED)).then_some(run)
    });
    let _ = repaired.expect("no other command works").exits(0);
    watch.until(fault.name, REPAIRED, || {
        fault.is_whole(worker.host(), &vip).unwrap_or(false)
    });
    watch.wait_until_healthy(REPAIRED);
}

/// A fault without a row would be a repair that no soak compares with its prediction.
#[test]
fn the_page_has_a_row_for_each_fault_of_a_joined_host() {
    let of_a_worker = FAULTS.iter().filter(|fault| happens_on_a_worker(fault));
    let open = [WITHOUT_KUBECONFIG, TO_BE_SIGNED, LEFT_TO_AN_OPERATOR];
    let without_row = [NEWER_ON_A_WORKER, SILENT, &open].concat();
    has_a_row_for_each(OF_A_WORKER, of_a_worker, &without_row);
    let without_row = [NEWER_ON_ONE_OF_THREE, SILENT].concat();
    has_a_row_for_each(OF_ONE_OF_THREE, FAULTS.iter(), &without_row);
}

#[test]
fn an_operator_repairs_only_what_the_soak_leaves_to_one() {
    let left = Fault::all().filter(|fault| !fault.operator_on_worker.is_empty());
    let names: Vec<&str> = left.map(|fault| fault.name).collect();
    assert_eq!(names, [LEFT_TO_AN_OPERATOR]);
}

#[test]
#[ignore = "cargo xtask soak runs it"]
fn dependencies_of_a_worker_fail_without_other_changes() {
    let worker = Subject::joined(Kind::Worker, "trials-worker");
    are_survived(&worker, happens_on_a_worker);
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
