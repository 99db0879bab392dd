//! A worker: it takes what is in its join file, and the masters sign its certificates through the API, once and for each renewal.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use behaviour::{Bringup, CrashPoint, Run, Scripts, block_on, sample, try_each};
use engine::exec::{Recording, Runner, simulated_host};
use engine::host::fake::FakeHost;
use engine::host::{CertificateRequest, CertificateRequests as _, ClusterAccess, RequestState};
use engine::kubernetes::join_file::{
    IDENTITY, JOIN_FILE, JoinContent as _, JoinFile, Token, new_identity,
};
use engine::model::{Outcome, STATE};
use engine::resource::pki::{Authority, CertificateSpec, SignedBy, request_keys};
use engine::resource::{MaskedSecrets, Spec};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const MASTERS: &str = "/etc/masters";
const CERTIFICATES: [&str; 3] = [
    "kubelet/apiserver",
    "kubelet/server",
    "kube-proxy/apiserver",
];

const JOIN: &str = r#"
phase("join").about("Joins.").nodes(["master"]);
directory("/etc/pf9/kube.d");
directory("/etc/pf9/kube.d/ca").mode("0700");
directory("/etc/pf9/kube.d/kubeconfigs").mode("0700");
join_file("/etc/pf9/nodelet/join.age").node("cp-1");
check("the authority is as planned").as_planned();
check("keys are kept").keys_kept().advisory();
"#;

const CERTS: &str = r#"
phase("certs").about("Makes certificates.").nodes(["master"]).after(["join"]).timeout("10m");
directory("/etc/pf9/kube.d/certs").mode("0700");
certificate("kubelet/apiserver").authority("cluster").common_name("system:node:cp-1").organizations(["system:nodes"]).usage("client").signed_by_api();
certificate("kubelet/server").authority("cluster").common_name("system:node:cp-1").organizations(["system:nodes"]).usage("server").names(["cp-1"]).addresses([host.address]).signed_by_api();
certificate("kube-proxy/apiserver").authority("cluster").common_name("system:kube-proxy").usage("client").signed_by_api();
check("certificates are as planned").as_planned();
"#;

const KUBECONFIGS: &str = r#"
phase("kubeconfigs").about("Writes kubeconfigs.").nodes(["master"]).after(["certs"]);
kubeconfig("kubelet").server("https://10.0.0.1:443").certificate("kubelet/apiserver").user("kubelet");
check("kubeconfigs are as planned").as_planned();
"#;

/// A worker to be, with its join file, and the authority of the masters.
struct Cluster {
    bringup: Bringup,
    authority: Authority,
    worker: FakeHost,
}

impl Cluster {
    fn new() -> Self {
        let scripts = Scripts::default()
            .phase("join", JOIN)
            .phase("certs", CERTS)
            .phase("kubeconfigs", KUBECONFIGS);
        let bringup = Bringup::of_scripts(&scripts);
        let master = FakeHost::new();
        let phase = r#"phase("ca").about("Makes an authority.").nodes(["master"]); certificate_authority("cluster").common_name("kubernetes");"#;
        let made = Bringup::of_scripts(&Scripts::default().phase("ca", phase)).apply(&master);
        assert_eq!(made.outcome, Outcome::Converged, "{}", made.text());
        let authority = block_on(Authority::read(&master, "cluster")).expect("it can be read");
        let authority = authority.expect("it is made");
        let (secret, public) = new_identity();
        let worker = FakeHost::new()
            .with_file(IDENTITY, secret)
            .with_file(MASTERS, "")
            .with_kubernetes(|rules| {
                rules.remote_api = true;
                rules.node_name = Some("cp-1".to_owned());
            });
        let now = worker.with_world(|world| world.now());
        let now = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .expect("it is after 1970");
        let file = JoinFile::new(
            "cp-1",
            "https://10.0.0.1:443",
            str::from_utf8(authority.pem()).expect("PEM is text"),
            Token::try_from("abcdef.0123456789abcdef".to_owned()).expect("a token"),
            now.as_secs() + 3600,
        );
        let sealed = file.seal(&public).expect("it is sealed");
        worker.with_world_mut(|world| world.file(JOIN_FILE, sealed));
        Self {
            bringup,
            authority,
            worker,
        }
    }

    fn certificate(&self, request: &str) -> &CertificateSpec {
        let steps = self
            .bringup
            .plan
            .phases
            .iter()
            .flat_map(|phase| &phase.steps);
        let mut certificates = steps.filter_map(|step| match &step.spec {
            Spec::Certificate(certificate) => Some(certificate),
            _ => None,
        });
        let name = |path: &str| format!("nodelet-{}-", path.replace('/', "-"));
        let its = certificates.find(|its| request.starts_with(&name(&its.path)));
        its.expect("the request is for one of the plan")
    }

    /// The masters sign what waits.
    async fn sign(&self, worker: &FakeHost) {
        let access = ClusterAccess::with(MASTERS.as_ref());
        for request in requests(worker) {
            let waits = matches!(
                request.state,
                RequestState::Pending | RequestState::Approved
            );
            if !waits || request.certificate.is_some() {
                continue;
            }
            let spec = CertificateSpec {
                life: DAY * 30,
                signed_by: SignedBy::Authority,
                ..self.certificate(&request.name).clone()
            };
            let now = worker.with_world(|world| world.now());
            let signed = self.authority.sign_request(&spec, &request.request, now);
            let signed = signed.expect("it can be signed");
            let approved = worker.approve_certificate_request(&access, &request, "test");
            approved.await.expect("it is approved");
            let set = worker.set_certificate(&access, &request, signed.as_bytes());
            set.await.expect("it is set");
        }
    }

    /// Does this on the worker while the masters sign.
    async fn while_masters_sign<T>(&self, worker: &FakeHost, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = tokio::task::yield_now() => self.sign(worker).await,
            }
        }
    }

    fn apply_signed(&self, worker: &FakeHost) -> Run {
        let events = Recording::default();
        let outcome = block_on(self.while_masters_sign(worker, async {
            let runner = self.runner(worker, &events);
            runner.apply().await.unwrap_or(Outcome::Failed)
        }));
        Run {
            outcome,
            events: events.events(),
        }
    }

    fn runner<'a>(&'a self, worker: &'a FakeHost, events: &'a Recording) -> Runner<'a> {
        let Bringup { plan, facts } = &self.bringup;
        Runner::new(plan, worker, facts, &MaskedSecrets, events)
    }
}

fn requests(worker: &FakeHost) -> Vec<CertificateRequest> {
    worker.with_world(|world| world.certificate_requests())
}

fn certificate(worker: &FakeHost, path: &str) -> Option<String> {
    let path = format!("/etc/pf9/kube.d/certs/{path}/request.crt");
    worker.with_world(|world| world.text(path))
}

#[test]
fn a_worker_comes_up_once_and_can_be_cleaned() {
    let cluster = Cluster::new();
    let worker = &cluster.worker;
    let before = worker.snapshot();
    let run = cluster.apply_signed(worker);
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    assert_eq!(requests(worker).len(), CERTIFICATES.len());
    assert_eq!(
        cluster.bringup.apply(worker).changes(),
        Vec::<String>::new()
    );
    let health = cluster.bringup.check(worker);
    assert!(
        health
            .iter()
            .all(engine::exec::PhaseHealth::all_conditions_hold),
        "{health:?}"
    );
    // Without the join file, too, and after it is over.
    worker.with_world_mut(|world| {
        world.remove(JOIN_FILE);
        world.advance(DAY);
    });
    assert_eq!(
        cluster.bringup.apply(worker).changes(),
        Vec::<String>::new()
    );
    let clean = Bringup::clean(worker, false);
    assert_eq!(clean.outcome, Outcome::Cleaned, "{}", clean.text());
    let left = |of: engine::host::fake::WorldSnapshot| {
        of.without_cluster()
            .without_path(STATE)
            .without_path(JOIN_FILE)
    };
    let left = engine::host::fake::difference(&left(before), &left(worker.snapshot()));
    let left: Vec<&String> = left
        .iter()
        .filter(|line| !line.contains("/etc/pf9/nodelet"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

/// A failed bring-up is taken back, except for the request: the next one continues with it.
#[test]
fn a_bring_up_without_masters_fails_and_the_next_continues_with_its_request() {
    let cluster = Cluster::new();
    let worker = &cluster.worker;
    for _ in 0..3 {
        let run = cluster.bringup.apply(worker);
        assert_eq!(run.outcome, Outcome::Failed);
        let [request] = requests(worker).try_into().expect("one request");
        let text = run.text();
        assert!(
            text.contains(&format!("kubectl get csr {}", request.name)),
            "{text}"
        );
        assert_eq!(certificate(worker, CERTIFICATES[0]), None);
    }
    let run = cluster.apply_signed(worker);
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    assert_eq!(requests(worker).len(), CERTIFICATES.len());
    // What was not signed is forgotten by a clean.
    let other = Cluster::new();
    assert_eq!(other.bringup.apply(&other.worker).outcome, Outcome::Failed);
    assert_eq!(
        Bringup::clean(&other.worker, false).outcome,
        Outcome::Cleaned
    );
    let keys = other.worker.snapshot();
    let keys: Vec<_> = keys
        .resources()
        .filter(|(name, _)| name.contains(&request_keys().display().to_string()))
        .collect();
    assert!(keys.is_empty(), "{keys:?}");
}

#[test]
fn a_denied_request_ends_the_bring_up() {
    let cluster = Cluster::new();
    let worker = &cluster.worker;
    assert_eq!(cluster.bringup.apply(worker).outcome, Outcome::Failed);
    let [request] = requests(worker).try_into().expect("one request");
    let access = ClusterAccess::with(MASTERS.as_ref());
    let denied = worker.deny_certificate_request(&access, &request, "not admitted");
    block_on(denied).expect("it is denied");
    let run = cluster.apply_signed(worker);
    assert_eq!(run.outcome, Outcome::Failed);
    assert!(
        run.text().contains("was denied: not admitted"),
        "{}",
        run.text()
    );
    assert!(run.text().contains("kubectl delete csr"), "{}", run.text());
    assert_eq!(requests(worker).len(), 1);
}

/// A prediction opens the join file, sends nothing, and does not guess what the masters will sign.
#[test]
fn a_dry_run_sends_no_request() {
    let cluster = Cluster::new();
    let worker = &cluster.worker;
    worker.clear_journal();
    let run = cluster.bringup.predict(worker);
    assert_eq!(run.outcome, Outcome::Predicted, "{}", run.text());
    assert_eq!(worker.mutations(), 0);
    assert!(requests(worker).is_empty());
    let text = run.text();
    assert!(text.contains("trusted authorities"), "{text}");
    assert!(text.contains("known after apply"), "{text}");
    assert!(!text.contains("0123456789abcdef"), "{text}");
    let planned: BTreeSet<String> = run.changes().into_iter().collect();
    for path in CERTIFICATES {
        assert!(
            planned.iter().any(|step| step.contains(path)),
            "{path}: {planned:?}"
        );
    }
    // After the bring-up, nothing is left to predict.
    let done = cluster.apply_signed(worker);
    assert_eq!(done.outcome, Outcome::Converged, "{}", done.text());
    assert_eq!(
        cluster.bringup.predict(worker).changes(),
        Vec::<String>::new()
    );
    // Facts say nothing of a join file.
    let Bringup { plan, facts } = &cluster.bringup;
    let host = simulated_host(facts, plan);
    let events = Recording::default();
    let runner = Runner::new(plan, &host, facts, &MaskedSecrets, &events);
    assert_eq!(
        block_on(runner.dry_run()).expect("it ends"),
        Outcome::Predicted
    );
    // Without a join file, an apply would fail.
    let cluster = Cluster::new();
    cluster
        .worker
        .with_world_mut(|world| world.remove(JOIN_FILE));
    let run = cluster.bringup.predict(&cluster.worker);
    assert_eq!(run.outcome, Outcome::Refused);
    assert!(
        run.text().contains("nodelet pki issue cp-1"),
        "{}",
        run.text()
    );
}

#[test]
fn a_renewal_is_signed_and_an_apply_does_not_need_the_masters() {
    let cluster = Cluster::new();
    let worker = &cluster.worker;
    assert_eq!(cluster.apply_signed(worker).outcome, Outcome::Converged);
    worker.with_world_mut(|world| world.advance(DAY * 20));
    assert_eq!(
        cluster.bringup.apply(worker).changes(),
        Vec::<String>::new()
    );
    let before: Vec<_> = CERTIFICATES
        .iter()
        .map(|path| certificate(worker, path))
        .collect();
    let events = Recording::default();
    // Without masters, the renewal fails and what is there stays.
    let failed = block_on(cluster.runner(worker, &events).renew("kubelet"));
    assert_eq!(failed.expect("it ends"), Outcome::Failed);
    let after: Vec<_> = CERTIFICATES
        .iter()
        .map(|path| certificate(worker, path))
        .collect();
    assert_eq!(after, before);
    let sent = requests(worker).len();
    for component in ["kubelet", "kube-proxy"] {
        let renewed = cluster.while_masters_sign(worker, async {
            let due = cluster.runner(worker, &events).due().await;
            assert_eq!(due.components.first(), Some(&component));
            cluster.runner(worker, &events).renew(component).await
        });
        assert_eq!(block_on(renewed).expect("it ends"), Outcome::Converged);
    }
    assert_eq!(requests(worker).len(), sent + 2, "the first one was used");
    for (path, before) in CERTIFICATES.iter().zip(before) {
        assert_ne!(certificate(worker, path), before, "{path}");
    }
    let due = block_on(cluster.runner(worker, &events).due());
    assert!(due.components.is_empty(), "{due:?}");
    let asked = requests(worker);
    let asked = asked
        .iter()
        .filter(|its| its.requester == "system:node:cp-1");
    // Two before its kubeconfig was there, and the three renewals.
    assert_eq!(asked.count(), 5);
}

/// After a crash anywhere, the next run comes up with the same requests.
#[test]
fn an_interrupted_bring_up_continues() {
    let cluster = Cluster::new();
    let whole = cluster.worker.fork().with_history();
    let run = cluster.apply_signed(&whole);
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    let shape = Bringup::shape(&whole);
    let points = sample(CrashPoint::all(&whole), 2);
    try_each(&points, |point| {
        let mut problems = Vec::new();
        let host = point.host.fork();
        let next = cluster.apply_signed(&host);
        if next.outcome != Outcome::Converged {
            problems.push(format!("{}: {}", point.place, next.text()));
        }
        let found = Bringup::shape(&host);
        if found != shape {
            problems.push(format!("{}: another end", point.place));
        }
        if requests(&host).len() != CERTIFICATES.len() {
            problems.push(format!(
                "{}: {} requests",
                point.place,
                requests(&host).len()
            ));
        }
        problems
    });
}

/// The masters end the token when the node is there. A worker that was interrupted between its first certificate and its kubeconfig goes on
/// with that certificate.
#[test]
fn an_interrupted_bring_up_continues_after_its_token_has_ended() {
    let cluster = Cluster::new();
    let whole = cluster.worker.fork().with_history();
    let run = cluster.apply_signed(&whole);
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    let shape = Bringup::shape(&whole);
    let mut points = CrashPoint::all(&whole);
    points.retain(|point| certificate(&point.host, CERTIFICATES[0]).is_some());
    assert!(points.len() > 10, "{} places", points.len());
    try_each(&sample(points, 2), |point| {
        let host = point.host.fork();
        host.with_world_mut(|world| world.refuse_user("system:bootstrap:abcdef", true));
        let next = cluster.apply_signed(&host);
        let found = Bringup::shape(&host);
        let mut problems = Vec::new();
        if next.outcome != Outcome::Converged {
            problems.push(format!("{}: {}", point.place, next.text()));
        } else if found != shape {
            problems.push(format!("{}: another end", point.place));
        }
        problems
    });
}

/// Puts a join file with another token on the worker.
fn another_join_file(worker: &FakeHost) {
    let text = |path: &str| {
        worker
            .with_world(|world| world.text(path))
            .expect("it is there")
    };
    let (sealed, identity) = (text(JOIN_FILE), text(IDENTITY));
    let mut file = JoinFile::open(sealed.as_bytes(), &identity).expect("it is for this host");
    file.token = Token::try_from("ghijkl.0123456789abcdef".to_owned()).expect("a token");
    let public = engine::kubernetes::join_file::public_key(&identity).expect("an identity");
    let sealed = file.seal(&public).expect("it is sealed");
    worker.with_world_mut(|world| world.file(JOIN_FILE, sealed));
}

/// The record of its new admission has no key, and no address if it was removed before.
#[test]
fn a_worker_that_is_admitted_again_asks_for_its_certificates_once_more() {
    let cluster = Cluster::new();
    let worker = &cluster.worker;
    assert_eq!(cluster.apply_signed(worker).outcome, Outcome::Converged);
    let certificates = || CERTIFICATES.map(|path| certificate(worker, path));
    let asked = || {
        let all = requests(worker);
        let with_token = all
            .iter()
            .filter(|its| its.requester == "system:bootstrap:ghijkl");
        with_token.count()
    };
    let before = certificates();
    another_join_file(worker);
    assert_eq!(
        cluster.bringup.predict(worker).outcome,
        Outcome::Predicted,
        "no master signs for a prediction"
    );
    assert_eq!(asked(), 0);
    // What is there stays in use until the masters have signed: neither an apply nor a check fails without them.
    let run = cluster.bringup.apply(worker);
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    assert_eq!(certificates(), before);
    let events = Recording::default();
    let health = block_on(cluster.runner(worker, &events).check());
    assert!(health.iter().all(|phase| !phase.fails()), "{health:?}");
    for component in ["kubelet", "kube-proxy"] {
        let renewed = cluster.while_masters_sign(worker, async {
            let due = cluster.runner(worker, &events).due().await;
            assert_eq!(due.components.first(), Some(&component));
            cluster.runner(worker, &events).renew(component).await
        });
        assert_eq!(block_on(renewed).expect("it ends"), Outcome::Converged);
    }
    let due = block_on(cluster.runner(worker, &events).due());
    assert!(due.components.is_empty(), "{due:?}");
    for (after, before) in certificates().iter().zip(&before) {
        assert_ne!(after, before);
    }
    assert_eq!(asked(), CERTIFICATES.len());
    let next = cluster.bringup.apply(worker);
    assert_eq!(next.changes(), Vec::<String>::new());
}

/// A denial is about one token. Another join file helps at once.
#[test]
fn another_join_file_helps_after_a_denial() {
    let cluster = Cluster::new();
    let worker = &cluster.worker;
    assert_eq!(cluster.bringup.apply(worker).outcome, Outcome::Failed);
    for request in requests(worker) {
        worker.with_world_mut(|world| world.deny_request(&request.name, "not admitted"));
    }
    assert_eq!(cluster.apply_signed(worker).outcome, Outcome::Failed);
    another_join_file(worker);
    let run = cluster.apply_signed(worker);
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
}

/// An API server that has just started may not have read its tokens yet.
#[test]
fn a_token_that_is_refused_for_a_moment_brings_the_worker_up() {
    const FIRST: &str = "system:bootstrap:abcdef";
    let cluster = Cluster::new();
    let worker = &cluster.worker;
    worker.with_world_mut(|world| world.refuse_user(FIRST, true));
    let elapsed = || worker.with_world(|world| world.elapsed());
    let begun = elapsed();
    let events = Recording::default();
    let runner = cluster.runner(worker, &events);
    let outcome = block_on(cluster.while_masters_sign(worker, async {
        let work = runner.apply();
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => break done.unwrap_or(Outcome::Failed),
                () = tokio::task::yield_now() => {
                    if elapsed() > begun {
                        worker.with_world_mut(|world| world.refuse_user(FIRST, false));
                    }
                }
            }
        }
    }));
    assert_eq!(outcome, Outcome::Converged, "{:?}", events.events());
    assert!(elapsed() > begun, "it was refused at first");
}

/// A refusal is waited out for half a minute, because the API server may just have started. A stop does not wait for that.
#[test]
fn a_stop_ends_a_bring_up_whose_token_is_refused() {
    const FIRST: &str = "system:bootstrap:abcdef";
    let cluster = Cluster::new();
    let worker = &cluster.worker;
    let elapsed = || worker.with_world(|world| world.elapsed());
    // The key is made before the API server is asked.
    let key = "/var/opt/pf9/nodelet/requests/kubelet.apiserver.key";
    let asks = || worker.with_world(|world| world.text(key)).is_some();
    let events = Recording::default();
    let runner = cluster.runner(worker, &events);
    let begun = elapsed();
    // A token that is refused before the step is refused before anything is touched.
    let mut refused_since = None;
    let outcome = block_on(async {
        let work = runner.apply();
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => break done.unwrap_or(Outcome::Failed),
                () = tokio::task::yield_now() => match refused_since {
                    None if asks() => {
                        worker.with_world_mut(|world| world.refuse_user(FIRST, true));
                        refused_since = Some(elapsed());
                    }
                    Some(since) if elapsed() > since + Duration::from_secs(3) => {
                        runner.cancel.cancel();
                    }
                    None | Some(_) => {}
                }
            }
        }
    });
    assert_eq!(outcome, Outcome::Interrupted);
    let waited = elapsed().saturating_sub(begun);
    assert!(waited < Duration::from_secs(10), "{waited:?}");
    worker.with_world_mut(|world| world.refuse_user(FIRST, false));
    let run = cluster.apply_signed(worker);
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
}
