//! A worker's certificates: the masters sign them through the API.

use std::collections::BTreeSet;
use std::time::SystemTime;

use super::joining::{JOIN, NODE, another_join_file, joined_worker, spec as join, worker_to_be};
use crate::host::fake::FaultPlan;
use crate::host::{CertificateRequest, CertificateRequests as _, ClusterAccess, RequestState};
use crate::resource::Action;
use crate::resource::pki::certificate::facts::{Certificate, show};
use crate::resource::pki::tests::*;
use crate::resource::pki::{Authority, request_key};

/// A kubeconfig of the masters on the simulated cluster.
const MASTERS: &str = "/etc/masters";
const CERTIFICATE: &str = "/etc/pf9/kube.d/certs/kubelet/apiserver/request.crt";
const NODE_KEY: &str = "/etc/pf9/kube.d/certs/kubelet/apiserver/request.key";
const PENDING: &str = "/var/opt/pf9/nodelet/requests/kubelet.apiserver.key";

pub(super) fn client() -> CertificateSpec {
    CertificateSpec {
        path: "kubelet/apiserver".to_owned(),
        common_name: format!("system:node:{NODE}"),
        organizations: vec!["system:nodes".to_owned()],
        signed_by: SignedBy::Api {
            wait: Duration::from_secs(120),
        },
        ..admin()
    }
}

pub(super) fn server() -> CertificateSpec {
    CertificateSpec {
        path: "kubelet/server".to_owned(),
        usage: Usage::Server,
        dns_names: vec![NODE.to_owned()],
        addresses: vec!["10.0.0.8".parse().expect("an address")],
        ..client()
    }
}

pub(super) fn kubeconfig() -> KubeconfigSpec {
    KubeconfigSpec {
        name: "kubelet".to_owned(),
        certificate: "kubelet/apiserver".to_owned(),
        user: "kubelet".to_owned(),
        ..admin_kubeconfig()
    }
}

pub(super) fn requests(host: &FakeHost) -> Vec<CertificateRequest> {
    host.with_world(|world| world.certificate_requests())
}

fn masters(host: &FakeHost) -> ClusterAccess {
    put(host, MASTERS, "", 0o600);
    ClusterAccess::with(MASTERS.as_ref())
}

/// The masters sign what is pending, as this certificate for a month.
pub(super) async fn masters_sign(master: &FakeHost, worker: &FakeHost, spec: &CertificateSpec) {
    masters_sign_at(master, worker, spec, worker.with_world(|world| world.now())).await;
}

/// The same at a time of their clocks.
async fn masters_sign_at(
    master: &FakeHost,
    worker: &FakeHost,
    spec: &CertificateSpec,
    now: SystemTime,
) {
    let authority = Authority::read(master, "cluster")
        .await
        .expect("it can be read");
    let authority = authority.expect("a master has it");
    let spec = CertificateSpec {
        life: DAY * 30,
        signed_by: SignedBy::Authority,
        ..spec.clone()
    };
    let access = masters(worker);
    for request in requests(worker) {
        if request.state == RequestState::Pending {
            let signed = authority.sign_request(&spec, &request.request, now);
            let signed = signed.expect("it can be signed");
            let approved = worker.approve_certificate_request(&access, &request, "test");
            approved.await.expect("it is approved");
            let set = worker.set_certificate(&access, &request, signed.as_bytes());
            set.await.expect("it is set");
        }
    }
}

/// Applies while the masters sign.
pub(super) async fn apply_signed(
    master: &FakeHost,
    worker: &FakeHost,
    spec: &CertificateSpec,
) -> ResourceResult<Option<Change>> {
    let mut receipt = Receipt::default();
    let work = run(worker, spec, false, &mut receipt);
    tokio::pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = tokio::task::yield_now() => masters_sign(master, worker, spec).await,
        }
    }
}

/// A worker with its identity.
pub(super) async fn worker_with_identity() -> (FakeHost, FakeHost) {
    let (master, worker) = joined_worker().await;
    apply_signed(&master, &worker, &client())
        .await
        .expect("it is signed");
    apply(&worker, &kubeconfig()).await;
    (master, worker)
}

#[tokio::test]
async fn a_certificate_is_signed_by_the_masters() {
    let (master, worker) = joined_worker().await;
    let change = apply_signed(&master, &worker, &client()).await;
    let change = change.expect("it converges").expect("it is made");
    assert_eq!(change.action, Action::Create);
    let leaf = Certificate::parse("", text(&worker, CERTIFICATE).as_bytes()).expect("it parses");
    assert_eq!(leaf.facts.common_name, format!("system:node:{NODE}"));
    let authority = Certificate::parse("", text(&master, CA).as_bytes()).expect("it parses");
    assert!(leaf.is_signed_by(&authority));
    let trust = "/etc/pf9/kube.d/certs/kubelet/apiserver/ca.crt";
    assert_eq!(text(&worker, trust), text(&worker, CA));
    assert_eq!(apply(&worker, &client()).await, None);
    let [request] = requests(&worker).try_into().expect("one request");
    assert_eq!(request.requester, "system:bootstrap:abcdef");
    assert_eq!(request.signer, crate::kubernetes::NODE_SIGNER);
    assert_eq!(request.usages, ["digital signature", "client auth"]);
    assert!(
        worker.with_world(|world| world.text(PENDING)).is_none(),
        "its key has moved"
    );
    assert_eq!(
        request_key("kubelet/apiserver"),
        std::path::Path::new(PENDING)
    );

    apply_signed(&master, &worker, &server())
        .await
        .expect("it is signed");
    let request = requests(&worker)
        .into_iter()
        .find(|its| its.name != request.name);
    let request = request.expect("another request");
    assert!(
        request.name.starts_with("nodelet-kubelet-server-"),
        "{}",
        request.name
    );
    assert_eq!(request.usages, ["digital signature", "server auth"]);
}

#[tokio::test]
async fn a_run_after_one_that_waited_in_vain_continues_with_the_same_request() {
    let (master, worker) = joined_worker().await;
    let start = worker.with_world(|world| world.now());
    let error = run(&worker, &client(), false, &mut Receipt::default()).await;
    let error = error.expect_err("no master signs");
    assert!(!error.is_permanent());
    let ResourceError::Awaited { what, next } = &error else {
        panic!("{error}")
    };
    let error = format!("{what}; {next}");
    let waited = worker.with_world(|world| world.now()).duration_since(start);
    let waited = waited.expect("time goes on");
    assert!(
        waited >= Duration::from_secs(120) && waited < Duration::from_secs(130),
        "{waited:?}"
    );
    let [request] = requests(&worker).try_into().expect("one request");
    for part in [
        "signed within 2m",
        &request.name,
        "no master has decided about it",
        &format!("kubectl get csr {}", request.name),
        "pf9-nodeletd",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    for path in [CERTIFICATE, NODE_KEY] {
        assert!(
            worker.with_world(|world| world.text(path)).is_none(),
            "{path}"
        );
    }
    let access = masters(&worker);
    let approve = worker.approve_certificate_request(&access, &request, "");
    approve.await.expect("it is approved");
    let error = failure(&worker, &client()).await;
    assert!(error.contains("no master has signed it"), "{error}");
    assert_eq!(requests(&worker).len(), 1);
    // The masters sign while no step waits.
    let authority = Authority::read(&master, "cluster")
        .await
        .expect("it can be read");
    let spec = CertificateSpec {
        signed_by: SignedBy::Authority,
        ..client()
    };
    let now = worker.with_world(|world| world.now());
    let signed = authority
        .expect("it is there")
        .sign_request(&spec, &request.request, now);
    let signed = signed.expect("it can be signed");
    let set = worker.set_certificate(&access, &request, signed.as_bytes());
    set.await.expect("it is set");
    apply(&worker, &client()).await.expect("it is made");
    assert_eq!(requests(&worker).len(), 1);
}

#[tokio::test]
async fn a_denied_request_is_an_error_with_its_reason_and_is_not_sent_again() {
    let (master, worker) = joined_worker().await;
    failure(&worker, &client()).await;
    let [request] = requests(&worker).try_into().expect("one request");
    let access = masters(&worker);
    let deny = worker.deny_certificate_request(&access, &request, "node w is not admitted");
    deny.await.expect("it is denied");
    for _ in 0..2 {
        let error = run(&worker, &client(), false, &mut Receipt::default()).await;
        let error = error.expect_err("it is denied");
        assert!(error.is_permanent());
        assert!(
            chain(&error).contains("was denied: node w is not admitted"),
            "{}",
            chain(&error)
        );
        let ResourceError::Unmet { next, .. } = &error else {
            panic!("{error}")
        };
        assert!(
            next.contains(&format!("kubectl delete csr {}", request.name)),
            "{next}"
        );
        assert_eq!(requests(&worker).len(), 1);
    }
    let listed = request.listed();
    let delete = worker.delete_certificate_request(&access, &listed);
    delete.await.expect("it is deleted");
    apply_signed(&master, &worker, &client())
        .await
        .expect("it is signed");
}

#[tokio::test]
async fn a_certificate_that_was_not_asked_for_is_refused() {
    let (master, worker) = joined_worker().await;
    let other = CertificateSpec {
        common_name: "system:node:other".to_owned(),
        ..client()
    };
    let mut receipt = Receipt::default();
    failure(&worker, &client()).await;
    masters_sign(&master, &worker, &other).await;
    let error = run(&worker, &client(), false, &mut receipt).await;
    let error = chain(&error.expect_err("it is another one"));
    assert!(
        error.contains("common name is system:node:other"),
        "{error}"
    );

    // Of an authority that is not trusted here.
    let (_, worker) = joined_worker().await;
    let foreign = with_authority().await;
    failure(&worker, &client()).await;
    masters_sign(&foreign, &worker, &client()).await;
    let error = failure(&worker, &client()).await;
    assert!(error.contains("its signature does not verify"), "{error}");
    assert!(worker.with_world(|world| world.text(NODE_KEY)).is_none());
}

/// The masters have signed it at their time, and the clock of this host is behind or ahead. Without the request, the same would happen again.
#[tokio::test]
async fn a_signed_certificate_that_is_not_valid_now_names_the_clock() {
    for is_behind in [true, false] {
        let (master, worker, _) = worker_to_be().await;
        advance(&worker, DAY * 40);
        another_join_file(&master, &worker);
        apply(&worker, &join()).await.expect("it joins");
        failure(&worker, &client()).await;
        let now = worker.with_world(|world| world.now());
        let signed = match is_behind {
            true => now + DAY * 10,
            false => now - DAY * 40,
        };
        masters_sign_at(&master, &worker, &client(), signed).await;
        let error = run(&worker, &client(), false, &mut Receipt::default()).await;
        let Err(ResourceError::Unmet { what, next }) = error else {
            panic!("it is not valid now");
        };
        let end = show(signed + DAY * 30);
        for part in ["it is valid from", &end, "the clock of this host says"] {
            assert!(what.contains(part), "{part}: {what}");
        }
        assert!(next.starts_with("set the clock of this host"), "{next}");
        assert!(!next.contains("  "), "{next}");
    }
}

#[tokio::test]
async fn a_renewal_is_requested_by_the_node_itself_and_has_a_new_key() {
    let (master, worker) = worker_with_identity().await;
    let (key, certificate) = (text(&worker, NODE_KEY), text(&worker, CERTIFICATE));
    assert_eq!(apply(&worker, &client()).await, None);
    advance(&worker, DAY * 20);
    put(&worker, "/etc/pf9/nodelet/join.age", "garbage", 0o600);
    assert_eq!(
        apply(&worker, &join()).await,
        None,
        "the file is not needed"
    );
    // No master signs: what is there stays in use.
    failure(&worker, &client()).await;
    assert_eq!(text(&worker, NODE_KEY), key);
    assert_eq!(text(&worker, CERTIFICATE), certificate);
    let change = apply_signed(&master, &worker, &client())
        .await
        .expect("it is signed");
    assert_eq!(change.map(|change| change.action), Some(Action::Renew));
    assert_ne!(text(&worker, NODE_KEY), key);
    let users: BTreeSet<String> = requests(&worker)
        .into_iter()
        .map(|its| its.requester)
        .collect();
    let expected = [
        "system:bootstrap:abcdef".to_owned(),
        format!("system:node:{NODE}"),
    ];
    assert_eq!(users, BTreeSet::from(expected));
    assert_eq!(requests(&worker).len(), 2);
    apply(&worker, &kubeconfig())
        .await
        .expect("it has the new one");
    assert_eq!(apply(&worker, &client()).await, None);
}

/// An identity that is over cannot ask for another one.
#[tokio::test]
async fn a_node_whose_certificate_is_over_joins_again() {
    let (_, worker) = worker_with_identity().await;
    advance(&worker, DAY * 31);
    worker.with_world_mut(|world| world.remove(JOIN));
    let error = failure(&worker, &join()).await;
    assert!(error.contains("it is not there"), "{error}");
}

#[tokio::test]
async fn without_an_identity_and_a_token_nothing_is_asked() {
    let (_, worker) = joined_worker().await;
    worker.with_world_mut(|world| world.remove("/etc/pf9/kube.d/kubeconfigs/bootstrap.yaml"));
    let error = failure(&worker, &client()).await;
    assert!(
        error.contains("neither a valid certificate of its node nor a token"),
        "{error}"
    );
    assert!(requests(&worker).is_empty());
}

#[tokio::test]
async fn an_api_server_that_is_away_is_waited_for() {
    let (master, worker) = joined_worker().await;
    let away = FaultPlan::none().fail("certificate_request", "*").times(3);
    worker.set_faults(away);
    apply_signed(&master, &worker, &client())
        .await
        .expect("it comes back");
    let away = FaultPlan::none().fail("certificate_request", "*");
    worker.set_faults(away);
    let error = failure(&worker, &server()).await;
    assert!(error.contains("injected fault"), "{error}");
}

/// After a crash at any effect, the next run converges with the request that is there.
#[tokio::test]
async fn after_a_crash_anywhere_there_is_one_request() {
    let (master, start) = joined_worker().await;
    masters(&start);
    let counted = start.fork();
    counted.clear_journal();
    apply_signed(&master, &counted, &client())
        .await
        .expect("it is signed");
    for n in 1..=counted.mutations() {
        for plan in [
            FaultPlan::none().crash_before(n),
            FaultPlan::none().crash_after(n),
        ] {
            let worker = start.fork().with_faults(plan);
            // The masters of this test use the same simulated host, so they sign only after the crash.
            let _ = run(&worker, &client(), false, &mut Receipt::default()).await;
            worker.end_crash();
            worker.set_faults(FaultPlan::none());
            apply_signed(&master, &worker, &client())
                .await
                .expect("it is signed");
            assert_eq!(apply(&worker, &client()).await, None, "effect {n}");
            assert_eq!(requests(&worker).len(), 1, "effect {n}");
        }
    }
}

/// A crash after the certificate is in place leaves its key in the directory of requests. A renewal does not use it again.
#[tokio::test]
async fn a_key_that_is_in_use_is_not_requested_again() {
    let (master, worker) = worker_with_identity().await;
    put(&worker, PENDING, &text(&worker, NODE_KEY), 0o600);
    let key = text(&worker, NODE_KEY);
    advance(&worker, DAY * 20);
    apply_signed(&master, &worker, &client())
        .await
        .expect("it is signed");
    assert_ne!(text(&worker, NODE_KEY), key);
}

#[tokio::test]
async fn a_change_while_a_request_waits_is_another_request() {
    let (_, worker) = joined_worker().await;
    failure(&worker, &server()).await;
    let moved = CertificateSpec {
        addresses: vec!["10.0.0.9".parse().expect("an address")],
        ..server()
    };
    failure(&worker, &moved).await;
    failure(&worker, &server()).await;
    let names: BTreeSet<String> = requests(&worker).into_iter().map(|its| its.name).collect();
    assert_eq!(names.len(), 2);
    for name in names {
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        assert!(name.len() < 253 && name.bytes().all(fits), "{name}");
    }
}

#[test]
fn what_the_masters_would_not_sign_is_no_specification() {
    for (spec, field) in [
        (
            CertificateSpec {
                authority: "etcd".to_owned(),
                ..client()
            },
            "authority",
        ),
        (
            CertificateSpec {
                usage: Usage::Peer,
                ..client()
            },
            "usage",
        ),
        (
            CertificateSpec {
                signed_by: SignedBy::Api {
                    wait: Duration::from_secs(1),
                },
                ..client()
            },
            "timeout",
        ),
    ] {
        let error = spec.validate().expect_err("it is invalid").to_string();
        assert!(error.starts_with(field), "{error}");
    }
    let json = serde_json::to_string(&client()).expect("it serializes");
    assert!(
        json.contains(r#""signed_by":{"api":{"wait":"2m"}}"#),
        "{json}"
    );
    let read: CertificateSpec = serde_json::from_str(&json).expect("it parses");
    assert_eq!(read, client());
    let here = serde_json::to_string(&admin()).expect("it serializes");
    assert!(
        !here.contains("signed_by"),
        "plans of masters stay as they are: {here}"
    );
}
