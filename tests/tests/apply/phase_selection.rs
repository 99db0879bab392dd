//! Phases that are applied alone: the phases that they require have to be applied already.

use behaviour::{Bringup, Case, Scripts, block_on, fixtures, text};
use engine::host::Containers as _;
use engine::host::fake::{FakeHost, difference};
use engine::ledger::Record;
use engine::model::{Outcome, Verb};
use engine::resource::Spec;

#[test]
fn a_phase_with_unmet_requirements_is_refused_with_a_next_step() {
    let bringup = Bringup::of("cp-1");
    let host = bringup.bare_host();
    let missing = bringup.unmet_requires(&host, &["kubelet"]);
    assert_eq!(
        missing.expect("a bare host").to_string(),
        "apply the chosen phases: they require `configure-docker`, which this host does not have \
         yet; `nodelet apply --to kubelet` applies them, too, `nodelet apply` applies everything"
    );
    for fine in [
        &[][..],
        &["preflight"],
        &["node-config"],
        &["certs"],
        &["configure-docker", "docker", "kubelet"],
    ] {
        assert_eq!(bringup.unmet_requires(&host, fine), None, "{fine:?}");
    }
}

#[test]
fn applied_requirements_suffice_for_each_single_phase() {
    let bringup = Bringup::of("cp-1");
    let host = bringup.bare_host();
    let run = bringup.apply_only(
        &host,
        &["preflight", "node-config", "configure-docker", "docker"],
    );
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    assert_eq!(bringup.unmet_requires(&host, &["kubelet"]), None);
    let missing = bringup.unmet_requires(&host, &["node-role"]);
    assert!(
        missing.is_some_and(|missing| missing.phases.iter().any(|name| name.as_str() == "etcd"))
    );

    let host = bringup.bare_host();
    let _ = bringup.apply(&host);
    for phase in &bringup.plan.phases {
        let only = [phase.name.as_str()];
        assert_eq!(bringup.unmet_requires(&host, &only), None, "{only:?}");
    }
}

/// A container that would have to be made again keeps running if its image is gone and this run does not load it.
#[test]
fn a_container_is_not_stopped_if_the_new_image_is_missing() {
    let bringup = Bringup::of("cp-1");
    let host = bringup.bare_host();
    let _ = bringup.apply(&host);
    let id = || block_on(host.container("etcd")).map(|its| its.map(|its| (its.id, its.running)));
    let before = id().expect("docker tells");
    assert!(before.as_ref().is_some_and(|(_, running)| *running));
    let steps = bringup.plan.phases.iter().flat_map(|phase| &phase.steps);
    for step in steps {
        if let Spec::Image(image) = &step.spec {
            host.with_world_mut(|world| world.forget_image(&image.reference));
        }
    }
    // With another setting the container would be made again.
    let settings = text(fixtures("settings/cp-1.yaml"));
    let settings = format!("{settings}ETCD_HEARTBEAT_INTERVAL: 200\n");
    let bringup = Bringup::from_case(Case::of("cp-1", &settings));
    let run = bringup.apply_only(&host, &["etcd"]);
    assert_eq!(run.outcome, Outcome::Failed, "{}", run.text());
    let message = run.text();
    assert!(
        message.contains("docker does not have the image"),
        "{message}"
    );
    assert_eq!(id().expect("docker tells"), before, "{message}");
    let run = bringup.apply(&host);
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
}

/// docker is not installed yet, so it has none of the images.
#[test]
fn chosen_phases_are_refused_at_once_where_an_archive_that_they_load_is_missing() {
    let bringup = Bringup::of("cp-2-nodocker");
    let host = bringup.bare_host();
    let mut archives = bringup.plan.payload.iter();
    let archive = archives.find(|path| path.ends_with("images/etcd.tar"));
    let archive = archive.expect("it brings one").clone();
    host.with_world_mut(|world| world.remove(&archive));
    let before = host.snapshot();
    let run = bringup.apply_only(
        &host,
        &[
            "preflight",
            "node-config",
            "certs",
            "configure-docker",
            "docker",
            "etcd-image",
        ],
    );
    assert_eq!(run.outcome, Outcome::Refused, "{}", run.text());
    assert!(run.text().contains("images/etcd.tar"), "{}", run.text());
    let touched = difference(&before, &host.snapshot());
    assert!(touched.is_empty(), "{touched:?}");
}

#[test]
fn a_requirement_met_without_the_role_counts() {
    let phase = |name: &str, header: &str, content: &str| {
        format!(
            "phase(\"{name}\").about(\"A phase of a test.\").nodes([\"master\"]){header};\n\
             file(\"/etc/{name}\").content(\"{content}\");"
        )
    };
    let scripts = Scripts::default()
        .phase("first", &phase("first", "", "x"))
        .phase("second", &phase("second", r#".requires(["first"])"#, "y"))
        .phase("third", &phase("third", r#".requires(["second"])"#, "z"));
    let bringup = Bringup::of_scripts(&scripts);
    let host = FakeHost::new().with_file("/etc/first", "x");
    assert_eq!(bringup.unmet_requires(&host, &["second"]), None);
    let names = |only: &[&str]| {
        let missing = bringup.unmet_requires(&host, only)?;
        Some(
            missing
                .phases
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>(),
        )
    };
    assert_eq!(names(&["third"]), Some(vec!["second".to_owned()]));
    let other = FakeHost::new();
    assert!(bringup.unmet_requires(&other, &["second"]).is_some());
}

/// A prediction without an API server takes what such a run has seen for granted.
#[test]
fn the_end_of_a_run_names_its_phases() {
    let bringup = Bringup::of("cp-1");
    let host = bringup.bare_host();
    let last = || {
        let records = Bringup::records(&host);
        let mut ends = records.iter().rev();
        let phases = ends.find_map(|record| match record {
            Record::End { phases, .. } => Some(phases.iter().map(ToString::to_string)),
            _ => None,
        });
        phases.into_iter().flatten().collect::<Vec<String>>()
    };
    let _ = bringup.apply_only(&host, &["preflight", "node-config"]);
    assert_eq!(last(), ["preflight", "node-config"]);
    let _ = bringup.apply(&host);
    let phases = bringup.plan.phases.iter();
    let done = phases.filter(|phase| phase.skipped.is_none());
    let done: Vec<String> = done.map(|phase| phase.name.to_string()).collect();
    assert!(!done.contains(&"join".to_owned()), "it is the first master");
    assert_eq!(last(), done);
    let _ = bringup.stop(&host);
    assert_eq!(last(), [""; 0]);
}

/// A prediction without an API server takes it that the node may be cordoned then.
#[test]
fn a_stop_records_its_drain() {
    let (bringup, host) = Bringup::brought_up("cp-1");
    let _ = bringup.stop(&host);
    let records = Bringup::records(&host);
    let stop = records.iter().rev().find_map(|record| match record {
        Record::Run {
            run,
            verb: Verb::Stop,
            ..
        } => Some(*run),
        _ => None,
    });
    let of_drain = |record: &Record| {
        let Record::Intent { run, step, .. } = record else {
            return false;
        };
        Some(*run) == stop && step.phase() == Some("drain")
    };
    assert!(records.iter().any(of_drain), "{records:?}");
}
