//! Resources on a host that are not ours are not ended, not replaced and not removed, even if they have our names.

use behaviour::{Bringup, block_on, foreign_container};
use engine::exec::{Event, Recording, Runner, failed_phases, restart_set};
use engine::facts::{Disk, Facts, Listener, ObstacleKind, Requirement, Swap};
use engine::host::fake::FakeHost;
use engine::host::{Containers as _, Files as _};
use engine::model::{Outcome, PhaseName};
use engine::resource::MaskedSecrets;

/// A host with docker, where another owner runs containers with names that the role uses.
fn host_with_foreign_containers(bringup: &Bringup) -> FakeHost {
    let host = bringup.bare_host();
    host.with_world_mut(|world| world.image("example/foreign:1"));
    for name in ["etcd", "proxy"] {
        let theirs = foreign_container(name);
        block_on(host.create_container(&theirs)).expect("it is made");
        block_on(host.start_container(name)).expect("it is started");
    }
    host
}

#[test]
fn a_stop_on_a_host_that_never_had_the_role_ends_nothing() {
    let bringup = Bringup::of("cp-1");
    let host = host_with_foreign_containers(&bringup);
    let run = bringup.stop(&host);
    assert_eq!(run.outcome, Outcome::Stopped, "{}", run.text());
    for name in ["etcd", "proxy"] {
        let state = block_on(host.container(name)).expect("docker answers");
        assert!(
            state.is_some_and(|state| state.running),
            "{name}: {}",
            run.text()
        );
    }
}

#[test]
fn a_foreign_container_is_not_replaced() {
    let bringup = Bringup::of("cp-1");
    let host = host_with_foreign_containers(&bringup);
    let run = bringup.apply(&host);
    assert_eq!(run.outcome, Outcome::Failed);
    let report = run.text();
    for wanted in [
        "✗ etcd failed at phases/etcd.rhai:",
        "a foreign container of image",
        "docker rename etcd etcd-old",
    ] {
        assert!(report.contains(wanted), "`{wanted}` is missing in {report}");
    }
    let state = block_on(host.container("etcd")).expect("docker answers");
    assert_eq!(state.expect("it is there").image, "example/foreign:1");
}

/// Docker makes its bridge only at its start: without the bridge, containers with a network of their own cannot start.
#[test]
fn a_deleted_bridge_of_docker_comes_back_with_docker() {
    let bringup = Bringup::of("cp-1");
    let host = bringup.bare_host();
    let run = bringup.apply(&host);
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    host.with_world_mut(|world| world.remove_link("docker0"));
    let health = bringup.check(&host);
    let failed = failed_phases(&health);
    let names: Vec<&str> = failed.iter().map(PhaseName::as_str).collect();
    assert_eq!(names, ["docker"], "{health:#?}");
    let set = restart_set(&bringup.plan, &failed);
    assert_eq!(
        set[..2],
        ["configure-docker", "docker"].map(|name| name.parse().expect("a name"))
    );
    let ignored_events = Recording::default();
    let runner = Runner::new(
        &bringup.plan,
        &host,
        &bringup.facts,
        &MaskedSecrets,
        &ignored_events,
    );
    let outcome = block_on(runner.restart(&set, &[])).expect("it is written down");
    assert_eq!(outcome, Outcome::Converged);
    assert_eq!(failed_phases(&bringup.check(&host)).len(), 0);
}

#[test]
fn a_stop_after_a_partial_apply_does_not_stop_unused_units() {
    let bringup = Bringup::of("cp-1");
    let host = host_with_foreign_containers(&bringup);
    block_on(host.stop_container("etcd", std::time::Duration::ZERO)).expect("it stops");
    block_on(host.remove_container("etcd")).expect("it goes");
    let etcd = bringup
        .plan
        .phases
        .iter()
        .position(|p| p.name.as_str() == "etcd");
    for phase in &bringup.plan.phases[..=etcd.expect("a phase")] {
        let run = bringup.apply_phase(&host, phase);
        assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    }
    assert_eq!(bringup.stop(&host).outcome, Outcome::Stopped);
    let container = |name: &str| block_on(host.container(name));
    let ours = container("etcd");
    assert!(!matches!(ours, Ok(Some(_))), "ours is ended: {ours:?}");
    // docker was ended because the role has configured it; the containers of others are still in it.
    block_on(engine::host::Services::start_unit(&host, "docker.service")).expect("it starts");
    assert!(container("proxy").expect("docker answers").is_some());
}

#[test]
fn a_running_master_without_records_may_use_its_own_ports() {
    let bringup = Bringup::of("cp-1");
    for lost in [
        &["/var/opt/pf9/nodelet/preflight.json"][..],
        &[
            "/var/opt/pf9/nodelet/preflight.json",
            "/var/opt/pf9/nodelet/ledger.jsonl",
        ],
    ] {
        let host = bringup.bare_host();
        assert_eq!(bringup.apply(&host).outcome, Outcome::Converged);
        for path in lost {
            block_on(host.remove(path.as_ref())).expect("it is there");
        }
        host.clear_journal();
        // The present facts of the host: our own programs use its ports.
        let mut facts = bringup.facts.clone();
        facts.listening.get_or_insert_default().push(Listener {
            address: "::".parse().expect("an address"),
            port: 443,
            program: Some("kube-apiserver".to_owned()),
            cgroup: None,
        });
        let bringup_here = Bringup {
            plan: bringup.plan.clone(),
            facts,
        };
        let run = bringup_here.apply(&host);
        if lost.contains(&"/var/opt/pf9/nodelet/ledger.jsonl") {
            // Without its ledger nothing on the host is changed, and the ports are not the reported reason.
            assert_eq!(run.outcome, Outcome::Failed, "{lost:?}: {}", run.text());
            assert_eq!(host.mutating_calls(), vec![], "{lost:?}");
            continue;
        }
        assert_eq!(run.outcome, Outcome::Converged, "{lost:?}: {}", run.text());
        let fresh = bringup_here.apply(&bringup.bare_host());
        assert_eq!(
            fresh.outcome,
            Outcome::Refused,
            "another program has the port there"
        );
    }
}

/// A valid record of met preconditions that belongs to another host.
#[test]
fn a_running_master_is_not_refused_because_of_a_foreign_record() {
    const RECORD: &str = "/var/opt/pf9/nodelet/preflight.json";
    let bringup = Bringup::of("cp-1");
    let host = bringup.bare_host();
    assert_eq!(bringup.apply(&host).outcome, Outcome::Converged);
    let mut facts = bringup.facts.clone();
    let listens = |group: &str| Listener {
        address: "::".parse().expect("an address"),
        port: 443,
        program: Some("kube-apiserver".to_owned()),
        cgroup: Some(group.to_owned()),
    };
    facts
        .listening
        .get_or_insert_default()
        .push(listens("/kubepods/burstable/podabc/def"));
    facts
        .earlier_clusters
        .push("/etc/pf9/kube.d/manifests".to_owned());
    let mut bringup_here = Bringup {
        plan: bringup.plan,
        facts,
    };
    let met = host
        .with_world(|world| world.text(RECORD))
        .expect("it is written down");
    let mut older: serde_json::Value = serde_json::from_str(&met).expect("it is JSON");
    older["met"] = serde_json::json!(["0"]);
    host.with_world_mut(|world| world.file(RECORD, older.to_string()));
    let run = bringup_here.apply(&host);
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    assert_eq!(run.changes(), [""; 0]);
    // A record of older settings, which named another port: our own ports are not judged, all others are.
    bringup_here.facts.earlier_clusters.clear();
    let met: serde_json::Value = serde_json::from_str(&met).expect("it is JSON");
    let met = met["met"].as_array().expect("a list");
    for (group, refused) in [
        ("/kubepods/burstable/podabc/def", 0),
        ("/system.slice/apache2.service", 1),
    ] {
        bringup_here.facts.listening = Some(vec![listens(group)]);
        let refusals = (0..met.len()).filter(|&left_out| {
            let mut others = met.clone();
            let _ = others.remove(left_out);
            older["met"] = others.into();
            host.with_world_mut(|world| world.file(RECORD, older.to_string()));
            bringup_here.apply(&host).outcome == Outcome::Refused
        });
        assert_eq!(refusals.count(), refused, "{group}");
    }
}

#[test]
fn blockers_are_named_before_a_full_clean() {
    let bringup = Bringup::of("cp-1");
    let host = bringup.bare_host();
    assert_eq!(bringup.apply(&host).outcome, Outcome::Converged);
    let etcd = block_on(host.container("etcd")).expect("docker answers");
    let etcd = etcd.expect("it runs").id;
    let listens = |port, group: &str| Listener {
        address: "::".parse().expect("an address"),
        port,
        program: None,
        cgroup: Some(group.to_owned()),
    };
    let mut facts = bringup.facts.clone();
    facts.listening = Some(vec![
        listens(443, "/kubepods/burstable/podabc/def"),
        listens(4001, &format!("/docker/{etcd}")),
        listens(2380, &format!("/system.slice/docker-{etcd}.scope")),
        listens(10250, "/system.slice/pf9-kubelet.service"),
    ]);
    let problems = |facts: &Facts, rebuild| -> Vec<String> {
        let recording = Recording::default();
        let secrets = MaskedSecrets;
        let mut runner = Runner::new(&bringup.plan, &host, facts, &secrets, &recording);
        runner.rebuild = rebuild;
        block_on(runner.dry_run()).expect("it can be told");
        let report = recording
            .events()
            .into_iter()
            .filter_map(|event| match event {
                Event::PreflightFailed { problems } => Some(problems),
                _ => None,
            });
        report.flatten().map(|one| one.problem).collect()
    };
    assert_eq!(problems(&facts, true), [""; 0], "all of them are ours");
    let listening = facts.listening.as_mut().expect("it was set");
    listening.push(listens(10256, "/system.slice/nginx.service"));
    listening.push(listens(10259, "/docker/0123456789"));
    let report = problems(&facts, true);
    assert_eq!(report.len(), 2, "{report:?}");
    assert!(
        report[0].contains("10256") && report[1].contains("10259"),
        "{report:?}"
    );
    assert_eq!(problems(&facts, false), [""; 0], "a repair does not ask");
    // Other preconditions that were met when the role came, and would not be met by an apply after the clean.
    let with_swap = Facts {
        swaps: Some(vec![Swap {
            path: "/swapfile".to_owned(),
            bytes: 1 << 30,
        }]),
        ..bringup.facts.clone()
    };
    assert_eq!(
        problems(&with_swap, false),
        [""; 0],
        "a repair does not ask"
    );
    let report = problems(&with_swap, true);
    assert!(
        report.len() == 1 && report[0].contains("swap"),
        "{report:?}"
    );
    let mut full = bringup.facts.clone();
    for disk in &mut full.disks {
        disk.free = 1 << 20;
    }
    let report = problems(&full, true);
    assert!(
        !report.is_empty() && report[0].contains("free of"),
        "{report:?}"
    );
    // A file is in the place of the backups' directory: a clean would not remove it.
    let mut taken = bringup.facts.clone();
    let backups = "/etc/pf9/etcd-backup";
    let disk = taken.disks.first().expect("there is one").clone();
    taken.disks.push(Disk {
        path: backups.to_owned(),
        mode: None,
        taken_by: Some(ObstacleKind::File.into()),
        ..disk
    });
    let report = problems(&taken, true);
    assert_eq!(
        report,
        [format!("{backups} is not a directory: a file is there")]
    );
}

/// A later role may need more than a host at its role has left.
#[test]
fn repeated_hints_do_not_delay_a_repair() {
    let bringup = Bringup::of("cp-1");
    let host = bringup.bare_host();
    assert_eq!(bringup.apply(&host).outcome, Outcome::Converged);
    let mut plan = bringup.plan.clone();
    let mut raised = 0;
    for phase in &mut plan.phases {
        for its in &mut phase.requirements {
            match &mut its.requirement {
                Requirement::MinMemory(bytes)
                | Requirement::MinDisk { bytes, .. }
                | Requirement::PersistentDirectory { bytes, .. } => *bytes = 1 << 60,
                Requirement::MinCpus(count) => *count = 1 << 20,
                _ => continue,
            }
            raised += 1;
        }
    }
    assert!(raised >= 4, "{raised}");
    let raised = Bringup {
        plan,
        facts: bringup.facts.clone(),
    };
    let run = raised.apply(&host);
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    assert_eq!(raised.apply(&bringup.bare_host()).outcome, Outcome::Refused);
}
