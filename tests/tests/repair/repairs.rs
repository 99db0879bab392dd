//! What a repair of a host restores, and that it does not touch what works.
//!
//! `trials` has what a repair tries before it stops anything, `failures` what follows if it fails after that, `predictions` what it says
//! before it is made, and `reports` what is reported without a repair.

mod failures;
mod predictions;
mod reports;
mod trials;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use behaviour::{Bringup, block_on};
use engine::exec::{Event, EventSink, Recording, Runner, failed_phases, restart_set};
use engine::host::fake::FakeHost;
use engine::host::{
    Attributes, Cluster as _, ClusterAccess, Containers as _, EntryKind, Files as _, Services as _,
    UnitState,
};
use engine::model::{Outcome, PhaseName};
use engine::report::{Detail, render};
use engine::resource::MaskedSecrets;

const KUBELET: &str = "pf9-kubelet.service";
const KUBELET_CONFIG: &str = "/etc/pf9/kube.d/kubelet/config.yaml";
const ETCD_CONFIG: &str = "/etc/pf9/kube.d/etcd/etcd.env";

fn applied_host() -> (Bringup, FakeHost) {
    brought_up("cp-1")
}

fn brought_up(case: &str) -> (Bringup, FakeHost) {
    let bringup = Bringup::of(case);
    let host = bringup.bare_host();
    let run = bringup.apply(&host);
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    (bringup, host)
}

fn runner<'a>(bringup: &'a Bringup, host: &'a FakeHost, events: &'a dyn EventSink) -> Runner<'a> {
    Runner::new(&bringup.plan, host, &bringup.facts, &MaskedSecrets, events)
}

fn edit(host: &FakeHost, path: &str) {
    assert!(
        host.with_world(|world| world.text(path)).is_some(),
        "{path}"
    );
    host.with_world_mut(|world| world.file_with_mode(path, "edited: true\n", 0o600));
}

fn failed(bringup: &Bringup, host: &FakeHost) -> BTreeSet<PhaseName> {
    failed_phases(&bringup.check(host))
}

/// Repairs what fails. Gives the outcome and the report.
fn repair(bringup: &Bringup, host: &FakeHost) -> (Outcome, String) {
    let events = Recording::default();
    let set = restart_set(&bringup.plan, &failed(bringup, host));
    let outcome = block_on(runner(bringup, host, &events).restart(&set, &[]));
    (outcome.expect("it is written down"), text(&events.events()))
}

fn text(events: &[Event]) -> String {
    let detail = Detail {
        unchanged: false,
        diffs: false,
        times: false,
    };
    events.iter().map(|event| render(event, detail)).collect()
}

fn names(phases: impl IntoIterator<Item = PhaseName>) -> Vec<String> {
    phases.into_iter().map(|name| name.to_string()).collect()
}

fn runs(host: &FakeHost, unit: &str) -> bool {
    block_on(host.unit(unit)).is_ok_and(|unit| unit.is_active())
}

/// What systemd says of kubelet, but for how long it runs: it goes on running.
fn kubelet_state(host: &FakeHost) -> UnitState {
    let state = block_on(host.unit(KUBELET)).expect("systemd answers");
    UnitState {
        active_for: None,
        ..state
    }
}

/// The id of a container that runs.
fn running(host: &FakeHost, name: &str) -> Option<String> {
    let state = block_on(host.container(name)).expect("docker answers");
    state.filter(|state| state.running).map(|state| state.id)
}

/// An operator's program is larger than a file of ours.
#[test]
fn a_large_program_in_the_place_of_a_link_is_kept_for_a_clean() {
    const KUBECTL: &str = "/usr/local/bin/kubectl";
    let own = "x".repeat(5 << 20);
    let put =
        |host: &FakeHost| host.with_world_mut(|world| world.file_with_mode(KUBECTL, &own, 0o755));
    let bringup = Bringup::of("cp-1");
    let host = bringup.bare_host();
    put(&host);
    let bare = host.snapshot();
    let run = bringup.apply(&host);
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    let is_link = |host: &FakeHost| {
        let entry = block_on(host.entry(Path::new(KUBECTL))).expect("it can be looked at");
        entry.is_some_and(|entry| matches!(entry.kind, EntryKind::Symlink(_)))
    };
    assert!(is_link(&host));
    let clean = Bringup::clean(&host, false);
    assert_eq!(clean.outcome, Outcome::Cleaned, "{}", clean.text());
    assert_eq!(bringup.not_cleaned(&bare, &host, false), [""; 0]);
    assert!(host.with_world(|world| world.text(KUBECTL)).as_ref() == Some(&own));
    // A repair replaces one that comes later.
    let (bringup, host) = applied_host();
    block_on(host.remove(Path::new(KUBECTL))).expect("it is removed");
    put(&host);
    let (outcome, reported) = repair(&bringup, &host);
    assert_eq!(outcome, Outcome::Converged, "{reported}");
    assert!(is_link(&host));
}

#[test]
fn a_link_in_the_place_of_kube_env_gives_way() {
    const KUBE_ENV: &str = "/etc/pf9/kube.env";
    let (bringup, host) = applied_host();
    let content = host
        .with_world(|world| world.text(KUBE_ENV))
        .expect("a file");
    host.with_world_mut(|world| world.file("/srv/kube.env", &content));
    block_on(host.remove(Path::new(KUBE_ENV))).expect("it is removed");
    block_on(host.symlink(Path::new(KUBE_ENV), "/srv/kube.env")).expect("a link");
    let (outcome, reported) = repair(&bringup, &host);
    assert_eq!(outcome, Outcome::Converged, "{reported}");
    assert_eq!(names(failed(&bringup, &host)), [""; 0]);
    let entry = block_on(host.entry(Path::new(KUBE_ENV))).expect("it can be looked at");
    assert!(entry.is_some_and(|entry| matches!(entry.kind, EntryKind::File(_))));
    assert_eq!(
        host.with_world(|world| world.text("/srv/kube.env")),
        Some(content)
    );
}

/// etcd is not made again with the rest of a damaged environment file.
#[test]
fn a_damaged_environment_of_the_member_is_written_again() {
    const MEMBER: &str = "/etc/pf9/kube.d/etcd/member.env";
    let (bringup, applied_host) = applied_host();
    let before = block_on(applied_host.container_config("etcd")).expect("docker answers");
    for damage in ["", "ETCD_INITIAL_CLUSTER_STATE=existing\n"] {
        let host = applied_host.fork();
        host.with_world_mut(|world| world.file_with_mode(MEMBER, damage, 0o600));
        assert!(names(failed(&bringup, &host)).contains(&"etcd".to_owned()));
        let (outcome, reported) = repair(&bringup, &host);
        assert_eq!(outcome, Outcome::Converged, "{reported}");
        let after = block_on(host.container_config("etcd")).expect("docker answers");
        assert_eq!(after, before, "{damage}");
    }
}

/// `directory`, and the directories below it.
fn directories(host: &FakeHost, directory: &Path) -> Vec<PathBuf> {
    let mut found = vec![directory.to_path_buf()];
    for name in block_on(host.list(directory)).expect("it is listed") {
        let path = directory.join(name);
        let entry = block_on(host.entry(&path)).expect("it can be looked at");
        if entry.is_some_and(|entry| entry.kind == EntryKind::Directory) {
            found.extend(directories(host, &path));
        }
    }
    found
}

/// A user who may write to a directory may exchange its files.
#[test]
fn a_directory_that_others_may_write_to_is_set_back() {
    let (bringup, applied_host) = applied_host();
    let mut all = directories(&applied_host, Path::new("/etc/pf9"));
    let is_closed = |path: &Path| {
        let entry = block_on(applied_host.entry(path)).expect("it can be looked at");
        entry.is_some_and(|entry| entry.attributes.mode & 0o077 == 0)
    };
    // Other users cannot enter what is below a directory that only root may enter.
    all.retain(|path| !path.ancestors().skip(1).any(is_closed));
    assert!(all.len() > 10, "{all:?}");
    let mut unseen = Vec::new();
    for path in all {
        let host = applied_host.fork();
        let attributes = |host: &FakeHost| {
            let entry = block_on(host.entry(&path)).expect("it can be looked at");
            entry.expect("it is there").attributes
        };
        let before = attributes(&host);
        let open = Attributes {
            mode: 0o777,
            ..before
        };
        block_on(host.set_attributes(&path, open)).expect("it is set");
        if failed(&bringup, &host).is_empty() {
            unseen.push(path);
            continue;
        }
        let (outcome, reported) = repair(&bringup, &host);
        assert_eq!(outcome, Outcome::Converged, "{reported}");
        assert_eq!(attributes(&host), before, "{}", path.display());
    }
    assert_eq!(unseen, Vec::<PathBuf>::new(), "no check noticed them");
}

/// Without this permission `kubectl logs` and `kubectl exec` are forbidden.
#[test]
fn a_deleted_permission_of_the_api_server_comes_back() {
    let (bringup, host) = applied_host();
    let access = ClusterAccess {
        kubeconfig: "/etc/pf9/kube.d/kubeconfigs/local-admin.yaml".into(),
    };
    let binding = serde_json::json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": { "name": "pf9:kube-apiserver-kubelet-client" },
    });
    let is_there = || block_on(host.object_exists(&access, &binding)).expect("the API answers");
    assert!(is_there());
    block_on(host.delete_object(&access, &binding)).expect("it is deleted");
    assert_eq!(names(failed(&bringup, &host)), ["api-ready"]);
    let (outcome, reported) = repair(&bringup, &host);
    assert_eq!(outcome, Outcome::Converged, "{reported}");
    assert!(is_there());
}

/// kubelet registers its node only at its start. A worker does not start it for that: its node may have been deleted on purpose.
#[test]
fn a_deleted_node_comes_back_by_a_restart_of_kubelet() {
    for (case, name, repaired) in [
        ("cp-1", "cp-1", &["kubernetes-ready"][..]),
        ("wk-1", "w-1", &[]),
    ] {
        let (bringup, host) = brought_up(case);
        host.with_world_mut(|world| world.remove_node(name));
        let health = bringup.check(&host);
        let mut failing = failed_phases(&health);
        assert_eq!(names(failing.clone()), repaired, "{case}: {health:#?}");
        for (phase, says) in [
            ("node-role", "has not registered node"),
            ("kubernetes-ready", "`nodelet repair kubelet`"),
        ] {
            let mut of_phase = health.iter().filter(|its| its.phase.as_str() == phase);
            let conditions = of_phase.next().map_or(&[][..], |its| &its.conditions);
            let mut reasons = conditions.iter().map(|one| &one.reason);
            assert!(
                reasons.any(|reason| reason.contains(says)),
                "{case}: {conditions:?}"
            );
        }
        if failing.is_empty() {
            failing.insert("kubelet".parse().expect("a name"));
        }
        let set = restart_set(&bringup.plan, &failing);
        for restarted in ["kubelet", "node-role"] {
            assert!(names(set.clone()).contains(&restarted.to_owned()), "{case}");
        }
        let events = Recording::default();
        let outcome = block_on(runner(&bringup, &host, &events).restart(&set, &[]));
        let reported = text(&events.events());
        assert_eq!(outcome.ok(), Some(Outcome::Converged), "{case}: {reported}");
        assert!(host.with_world(|world| world.has_node(name)), "{case}");
        assert_eq!(names(failed(&bringup, &host)), [""; 0], "{case}");
    }
}

/// A docker that is down cannot say what runs in it, and there is nothing to stop.
#[test]
fn a_runtime_that_is_down_is_started_and_no_end_fails() {
    let (bringup, host) = applied_host();
    block_on(host.stop_unit("docker.service")).expect("it stops");
    let set = restart_set(&bringup.plan, &failed(&bringup, &host));
    assert!(names(set.clone()).contains(&"etcd".to_owned()), "{set:?}");
    let events = Recording::default();
    let outcome = block_on(runner(&bringup, &host, &events).restart(&set, &[]));
    let reported = events.events();
    assert_eq!(
        outcome.ok(),
        Some(Outcome::Converged),
        "{}",
        text(&reported)
    );
    let mut failures = reported
        .iter()
        .filter(|event| matches!(event, Event::StopFailed { .. }));
    assert!(failures.next().is_none(), "{}", text(&reported));
}
