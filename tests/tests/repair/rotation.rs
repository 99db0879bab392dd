//! An authority is replaced step by step, and no component loses its access on the way.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use behaviour::{Bringup, block_on, checked_in_part};
use engine::exec::{Recording, Rollout, Runner, authorities, overlay_host, receiving, rotating};
use engine::host::fake::FakeHost;
use engine::host::{Cluster as _, ClusterAccess, ClusterNode};
use engine::kubernetes::join_file::{IDENTITY, JoinContent as _, new_identity};
use engine::kubernetes::masters::{self, MASTERS, MasterEntry};
use engine::model::{Outcome, STATE};
use engine::plan::Plan;
use engine::resource::pki::{
    Authority, CONSUMERS, ENCRYPTION, Replacement, Rotation, SentSuccessor, Stage, certificate_in,
    certificate_paths, encryption_key_ids, encryption_stage, received_id, successor_of,
};
use engine::resource::{NoSecrets, ResourceError};

pub(super) const STEPS: [Rotation; 3] = [Rotation::Begin, Rotation::Switch, Rotation::Finish];
pub(super) const MINUTE: Duration = Duration::from_secs(60);

/// A host at its role, an hour after it was brought up.
pub(super) fn applied_host() -> (Bringup, FakeHost) {
    let bringup = Bringup::of("cp-1");
    let host = bringup.bare_host();
    assert_eq!(bringup.apply(&host).outcome, Outcome::Converged);
    host.with_world_mut(|world| world.advance(60 * MINUTE));
    host.clear_journal();
    (bringup, host)
}

pub(super) fn runner<'a>(
    bringup: &'a Bringup,
    plan: &'a Plan,
    host: &'a FakeHost,
    events: &'a Recording,
) -> Runner<'a> {
    Runner::new(plan, host, &bringup.facts, &NoSecrets, events)
}

/// The error that prevents a step, if there is one.
pub(super) fn refusal(
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

/// Three masters with the same keys. What one shows on its Node, the others see after [`Masters::meet`]: each fake host has an API server of its own.
struct Masters {
    bringup: Bringup,
    hosts: Vec<(String, FakeHost)>,
}

impl Masters {
    fn new() -> Self {
        let (bringup, host) = applied_host();
        let masters: Vec<MasterEntry> = (1..=3_u8)
            .map(|number| MasterEntry {
                name: format!("cp-{number}"),
                address: IpAddr::from([172, 30, 0, 10 + number]),
                etcd_id: Some(number.into()),
                voter: true,
            })
            .collect();
        let list = masters::render(&masters).expect("a list");
        host.with_world_mut(|world| {
            world.file_with_mode(MASTERS, list, 0o600);
            for master in &masters {
                let address = master.address.to_string();
                let id = master.etcd_id.unwrap_or_default();
                world.etcd.voter(&master.name, &address, id);
                if !world.has_node(&master.name) {
                    world.node(&master.name, ClusterNode::default());
                }
            }
        });
        let names = masters.into_iter().map(|master| master.name);
        let hosts = names.map(|name| (name, host.fork())).collect();
        Self { bringup, hosts }
    }

    fn host(&self, own: &str) -> &FakeHost {
        let mut hosts = self.hosts.iter();
        &hosts.find(|(name, _)| name == own).expect("a master").1
    }

    fn rollout(&self, own: &str, of: &str) -> Rollout {
        let read = block_on(Rollout::read(self.host(own), &access(), of, own));
        read.expect("it is known").expect("there are several")
    }

    /// Why a step is refused on a master.
    fn refusal(&self, own: &str, of: &str, step: Rotation) -> Option<String> {
        let host = self.host(own);
        let present = block_on(Replacement::read(host, of)).expect("it can be read");
        let present = present.expect("it is there");
        let refused = refusal(&self.bringup, host, of, step);
        let refused = refused.or_else(|| self.rollout(own, of).check(step, &present, false).err());
        refused.map(|error| error.to_string())
    }

    /// Takes a step on a master as `nodelet certs rotate` does, and shows it to all.
    fn take(&self, own: &str, of: &str, step: Rotation, from: Option<&str>) {
        let host = self.host(own);
        if from.is_none() {
            let refused = self.refusal(own, of, step);
            assert_eq!(refused, None, "{own} {step:?}");
        }
        let plan = match from {
            Some(path) => {
                let id = block_on(received_id(host, of, Path::new(path)));
                let sent = SentSuccessor {
                    path: path.into(),
                    id: id.expect("it can be read"),
                };
                receiving(&self.bringup.plan, of, sent)
            }
            None => rotating(&self.bringup.plan, of, step),
        };
        let plan = plan.expect("the role has it");
        let events = Recording::default();
        let outcome = block_on(runner(&self.bringup, &plan, host, &events).rotate());
        assert_eq!(
            outcome.expect("it ends"),
            Outcome::Converged,
            "{own} {step:?}"
        );
        let run = runner(&self.bringup, &self.bringup.plan, host, &events);
        for component in block_on(run.due()).components {
            let run = runner(&self.bringup, &self.bringup.plan, host, &events);
            let renewed = block_on(run.renew(component));
            assert_eq!(renewed.expect("it ends"), Outcome::Converged);
        }
        let shown = block_on(self.rollout(own, of).show(host, &access()));
        shown.expect("it is shown");
        self.meet(own);
        host.with_world_mut(|world| world.advance(10 * MINUTE));
    }

    /// The others see what this master shows.
    fn meet(&self, own: &str) {
        let node = block_on(self.host(own).node(&access(), own));
        let node = node.expect("it answers").expect("it is there");
        let patch = serde_json::json!({ "metadata": { "annotations": node.annotations } });
        for (name, host) in self.hosts.iter().filter(|(name, _)| name != own) {
            let patched = block_on(host.patch_node(&access(), own, &patch));
            patched.unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }

    /// Carries the successor from one master to another one; gives the path of its file.
    fn send(&self, from: &str, to: &str, of: &str) -> &'static str {
        const FILE: &str = "/root/successor.age";
        let (identity, public) = new_identity();
        let mut file = block_on(successor_of(self.host(from), of)).expect("there is one");
        file.expires = 4_102_444_800;
        let sealed = file.seal(&public).expect("it is complete");
        self.host(to).with_world_mut(|world| {
            world.file_with_mode(IDENTITY, identity, 0o600);
            world.file_with_mode(FILE, sealed, 0o600);
        });
        FILE
    }
}

fn access() -> ClusterAccess {
    ClusterAccess::with(Path::new("/etc/pf9/kube.d/kubeconfigs/local-admin.yaml"))
}

/// Every master trusts the successor before one uses it, and every master uses it before one forgets its predecessor.
#[test]
fn three_masters_replace_step_by_step() {
    let masters = Masters::new();
    for of in ["etcd", "front-proxy", "cluster", ENCRYPTION] {
        masters.take("cp-1", of, Rotation::Begin, None);
        let refused = |own: &str, step, because: &str| {
            let refused = masters.refusal(own, of, step).expect("it is refused");
            assert!(refused.contains(because), "{of}: {refused}");
        };
        refused("cp-1", Rotation::Switch, "cp-2 has not shown");
        refused("cp-2", Rotation::Begin, "cp-1 uses");
        let file = masters.send("cp-1", "cp-2", of);
        masters.take("cp-2", of, Rotation::Begin, Some(file));
        refused("cp-1", Rotation::Switch, "cp-3");
        // Also from a master that has only taken it.
        let file = masters.send("cp-2", "cp-3", of);
        masters.take("cp-3", of, Rotation::Begin, Some(file));
        refused("cp-1", Rotation::Finish, "at present");
        masters.take("cp-1", of, Rotation::Switch, None);
        refused("cp-1", Rotation::Finish, "cp-2 uses");
        masters.take("cp-2", of, Rotation::Switch, None);
        refused("cp-1", Rotation::Finish, "cp-3 uses");
        masters.take("cp-3", of, Rotation::Switch, None);
        for own in ["cp-3", "cp-1", "cp-2"] {
            masters.take(own, of, Rotation::Finish, None);
        }
        let present = |own: &str| {
            let read = block_on(Replacement::read(masters.host(own), of));
            read.expect("it can be read").expect("it is there")
        };
        let first = present("cp-1");
        assert_eq!(first.stage, Stage::Settled);
        for own in ["cp-2", "cp-3"] {
            assert_eq!(present(own), first, "{of}");
        }
        assert!(masters.rollout("cp-2", of).is_over(&first), "{of}");
    }
}

/// etcd reads its roots only when it starts, so each step that changes them needs the other voters.
#[test]
fn etcd_keeps_its_quorum_during_a_replacement() {
    let masters = Masters::new();
    let host = masters.host("cp-1");
    host.with_world_mut(|world| world.etcd.silence("172.30.0.12"));
    for (step, restarts) in [
        (Rotation::Begin, true),
        (Rotation::Switch, false),
        (Rotation::Finish, true),
    ] {
        let plan = rotating(&masters.bringup.plan, "etcd", step).expect("the role has it");
        let events = Recording::default();
        let mut run = runner(&masters.bringup, &plan, host, &events);
        if restarts {
            let outcome = block_on(run.rotate()).expect("it ends");
            assert_eq!(outcome, Outcome::Refused, "{step:?}");
            run = runner(&masters.bringup, &plan, host, &events);
            run.accepts_quorum_loss = true;
        }
        let outcome = block_on(run.rotate()).expect("it ends");
        assert_eq!(outcome, Outcome::Converged, "{step:?}");
    }
}

/// Takes a step as `nodelet certs rotate` does; gives the steps of the plan that changed something.
pub(super) fn take(
    bringup: &Bringup,
    host: &FakeHost,
    authority: &str,
    step: Rotation,
) -> Vec<String> {
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
