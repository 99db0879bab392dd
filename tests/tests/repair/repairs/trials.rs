//! What a repair tries before it stops anything: it does not stop what it could not start again. The phases that it can start again are
//! repaired.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use behaviour::{Bringup, Case, block_on, fixtures};
use engine::exec::{Event, Recording, restart_set};
use engine::host::fake::{FakeHost, FaultPlan, difference};
use engine::host::{Containers as _, Files as _, HostError, Services as _, Space};
use engine::kubernetes::join_file::JOIN_FILE;
use engine::model::{Outcome, PhaseName, STATE};
use engine::resource::Spec;
use tokio::time::Instant;

use super::{
    ETCD_CONFIG, KUBELET_CONFIG, applied_host, brought_up, edit, failed, kubelet_state, names,
    repair, runner, running, text,
};

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
        let before = (host.snapshot(), kubelet_state(&host));
        host.clear_journal();
        let (outcome, reported) = repair(&bringup, &host);
        assert_eq!(outcome, Outcome::Refused, "{what}: {reported}");
        assert_eq!(host.mutating_calls(), vec![], "{what}");
        assert_eq!(
            difference(&before.0, &host.snapshot()),
            Vec::<String>::new()
        );
        assert_eq!(kubelet_state(&host), before.1);
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
    let before = kubelet_state(&host);
    let failed = failed(&bringup, &host);
    assert_eq!(names(failed.clone()), ["kube-proxy", "kubelet"]);
    let events = Recording::default();
    let (set, problems) = block_on(runner(&bringup, &host, &events).restartable(&failed));
    assert_eq!(names(set.clone()), ["kube-proxy"]);
    assert_eq!(problems.len(), 1, "{problems:?}");
    let outcome = block_on(runner(&bringup, &host, &events).restart(&set, &[]));
    assert_eq!(outcome.expect("it is written down"), Outcome::Converged);
    assert_eq!(kubelet_state(&host), before);
    assert!(
        block_on(host.container("proxy"))
            .expect("docker answers")
            .is_some()
    );
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

/// Its certificates have ended, and it has no join file: after the clean of a rebuild it would stay down.
#[test]
fn a_worker_that_could_not_join_again_is_not_rebuilt() {
    let (bringup, host) = Bringup::brought_up("wk-1");
    let events = Recording::default();
    let mut rebuild = runner(&bringup, &host, &events);
    rebuild.rebuild = true;
    let problems = || block_on(rebuild.failed_preconditions()).expect("the host tells");
    let cannot_join = || {
        problems()
            .iter()
            .any(|one| one.problem.contains("it is not there"))
    };
    host.with_world_mut(|world| world.remove(JOIN_FILE));
    assert!(!cannot_join(), "it needs no file: {:?}", problems());
    host.with_world_mut(|world| world.advance(Duration::from_secs(40 * 24 * 3600)));
    assert!(cannot_join(), "{:?}", problems());
}

/// It runs without its files until its kubelet ends, and it cannot get them again: so its kubelet goes on.
#[test]
fn a_worker_that_could_not_join_again_keeps_its_kubelet() {
    let (bringup, host) = Bringup::brought_up("wk-1");
    let lost = [
        JOIN_FILE,
        "/etc/pf9/kube.d/certs/kubelet/apiserver/request.crt",
        "/etc/pf9/kube.d/certs/kubelet/apiserver/request.key",
        "/etc/pf9/kube.d/certs/kubelet/apiserver/ca.crt",
        "/etc/pf9/kube.d/kubeconfigs/kubelet.yaml",
    ];
    for path in lost {
        host.with_world_mut(|world| world.remove(path));
    }
    let records = || host.with_world(|world| world.text("/var/opt/pf9/nodelet/ledger.jsonl"));
    let before = records();
    let names = ["certs", "kubeconfigs", "kubelet"];
    let failed: Vec<PhaseName> = names
        .iter()
        .map(|name| name.parse().expect("a name"))
        .collect();
    let events = Recording::default();
    let outcome = block_on(runner(&bringup, &host, &events).restart(&failed, &[]));
    let events = events.events();
    assert_eq!(outcome.ok(), Some(Outcome::Refused), "{events:?}");
    let refusal = events.iter().find_map(Event::refusal);
    let refusal = refusal.expect("it says why");
    assert!(refusal.contains("it is not there"), "{refusal}");
    let kubelet = block_on(host.unit("pf9-kubelet.service")).expect("it is known");
    assert!(kubelet.is_active(), "{kubelet:?}");
    assert_eq!(records(), before, "nothing is written down");
}

/// No master signs for it at the moment: a full clean would end pods that run, and bring nothing back.
#[test]
fn a_worker_that_waits_for_a_signature_is_not_rebuilt() {
    let (bringup, host) = Bringup::brought_up("wk-1");
    let events = Recording::default();
    let problem = || block_on(runner(&bringup, &host, &events).signature_problem_of_clean());
    assert!(problem().is_none(), "{:?}", problem());
    let proxy = "/etc/pf9/kube.d/certs/kube-proxy/apiserver/request.key";
    host.with_world_mut(|world| world.remove(proxy));
    let found = problem().expect("it has no certificate of kube-proxy");
    assert!(found.problem.contains("kube-proxy/apiserver"), "{found:?}");
    // Before its kubelet has a kubeconfig, it has no pods.
    host.with_world_mut(|world| world.remove("/etc/pf9/kube.d/kubeconfigs/kubelet.yaml"));
    assert!(problem().is_none(), "{:?}", problem());
}

/// What a clean leaves is enough: a worker that was cleaned asks no master for a signature.
#[test]
fn a_cleaned_worker_keeps_its_certificates() {
    let (bringup, host) = Bringup::brought_up("wk-1");
    let names = [
        "kubelet/apiserver",
        "kubelet/server",
        "kube-proxy/apiserver",
    ];
    let certificates = || {
        names.map(|name| {
            let path = format!("/etc/pf9/kube.d/certs/{name}/request.crt");
            host.with_world(|world| world.text(&path))
        })
    };
    let before = certificates();
    assert!(before.iter().all(Option::is_some), "{before:?}");
    let cleaned = Bringup::clean(&host, false);
    assert_eq!(cleaned.outcome, Outcome::Cleaned, "{}", cleaned.text());
    assert_eq!(certificates(), before);
    let again = bringup.apply(&host);
    assert_eq!(again.outcome, Outcome::Converged, "{}", again.text());
    assert_eq!(certificates(), before);
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
        // A docker whose process was stopped reports this when it is started again. One that only hangs does not, and its container stays.
        for stopped in [true, false] {
            if stopped {
                host.with_world_mut(|world| world.stop_main_process("docker.service", "dockerd"));
            }
            host.set_faults(FaultPlan::none().hang("container_runtime", "*").times(2));
            let docker: Vec<PhaseName> = ["configure-docker", "docker", "etcd"]
                .map(|name| name.parse().expect("a name"))
                .into();
            let events = Recording::default();
            let outcome = block_on(runner(&bringup, &host, &events).restart(&docker, &[]));
            let reported = text(&events.events());
            assert!(outcome.is_ok(), "{what}: {reported}");
            let converged = outcome.ok() == Some(Outcome::Converged);
            assert!(!(stopped && converged), "{what}: {reported}");
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
    // A prediction without a write never refuses what can be written.
    for name in ["file", "new", "a/b/c/new"] {
        let predicted = block_on(host.predict_write(&at(name), 1 << 16));
        predicted.expect("it can be written");
    }
    // Other users than root may lack room that an apply has, so nothing is predicted for them.
    let predicted = block_on(host.predict_write(&at("new"), 1 << 60));
    let is_root = nix::unistd::Uid::effective().is_root();
    assert_eq!(predicted.is_err(), is_root, "{predicted:?}");
    let is_refused = matches!(predicted, Err(HostError::WriteRefused { .. }));
    assert_eq!(is_refused, is_root, "{predicted:?}");
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
