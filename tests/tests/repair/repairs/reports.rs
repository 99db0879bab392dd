//! Conditions that are reported, and because of which nothing is restarted.

use behaviour::{Bringup, block_on, foreign_container};
use engine::exec::{Recording, Status};
use engine::host::Services as _;
use engine::host::fake::{FakeHost, FaultPlan};

use super::{applied_host, failed, names, runner, text};

/// kubelet evicts pods in this case, and a restart makes no room.
#[test]
fn node_pressure_is_reported_without_a_restart() {
    let (bringup, host) = applied_host();
    let name = "nothing runs short on the node";
    let condition = || {
        let health = bringup.check(&host);
        let mut conditions = health.into_iter().flat_map(|phase| phase.conditions);
        conditions
            .find(|its| its.check == name)
            .expect("the role checks it")
    };
    assert_eq!(condition().status, Status::True);
    host.with_world_mut(|world| {
        world.node_reports("cp-1", "DiskPressure (kubelet has disk pressure)")
    });
    let reported = condition();
    assert_eq!(reported.status, Status::False);
    assert!(
        reported
            .reason
            .starts_with("node cp-1 reports DiskPressure (kubelet has disk pressure)"),
        "{}",
        reported.reason
    );
    assert!(reported.advisory && failed(&bringup, &host).is_empty());
}

/// With this file, new pods would have another network, or none.
#[test]
fn a_network_configuration_sorted_before_ours_is_reported() {
    let (bringup, host) = applied_host();
    let foreign = "/etc/cni/net.d/00-foreign.conf";
    host.with_world_mut(|world| {
        world.file("/etc/cni/net.d/00-notes.txt", "not read");
        world.file("/etc/cni/net.d/99-later.conf", "not read either");
    });
    let unwell = || -> Vec<_> {
        let health = bringup.check(&host);
        let conditions = health.into_iter().flat_map(|phase| phase.conditions);
        conditions
            .filter(|its| its.status != Status::True)
            .collect()
    };
    assert_eq!(unwell(), []);
    host.with_world_mut(|world| world.file(foreign, "{}"));
    let reported = unwell();
    let [reported] = reported.as_slice() else {
        panic!("{reported:?}")
    };
    assert!(
        reported.advisory && reported.reason.contains(foreign),
        "{reported:?}"
    );
}

/// After a boot the host would come up without docker, and no other check reports it before.
#[test]
fn docker_that_does_not_start_at_boot_is_reported() {
    let (bringup, host) = applied_host();
    block_on(host.set_unit_enabled("docker.service", false)).expect("systemd does");
    let health = bringup.check(&host);
    let mut conditions = health.iter().flat_map(|phase| &phase.conditions);
    let reported = conditions.find(|its| its.status != Status::True);
    let reported = reported.expect("it is reported");
    assert!(
        reported.advisory && reported.reason.contains("at boot"),
        "{reported:?}"
    );
}

/// docker still answers pings. Once containerd goes on, the host is well, so nothing else may end for it.
#[test]
fn a_stopped_containerd_is_named_and_woken_alone() {
    let (bringup, host) = applied_host();
    host.with_world_mut(|world| world.unit("containerd.service", "[Service]\n"));
    block_on(host.start_unit("containerd.service")).expect("it starts");
    assert_named_and_woken_alone(&bringup, &host, "containerd.service", "containerd");
}

/// docker answers nothing then, and does again once it goes on, so etcd and kubelet need not end for it.
#[test]
fn a_stopped_docker_is_named_and_woken_alone() {
    let (bringup, host) = applied_host();
    assert_named_and_woken_alone(&bringup, &host, "docker.service", "dockerd");
}

fn assert_named_and_woken_alone(bringup: &Bringup, host: &FakeHost, unit: &str, program: &str) {
    assert_eq!(names(failed(bringup, host)), [""; 0]);
    host.with_world_mut(|world| world.stop_main_process(unit, program));
    assert_eq!(names(failed(bringup, host)), ["docker"]);
    let health = bringup.check(host);
    let mut conditions = health.iter().flat_map(|phase| &phase.conditions);
    let named = conditions.any(|its| its.status == Status::False && its.reason.contains(unit));
    assert!(named, "{health:?}");
    host.clear_journal();
    let events = Recording::default();
    let runner = runner(bringup, host, &events);
    let stopped = block_on(runner.stopped_runtime()).expect("it is stopped");
    block_on(runner.wake_runtime(&stopped)).expect("it goes on");
    let calls = host.mutating_calls().into_iter();
    let calls: Vec<String> = calls
        .map(|call| format!("{} {}", call.name, call.argument))
        .collect();
    assert_eq!(calls, [format!("continue_unit {unit}")]);
    let reported = text(&events.events());
    let wanted = format!("{unit} continued: a signal had stopped its process (SIGSTOP)");
    assert!(reported.contains(&wanted), "{reported}");
    assert_eq!(names(failed(bringup, host)), [""; 0]);
}

/// docker ends a container only through its shim, so a repair could not end it either. The shims of other programs' containers are theirs.
#[test]
fn a_stopped_shim_is_named_and_restarts_nothing() {
    const RUNS: &str = "member runs";
    let (bringup, host) = applied_host();
    let unwell = || -> Vec<_> {
        let health = bringup.check(&host);
        let conditions = health.into_iter().flat_map(|phase| phase.conditions);
        conditions
            .filter(|its| its.status != Status::True)
            .collect()
    };
    host.with_world_mut(|world| {
        world.container(foreign_container("theirs"));
        world.stop_shim(17, "theirs");
    });
    assert_eq!(unwell(), []);
    host.with_world_mut(|world| world.stop_shim(4711, "etcd"));
    let reported = unwell();
    let [reported] = reported.as_slice() else {
        panic!("{reported:?}")
    };
    assert!(reported.advisory, "{reported:?}");
    let wanted = "docker cannot end container etcd: its containerd-shim (process 4711) is stopped";
    assert!(reported.reason.starts_with(wanted), "{reported:?}");
    assert!(
        reported.reason.ends_with("`kill -CONT 4711`"),
        "{reported:?}"
    );
    assert!(failed(&bringup, &host).is_empty());

    // docker has tried to end it, and answers nothing about it since.
    host.set_faults(FaultPlan::none().hang("container", "etcd"));
    let reported = unwell();
    let unknown = reported.iter().find(|its| its.check == RUNS);
    let unknown = unknown.expect("docker does not answer");
    assert_eq!(unknown.status, Status::Unknown);
    // The result may be unknown for another cause, so that is said first.
    let own = "container etcd: no answer within";
    assert!(unknown.reason.starts_with(own), "{unknown:?}");
    let shim = "; end container etcd: its containerd-shim (process 4711) is stopped";
    assert!(unknown.reason.contains(shim), "{unknown:?}");
    assert!(unknown.reason.contains("`kill -CONT 4711`"), "{unknown:?}");
}
