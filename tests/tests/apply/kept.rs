//! Keys and authorities of a running master that are lost or replaced: they are restored with exactly their readers restarted, or
//! reported by name while everything goes on. They survive a clean, and a purge removes them.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use behaviour::{Bringup, block_on};
use engine::exec::{Condition, PhaseHealth, Recording, Runner, Status, failed_phases, restart_set};
use engine::host::fake::FakeHost;
use engine::model::{Outcome, RECORDS};
use engine::resource::NoSecrets;
use engine::resource::pki::{authority_record, service_account_record};

const MINUTE: Duration = Duration::from_secs(60);
const SIGNS: &str = "/etc/pf9/kube.d/certs/apiserver/svcacct.key";
const VERIFIES: &str = "/etc/pf9/kube.d/certs/apiserver/svcacct.pub";
const AUTHORITIES: [&str; 3] = ["cluster", "etcd", "front-proxy"];

/// A host at its role, an hour after it was brought up.
fn applied_host(bringup: &Bringup) -> FakeHost {
    let host = bringup.bare_host();
    assert_eq!(bringup.apply(&host).outcome, Outcome::Converged);
    host.with_world_mut(|world| world.advance(60 * MINUTE));
    host.clear_journal();
    host
}

fn runner<'a>(bringup: &'a Bringup, host: &'a FakeHost, events: &'a Recording) -> Runner<'a> {
    Runner::new(&bringup.plan, host, &bringup.facts, &NoSecrets, events)
}

/// The phases that a repair by nodeletd restarts: the failed ones, and then the readers of what those have made.
fn repair(bringup: &Bringup, host: &FakeHost) -> BTreeSet<String> {
    let mut restarted = BTreeSet::new();
    let mut failed = failed_phases(&bringup.check(host));
    for _ in 0..2 {
        let set = restart_set(&bringup.plan, &failed);
        let events = Recording::default();
        let outcome = block_on(runner(bringup, host, &events).restart(&set, &[]));
        assert_eq!(outcome.expect("it ends"), Outcome::Converged);
        restarted.extend(set.iter().map(ToString::to_string));
        failed = block_on(runner(bringup, host, &events).outdated(&set));
    }
    host.with_world_mut(|world| world.advance(MINUTE));
    restarted
}

/// The containers of the control plane, with the time of their start.
fn started(host: &FakeHost) -> Vec<String> {
    let resources = host.snapshot();
    let names = [
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "etcd",
    ];
    let its = |(name, state): (&str, &str)| format!("{name} {state}");
    let of_ours =
        |name: &str| name.starts_with("container ") && names.iter().any(|its| name.contains(its));
    resources
        .resources()
        .filter(|(name, _)| of_ours(name))
        .map(its)
        .collect()
}

fn failed_conditions(health: &[PhaseHealth]) -> Vec<&Condition> {
    let conditions = health.iter().flat_map(|phase| &phase.conditions);
    conditions
        .filter(|its| its.status != Status::True)
        .collect()
}

fn text(host: &FakeHost, path: impl AsRef<Path>) -> String {
    host.with_world(|world| world.text(path.as_ref()))
        .expect("it is there")
}

/// Every kept file of the role.
fn kept() -> Vec<String> {
    let of =
        |name: &&str| ["ca.crt", "ca.key"].map(|file| format!("/etc/pf9/kube.d/ca/{name}/{file}"));
    let mut all: Vec<String> = AUTHORITIES.iter().flat_map(of).collect();
    all.extend([SIGNS, VERIFIES].map(str::to_owned));
    all
}

#[test]
fn every_kept_file_is_restored_and_exactly_its_readers_restart() {
    let bringup = Bringup::of("cp-1");
    let (start, other) = (applied_host(&bringup), applied_host(&bringup));
    let all = kept();
    for path in &all {
        let whole = text(&start, path);
        let damages = [
            None,
            Some(String::new()),
            Some(whole[..whole.len() / 2].to_owned()),
            Some(text(&other, path)),
        ];
        for content in damages {
            let host = start.fork();
            host.with_world_mut(|world| match &content {
                Some(content) => world.file_with_mode(path, content, 0o600),
                None => world.remove(path),
            });
            // The next pass reports the damage, long before something has to be signed.
            let health = bringup.check(&host);
            let failed = failed_phases(&health);
            assert!(
                failed.iter().any(|phase| phase.as_str() == "certs"),
                "{path}: {:?}",
                failed_conditions(&health)
            );
            let reported = health.iter().flat_map(|phase| &phase.conditions);
            let reported: Vec<&str> = reported.map(|its| its.reason.as_str()).collect();
            let named = path.rsplit_once('/').map_or("", |(_, file)| file);
            let named = if named == "svcacct.pub" {
                "public half"
            } else {
                named
            };
            assert!(
                reported.iter().any(|its| its.contains(named)),
                "{path}: {reported:?}"
            );

            let restarted = repair(&bringup, &host);
            for path in &all {
                assert_eq!(text(&host, path), text(&start, path), "{path}");
            }
            let readers = path.contains("svcacct");
            assert_eq!(
                restarted.contains("control-plane"),
                readers,
                "{path}: {restarted:?}"
            );
            for phase in ["etcd", "kubelet", "kube-proxy", "docker"] {
                assert!(!restarted.contains(phase), "{path}: {restarted:?}");
            }
            let health = bringup.check(&host);
            assert!(
                failed_conditions(&health).is_empty(),
                "{path}: {:?}",
                failed_conditions(&health)
            );
            assert_eq!(bringup.apply(&host).changes(), Vec::<String>::new());
        }
    }
}

#[test]
fn a_changed_mode_is_corrected_without_a_restart() {
    let bringup = Bringup::of("cp-1");
    let start = applied_host(&bringup);
    let before = started(&start);
    assert_eq!(before.len(), 4, "{before:?}");
    for path in kept() {
        let host = start.fork();
        let content = text(&host, &path);
        block_on(async {
            use engine::host::{Attributes, Files as _};
            let attributes = Attributes {
                mode: 0o666,
                uid: 1000,
                gid: 1000,
            };
            let changed = host.set_attributes(Path::new(&path), attributes).await;
            changed.expect("the file is there");
        });
        assert_eq!(text(&host, &path), content);
        assert!(!failed_phases(&bringup.check(&host)).is_empty(), "{path}");
        assert_eq!(
            repair(&bringup, &host),
            BTreeSet::from(["certs".to_owned()])
        );
        assert_eq!(started(&host), before, "{path}");
    }
}

/// Regression test: a foreign key, with which the control plane was restarted.
#[test]
fn tokens_of_the_cluster_are_accepted_again() {
    let bringup = Bringup::of("cp-1");
    let (host, other) = (applied_host(&bringup), applied_host(&bringup));
    let reported = |host: &FakeHost| {
        let health = bringup.check(host);
        let conditions = health.into_iter().flat_map(|phase| phase.conditions);
        let mut its = conditions.filter(|its| its.check == "a token of the cluster is accepted");
        its.next().expect("the role checks it")
    };
    let accepted = |host: &FakeHost| reported(host).status;
    assert_eq!(accepted(&host), Status::True);
    let key = text(&host, SIGNS);
    host.with_world_mut(|world| {
        for path in [SIGNS, VERIFIES] {
            world.file_with_mode(path, text(&other, path), 0o600);
        }
        world.advance(MINUTE);
    });
    assert_eq!(accepted(&host), Status::True, "the old key is in use");
    block_on(async {
        use engine::host::Containers as _;
        let server = "k8s_kube-apiserver_k8s-master-cp-1";
        let stopped = host.stop_container(server, Duration::from_secs(1)).await;
        stopped.expect("kubelet starts it again");
    });
    let refused = reported(&host);
    assert_eq!(refused.status, Status::False);
    // A restart would make it worse, so the message advises none.
    assert!(refused.reason.contains("svcacct.key"), "{}", refused.reason);
    assert!(
        !refused.reason.contains("nodelet repair"),
        "{}",
        refused.reason
    );
    let failed = failed_phases(&bringup.check(&host));
    assert!(failed.is_empty(), "reported, not repaired: {failed:?}");
    // An operator restores the key from a backup.
    host.with_world_mut(|world| world.file_with_mode(SIGNS, &key, 0o600));
    repair(&bringup, &host);
    assert_eq!(accepted(&host), Status::True);
}

#[test]
fn files_without_a_copy_are_named_and_the_role_keeps_running() {
    let bringup = Bringup::of("cp-1");
    let (start, other) = (applied_host(&bringup), applied_host(&bringup));
    for (record, path, name) in [
        (
            authority_record("etcd"),
            "/etc/pf9/kube.d/ca/etcd/ca.key",
            "ca.key",
        ),
        (service_account_record(), SIGNS, "svcacct.key"),
    ] {
        let host = start.fork();
        let json: serde_json::Value =
            serde_json::from_str(&text(&host, &record)).expect("it is JSON");
        let copy = json["files"][name]["content"].as_str().expect("it is text");
        let damaged = text(&host, &record).replace(copy, &copy[..copy.len() / 2]);
        host.with_world_mut(|world| {
            world.file_with_mode(&record, &damaged, 0o600);
            world.file_with_mode(path, text(&other, path), 0o600);
        });
        let before = (host.snapshot(), started(&host));
        let health = bringup.check(&host);
        // A repair would not help, so there is none; the key is reported by name.
        assert!(
            failed_phases(&health).is_empty(),
            "{:?}",
            failed_conditions(&health)
        );
        let reported = failed_conditions(&health);
        let reported = reported.iter().find(|its| its.status == Status::False);
        let reported = reported.expect("it is reported");
        assert!(reported.advisory);
        assert!(reported.reason.contains(path), "{}", reported.reason);
        assert!(
            reported.reason.contains("from a backup"),
            "{}",
            reported.reason
        );
        // An apply reports it, and derives nothing from the foreign key.
        let run = bringup.apply(&host);
        assert_eq!(run.outcome, Outcome::Failed);
        assert!(run.text().contains(path), "{}", run.text());
        let without = |host: &FakeHost| host.snapshot().without_path(engine::model::STATE);
        assert!(without(&host) == before.0.without_path(engine::model::STATE));
        assert_eq!(started(&host), before.1);
    }
}

/// The controller-manager would sign tokens that the API server refuses. If the phase that restores its key is blocked, a restart
/// leaves that phase out, and must not restart the controller-manager.
#[test]
fn the_controller_manager_does_not_restart_onto_a_foreign_key() {
    const COPY: &str = "/etc/pf9/kube.d/certs/kube-controller-manager/svcacct.key";
    let bringup = Bringup::of("cp-1");
    let (host, other) = (applied_host(&bringup), applied_host(&bringup));
    host.with_world_mut(|world| {
        world.file_with_mode(COPY, text(&other, COPY), 0o600);
        world.advance(MINUTE);
    });
    let before = started(&host);
    let events = Recording::default();
    let set = ["control-plane".parse().expect("a name")];
    let outcome = block_on(runner(&bringup, &host, &events).restart(&set, &[]));
    assert_ne!(outcome.expect("it ends"), Outcome::Converged);
    assert_eq!(started(&host), before);
    // When the key is restored, the controller-manager is restarted, if it can have read the other key.
    let run = bringup.apply(&host);
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    assert_eq!(text(&host, COPY), text(&host, SIGNS));
}

/// A directory that was copied from another host: two of three copies agree, and are not this host's.
#[test]
fn the_api_server_does_not_restart_onto_foreign_encryption_keys() {
    let bringup = Bringup::of("cp-1");
    let (host, other) = (applied_host(&bringup), applied_host(&bringup));
    host.with_world_mut(|world| world.advance(std::time::Duration::from_secs(3600)));
    for path in [
        "/etc/pf9/kube.d/encryption/config.yaml",
        "/etc/pf9/kube.d/ca/encryption/keys.yaml",
    ] {
        let theirs = text(&other, path);
        assert_ne!(theirs, text(&host, path));
        host.with_world_mut(|world| world.file_with_mode(path, &theirs, 0o600));
    }
    let before = started(&host);
    let health = bringup.check(&host);
    assert!(
        failed_phases(&health).is_empty(),
        "{:?}",
        failed_conditions(&health)
    );
    let reported = failed_conditions(&health);
    assert!(
        reported
            .iter()
            .any(|its| its.reason.contains("encryption/config.yaml")),
        "{reported:?}"
    );
    let run = bringup.apply(&host);
    assert_eq!(run.outcome, Outcome::Failed, "{}", run.text());
    assert_eq!(started(&host), before);
}

#[test]
fn the_keys_survive_a_clean_and_go_with_a_purge() {
    let bringup = Bringup::of("cp-1");
    let host = applied_host(&bringup);
    let files = |host: &FakeHost| {
        kept()
            .into_iter()
            .map(|path| text(host, path))
            .collect::<Vec<_>>()
    };
    let before = files(&host);
    assert_eq!(Bringup::clean(&host, false).outcome, Outcome::Cleaned);
    // The keys are lost while the role is not on the host.
    host.with_world_mut(|world| world.remove("/etc/pf9/kube.d/ca/cluster/ca.key"));
    host.with_world_mut(|world| world.remove(SIGNS));
    assert_eq!(bringup.apply(&host).outcome, Outcome::Converged);
    assert_eq!(files(&host), before);
    assert_eq!(bringup.apply(&host).changes(), Vec::<String>::new());

    let host = applied_host(&bringup);
    let before = files(&host);
    let purged = Bringup::clean(&host, true);
    assert_eq!(purged.outcome, Outcome::Cleaned, "{}", purged.text());
    for record in [authority_record("cluster"), service_account_record()] {
        let left = host.with_world(|world| world.text(&record));
        assert_eq!(left, None, "{}", record.display());
    }
    let keys: Vec<String> = before
        .into_iter()
        .filter(|pem| pem.contains("PRIVATE KEY"))
        .collect();
    let everything = host.snapshot();
    for (name, state) in everything.resources() {
        assert!(
            !keys.iter().any(|pem| state.contains(pem.as_str())),
            "{name}"
        );
    }
    // The next bring-up makes new keys.
    assert_eq!(bringup.apply(&host).outcome, Outcome::Converged);
}

/// A host that was brought up by a release without records.
#[test]
fn a_running_host_without_records_adopts_its_own_keys() {
    let bringup = Bringup::of("cp-1");
    let host = applied_host(&bringup);
    let (before, files) = (started(&host), kept());
    let content = |host: &FakeHost| {
        files
            .iter()
            .map(|path| text(host, path))
            .collect::<Vec<_>>()
    };
    let keys = content(&host);
    host.with_world_mut(|world| world.remove(RECORDS));
    assert_eq!(
        repair(&bringup, &host),
        BTreeSet::from(["certs".to_owned()])
    );
    assert_eq!(started(&host), before);
    host.with_world_mut(|world| world.remove("/etc/pf9/kube.d/ca/etcd"));
    repair(&bringup, &host);
    assert_eq!(content(&host), keys);
}

/// A dry run reports what a repair would restore.
#[test]
fn a_restoration_is_predicted() {
    let bringup = Bringup::of("cp-1");
    let host = applied_host(&bringup);
    host.with_world_mut(|world| world.remove("/etc/pf9/kube.d/ca/cluster/ca.key"));
    let before = host.snapshot();
    let foretold = bringup.predict(&host);
    assert_eq!(foretold.outcome, Outcome::Predicted, "{}", foretold.text());
    assert!(host.snapshot() == before);
    assert_eq!(foretold.changes(), ["certs/certificate_authority:cluster"]);
    assert_eq!(bringup.apply(&host).changes(), foretold.changes());
}
