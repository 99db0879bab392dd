//! A dry run reports what an apply would fail on, and does not count as one that ended well. What cannot be predicted is reported
//! as known after apply, and so is everything that depends on it.

use std::path::Path;
use std::time::Duration;

use behaviour::{Bringup, Fidelity, Run, Scripts, block_on};
use engine::exec::{Event, Recording, Runner};
use engine::host::fake::{FakeHost, World};
use engine::host::{ClusterNode, Files as _};
use engine::model::{Outcome, StepId, Text};
use engine::plan::PlannedStep;
use engine::report::Review;
use engine::resource::{MaskedSecrets, Spec};

/// A change that harms a host.
type Harm<'a> = &'a dyn Fn(&mut World);

const PAYLOAD: &str = "/opt/pf9/roles/pf9-kube/current/payload";

/// The review of a dry run on an overlay of this host, after an apply has shown that it fails.
fn predicted_failure(bringup: &Bringup, host: &FakeHost) -> (Run, String) {
    let predicted = bringup.predict(host);
    let done = bringup.apply(&host.fork());
    assert_ne!(done.outcome, Outcome::Converged, "{}", done.text());
    assert_eq!(predicted.outcome, done.outcome, "{}", predicted.text());
    let review = Review::of(&predicted.events);
    assert!(!review.complete(), "{}", review.plan());
    let text = review.diff();
    (predicted, text)
}

/// The host below shows without a write that nothing can be made there.
#[test]
fn a_file_system_without_inodes_is_predicted() {
    let bringup = Bringup::of("cp-1");
    let host = bringup.bare_host();
    host.with_world_mut(|world| world.exhaust_inodes("/etc/pf9"));
    host.clear_journal();
    let (predicted, text) = predicted_failure(&bringup, &host);
    assert_eq!(host.mutating_calls(), vec![]);
    assert_eq!(predicted.outcome, Outcome::Failed, "{text}");
    for part in ["an apply would fail in ", "write /etc/pf9", "`df -i`"] {
        assert!(text.contains(part), "`{part}`: {text}");
    }
    // Without its own records an apply does not begin.
    let host = bringup.bare_host();
    host.with_world_mut(|world| world.exhaust_inodes("/var/opt/pf9"));
    let predicted = bringup.predict(&host);
    assert_eq!(predicted.outcome, Outcome::Refused, "{}", predicted.text());
    let text = Review::of(&predicted.events).diff();
    for part in ["ledger.jsonl", "no inodes left"] {
        assert!(text.contains(part), "`{part}`: {text}");
    }
}

/// A restart of kubelet does not need the archives of images that were loaded long ago.
#[test]
fn a_damaged_archive_does_not_block_repairs_of_other_phases() {
    let bringup = Bringup::of("cp-1");
    let host = bringup.bare_host();
    assert_eq!(bringup.apply(&host).outcome, Outcome::Converged);
    let restarted = |phase: &str| {
        let recording = Recording::default();
        let runner = Runner::new(
            &bringup.plan,
            &host,
            &bringup.facts,
            &MaskedSecrets,
            &recording,
        );
        let phase = phase.parse().expect("a name");
        block_on(runner.restart(&[phase], &[])).expect("it can be written down")
    };
    let archives = bringup
        .plan
        .payload
        .iter()
        .filter(|path| path.starts_with(format!("{PAYLOAD}/images")));
    let archives: Vec<_> = archives.collect();
    assert!(!archives.is_empty());
    for archive in archives {
        host.with_world_mut(|world| world.file(archive, ""));
    }
    assert_eq!(restarted("kubelet"), Outcome::Converged);
    // The images of this phase were loaded long ago.
    assert_eq!(restarted("images"), Outcome::Converged);
    let steps = bringup.plan.phases.iter().flat_map(|phase| &phase.steps);
    for step in steps {
        if let Spec::Image(image) = &step.spec {
            host.with_world_mut(|world| world.forget_image(&image.reference));
        }
    }
    assert_eq!(restarted("images"), Outcome::Refused);
    assert_eq!(
        bringup.apply(&host).outcome,
        Outcome::Refused,
        "a whole run needs all archives"
    );
    let kubelet = format!("{PAYLOAD}/bin/kubelet");
    host.with_world_mut(|world| world.file_with_mode(&kubelet, "", 0o755));
    assert_eq!(restarted("kubelet"), Outcome::Refused);
}

#[test]
fn an_unusable_payload_fails_a_dry_run_too() {
    let bringup = Bringup::of("cp-1");
    let kubelet = format!("{PAYLOAD}/bin/kubelet");
    let etcd = format!("{PAYLOAD}/images/etcd.tar");
    let cases: [(Harm<'_>, String); 3] = [
        (&|world| world.remove(&etcd), format!("{etcd} is not there")),
        (&|world| world.file(&etcd, ""), format!("{etcd} is empty")),
        (
            &|world| world.file_with_mode(&kubelet, "program", 0o644),
            format!("{kubelet} cannot be run"),
        ),
    ];
    for (harm, expected) in cases {
        let host = bringup.bare_host();
        host.with_world_mut(harm);
        let (run, text) = predicted_failure(&bringup, &host);
        assert_eq!(run.outcome, Outcome::Refused);
        assert!(text.contains(&expected), "{expected}: {text}");
        let finished = |event: &&Event| matches!(event, Event::PhaseFinished { .. });
        let all = bringup.plan.phases.iter().filter(|p| p.skipped.is_none());
        assert_eq!(
            run.events.iter().filter(finished).count(),
            all.count(),
            "all of it is shown: {text}"
        );
    }
}

#[test]
fn an_obstacle_fails_a_dry_run_too() {
    let bringup = Bringup::of("cp-1");
    let host = bringup.bare_host();
    host.with_world_mut(|world| world.directory("/etc/docker/daemon.json"));
    let (run, text) = predicted_failure(&bringup, &host);
    assert_eq!(run.outcome, Outcome::Failed);
    assert!(text.contains("would fail at phases/"), "{text}");
    assert!(
        text.contains("a directory is there") && text.contains("next: check whether it is"),
        "{text}"
    );
    assert!(text.contains("an apply would fail in "), "{text}");
    let later = |event: &Event| matches!(event, Event::StepChanging { phase, .. } if phase.as_str() == "etcd");
    assert!(run.events.iter().any(later), "what comes after is shown");
}

/// A phase of one container, and the host for it: the archive brings `app:1`.
fn one_container(mounts: &str) -> (Bringup, FakeHost) {
    let script = format!(
        "phase(\"app\").about(\"Runs it.\").nodes([\"master\"]);\n\
         image(\"app:1\").archive(`${{role.payload}}/images/app.tar`);\n\
         container(\"app\").image(\"app:1\"){mounts};\n"
    );
    let bringup = Bringup::of_scripts(&Scripts::default().phase("app", &script));
    let host = bringup.bare_host();
    host.with_world_mut(World::start_docker);
    (bringup, host)
}

#[test]
fn an_archive_of_other_images_fails_a_dry_run_as_well() {
    let (bringup, host) = one_container("");
    let archive = "/opt/pf9/roles/example/current/payload/images/app.tar";
    host.with_world_mut(|world| world.file(archive, "fake-image:other:1"));
    let (_, text) = predicted_failure(&bringup, &host);
    assert!(text.contains("holds other images (other:1)"), "{text}");
}

#[test]
fn a_mount_of_what_is_not_there_fails_a_dry_run_as_well() {
    let (bringup, host) = one_container(".mount(\"/srv/none\", \"/data\")");
    let (_, text) = predicted_failure(&bringup, &host);
    assert!(
        text.contains("bind source path does not exist: /srv/none"),
        "{text}"
    );
    assert!(text.contains("next: make the directory"), "{text}");
    // Programs create files in this directory while they run.
    let (bringup, host) = one_container(".mount(\"/run/app.sock\", \"/run/app.sock\")");
    let run = bringup.predict(&host);
    assert_eq!(run.outcome, Outcome::Predicted, "{}", run.text());
}

/// What a dry run on an overlay of this host predicts for the step of this kind.
fn predicted_change(bringup: &Bringup, host: &FakeHost, kind: &str) -> String {
    let run = bringup.predict(host);
    let seen = Fidelity::of(&run.events, &[]).misses;
    let its = seen.iter().find(|miss| miss.step.kind() == Some(kind));
    let its = its.unwrap_or_else(|| panic!("no {kind}: {}", run.text()));
    its.predicted
        .as_ref()
        .map_or_else(String::new, ToString::to_string)
}

#[test]
fn a_container_whose_image_is_loaded_anew_is_known_after_apply() {
    let (bringup, host) = one_container("");
    assert_eq!(predicted_change(&bringup, &host, "container"), "created");
    assert_eq!(bringup.apply(&host).outcome, Outcome::Converged);
    assert_eq!(predicted_change(&bringup, &host, "container"), "unchanged");
    host.with_world_mut(|world| world.forget_image("app:1"));
    assert_eq!(predicted_change(&bringup, &host, "image"), "created");
    assert_eq!(
        predicted_change(&bringup, &host, "container"),
        "known after apply"
    );
}

/// A phase whose file contains the subnet of the node's pods, with `readers` of the file.
fn late_file(readers: &str) -> (Bringup, FakeHost) {
    let script = format!(
        "phase(\"app\").about(\"Runs it.\").nodes([\"master\"]);\n\
         let its = node(host.name);\n\
         let conf = template(\"app.conf.tmpl\", \"/etc/app.conf\").vars(#{{ subnet: output(its, \"pod_cidr\") }});\n\
         {readers}\n"
    );
    let scripts = Scripts::default().phase("app", &script);
    let scripts = scripts
        .template("app.service.tmpl", UNIT)
        .template("app.conf.tmpl", "SUBNET={{ subnet }}\n");
    let bringup = Bringup::of_scripts(&scripts);
    let host = bringup
        .bare_host()
        .with_file("/etc/pf9/kube.d/kubeconfigs/local-admin.yaml", "fake")
        .with_file("/usr/bin/true", "fake program\n")
        .with_kubernetes(|rules| rules.remote_api = true);
    host.with_world_mut(World::start_docker);
    registered(&bringup, &host, Some("10.20.0.0/24"));
    (bringup, host)
}

const UNIT: &str = "[Service]\nExecStart=/usr/bin/true\n";

fn registered(bringup: &Bringup, host: &FakeHost, subnet: Option<&str>) {
    let node = ClusterNode {
        pod_cidr: subnet.map(str::to_owned),
        ..ClusterNode::default()
    };
    host.with_world_mut(|world| world.node(&bringup.facts.hostname, node));
}

#[test]
fn files_with_late_values_are_known_after_apply() {
    let container = "image(\"app:1\").archive(`${role.payload}/images/app.tar`);\ncontainer(\"app\").image(\"app:1\")";
    for (kind, readers) in [
        (
            "service",
            "unit(\"app.service\", \"app.service.tmpl\");\nservice(\"app\").started().restart_on(conf);".to_owned(),
        ),
        (
            "service",
            "unit(\"app.service\", \"app.service.tmpl\");\nservice(\"app\").started().reload_on(conf);".to_owned(),
        ),
        ("container", format!("{container}.restart_on(conf);")),
        ("container", format!("{container}.env_from(conf);")),
    ] {
        let (bringup, host) = late_file(&readers);
        assert_eq!(predicted_change(&bringup, &host, kind), "created", "{readers}");
        let run = bringup.apply(&host);
        assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
        host.with_world_mut(|world| world.advance(Duration::from_secs(60)));
        assert_eq!(predicted_change(&bringup, &host, kind), "unchanged", "{readers}");
        registered(&bringup, &host, None);
        assert_eq!(predicted_change(&bringup, &host, kind), "known after apply", "{readers}");
        // On a host without the resource it is sure to be created.
        let (bringup, bare) = late_file(&readers);
        registered(&bringup, &bare, None);
        assert_eq!(predicted_change(&bringup, &bare, kind), "created", "{readers}");
    }
}

#[test]
fn an_impossible_undo_fails_a_dry_run_too() {
    let of = |steps: &str| {
        let script = format!(
            "phase(\"app\").about(\"Has files.\").nodes([\"master\"]);\nfile(\"/etc/app/one\").content(\"1\");\n{steps}"
        );
        Bringup::of_scripts(&Scripts::default().phase("app", &script))
    };
    let host = FakeHost::new().with_file("/etc/app/two", "theirs");
    let had = of("file(\"/etc/app/two\").content(\"ours\");\n");
    assert_eq!(had.apply(&host).outcome, Outcome::Converged);
    let content = Path::new("/var/opt/pf9/nodelet/content");
    for name in block_on(host.list(content)).expect("it can be listed") {
        host.with_world_mut(|world| world.remove(content.join(&name)));
    }
    let has = of("");
    let (run, text) = predicted_failure(&has, &host);
    assert_eq!(run.outcome, Outcome::Failed, "{text}");
    assert!(
        text.contains("would not be reverted: could not find the previous content in"),
        "{text}"
    );
    assert!(
        text.contains("next: restore /var/opt/pf9/nodelet/content"),
        "{text}"
    );
    let predicted = |event: &Event| matches!(event, Event::PhaseFinished { phase, outcome: Outcome::Failed, .. } if phase.as_str() == "app");
    assert!(run.events.iter().any(predicted), "{}", run.text());
}

#[test]
fn an_object_to_be_removed_counts_as_gone_without_an_api_server() {
    let mut bringup = Bringup::of("cp-1");
    let mut phases = bringup.plan.phases.iter_mut();
    let phase = phases.find(|phase| phase.name.as_str() == "api-ready");
    let phase = phase.expect("there is one");
    let is_manifest = |step: &&PlannedStep| matches!(step.spec, Spec::Manifest(_));
    let mut gone = phase.steps.iter().find(is_manifest).expect("one").clone();
    gone.id = StepId::new(&phase.name, "manifest", "app");
    gone.policy.absent = true;
    if let Spec::Manifest(its) = &mut gone.spec {
        its.name = "app".to_owned();
        let object =
            "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: app\n  namespace: kube-system\n";
        its.text = Text::Known(object.to_owned());
    }
    let id = gone.id.clone();
    phase.steps.push(gone);
    let host = bringup.bare_host();
    assert_eq!(bringup.apply(&host).outcome, Outcome::Converged);
    // The API server does not answer until etcd is back.
    host.with_world_mut(|world| world.remove_container("etcd"));
    let predicted = bringup.predict(&host);
    let done = bringup.apply(&host);
    let fidelity = Fidelity::of(&predicted.events, &done.events);
    let its = fidelity.misses.iter().find(|miss| miss.step == id);
    assert_eq!(its, None, "{}", predicted.text());
    assert!(
        done.changes()
            .iter()
            .any(|step| step == "etcd/container:etcd")
    );
}

#[test]
fn directory_creation_is_attributed_to_the_first_phase() {
    let of = |name: &str, header: &str, steps: &str| {
        format!("phase(\"{name}\").about(\"Has files.\").nodes([\"master\"]){header};\n{steps}\n")
    };
    let scripts = Scripts::default()
        .phase("a", &of("a", "", "file(\"/etc/one\").content(\"1\");"))
        .phase(
            "b",
            &of(
                "b",
                ".requires([\"a\"])",
                "directory(\"/opt/app\").mode(\"0700\");",
            ),
        )
        // Only the directory connects these two phases, so this one could begin at once.
        .phase(
            "c",
            &of("c", "", "file(\"/opt/app/deep/c\").content(\"1\");"),
        );
    let bringup = Bringup::of_scripts(&scripts);
    let host = FakeHost::new();
    let predicted = bringup.predict(&host);
    let done = bringup.apply(&host);
    assert_eq!(done.outcome, Outcome::Converged, "{}", done.text());
    let misses = Fidelity::of(&predicted.events, &done.events).misses;
    assert!(misses.is_empty(), "{misses:#?}");
}
