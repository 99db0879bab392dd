//! With which identity a worker asks, and what it does if the cluster refuses one.

use tokio_util::sync::CancellationToken;

use super::joining::{JOIN, NODE, another_join_file, joined_worker, spec as join};
use super::signing::{apply_signed, client, kubeconfig, requests, server, worker_with_identity};
use crate::resource::Action;
use crate::resource::pki::kept_node;
use crate::resource::pki::tests::*;

const FIRST: &str = "system:bootstrap:abcdef";
const SECOND: &str = "system:bootstrap:ghijkl";
const ACCESS: &str = "/var/opt/pf9/nodelet/requests/node.yaml";

fn node() -> String {
    format!("system:node:{NODE}")
}

fn refuse(host: &FakeHost, user: &str) {
    host.with_world_mut(|world| world.refuse_user(user, true));
}

async fn unmet(host: &FakeHost, spec: &CertificateSpec) -> String {
    let error = run(host, spec, false, &mut Receipt::default()).await;
    match error.expect_err("it is refused") {
        ResourceError::Unmet { what, next } => format!("{what}; {next}"),
        other => panic!("{other}"),
    }
}

/// Interrupted between its first certificate and its kubeconfig, when the masters have ended the token.
#[tokio::test]
async fn a_worker_without_a_kubeconfig_asks_with_its_certificate() {
    let (master, worker) = joined_worker().await;
    apply_signed(&master, &worker, &client())
        .await
        .expect("it is signed");
    refuse(&worker, FIRST);
    let waits = run(&worker, &server(), false, &mut Receipt::default()).await;
    assert!(!waits.expect_err("no master signs").is_permanent());
    let access = text(&worker, ACCESS);
    assert!(access.contains("kubelet/apiserver/request.key"), "{access}");
    assert!(
        !access.contains("token") && !access.contains("client-key-data"),
        "{access}"
    );
    apply_signed(&master, &worker, &server())
        .await
        .expect("it is signed");
    assert!(requests(&worker).iter().any(|its| its.requester == node()));
    assert!(
        worker.with_world(|world| world.text(ACCESS)).is_none(),
        "it is not needed any more"
    );
    apply(&worker, &kubeconfig()).await.expect("it is made");
}

/// Its join file is gone, and its clock is far ahead. Another join file would not help.
#[tokio::test]
async fn a_worker_whose_certificate_has_ended_is_told_to_look_at_its_clock() {
    let (master, worker) = joined_worker().await;
    apply_signed(&master, &worker, &client())
        .await
        .expect("it is signed");
    worker.with_world_mut(|world| world.remove(JOIN));
    assert_eq!(apply(&worker, &join()).await, None, "it needs no file");
    advance(&worker, DAY * 400);
    let error = run(&worker, &join(), false, &mut Receipt::default()).await;
    let Err(ResourceError::Unmet { what, next }) = error else {
        panic!("its certificate has ended");
    };
    assert!(what.contains("it is not there"), "{what}");
    assert!(
        what.contains("the certificate of this node ended at"),
        "{what}"
    );
    assert!(what.contains("the clock of this host says"), "{what}");
    assert!(next.starts_with("set the clock if it is wrong"), "{next}");
    assert!(next.contains("nodelet pki issue"), "{next}");
}

#[tokio::test]
async fn a_refusal_of_a_server_that_has_just_started_is_waited_out() {
    let (master, worker) = joined_worker().await;
    refuse(&worker, FIRST);
    let begin = worker.with_world(|world| world.now());
    let mut receipt = Receipt::default();
    let specification = client();
    let work = run(&worker, &specification, false, &mut receipt);
    tokio::pin!(work);
    let result = loop {
        tokio::select! {
            biased;
            done = &mut work => break done,
            () = tokio::task::yield_now() => {
                let now = worker.with_world(|world| world.now());
                if now.duration_since(begin).expect("time goes on") > Duration::from_secs(10) {
                    worker.with_world_mut(|world| world.refuse_user(FIRST, false));
                }
                super::signing::masters_sign(&master, &worker, &client()).await;
            }
        }
    };
    result.expect("it is signed");
}

#[tokio::test]
async fn a_token_that_stays_refused_needs_another_join_file() {
    let (_, worker) = joined_worker().await;
    refuse(&worker, FIRST);
    let begin = worker.with_world(|world| world.now());
    let error = unmet(&worker, &client()).await;
    assert!(
        error.contains("was used already, revoked, or has expired"),
        "{error}"
    );
    assert!(error.contains("nodelet pki issue"), "{error}");
    let waited = worker.with_world(|world| world.now()).duration_since(begin);
    let waited = waited.expect("time goes on");
    assert!(
        waited >= Duration::from_secs(30) && waited < Duration::from_secs(45),
        "{waited:?}"
    );
}

/// Runs the step for the client certificate, and does something when three seconds have passed on the worker's clock. Returns the error, and how long
/// the step took.
async fn refused_until(
    worker: &FakeHost,
    cancel: &CancellationToken,
    mut change: impl FnMut(),
) -> (ResourceError, Duration) {
    let outputs = Outputs::default();
    let cx = Context {
        host: worker,
        outputs: &outputs,
        secrets: &NoSecrets,
        absent: false,
        cancel: Some(cancel),
    };
    let specification = client();
    let observed = specification
        .observe(&cx)
        .await
        .expect("it can be observed");
    let mut receipt = Receipt::default();
    let begin = worker.with_world(|world| world.elapsed());
    let passed = || worker.with_world(|world| world.elapsed().saturating_sub(begin));
    let work = specification.converge(&observed, &cx, &mut receipt);
    tokio::pin!(work);
    let mut is_changed = false;
    let error = loop {
        tokio::select! {
            biased;
            done = &mut work => break done.expect_err("it is refused"),
            () = tokio::task::yield_now() => {
                if !is_changed && passed() > Duration::from_secs(3) {
                    is_changed = true;
                    change();
                }
            }
        }
    };
    (error, passed())
}

#[tokio::test]
async fn a_stop_ends_the_wait_for_a_token_that_is_refused() {
    let (_, worker) = joined_worker().await;
    refuse(&worker, FIRST);
    let cancel = CancellationToken::new();
    let (error, waited) = refused_until(&worker, &cancel, || cancel.cancel()).await;
    assert!(error.to_string().contains("asked to end"), "{error}");
    assert!(!error.is_permanent(), "the next run goes on with it");
    assert!(waited < Duration::from_secs(6), "{waited:?}");
}

#[tokio::test]
async fn another_join_file_ends_the_wait_for_a_token_that_is_refused() {
    let (master, worker) = joined_worker().await;
    refuse(&worker, FIRST);
    let (error, waited) = refused_until(&worker, &CancellationToken::new(), || {
        another_join_file(&master, &worker);
    })
    .await;
    let (what, next) = match error {
        ResourceError::Unmet { what, next } => (what, next),
        other => panic!("{other}"),
    };
    assert!(what.contains("another join file was put at"), "{what}");
    assert!(next.contains("nodelet apply"), "{next}");
    assert!(waited < Duration::from_secs(6), "{waited:?}");
    apply(&worker, &join())
        .await
        .expect("the other token is taken");
    apply_signed(&master, &worker, &client())
        .await
        .expect("it is signed");
}

/// A file that cannot be opened, or has the same token.
#[tokio::test]
async fn a_join_file_that_does_not_help_ends_no_wait() {
    let (_, worker) = joined_worker().await;
    refuse(&worker, FIRST);
    let same = text(&worker, JOIN);
    for changed in ["garbage", &same] {
        let (error, waited) = refused_until(&worker, &CancellationToken::new(), || {
            worker.with_world_mut(|world| world.file_with_mode(JOIN, changed, 0o600));
        })
        .await;
        assert!(error.to_string().contains("was used already"), "{error}");
        assert!(waited >= Duration::from_secs(30), "{waited:?}");
        worker.with_world_mut(|world| world.file_with_mode(JOIN, &same, 0o600));
    }
}

/// A request as another identity is another request.
#[tokio::test]
async fn a_denial_does_not_outlive_its_token() {
    let (master, worker) = joined_worker().await;
    failure(&worker, &client()).await;
    let [first] = requests(&worker).try_into().expect("one request");
    worker.with_world_mut(|world| world.deny_request(&first.name, "not admitted"));
    let error = unmet(&worker, &client()).await;
    assert!(
        error.contains("not admitted") && error.contains("nodelet pki issue"),
        "{error}"
    );
    another_join_file(&master, &worker);
    apply(&worker, &join())
        .await
        .expect("the other token is taken");
    apply_signed(&master, &worker, &client())
        .await
        .expect("it is signed");
    let names: Vec<String> = requests(&worker).into_iter().map(|its| its.name).collect();
    assert_eq!(names.len(), 2);
    assert!(
        names.iter().all(|name| !name.contains("0123456789abcdef")),
        "{names:?}"
    );
}

#[tokio::test]
async fn a_node_that_is_refused_joins_again_with_another_join_file() {
    let (master, worker) = worker_with_identity().await;
    advance(&worker, DAY * 20);
    refuse(&worker, &node());
    let error = unmet(&worker, &client()).await;
    for part in [
        "refuses the identity of this node",
        "nodelet pki issue",
        "clean --purge",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    another_join_file(&master, &worker);
    // The step takes the token, although this host has an identity.
    apply(&worker, &join())
        .await
        .expect("the other token is taken");
    apply_signed(&master, &worker, &client())
        .await
        .expect("it is signed");
    let users: Vec<String> = requests(&worker)
        .into_iter()
        .map(|its| its.requester)
        .collect();
    assert!(
        users.contains(&"system:bootstrap:ghijkl".to_owned()),
        "{users:?}"
    );
    // The next ones are asked for with the new certificate, before the kubeconfig has it.
    worker.with_world_mut(|world| {
        world.refuse_user(&node(), false);
        world.remove(JOIN);
    });
    apply_signed(&master, &worker, &server())
        .await
        .expect("it is signed");
}

/// The record of its new admission has no key, and no address if the node was removed before: another node could get the address.
#[tokio::test]
async fn a_node_that_is_admitted_again_asks_once_with_its_new_token() {
    let (master, worker) = worker_with_identity().await;
    apply_signed(&master, &worker, &server())
        .await
        .expect("it is signed");
    let asked = || {
        let all = requests(&worker);
        all.iter().filter(|its| its.requester == SECOND).count()
    };
    another_join_file(&master, &worker);
    apply(&worker, &join())
        .await
        .expect("the other token is taken");
    for (before, spec) in [client(), server()].iter().enumerate() {
        let change = apply_signed(&master, &worker, spec).await;
        let change = change.expect("it is signed").expect("it is asked for");
        assert_eq!(change.action, Action::Renew);
        assert_eq!(asked(), before + 1);
        assert_eq!(apply(&worker, spec).await, None, "once");
    }
    apply(&worker, &kubeconfig())
        .await
        .expect("it has the new certificate");
    assert_eq!(apply(&worker, &join()).await, None);
    // The next renewal is that of a node.
    advance(&worker, DAY * 20);
    apply_signed(&master, &worker, &client())
        .await
        .expect("it is signed");
    assert_eq!(asked(), 2);
}

/// Its certificates are valid, and a token that brings nothing must not cost it a renewal.
#[tokio::test]
async fn a_new_token_that_is_over_or_refused_leaves_the_node_its_own_identity() {
    let (master, worker) = worker_with_identity().await;
    another_join_file(&master, &worker);
    apply(&worker, &join())
        .await
        .expect("the other token is taken");
    let over = worker.fork();
    advance(&over, Duration::from_secs(2 * 60 * 60));
    assert_eq!(apply(&over, &client()).await, None);
    refuse(&worker, SECOND);
    apply_signed(&master, &worker, &client())
        .await
        .expect("the node itself is accepted");
    assert!(requests(&worker).iter().any(|its| its.requester == node()));
    assert_eq!(apply(&worker, &client()).await, None, "once");
}

/// The join file has expired since its token was taken.
#[tokio::test]
async fn a_node_that_is_accepted_does_not_use_a_token() {
    let (master, worker) = worker_with_identity().await;
    another_join_file(&master, &worker);
    apply(&worker, &join())
        .await
        .expect("the other token is taken");
    advance(&worker, DAY * 20);
    apply_signed(&master, &worker, &client())
        .await
        .expect("it is signed");
    let users: Vec<String> = requests(&worker)
        .into_iter()
        .map(|its| its.requester)
        .collect();
    assert!(
        !users.contains(&"system:bootstrap:ghijkl".to_owned()),
        "{users:?}"
    );
}

#[tokio::test]
async fn the_kept_identity_names_the_node_of_a_worker() {
    let (master, worker) = worker_with_identity().await;
    let kept = kept_node(&worker)
        .await
        .expect("it can be read")
        .expect("a worker");
    assert_eq!(kept.name, NODE);
    let path = "/etc/pf9/kube.d/kubeconfigs/kubelet.yaml";
    assert_eq!(kept.kubeconfig.as_deref(), Some(std::path::Path::new(path)));
    worker.with_world_mut(|world| world.remove(path));
    let kept = kept_node(&worker)
        .await
        .expect("it can be read")
        .expect("a worker");
    assert_eq!((kept.name.as_str(), kept.kubeconfig), (NODE, None));
    for host in [&master, &FakeHost::new()] {
        assert_eq!(kept_node(host).await.expect("it can be read"), None);
    }
}
