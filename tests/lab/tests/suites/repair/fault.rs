//! nodeletd repairs each fault without an operator, and touches nothing that the fault did not break.

use std::time::{Duration, Instant};

use lab_suites::{
    CALM, FAULTS, Fault, Master, RunningInstances, SCALED, Watch, ready_with_vip, restarted, shared,
};

/// Time limit of a repair.
const MENDED: Duration = Duration::from_secs(300);
/// Faults after which the first look may find a healthy host: docker's client waits at the socket until docker is back or goes on, and
/// keepalived sets its address again within moments.
const WAITED_OUT: &[&str] = &["docker-killed", "docker-hung", "virtual-ip-deleted"];

/// What a repair restarts after each fault, in order; empty if the host recovers by itself or a pass repairs it.
const RESTARTS: &[(&str, &str)] = &[
    // systemd starts dockerd again, and its containers never ended.
    ("docker-killed", ""),
    (
        "docker-stopped",
        "configure-docker docker etcd-image images controller-images etcd etcd-vote control-plane kubelet api-ready node-role kube-proxy-image kube-proxy kubernetes-ready drain",
    ),
    // They are woken before the checks of the repair, which then find nothing to restart.
    ("docker-hung", ""),
    ("containerd-hung", ""),
    (
        "daemon-json-edited",
        "configure-docker docker etcd-image images controller-images etcd etcd-vote control-plane kubelet api-ready node-role kube-proxy-image kube-proxy kubernetes-ready drain",
    ),
    (
        "etcd-removed",
        "etcd etcd-vote api-ready node-role kubernetes-ready drain",
    ),
    (
        "etcd-hung",
        "etcd etcd-vote api-ready node-role kubernetes-ready drain",
    ),
    (
        "kubelet-stopped",
        "kubelet api-ready node-role kubernetes-ready drain",
    ),
    (
        "kubelet-config-edited",
        "kubelet api-ready node-role kubernetes-ready drain",
    ),
    (
        "manifest-deleted",
        "control-plane api-ready node-role kubernetes-ready drain",
    ),
    // kubelet's own probe ends the API server; the phase waits for the next one.
    ("api-hung", "api-ready kubernetes-ready drain"),
    ("proxy-removed", "kube-proxy kubernetes-ready drain"),
    ("rules-flushed", "kube-proxy kubernetes-ready drain"),
    ("jump-deleted", "kube-proxy kubernetes-ready drain"),
    (
        "docker-bridge-deleted",
        "configure-docker docker etcd-image images controller-images etcd etcd-vote control-plane kubelet api-ready node-role kube-proxy-image kube-proxy kubernetes-ready drain",
    ),
    ("cni-deleted", "cni kubernetes-ready drain"),
    (
        "kubeconfig-truncated",
        "kubeconfigs kubelet api-ready node-role kubernetes-ready drain",
    ),
    (
        "certificate-expired",
        "certs kubeconfigs kubelet api-ready node-role kubernetes-ready drain",
    ),
    ("label-removed", "node-role kubernetes-ready drain"),
    // kubelet registers the node only at its start.
    (
        "node-deleted",
        "kubelet api-ready node-role kubernetes-ready drain",
    ),
    ("keepalived-stopped", "keepalived"),
    ("keepalived-hung", "keepalived"),
    ("keepalived-edited", "keepalived"),
    ("keepalived-uninstalled", "keepalived"),
    ("kube-env-deleted", "node-config"),
    // Each pass writes the file again.
    ("status-deleted", ""),
    ("status-garbage", ""),
    ("image-deleted", "etcd-image"),
    ("bridge-deleted", "cni kubernetes-ready drain"),
    ("bridge-down", "cni kubernetes-ready drain"),
    ("bridge-address-deleted", "cni kubernetes-ready drain"),
    ("bridge-route-deleted", "cni kubernetes-ready drain"),
    // keepalived sets the address again by itself.
    ("virtual-ip-deleted", ""),
];

/// The faults are divided among tests, which run in parallel on hosts of their own.
const PARTS: usize = 3;

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn faults_are_repaired_and_nothing_else_is_touched_1_of_3() {
    every_fault_is_repaired(0);
}

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn faults_are_repaired_and_nothing_else_is_touched_2_of_3() {
    every_fault_is_repaired(1);
}

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn faults_are_repaired_and_nothing_else_is_touched_3_of_3() {
    every_fault_is_repaired(2);
}

/// All faults of this part.
fn every_fault_is_repaired(part: usize) {
    let master = ready_with_vip(&format!("faults-{part}"));
    master.configure(SCALED);
    master.apply(&[]).exits(0);
    master.load_toolbox();
    let watch = Watch::start(&master);
    let mut wrong = Vec::new();
    for fault in FAULTS.iter().skip(part).step_by(PARTS) {
        wrong.extend(check_fault(&master, &watch, fault));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn another_interface_is_refused_and_keepalived_keeps_the_address() {
    let master = ready_with_vip("interface");
    master.configure(SCALED);
    master.apply(&[]).exits(0);
    let watch = Watch::start(&master);
    another_interface(&master, &watch);
}

/// An interface that does not exist is reported, and keepalived keeps the address where it is.
fn another_interface(master: &Master, watch: &Watch<'_>) {
    let before = RunningInstances::of(master);
    let otherwise = ("MASTER_VIP_IFACE", "none0");
    master.configure(&[SCALED, &[otherwise]].concat());
    watch.refuses(otherwise.0, otherwise.1, CALM);
    let vip = master.vip();
    master.sh(&format!("ip -o address show dev eth0 | grep -qw {vip}"));
    assert_eq!(RunningInstances::of(master), before);
    master.configure(SCALED);
    watch.wait_until_healthy(CALM);
    assert_eq!(RunningInstances::of(master), before);
}

/// Passes are so rare that none begins by itself during the test.
const SELDOM: &[(&str, &str)] = &[("LOOP_INTERVAL", "600s"), SCALED[1]];
/// More than the event, the pass and the repair take together on a busy machine; much less than [`SELDOM`].
const WATCHED: Duration = Duration::from_secs(140);

/// Faults that cause an event of the kernel or the API server, and the event in nodeletd's view.
const TOLD: &[(&str, &str)] = &[
    (
        "bridge-address-deleted",
        r#""address [0-9.]+ of cni0 deleted""#,
    ),
    ("bridge-route-deleted", r#""route over cni0 deleted""#),
    (
        "label-removed",
        r#""node [^"]+: label node-role.kubernetes.io/master""#,
    ),
    ("bridge-deleted", r#""link cni0 deleted""#),
];

/// The taint of a master.
const TAINT: &str = "node-role.kubernetes.io/master";

/// Only the events can start a pass: the next one by itself is minutes away.
#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn watched_resources_are_repaired_at_once() {
    let master = shared();
    master.configure(SELDOM);
    master.apply(&[]).exits(0);
    master.load_toolbox();
    master.sh("systemctl start pf9-nodeletd");
    let watch = Watch::of(&master);
    let vip = master.vip();
    for (name, hint) in TOLD {
        let fault = Fault::named(name).expect("it is a fault");
        fault.prepare(master.host(), &vip).expect("it can happen");
        check_report_and_repair(
            &master,
            &watch,
            (name, hint),
            || fault.cause(master.host(), &vip).expect("it happens"),
            || fault.is_whole(master.host(), &vip).unwrap_or(false),
        );
    }
    check_report_and_repair(
        &master,
        &watch,
        ("taint-removed", r#""node [^"]+: taints""#),
        || {
            master.kubectl(&format!("taint node --all {TAINT}-"));
        },
        || {
            let taints =
                master.kubectl("get node --output jsonpath='{.items[*].spec.taints[*].key}'");
            taints.contains(TAINT)
        },
    );
    at_rest(&master, &watch);
    master.kubectl("delete pod --selector app=bridged");
}

/// Causes a fault on a host at rest: the event is in nodeletd's view, and the host becomes healthy again.
fn check_report_and_repair(
    master: &Master,
    watch: &Watch<'_>,
    (name, hint): (&str, &str),
    cause: impl FnOnce(),
    is_whole: impl FnMut() -> bool,
) {
    at_rest(master, watch);
    cause();
    let began = Instant::now();
    // The event is in the view only until the pass after the repair, so the view is read again and again.
    let message = format!(
        "for n in $(seq 20); do nodelet status --json | grep -qE '{hint}' && exit 0; done; exit 1"
    );
    master.wait_for(
        &format!("nodeletd got the event of {name}"),
        &message,
        WATCHED,
    );
    watch.until(name, WATCHED, is_whole);
    println!("{name:<24} {:>5.1} s", began.elapsed().as_secs_f64());
}

/// Waits until nodeletd finds the host healthy, no event has started a pass for some seconds, and the next pass is minutes away.
fn at_rest(master: &Master, watch: &Watch<'_>) {
    const QUIET: i64 = 3;
    const MINUTES: i64 = 300;
    watch.until("nodeletd is at rest", CALM, || {
        let Some(view) = watch.view() else {
            return false;
        };
        let now: i64 = master.sh("date +%s").parse().expect("a time");
        let time = |name: &str| view[name].as_i64().unwrap_or(now);
        Watch::is_healthy(&view)
            && now - time("last_pass") >= QUIET
            && time("next_pass") - now > MINUTES
    });
}

/// The identity of the status file: nodeletd writes it again at once, and without an event.
const WRITTEN: &str = "stat --format '%i %w %z' /var/opt/pf9/kube_status";

fn check_fault(master: &Master, watch: &Watch, fault: &Fault) -> Option<String> {
    let vip = master.vip();
    fault.prepare(master.host(), &vip).expect("it can happen");
    watch.wait_until_healthy(CALM);
    watch.record();
    let written = master.sh(WRITTEN);
    fault.cause(master.host(), &vip).expect("it happens");
    let began = Instant::now();
    let is_repaired = || {
        fault
            .is_whole(master.host(), &vip)
            .expect("the host answers")
    };
    // Either the host is broken now, or nodeletd was quicker than this look and already repairs it.
    assert!(
        !is_repaired()
            || WAITED_OUT.contains(&fault.name)
            || !watch.recorded().is_empty()
            || fault.name.starts_with("status-") && master.sh(WRITTEN) != written,
        "{}: the host is broken now",
        fault.name
    );
    watch.until(fault.name, MENDED, is_repaired);
    let took = began.elapsed();
    watch.wait_until_healthy(CALM);
    let recorded = watch.recorded();
    let restarted = restarted(&recorded).join(" ");
    println!(
        "{:<24} {:>5.1} s  {restarted}",
        fault.name,
        took.as_secs_f64()
    );
    let expected = RESTARTS
        .iter()
        .find(|(name, _)| *name == fault.name)
        .map(|(_, phases)| *phases);
    (expected != Some(&restarted)).then(|| {
        format!(
            "{}: restarted `{restarted}`, expected {expected:?}",
            fault.name
        )
    })
}
