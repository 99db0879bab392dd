//! What others bring to a host before the role, while the role is on it, or between two cleans: a clean takes back what is ours,
//! and nothing of theirs.

use behaviour::{Bringup, Case, CrashPoint, Run, block_on, foreign_container};
use engine::exec::{Event, Recording, Runner};
use engine::host::fake::{FakeHost, FaultPlan};
use engine::host::{
    Containers as _, Network as _, Services as _, Space, Transport, VirtualService,
};
use engine::ledger::Record;
use engine::model::{Outcome, STATE};
use engine::resource::MaskedSecrets;

/// A host with the role applied, after `with_world_mut`.
fn applied_host(case: &str, with_world_mut: impl Fn(&FakeHost)) -> (Bringup, FakeHost) {
    let bringup = Bringup::of(case);
    let host = bringup
        .bare_host()
        .with_kubernetes(|rules| rules.leaves_traces = true);
    with_world_mut(&host);
    let run = bringup.apply(&host);
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    (bringup, host)
}

fn cleaned(host: &FakeHost, purge: bool) -> Run {
    let clean = Bringup::clean(host, purge);
    assert_eq!(clean.outcome, Outcome::Cleaned, "{}", clean.text());
    clean
}

/// A running container of another owner.
fn add_foreign_container(host: &FakeHost) {
    host.with_world_mut(|world| world.image("example/foreign:1"));
    let theirs = foreign_container("theirs");
    block_on(host.create_container(&theirs)).expect("it is made");
    block_on(host.start_container("theirs")).expect("it is started");
}

#[test]
fn resources_created_between_two_cleans_are_foreign() {
    let (_, host) = applied_host("cp-2-nodocker", |_| ());
    host.set_faults(FaultPlan::none().fail("purge_packages", "*").times(1));
    let first = Bringup::clean(&host, false);
    assert_eq!(first.outcome, Outcome::Failed, "{}", first.text());
    host.set_faults(FaultPlan::none());
    // Some days later.
    let files = [
        "/etc/docker/daemon.json",
        "/etc/pf9/kube.d/kubeconfigs/admin.yaml",
        "/var/lib/cni/results/theirs",
    ];
    for file in files {
        host.with_world_mut(|world| world.file(file, "theirs"));
    }
    let second = cleaned(&host, false);
    for file in files {
        let text = host.with_world(|world| world.text(file));
        assert_eq!(text.as_deref(), Some("theirs"), "{file}: {}", second.text());
    }
}

#[test]
fn a_runtime_with_foreign_containers_stays() {
    let (_, host) = applied_host("cp-2-nodocker", |_| ());
    add_foreign_container(&host);
    let clean = cleaned(&host, true);
    let state = block_on(host.container("theirs")).expect("docker answers");
    assert!(state.is_some_and(|state| state.running), "{}", clean.text());
    let left = |event: &Event| matches!(event, Event::ResourceLeft { reason, .. } if reason.contains("theirs"));
    assert!(clean.events.iter().any(left), "{}", clean.text());
    // The end of the clean counts what it has left, so it never says that nothing is left.
    let all_left = clean.events.iter();
    let all_left = all_left.filter(|event| matches!(event, Event::ResourceLeft { .. }));
    let counted = clean.events.iter().find_map(|event| match event {
        Event::RunFinished { unchanged, .. } => Some(*unchanged),
        _ => None,
    });
    assert_eq!(counted, Some(all_left.count()), "{}", clean.text());
    host.with_world(|world| assert!(world.text("/etc/docker/daemon.json").is_some()));
    for ours in ["etcd", "proxy"] {
        let state = block_on(host.container(ours)).expect("docker answers");
        assert!(state.is_none(), "{ours}: {}", clean.text());
    }
    // docker belongs to the other owner from now on.
    let again = cleaned(&host, true);
    assert_eq!(again.changes(), Vec::<String>::new());
    let unit = block_on(host.unit("docker.service")).expect("systemd answers");
    assert!(unit.is_active(), "{}", again.text());
}

/// docker answers, but does not list its containers: it may still have containers of another owner.
#[test]
fn a_runtime_with_unknown_containers_stays() {
    let (_, host) = applied_host("cp-2-nodocker", |_| ());
    add_foreign_container(&host);
    host.set_faults(FaultPlan::none().fail("containers", "*"));
    let vain = Bringup::clean(&host, true);
    assert_eq!(vain.outcome, Outcome::Failed, "{}", vain.text());
    assert!(
        vain.text()
            .contains("it is not known whether it has containers"),
        "{}",
        vain.text()
    );
    let runs = || {
        let state = block_on(host.container("theirs")).expect("docker answers");
        state.is_some_and(|state| state.running)
    };
    assert!(runs(), "{}", vain.text());
    host.with_world(|world| assert!(world.text("/etc/docker/daemon.json").is_some()));

    host.set_faults(FaultPlan::none());
    let clean = cleaned(&host, true);
    assert!(runs(), "{}", clean.text());
}

#[test]
fn directories_that_were_there_stay_with_what_was_in_them() {
    let dirs = [
        "/var/lib/kubelet",
        "/var/opt/pf9/kube/etcd/data",
        "/var/lib/docker",
    ];
    let (bringup, host) = applied_host("cp-2-nodocker", |host| {
        host.with_world_mut(|world| {
            for dir in dirs {
                world.directory_with_mode(dir, 0o700);
            }
            world.file("/var/lib/kubelet/mine", "x");
        });
    });
    let filled = |dir: &str| host.with_world(|world| world.text(format!("{dir}/made")).is_some());
    host.with_world_mut(|world| {
        for dir in dirs {
            world.file(format!("{dir}/made"), "by what runs");
        }
    });
    let clean = cleaned(&host, false);
    assert!(!filled("/var/lib/kubelet"), "{}", clean.text());
    assert!(!filled("/var/lib/docker"), "{}", clean.text());
    let kept = host.with_world(|world| world.text("/var/lib/kubelet/mine"));
    assert_eq!(kept.as_deref(), Some("x"), "{}", clean.text());
    cleaned(&host, true);
    let mut steps = bringup.plan.phases.iter().flat_map(|phase| &phase.steps);
    assert!(steps.any(|step| step.spec.label() == dirs[1]));
    for dir in dirs {
        assert!(!filled(dir), "{dir}");
        let snapshot = host.snapshot();
        let is_there = snapshot
            .resources()
            .any(|(name, _)| name == format!("path {dir}"));
        assert!(is_there, "{dir}");
    }
    // Once the directories are recorded, no more records are written.
    let _ = bringup.apply(&host);
    host.clear_journal();
    let second = bringup.apply(&host);
    assert_eq!(host.mutating_calls(), vec![], "{}", second.text());
}

#[test]
fn a_foreign_chain_does_not_protect_our_chains() {
    let (_, host) = applied_host("cp-1", |host| {
        host.with_world_mut(|world| {
            world.firewall_rule("iptables", "nat", "KUBE-FOREIGN", "-j RETURN")
        });
    });
    let clean = cleaned(&host, false);
    let snapshot = host.snapshot();
    let chains: Vec<&str> = snapshot
        .resources()
        .filter_map(|(name, _)| name.strip_prefix("chain "))
        .filter(|name| name.contains("KUBE-"))
        .collect();
    assert_eq!(chains, ["iptables nat KUBE-FOREIGN"], "{}", clean.text());
}

#[test]
fn ipvs_services_of_kube_proxy_are_removed() {
    let (bringup, host) = applied_host("cp-2-ipvs", |_| ());
    let services = || block_on(host.virtual_services()).expect("they are listed");
    assert_eq!(services().len(), 1, "kube-proxy's own");
    // Once kube-proxy is gone, others may use IPVS again; a service on an address that this host does not have is theirs.
    let theirs = VirtualService {
        transport: Transport::Udp,
        at: "192.0.2.1:53".parse().expect("an address"),
    };
    let stopped = bringup.stop(&host);
    assert_eq!(stopped.outcome, Outcome::Stopped, "{}", stopped.text());
    host.with_world_mut(|world| world.balance(&theirs));
    let clean = cleaned(&host, true);
    assert_eq!(services(), [theirs], "{}", clean.text());
}

/// kube-proxy removes virtual services that it does not know.
#[test]
fn foreign_ipvs_services_refuse_ipvs_mode() {
    let mut case = Case::named("cp-2-ipvs");
    case.facts.virtual_services = vec!["UDP 192.0.2.1:53".to_owned()];
    let bringup = Bringup::from_case(case);
    let host = bringup.bare_host();
    let before = host.snapshot();
    let run = bringup.apply(&host);
    assert_eq!(run.outcome, Outcome::Refused, "{}", run.text());
    assert!(run.text().contains("UDP 192.0.2.1:53"), "{}", run.text());
    assert_eq!(host.snapshot(), before);
}

#[test]
fn no_run_starts_without_space_for_its_records() {
    let (bringup, host) = applied_host("cp-1", |_| ());
    let left = |free| Space {
        free,
        total: 1 << 30,
        device: 1,
    };
    let host = host.with_space(STATE, left(30 * 1024));
    host.clear_journal();
    assert_ne!(Bringup::clean(&host, true).outcome, Outcome::Cleaned);
    assert_ne!(bringup.stop(&host).outcome, Outcome::Stopped);
    assert_eq!(host.mutating_calls(), vec![]);
    // A clean makes room, so it needs less than an apply.
    let host = host.with_space(STATE, left(300 * 1024));
    host.with_world_mut(|world| world.remove_container("etcd"));
    host.clear_journal();
    assert_ne!(bringup.apply(&host).outcome, Outcome::Converged);
    assert_eq!(host.mutating_calls(), vec![]);
    // A repair is a stop and a start: if there is only room for the stop, it ends nothing.
    let events = Recording::default();
    let secrets = MaskedSecrets;
    let runner = Runner::new(&bringup.plan, &host, &bringup.facts, &secrets, &events);
    let kubelet = "kubelet".parse().expect("a name");
    let refused = block_on(runner.restart(&[kubelet], &[])).expect_err("there is no room");
    assert!(refused.to_string().contains("No space left"), "{refused}");
    assert_eq!(events.events(), vec![]);
    assert_eq!(host.mutating_calls(), vec![]);
    cleaned(&host, true);
}

#[test]
fn a_ledger_that_lost_its_end_is_refused() {
    let (bringup, host) = applied_host("cp-1", |_| ());
    let path = format!("{STATE}/ledger.jsonl");
    let text = host
        .with_world(|world| world.text(&path))
        .expect("it is there");
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    for kept in [lines.len() - 1, lines.len() / 2, 1, 0] {
        let host = host.fork();
        host.with_world_mut(|world| world.file_with_mode(&path, lines[..kept].concat(), 0o600));
        host.clear_journal();
        assert_ne!(
            Bringup::clean(&host, true).outcome,
            Outcome::Cleaned,
            "{kept}"
        );
        assert_ne!(bringup.apply(&host).outcome, Outcome::Converged, "{kept}");
        assert_eq!(host.mutating_calls(), vec![], "{kept}");
        // If the ledger is moved away, no new one is begun, either.
        host.with_world_mut(|world| world.remove(&path));
        host.clear_journal();
        assert_ne!(bringup.apply(&host).outcome, Outcome::Converged, "{kept}");
        assert_eq!(host.mutating_calls(), vec![], "{kept}");
    }
}

/// A run that was interrupted in its last phase, after which everything came up by itself: a failure weeks later must not take back
/// what is running.
#[test]
fn an_interrupted_last_step_does_not_revert_applied_phases() {
    let bringup = Bringup::of("cp-1");
    let host = bringup.bare_host().with_history();
    assert_eq!(bringup.apply(&host).outcome, Outcome::Converged);
    let ended = |point: &CrashPoint| {
        let records = Bringup::records(&point.host);
        records
            .iter()
            .any(|record| matches!(record, Record::End { .. }))
    };
    let points = CrashPoint::all(&host);
    let is_applied = |point: &CrashPoint| {
        let records = Bringup::records(&point.host);
        let its = |record: &Record| matches!(record, Record::PhaseApplied { phase, .. } if phase.as_str() == "etcd");
        records.iter().any(its)
    };
    // In the middle of the phase, and in the last phase.
    let midst = points.iter().rfind(|point| !is_applied(point));
    let midst = midst.expect("it did not stand from the start").host.fork();
    let point = points.iter().rfind(|point| !ended(point));
    let point = point.expect("it was not over from the start").host.fork();
    let phases = || bringup.plan.phases.iter();
    let etcd = phases().find(|phase| phase.name.as_str() == "etcd");
    let etcd = etcd.expect("a master has it");
    let runs = |host: &FakeHost| {
        let state = block_on(host.container("etcd")).expect("docker answers");
        state.is_some()
    };
    // A failing run of another plan takes back only what it has done itself.
    for other in [&midst, &point] {
        let other = other.fork();
        let run = bringup.with_failing_check(etcd).apply_phase(&other, etcd);
        assert_eq!(run.outcome, Outcome::Failed, "{}", run.text());
        assert!(runs(&other), "{}", run.text());
    }
    // A failing run of the same plan.
    let same = point.fork();
    same.with_world_mut(|world| world.break_container("etcd", true));
    let run = bringup.apply_phase(&same, etcd);
    assert_eq!(run.outcome, Outcome::Failed, "{}", run.text());
    assert!(runs(&same), "{}", run.text());
}
