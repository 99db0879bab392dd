//! An authority is replaced step by step, no component loses its access on the way, and an interrupted step can be completed.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use behaviour::{Bringup, CrashPoint, block_on, checked_in_part, differences};
use engine::exec::{
    Recording, Runner, authorities, failed_phases, overlay_host, restart_set, rotating,
};
use engine::host::fake::FakeHost;
use engine::kubernetes::masters::{self, MASTERS, MasterEntry};
use engine::model::{Outcome, STATE};
use engine::plan::Plan;
use engine::resource::pki::{
    Authority, CONSUMERS, ENCRYPTION, Rotation, Stage, certificate_in, certificate_paths,
    encryption_key_ids, encryption_stage,
};
use engine::resource::{NoSecrets, ResourceError};

const STEPS: [Rotation; 3] = [Rotation::Begin, Rotation::Switch, Rotation::Finish];
const MINUTE: Duration = Duration::from_secs(60);

/// A host at its role, an hour after it was brought up.
fn applied_host() -> (Bringup, FakeHost) {
    let bringup = Bringup::of("cp-1");
    let host = bringup.bare_host();
    assert_eq!(bringup.apply(&host).outcome, Outcome::Converged);
    host.with_world_mut(|world| world.advance(60 * MINUTE));
    host.clear_journal();
    (bringup, host)
}

fn runner<'a>(
    bringup: &'a Bringup,
    plan: &'a Plan,
    host: &'a FakeHost,
    events: &'a Recording,
) -> Runner<'a> {
    Runner::new(plan, host, &bringup.facts, &NoSecrets, events)
}

/// The error that prevents a step, if there is one.
fn refusal(
    bringup: &Bringup,
    host: &FakeHost,
    authority: &str,
    step: Rotation,
) -> Option<ResourceError> {
    let events = Recording::default();
    let runner = runner(bringup, &bringup.plan, host, &events);
    block_on(async {
        runner.check_stage(authority, step).await?;
        runner.check_rollout(authority, step).await
    })
    .err()
}

/// The other masters would neither trust a successor nor use it.
#[test]
fn nothing_is_replaced_while_the_cluster_has_several_masters() {
    let (bringup, host) = applied_host();
    let master = |number: u8| MasterEntry {
        name: format!("cp-{number}"),
        address: IpAddr::from([172, 30, 0, 10 + number]),
        etcd_id: None,
        voter: true,
    };
    let list = |masters: &[MasterEntry]| {
        let content = masters::render(masters).expect("a list");
        host.with_world_mut(|world| world.file_with_mode(MASTERS, content, 0o600));
    };
    list(&[master(1), master(2)]);
    for authority in authorities(&bringup.plan) {
        for step in STEPS {
            let refused = refusal(&bringup, &host, authority, step).expect("it is refused");
            let text = refused.to_string();
            assert!(text.contains("2 masters (cp-1, cp-2)"), "{text}");
        }
    }
    list(&[master(1)]);
    assert!(refusal(&bringup, &host, "etcd", Rotation::Begin).is_none());
    host.with_world_mut(|world| world.file_with_mode(MASTERS, "garbage", 0o600));
    let refused = refusal(&bringup, &host, "etcd", Rotation::Begin).expect("it is refused");
    assert!(refused.to_string().contains(MASTERS), "{refused}");
}

/// Takes a step as `nodelet certs rotate` does; gives the steps of the plan that changed something.
fn take(bringup: &Bringup, host: &FakeHost, authority: &str, step: Rotation) -> Vec<String> {
    let refused = refusal(bringup, host, authority, step);
    assert!(refused.is_none(), "{step:?}: {refused:?}");
    let plan = rotating(&bringup.plan, authority, step).expect("the role has it");
    let events = Recording::default();
    let outcome = block_on(runner(bringup, &plan, host, &events).rotate());
    let mut run = behaviour::Run {
        outcome: outcome.expect("it ends"),
        events: events.events(),
    };
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    if step == Rotation::Switch {
        let due = block_on(runner(bringup, &bringup.plan, host, &events).due());
        for component in due.components {
            let renewed = block_on(runner(bringup, &bringup.plan, host, &events).renew(component));
            assert_eq!(renewed.expect("it ends"), Outcome::Converged);
        }
        run.events = events.events();
    }
    run.changes()
}

fn read(host: &FakeHost, authority: &str) -> Authority {
    let its = block_on(Authority::read(host, authority));
    its.expect("it can be read").expect("it is there")
}

/// How many certificates are trusted beside each certificate of this authority.
fn roots(host: &FakeHost, authority: &str) -> Vec<usize> {
    let trusting = CONSUMERS.iter().filter(|one| {
        let its = match one.certificate.split('/').next() {
            Some("aggregator") => "front-proxy",
            _ if one.certificate.contains("etcd") => "etcd",
            _ => "cluster",
        };
        its == authority
    });
    let count = |path: &str| {
        let trust = certificate_paths(path).trust;
        let pem = host
            .with_world(|world| world.text(trust))
            .expect("it is there");
        pem.matches("BEGIN CERTIFICATE").count()
    };
    let mut counts: Vec<usize> = trusting.map(|one| count(one.certificate)).collect();
    counts.dedup();
    counts
}

#[test]
fn each_authority_is_replaced_and_all_consumers_follow() {
    let (bringup, host) = applied_host();
    assert_eq!(
        authorities(&bringup.plan),
        ["cluster", "etcd", "front-proxy", ENCRYPTION]
    );
    for authority in ["cluster", "etcd", "front-proxy"] {
        let before = read(&host, authority).facts().serial.clone();
        for (step, stage, trusted) in [
            (Rotation::Begin, Stage::Begun, 2),
            (Rotation::Switch, Stage::Switched, 2),
            (Rotation::Finish, Stage::Settled, 1),
        ] {
            let changed = take(&bringup, &host, authority, step);
            assert!(!changed.is_empty(), "{authority} {step:?}");
            let now = read(&host, authority);
            assert_eq!(now.stage(), stage);
            assert_eq!(now.facts().serial == before, step == Rotation::Begin);
            assert_eq!(roots(&host, authority), [trusted], "{authority} {step:?}");
            host.with_world_mut(|world| world.advance(10 * MINUTE));
            // Neither nodeletd nor an apply by an operator finds anything to do between the steps.
            let settled = bringup.apply(&host).changes();
            assert_eq!(settled, Vec::<String>::new(), "{authority} {step:?}");
        }
    }
}

#[test]
fn the_page_says_what_each_step_restarts() {
    let (bringup, host) = applied_host();
    let mut table = "| authority | step | restarted |\n|---|---|---|\n".to_owned();
    for authority in authorities(&bringup.plan) {
        for (step, name) in STEPS.iter().zip(["begin", "switch", "finish"]) {
            let changed = take(&bringup, &host, authority, *step);
            let mut restarted: Vec<&str> = changed
                .iter()
                .filter_map(|id| id.split_once('/')?.1.split_once(':'))
                .filter(|(kind, _)| ["container", "pod_container", "service"].contains(kind))
                .map(|(_, resource)| resource)
                .collect();
            restarted.dedup();
            let _ = writeln!(table, "| {authority} | {name} | {} |", list(&restarted));
            host.with_world_mut(|world| world.advance(10 * MINUTE));
        }
    }
    checked_in_part("docs/certificates.md", "rotation", &table);
}

fn list(resources: &[&str]) -> String {
    match resources {
        [] => "nothing".to_owned(),
        some => some.join(", "),
    }
}

#[test]
fn a_rotation_step_requires_the_previous_step_on_all_consumers() {
    let (bringup, host) = applied_host();
    let refused = |step, because: &str| {
        let error = refusal(&bringup, &host, "cluster", step).expect("it is refused");
        assert!(error.to_string().contains(because), "{error}");
    };
    refused(Rotation::Switch, "no other is trusted");
    refused(Rotation::Finish, "no other is trusted");
    take(&bringup, &host, "cluster", Rotation::Begin);
    refused(Rotation::Finish, "does not sign yet");
    // A component that does not trust the successor yet would lose its access with the switch.
    let trust = certificate_paths("apiserver/kubelet").trust;
    let both = host
        .with_world(|world| world.text(&trust))
        .expect("it is there");
    host.with_world_mut(|world| world.file(&trust, "gone"));
    refused(Rotation::Switch, "certs: certificates are as planned");
    host.with_world_mut(|world| world.file(&trust, both));
    take(&bringup, &host, "cluster", Rotation::Begin);
    // Only the switch, without the renewals.
    let plan = rotating(&bringup.plan, "cluster", Rotation::Switch).expect("the role has it");
    let events = Recording::default();
    let outcome = block_on(runner(&bringup, &plan, &host, &events).rotate());
    assert_eq!(outcome.expect("it ends"), Outcome::Converged);
    refused(Rotation::Begin, "still trusted");
    refused(Rotation::Finish, "certificates of kube-apiserver are due");
    assert!(refusal(&bringup, &host, "cluster", Rotation::Switch).is_none());
    assert!(rotating(&bringup.plan, "no-such", Rotation::Begin).is_none());
}

#[test]
fn a_step_is_predicted() {
    let (bringup, host) = applied_host();
    for step in STEPS {
        let plan = rotating(&bringup.plan, "cluster", step).expect("the role has it");
        let foretold = Recording::default();
        let before = host.snapshot();
        let outcome = block_on(async {
            let overlay = overlay_host(&host, &plan).await;
            let runner = Runner::new(&plan, &overlay, &bringup.facts, &NoSecrets, &foretold);
            runner.dry_run().await
        });
        assert_eq!(outcome.expect("it ends"), Outcome::Predicted);
        assert_eq!(host.snapshot(), before);
        let foretold = behaviour::Run {
            outcome: Outcome::Predicted,
            events: foretold.events(),
        };
        let mut foretold = foretold.changes();
        let mut done = take(&bringup, &host, "cluster", step);
        foretold.sort();
        foretold.dedup();
        done.sort();
        done.dedup();
        assert_eq!(foretold, done, "{step:?}");
        host.with_world_mut(|world| world.advance(10 * MINUTE));
    }
}

/// The key that encrypts Secrets: the API server has read each step before the next one is taken.
#[test]
fn the_encryption_key_is_replaced_and_the_api_server_follows() {
    let (bringup, host) = applied_host();
    let ids = |host: &FakeHost| block_on(encryption_key_ids(host)).expect("they can be read");
    let [old] = ids(&host).try_into().expect("one key");
    for (step, because) in [
        (Rotation::Switch, "there is one key at present"),
        (Rotation::Finish, "there is one key at present"),
    ] {
        let error = refusal(&bringup, &host, ENCRYPTION, step).expect("it is refused");
        assert!(error.to_string().contains(because), "{error}");
    }
    for (step, stage, keys) in [
        (Rotation::Begin, Stage::Begun, 2),
        (Rotation::Switch, Stage::Switched, 2),
        (Rotation::Finish, Stage::Settled, 1),
    ] {
        let changed = take(&bringup, &host, ENCRYPTION, step);
        let restarts = "control-plane/pod_container:k8s-master/kube-apiserver";
        assert!(
            changed.iter().any(|id| id == restarts),
            "{step:?}: {changed:?}"
        );
        assert_eq!(
            block_on(encryption_stage(&host)).expect("it is there"),
            stage
        );
        assert_eq!(ids(&host).len(), keys, "{step:?}");
        host.with_world_mut(|world| world.advance(10 * MINUTE));
        let settled = bringup.apply(&host).changes();
        assert_eq!(settled, Vec::<String>::new(), "{step:?}");
        if step == Rotation::Begin {
            let error = refusal(&bringup, &host, ENCRYPTION, Rotation::Finish);
            let error = error.expect("it is refused").to_string();
            assert!(error.contains("does not encrypt yet"), "{error}");
        }
    }
    assert!(
        !ids(&host).contains(&old),
        "it does not encrypt or decrypt any more"
    );
}

#[test]
fn an_encryption_key_step_crashed_at_each_call_is_recovered() {
    cut_anywhere(ENCRYPTION);
}

#[test]
fn a_step_crashed_at_each_call_is_recovered() {
    cut_anywhere("etcd");
}

fn cut_anywhere(authority: &str) {
    let (bringup, host) = applied_host();
    let bare = bringup.bare_host().snapshot();
    for step in STEPS {
        let plan = rotating(&bringup.plan, authority, step).expect("the role has it");
        let whole = host.fork().with_history();
        let events = Recording::default();
        let outcome = block_on(runner(&bringup, &plan, &whole, &events).rotate());
        assert_eq!(outcome.expect("it ends"), Outcome::Converged);
        let shape = Bringup::shape(&whole);
        let points = CrashPoint::all(&whole);
        assert!(points.len() > 5, "{points:?}");
        for point in points {
            // nodeletd repairs what fails, without knowledge of the rotation, and then restarts the readers of the repaired files.
            let watched = point.host.fork();
            let mut failed = failed_phases(&bringup.check(&watched));
            for _ in 0..2 {
                let set = restart_set(&bringup.plan, &failed);
                let events = Recording::default();
                let its = runner(&bringup, &bringup.plan, &watched, &events);
                let outcome = block_on(its.restart(&set, &[]));
                assert_eq!(outcome.expect("it ends"), Outcome::Converged, "{point:?}");
                failed = failed_phases(&bringup.check(&watched));
            }
            assert!(failed.is_empty(), "{step:?}, {point:?}: {failed:?}");
            // An apply repairs it as well.
            let next = point.host.fork();
            let run = bringup.apply(&next);
            assert_eq!(run.outcome, Outcome::Converged, "{point:?}: {}", run.text());
            let settled = bringup.apply(&next).changes();
            assert_eq!(settled, Vec::<String>::new(), "{step:?}, {point:?}");
            // The same step is taken again.
            let again = point.host.fork();
            let events = Recording::default();
            let outcome = block_on(runner(&bringup, &plan, &again, &events).rotate());
            assert_eq!(outcome.expect("it ends"), Outcome::Converged, "{point:?}");
            let differs = differences(&shape, &Bringup::shape(&again));
            assert_eq!(differs, Vec::<String>::new(), "{step:?}, {point:?}");
            // A clean takes back all of it.
            let clean = Bringup::clean(&again, true);
            assert_eq!(clean.outcome, Outcome::Cleaned, "{}", clean.text());
            let left = bringup.not_cleaned(&bare, &again, true);
            assert_eq!(left, Vec::<String>::new(), "{step:?}, {point:?}");
        }
        take(&bringup, &host, authority, step);
        host.with_world_mut(|world| world.advance(10 * MINUTE));
        host.clear_journal();
    }
}

#[test]
fn certificates_of_the_predecessor_stay_valid_until_renewal() {
    let (bringup, host) = applied_host();
    take(&bringup, &host, "cluster", Rotation::Begin);
    let plan = rotating(&bringup.plan, "cluster", Rotation::Switch).expect("the role has it");
    let path = certificate_paths("kube-proxy/apiserver").certificate;
    let serial = |host: &FakeHost| {
        let its = block_on(certificate_in(host, &path)).expect("it can be read");
        its.expect("it is there").serial
    };
    let before = serial(&host);
    let events = Recording::default();
    let outcome = block_on(runner(&bringup, &plan, &host, &events).rotate());
    assert_eq!(outcome.expect("it ends"), Outcome::Converged);
    assert_eq!(serial(&host), before, "the switch itself renews nothing");
    let health = bringup.check(&host);
    let status = health.iter().map(engine::exec::PhaseHealth::status).max();
    assert_eq!(status, Some(engine::exec::Status::True), "{health:?}");
    let due = block_on(runner(&bringup, &bringup.plan, &host, &events).due());
    assert!(due.components.contains(&"kube-proxy"), "{due:?}");
}

#[test]
fn nothing_of_the_old_key_is_left() {
    use engine::host::Files as _;
    let (bringup, host) = applied_host();
    let key = "/etc/pf9/kube.d/ca/cluster/ca.key";
    let old = host
        .with_world(|world| world.text(key))
        .expect("it is there");
    for step in STEPS {
        take(&bringup, &host, "cluster", step);
        host.with_world_mut(|world| world.advance(10 * MINUTE));
    }
    let content = Path::new(STATE).join("content");
    let kept = block_on(host.list(&content)).expect("it can be read");
    let kept = kept.iter().map(|name| content.join(name));
    let beside = ["ca.key", "next.key"].map(|name| Path::new(key).with_file_name(name));
    for path in kept.chain(beside) {
        let holds = host.with_world(|world| world.text(&path));
        assert_ne!(holds.as_ref(), Some(&old), "{}", path.display());
    }
}
