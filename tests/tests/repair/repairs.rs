//! A repair stops nothing that it cannot start again: before it stops something, it tries to write the files that it is going to
//! write. If the repair fails, it starts again what it has stopped.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use behaviour::{Bringup, Case, Fidelity, Mismatch, block_on, fixtures};
use engine::exec::{
    Event, EventSink, Recording, Runner, Status, failed_phases, overlay_host, restart_set,
};
use engine::host::fake::{FakeHost, FaultPlan, difference};
use engine::host::{
    Attributes, Cluster as _, ClusterAccess, Containers as _, EntryKind, Files as _, Services as _,
    Space,
};
use engine::model::{Outcome, PhaseName, STATE};
use engine::report::{Detail, render};
use engine::resource::{MaskedSecrets, Spec};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

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

#[test]
fn an_unwritable_path_prevents_the_stop() {
    let (bringup, host) = applied_host();
    edit(&host, KUBELET_CONFIG);
    let directory = Path::new(KUBELET_CONFIG).parent().expect("it has one");
    let full = Space {
        free: 1024,
        total: 1 << 30,
        device: 7,
    };
    type Spoil<'a> = (&'a str, &'a dyn Fn(&FakeHost), &'a str);
    let ways: [Spoil<'_>; 6] = [
        (
            "a directory is there",
            &|host| {
                host.with_world_mut(|world| {
                    world.remove(KUBELET_CONFIG);
                    world.file(format!("{KUBELET_CONFIG}/of-an-operator"), "");
                });
            },
            "move it away",
        ),
        (
            "no inodes are left",
            &|host| host.with_world_mut(|world| world.exhaust_inodes(directory)),
            "no inodes left (`df -i`",
        ),
        (
            "the file is immutable",
            &|host| host.with_world_mut(|world| world.protect(KUBELET_CONFIG)),
            "lsattr",
        ),
        (
            "its directory is",
            &|host| host.with_world_mut(|world| world.protect(directory)),
            "lsattr",
        ),
        (
            "the disk is full",
            &|host| host.with_world_mut(|world| world.set_space(directory, full)),
            "df -h",
        ),
        (
            "the disk hangs",
            &|host| host.set_faults(FaultPlan::none().stall("try_write", KUBELET_CONFIG)),
            "",
        ),
    ];
    for (what, spoil, next) in ways {
        let host = host.fork();
        spoil(&host);
        let before = (host.snapshot(), block_on(host.unit(KUBELET)));
        host.clear_journal();
        let (outcome, reported) = repair(&bringup, &host);
        assert_eq!(outcome, Outcome::Refused, "{what}: {reported}");
        assert_eq!(host.mutating_calls(), vec![], "{what}");
        assert_eq!(
            difference(&before.0, &host.snapshot()),
            Vec::<String>::new()
        );
        assert_eq!(block_on(host.unit(KUBELET)).ok(), before.1.ok());
        for wanted in [KUBELET_CONFIG, "phases/kubelet.rhai:", next] {
            assert!(reported.contains(wanted), "{what}: `{wanted}`: {reported}");
        }
        // A full clean could not help, either: an apply after it would fail in the same way.
        let ignored_events = Recording::default();
        let mut rebuild = runner(&bringup, &host, &ignored_events);
        rebuild.rebuild = true;
        let problems = block_on(rebuild.failed_preconditions()).expect("the host says");
        let named = problems
            .iter()
            .any(|one| one.problem.contains(KUBELET_CONFIG));
        assert!(named, "{what}: {problems:?}");
    }
    // A protected file that is as planned is no obstacle.
    host.with_world_mut(|world| world.protect(ETCD_CONFIG));
    let (outcome, reported) = repair(&bringup, &host);
    assert_eq!(outcome, Outcome::Converged, "{reported}");
    assert_eq!(names(failed(&bringup, &host)), [""; 0]);
}

/// etcd goes on with its data in the place where an operator has put it.
#[test]
fn a_directory_behind_a_link_stops_nothing() {
    const DATA: &str = "/var/opt/pf9/kube/etcd/data";
    let (bringup, host) = applied_host();
    block_on(host.remove_tree(Path::new(DATA))).expect("it is removed");
    host.with_world_mut(|world| world.directory_with_mode("/srv/etcd", 0o700));
    block_on(host.symlink(Path::new(DATA), "/srv/etcd")).expect("a link");
    host.clear_journal();
    let (outcome, reported) = repair(&bringup, &host);
    assert_eq!(outcome, Outcome::Refused, "{reported}");
    assert_eq!(host.mutating_calls(), vec![]);
    assert!(
        reported.contains(DATA) && reported.contains("a link is there"),
        "{reported}"
    );
    assert!(running(&host, "etcd").is_some());
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

#[test]
fn our_own_records_are_tried_as_well() {
    let (bringup, host) = applied_host();
    edit(&host, KUBELET_CONFIG);
    host.with_world_mut(|world| world.protect(Path::new(STATE)));
    host.clear_journal();
    let (outcome, reported) = repair(&bringup, &host);
    assert_eq!(outcome, Outcome::Refused, "{reported}");
    assert_eq!(host.mutating_calls(), vec![]);
    let events = Recording::default();
    let failed = failed(&bringup, &host);
    let (set, problems) = block_on(runner(&bringup, &host, &events).restartable(&failed));
    assert_eq!((set, problems.len()), (Vec::new(), 1));
}

#[test]
fn an_unwritable_path_does_not_block_other_repairs() {
    let (bringup, host) = applied_host();
    edit(&host, KUBELET_CONFIG);
    host.with_world_mut(|world| {
        world.protect(KUBELET_CONFIG);
        world.remove_container("proxy");
    });
    let kubelet = || block_on(host.unit(KUBELET)).expect("systemd answers");
    let before = kubelet();
    let failed = failed(&bringup, &host);
    assert_eq!(names(failed.clone()), ["kube-proxy", "kubelet"]);
    let events = Recording::default();
    let (set, problems) = block_on(runner(&bringup, &host, &events).restartable(&failed));
    assert_eq!(names(set.clone()), ["kube-proxy"]);
    assert_eq!(problems.len(), 1, "{problems:?}");
    let outcome = block_on(runner(&bringup, &host, &events).restart(&set, &[]));
    assert_eq!(outcome.expect("it is written down"), Outcome::Converged);
    assert_eq!(kubelet(), before);
    assert!(
        block_on(host.container("proxy"))
            .expect("docker answers")
            .is_some()
    );
}

/// A fault that the trial write cannot find: the disk fails at the moment of the real write.
#[test]
fn units_of_a_failed_stop_run_again() {
    let (bringup, host) = applied_host();
    for (path, unit, container) in [
        (KUBELET_CONFIG, KUBELET, None),
        (ETCD_CONFIG, KUBELET, Some("etcd")),
    ] {
        let host = host.fork();
        let config = |name: &str| block_on(host.container_config(name)).expect("docker answers");
        let before = container.map(config);
        edit(&host, path);
        host.set_faults(FaultPlan::none().fail("write", path));
        let (outcome, reported) = repair(&bringup, &host);
        assert_eq!(outcome, Outcome::Failed, "{reported}");
        assert!(reported.contains("started again as it was"), "{reported}");
        assert!(runs(&host, unit), "{path}: {reported}");
        if let Some(name) = container {
            let state = block_on(host.container(name)).expect("docker answers");
            assert!(state.is_some_and(|state| state.running), "{reported}");
            assert_eq!(container.map(config), before, "same configuration");
        }
        // The next repair that can write succeeds, and a clean knows everything that runs.
        host.set_faults(FaultPlan::none());
        let (outcome, reported) = repair(&bringup, &host);
        assert_eq!(outcome, Outcome::Converged, "{reported}");
        let bare = bringup.bare_host().snapshot();
        let clean = Bringup::clean(&host, false);
        assert_eq!(clean.outcome, Outcome::Cleaned, "{}", clean.text());
        let left = bringup.not_cleaned(&bare, &host, false);
        assert_eq!(left, Vec::<String>::new());
    }
}

/// The id of a container that runs.
fn running(host: &FakeHost, name: &str) -> Option<String> {
    let state = block_on(host.container(name)).expect("docker answers");
    state.filter(|state| state.running).map(|state| state.id)
}

/// etcd has its lost files still open: no apply could start it again.
#[test]
fn etcd_keeps_running_when_its_data_is_lost() {
    const DATA: &str = "/var/opt/pf9/kube/etcd/data";
    const ID: &str = "/var/opt/pf9/kube/etcd/data/member/nodelet-data-id";
    let (bringup, applied_host) = applied_host();
    for lost in [DATA, ID] {
        let host = applied_host.fork();
        let etcd = running(&host, "etcd");
        assert!(etcd.is_some());
        host.with_world_mut(|world| {
            world.remove(lost);
            world.remove_container("proxy");
        });
        host.clear_journal();
        let mut failed = failed(&bringup, &host);
        // etcd may fail to answer for a moment.
        failed.insert("etcd".parse().expect("a name"));
        let set = restart_set(&bringup.plan, &failed);
        let events = Recording::default();
        let outcome = block_on(runner(&bringup, &host, &events).restart(&set, &[]));
        let reported = text(&events.events());
        assert_eq!(outcome.ok(), Some(Outcome::Refused), "{lost}: {reported}");
        assert_eq!(host.mutating_calls(), vec![], "{lost}");
        for wanted in [
            ID,
            "lost or exchanged",
            "put the right data back",
            "phases/etcd.rhai:",
        ] {
            assert!(reported.contains(wanted), "{lost}: `{wanted}`: {reported}");
        }
        // Phases that do not need the data are repaired.
        let (set, problems) = block_on(runner(&bringup, &host, &events).restartable(&failed));
        assert!(
            problems.iter().all(|one| one.problem.contains(ID)),
            "{problems:?}"
        );
        assert!(!names(set.clone()).contains(&"etcd".to_owned()), "{set:?}");
        let outcome = block_on(runner(&bringup, &host, &events).restart(&set, &[]));
        assert_eq!(
            outcome.ok(),
            Some(Outcome::Converged),
            "{}",
            text(&events.events())
        );
        assert_eq!(running(&host, "etcd"), etcd, "{lost}");
        assert!(running(&host, "proxy").is_some(), "{lost}");
    }
}

/// A masked unit cannot be started by a restart or by a full clean.
#[test]
fn a_masked_unit_is_not_ended() {
    let (bringup, host) = brought_up("cp-1-vip");
    let mask = Path::new("/etc/systemd/system/keepalived.service");
    block_on(host.symlink(mask, "/dev/null")).expect("a link");
    edit(&host, "/etc/keepalived/keepalived.conf");
    host.clear_journal();
    let (outcome, reported) = repair(&bringup, &host);
    assert_eq!(outcome, Outcome::Refused, "{reported}");
    assert_eq!(host.mutating_calls(), vec![]);
    for wanted in [
        "keepalived.service",
        "masked",
        "systemctl unmask",
        "phases/keepalived.rhai:",
    ] {
        assert!(reported.contains(wanted), "`{wanted}`: {reported}");
    }
    let events = Recording::default();
    let mut clean = runner(&bringup, &host, &events);
    clean.rebuild = true;
    let failed_preconditions = block_on(clean.failed_preconditions()).expect("the host tells");
    assert!(
        failed_preconditions
            .iter()
            .any(|one| one.problem.contains("masked")),
        "{failed_preconditions:?}"
    );
}

#[test]
fn a_container_that_could_not_be_made_again_is_not_removed() {
    let (bringup, applied_host) = applied_host();
    let image = bringup.plan.phases.iter().flat_map(|phase| &phase.steps);
    let mut image = image.filter_map(|step| match &step.spec {
        Spec::Image(image) if image.archive.ends_with("etcd.tar") => Some(image.clone()),
        _ => None,
    });
    let image = image.next_back().expect("it has one");
    let full = Space {
        free: 1024,
        total: 1 << 30,
        device: 7,
    };
    type Spoil<'a> = (&'a str, &'a dyn Fn(&FakeHost), &'a [&'a str]);
    let ways: [Spoil<'_>; 4] = [
        (
            "docker's disk is full",
            &|host| host.with_world_mut(|world| world.set_space("/var/lib/docker", full)),
            &["/var/lib/docker", "df -h"],
        ),
        (
            "docker's disk is read-only",
            &|host| host.with_world_mut(|world| world.protect("/var/lib/docker/nodelet-trial")),
            &["/var/lib/docker", "lsattr"],
        ),
        (
            "the image is gone, and its archive is of others",
            &|host| {
                host.with_world_mut(|world| {
                    world.forget_image(&image.reference);
                    world.file(&image.archive, "fake-image:other:1");
                });
            },
            &["holds other images (other:1)"],
        ),
        (
            "the image is gone, and its archive is empty",
            &|host| {
                host.with_world_mut(|world| {
                    world.forget_image(&image.reference);
                    world.file(&image.archive, "");
                });
            },
            &["etcd.tar is empty", "install the role's package again"],
        ),
    ];
    for (what, spoil, wanted) in ways {
        let host = applied_host.fork();
        edit(&host, ETCD_CONFIG);
        spoil(&host);
        let etcd = running(&host, "etcd");
        host.clear_journal();
        let (outcome, reported) = repair(&bringup, &host);
        assert_eq!(outcome, Outcome::Refused, "{what}: {reported}");
        assert_eq!(host.mutating_calls(), vec![], "{what}");
        assert!(etcd.is_some() && running(&host, "etcd") == etcd, "{what}");
        for wanted in wanted {
            assert!(reported.contains(wanted), "{what}: `{wanted}`: {reported}");
        }
        let ignored_events = Recording::default();
        let failed = failed(&bringup, &host);
        let (set, problems) =
            block_on(runner(&bringup, &host, &ignored_events).restartable(&failed));
        assert!(!names(set).contains(&"etcd".to_owned()), "{what}");
        assert!(!problems.is_empty(), "{what}");
        // A docker whose process was stopped reports this when it is started again; one that only hangs does not answer.
        for stopped in [true, false] {
            if stopped {
                host.with_world_mut(|world| world.stop_process("/system.slice/docker.service"));
            }
            host.set_faults(FaultPlan::none().hang("container_runtime", "*").times(2));
            let docker: Vec<PhaseName> = ["configure-docker", "docker", "etcd"]
                .map(|name| name.parse().expect("a name"))
                .into();
            let events = Recording::default();
            let outcome = block_on(runner(&bringup, &host, &events).restart(&docker, &[]));
            let reported = text(&events.events());
            assert!(outcome.is_ok(), "{what}: {reported}");
            assert_ne!(outcome.ok(), Some(Outcome::Converged), "{what}: {reported}");
            assert_eq!(running(&host, "etcd"), etcd, "{what}: {reported}");
        }
    }
    // An image that the same run loads is no obstacle. An image that only another run would load is one.
    let host = applied_host.fork();
    host.with_world_mut(|world| world.forget_image(&image.reference));
    let of = |phases: &[&str]| -> Vec<PhaseName> {
        let names = phases.iter().map(|name| name.parse().expect("a name"));
        names.collect()
    };
    let events = Recording::default();
    let alone = block_on(runner(&bringup, &host, &events).restart(&of(&["etcd"]), &[]));
    assert_eq!(alone.ok(), Some(Outcome::Refused));
    let reported = text(&events.events());
    assert!(reported.contains("this run does not load it"), "{reported}");
    assert!(running(&host, "etcd").is_some());
    let both = of(&["etcd-image", "etcd"]);
    let outcome = block_on(runner(&bringup, &host, &events).restart(&both, &[]));
    assert_eq!(outcome.ok(), Some(Outcome::Converged));
    assert!(running(&host, "etcd").is_some());
}

/// For a new manifest kubelet ends the old pod, and starts no container whose image is missing.
#[test]
fn the_static_pod_is_not_exchanged_for_one_whose_image_is_not_there() {
    const MANIFEST: &str = "/etc/pf9/kube.d/manifests/k8s-master.yaml";
    let (_, host) = applied_host();
    let settings = fs::read_to_string(fixtures("settings/cp-1.yaml")).expect("the fixture");
    for key in ["KUBE_APISERVER_IMAGE", "KUBE_SCHEDULER_IMAGE"] {
        let wrong = format!("{settings}\n{key}: k8s.gcr.io/other:v9.9.9\n");
        let bringup = Bringup::from_case(Case::of("cp-1", &wrong));
        let manifest = || host.with_world(|world| world.text(MANIFEST));
        let before = manifest();
        let failed = failed(&bringup, &host);
        assert!(names(failed.clone()).contains(&"control-plane".to_owned()));
        let events = Recording::default();
        let (set, problems) = block_on(runner(&bringup, &host, &events).restartable(&failed));
        assert!(!problems.is_empty(), "{key}");
        let left = names(set.clone());
        assert!(!left.contains(&"control-plane".to_owned()), "{left:?}");
        if !set.is_empty() {
            let outcome = block_on(runner(&bringup, &host, &events).restart(&set, &[]));
            outcome.expect("it is written down");
        }
        let applied = bringup.apply(&host);
        assert_ne!(applied.outcome, Outcome::Converged, "{key}");
        assert!(before.is_some() && manifest() == before, "{key}");
    }
}

/// A disk that fails under one file of the package.
#[test]
fn an_unreadable_payload_is_reported_and_blocks_no_other_phase() {
    let (bringup, host) = applied_host();
    let mut archive = bringup.plan.payload.iter();
    let archive = archive.rfind(|path| path.ends_with("images/etcd.tar"));
    let archive = archive.expect("it brings one").display().to_string();
    host.with_world_mut(|world| world.remove_container("proxy"));
    host.set_faults(FaultPlan::none().fail("entry", &archive));
    let events = Recording::default();
    let problems =
        block_on(runner(&bringup, &host, &events).failed_preconditions()).expect("it is reported");
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].problem.contains(&archive), "{problems:?}");
    assert!(
        problems[0]
            .remedy
            .contains("install the role's package again"),
        "{problems:?}"
    );
    let mut failed = failed(&bringup, &host);
    failed.insert("etcd-image".parse().expect("a name"));
    // The image was loaded long ago.
    let (set, problems) = block_on(runner(&bringup, &host, &events).restartable(&failed));
    assert!(problems.is_empty(), "{problems:?}");
    let all = names(set.clone());
    for phase in ["etcd-image", "kube-proxy"] {
        assert!(all.contains(&phase.to_owned()), "{all:?}");
    }
    let whole = host.fork();
    whole.set_faults(FaultPlan::none().fail("entry", &archive));
    let outcome = block_on(runner(&bringup, &whole, &events).restart(&set, &[]));
    assert_eq!(outcome.ok(), Some(Outcome::Converged));
    // The archive is needed if the image is gone.
    let mut steps = bringup.plan.phases.iter().flat_map(|phase| &phase.steps);
    let etcd = steps.find_map(|step| match &step.spec {
        Spec::Image(image) if image.archive.ends_with("etcd.tar") => Some(image.reference.clone()),
        _ => None,
    });
    host.with_world_mut(|world| world.forget_image(&etcd.expect("the role loads it")));
    let (set, problems) = block_on(runner(&bringup, &host, &events).restartable(&failed));
    assert!(
        problems.iter().any(|one| one.problem.contains(&archive)),
        "{problems:?}"
    );
    let left = names(set.clone());
    assert!(left.contains(&"kube-proxy".to_owned()), "{left:?}");
    assert!(!left.contains(&"etcd-image".to_owned()), "{left:?}");
    let outcome = block_on(runner(&bringup, &host, &events).restart(&set, &[]));
    assert_eq!(outcome.ok(), Some(Outcome::Converged));
}

/// docker is slow at that moment: a container whose configuration it does not return could not be made again.
#[test]
fn a_container_whose_configuration_cannot_be_read_is_not_ended() {
    let (bringup, host) = applied_host();
    let etcd = running(&host, "etcd");
    let set: Vec<PhaseName> = vec!["etcd".parse().expect("a name")];
    for faults in [
        FaultPlan::none().stall("container_config", "etcd"),
        FaultPlan::none().fail("container_config", "etcd"),
    ] {
        host.set_faults(faults);
        let events = Recording::default();
        let outcome = block_on(runner(&bringup, &host, &events).restart(&set, &[]));
        outcome.expect("it is written down");
        let reported = events.events();
        let left = reported.iter().any(|event| {
            matches!(event, Event::StopFailed { step, .. } if step.as_str().contains("container:etcd"))
        });
        assert!(left, "{}", text(&reported));
        assert!(etcd.is_some() && running(&host, "etcd") == etcd);
    }
}

/// Each request to docker takes until its deadline, and the role has many images.
#[test]
fn a_runtime_that_hangs_is_asked_once_before_a_repair() {
    const LONGEST: Duration = Duration::from_secs(10);
    let (bringup, host) = applied_host();
    let failed = failed(&bringup, &host);
    let all: BTreeSet<PhaseName> = bringup
        .plan
        .phases
        .iter()
        .map(|its| its.name.clone())
        .collect();
    assert!(failed.is_empty(), "{failed:?}");
    let mut hangs = FaultPlan::none();
    for call in [
        "container_runtime",
        "container_runtime_root",
        "image",
        "container",
    ] {
        hangs = hangs.stall(call, "*");
    }
    host.set_faults(hangs);
    let events = Recording::default();
    let (took, set, problems) = block_on(async {
        let began = Instant::now();
        let (set, problems) = runner(&bringup, &host, &events).restartable(&all).await;
        (began.elapsed(), set, problems)
    });
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(set, restart_set(&bringup.plan, &all));
    assert!(took <= LONGEST, "{took:?}");
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

/// What a docker has that is down is not known, so its containers are neither promised to stay nor to be created. The rest is
/// predicted.
#[test]
fn the_repair_of_a_runtime_that_is_down_is_predicted_without_a_guess() {
    let (bringup, host) = applied_host();
    // It has run here.
    host.with_world_mut(|world| world.directory("/var/lib/docker/image"));
    block_on(host.stop_unit("docker.service")).expect("it stops");
    let set = restart_set(&bringup.plan, &failed(&bringup, &host));
    let before = host.snapshot();
    let predicted = Recording::default();
    let outcome = block_on(async {
        let overlay = overlay_host(&host, &bringup.plan).await;
        let runner = Runner::new(
            &bringup.plan,
            &overlay,
            &bringup.facts,
            &MaskedSecrets,
            &predicted,
        );
        runner.dry_restart(&set, &[]).await
    });
    let predicted = predicted.events();
    assert_eq!(
        outcome.ok(),
        Some(Outcome::Predicted),
        "{}",
        text(&predicted)
    );
    assert_eq!(host.snapshot(), before);
    let done = Recording::default();
    let outcome = block_on(runner(&bringup, &host, &done).restart(&set, &[]));
    assert_eq!(outcome.ok(), Some(Outcome::Converged));
    let fidelity = Fidelity::of(&predicted, &done.events());
    let shown: Vec<String> = fidelity.misses.iter().map(Mismatch::to_string).collect();
    let mut misses = fidelity.misses.iter();
    assert!(misses.all(Mismatch::waits_for_runtime), "{shown:#?}");
    assert!(
        shown
            .iter()
            .any(|miss| miss.starts_with("etcd/container:etcd: predicted known after apply")),
        "{shown:#?}"
    );
}

/// Damages something as soon as a resource is stopped.
struct DamagingSink<'a> {
    /// Part of the step's name.
    stopped: &'a str,
    spoil: &'a (dyn Fn() + Sync),
    events: Recording,
}

impl EventSink for DamagingSink<'_> {
    fn emit(&self, event: Event) {
        if let Event::StepStopped { step, .. } = &event
            && step.as_str().contains(self.stopped)
        {
            (self.spoil)();
        }
        self.events.emit(event);
    }
}

#[test]
fn a_stopped_unit_was_not_restarted() {
    let (bringup, applied_host) = applied_host();
    type Spoil<'a> = (&'a str, &'a str, &'a (dyn Fn(&FakeHost) + Sync), &'a str);
    let ways: [Spoil<'_>; 2] = [
        (
            KUBELET,
            KUBELET_CONFIG,
            &|host| {
                host.with_world_mut(|world| {
                    for directory in ["/etc/systemd/system", "/lib/systemd/system"] {
                        world.remove(Path::new(directory).join(KUBELET));
                    }
                });
                // The sink is called inside a runtime, so another thread needs its own.
                std::thread::scope(|scope| {
                    let reload = scope.spawn(|| block_on(host.reload_units()));
                    let reloaded = reload.join().expect("it comes to its end");
                    reloaded.expect("systemd answers");
                });
            },
            "systemd has no unit of this name",
        ),
        (
            "container:etcd",
            ETCD_CONFIG,
            &|host| host.with_world_mut(|world| world.break_container("etcd", true)),
            "exited with 1; see `docker logs etcd`",
        ),
    ];
    for (resource, path, spoil, why) in ways {
        let host = applied_host.fork();
        edit(&host, path);
        host.set_faults(FaultPlan::none().fail("write", path));
        let sink = DamagingSink {
            stopped: resource,
            spoil: &|| spoil(&host),
            events: Recording::default(),
        };
        let set = restart_set(&bringup.plan, &failed(&bringup, &host));
        let outcome = block_on(runner(&bringup, &host, &sink).restart(&set, &[]));
        let reported = text(&sink.events.events());
        assert_eq!(outcome.ok(), Some(Outcome::Failed), "{reported}");
        let events = sink.events.events();
        let mut failures = events.iter().filter_map(|event| match event {
            Event::StartFailed { step, error, .. } if step.as_str().contains(resource) => {
                Some(error)
            }
            _ => None,
        });
        assert!(
            failures.any(|error| error.contains(why)),
            "{resource}: {reported}"
        );
        let claims = events.iter().any(|event| {
            matches!(event, Event::StepStartedAgain { step, .. } if step.as_str().contains(resource))
        });
        assert!(!claims, "{resource}: {reported}");
    }
}

/// Asks the run to end as soon as it has stopped kubelet.
struct Signal {
    cancel: CancellationToken,
    events: Recording,
}

impl EventSink for Signal {
    fn emit(&self, event: Event) {
        if let Event::StepStopped { step, .. } = &event
            && step.as_str().contains(KUBELET)
        {
            self.cancel.cancel();
        }
        self.events.emit(event);
    }
}

#[test]
fn a_repair_that_is_asked_to_end_leaves_nothing_stopped() {
    let (bringup, host) = applied_host();
    edit(&host, KUBELET_CONFIG);
    let sink = Signal {
        cancel: CancellationToken::new(),
        events: Recording::default(),
    };
    let set = restart_set(&bringup.plan, &failed(&bringup, &host));
    let mut runner = runner(&bringup, &host, &sink);
    runner.cancel = sink.cancel.clone();
    let outcome = block_on(runner.restart(&set, &[])).expect("it is written down");
    assert_eq!(outcome, Outcome::Interrupted);
    assert!(runs(&host, KUBELET), "{}", text(&sink.events.events()));
}

#[test]
fn a_unit_that_does_not_run_is_to_be_started_and_not_created() {
    let (bringup, host) = applied_host();
    block_on(host.stop_unit(KUBELET)).expect("it stops");
    let health = bringup.check(&host);
    let reasons: Vec<&str> = health
        .iter()
        .flat_map(|phase| &phase.conditions)
        .map(|condition| condition.reason.as_str())
        .collect();
    let reported = reasons.join("\n");
    assert!(
        reported.contains("service pf9-kubelet.service would be started"),
        "{reported}"
    );
    assert!(!reported.contains("would be created"), "{reported}");
}

/// The trial write on the real file system of this machine: it leaves nothing behind, and reports what cannot be replaced.
#[test]
fn a_trial_on_a_real_disk_leaves_no_trace() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    let host = engine::host::live::LiveHost::new();
    let tries = |path: &Path, room| block_on(host.try_write(path, room));
    std::fs::write(at("file"), "as it was").expect("it is written");
    std::fs::create_dir(at("directory")).expect("it is made");
    tries(&at("file"), 1 << 16).expect("it can be replaced");
    tries(&at("new"), 1 << 16).expect("it can be made");
    tries(&at("a/b/c/new"), 1 << 16).expect("its directories can be made");
    let below = tries(&at("file/new"), 0).expect_err("that is no directory");
    assert!(below.to_string().contains("file/new"), "{below}");
    tries(Path::new("/proc/new"), 0).expect_err("the kernel makes no file there");
    let full = tries(&at("new"), 1 << 60).expect_err("no disk has this room");
    assert!(full.to_string().starts_with("write "), "{full}");
    let listed = std::fs::read_dir(directory.path()).expect("a listing");
    let mut left: Vec<_> = listed
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    left.sort();
    assert_eq!(left, ["directory", "file"]);
    let content = std::fs::read_to_string(at("file")).expect("it is read");
    assert_eq!(content, "as it was");
}
