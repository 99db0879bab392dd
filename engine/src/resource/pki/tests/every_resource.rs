//! Tests for every resource of this module: failures, crashes and reverts.

use super::*;
use crate::host::fake::FaultPlan;
use crate::resource::Spec;
use crate::resource::pki::{EncryptionKeysSpec, Rotation, ServiceAccountKeySpec};

/// A resource, and a host on which it has something to do.
async fn cases() -> Vec<(&'static str, FakeHost, Spec)> {
    let damaged = |path: &'static str| async move {
        let host = with_certificate().await;
        put(&host, path, "garbage", 0o666);
        host
    };
    let ready = with_authority().await;
    apply(&ready, &admin()).await;
    let outdated = ready.fork();
    put(
        &outdated,
        "/etc/pf9/kube.d/kubeconfigs/admin.yaml",
        "garbage",
        0o644,
    );
    let half = FakeHost::new();
    put(&half, CA_KEY, &text(&ready, CA_KEY), 0o644);
    let key = || Spec::ServiceAccountKey(ServiceAccountKeySpec {});
    let encryption = |rotation| {
        Spec::EncryptionKeys(EncryptionKeysSpec {
            rotation,
            successor: None,
        })
    };
    let encrypting = FakeHost::new();
    apply(
        &encrypting,
        &EncryptionKeysSpec {
            rotation: None,
            successor: None,
        },
    )
    .await;
    let kubeconfig = || Spec::Kubeconfig(admin_kubeconfig());
    vec![
        (
            "a new authority",
            FakeHost::new(),
            Spec::Authority(cluster()),
        ),
        ("half an authority", half, Spec::Authority(cluster())),
        (
            "a new certificate",
            with_authority().await,
            Spec::Certificate(apiserver()),
        ),
        (
            "a damaged certificate",
            damaged(CRT).await,
            Spec::Certificate(apiserver()),
        ),
        (
            "a damaged key",
            damaged(KEY).await,
            Spec::Certificate(apiserver()),
        ),
        (
            "a damaged trust",
            damaged(TRUST).await,
            Spec::Certificate(apiserver()),
        ),
        ("a new service-account key", FakeHost::new(), key()),
        ("new encryption keys", FakeHost::new(), encryption(None)),
        (
            "the next encryption key",
            encrypting,
            encryption(Some(Rotation::Begin)),
        ),
        ("a new kubeconfig", ready, kubeconfig()),
        ("a damaged kubeconfig", outdated, kubeconfig()),
    ]
}

async fn run_spec(
    host: &FakeHost,
    spec: &Spec,
    absent: bool,
    receipt: &mut Receipt<'_>,
) -> ResourceResult<Option<Change>> {
    match spec {
        Spec::Authority(resource) => run(host, resource, absent, receipt).await,
        Spec::Certificate(resource) => run(host, resource, absent, receipt).await,
        Spec::ServiceAccountKey(resource) => run(host, resource, absent, receipt).await,
        Spec::EncryptionKeys(resource) => run(host, resource, absent, receipt).await,
        Spec::Kubeconfig(resource) => run(host, resource, absent, receipt).await,
        _ => unreachable!("no other resource is tested here"),
    }
}

/// The number of calls that change the host.
async fn effects(start: &FakeHost, spec: &Spec) -> usize {
    let host = start.fork();
    run_spec(&host, spec, false, &mut Receipt::default())
        .await
        .expect("it converges");
    let again = run_spec(&host, spec, false, &mut Receipt::default())
        .await
        .expect("it converges");
    assert_eq!(again, None, "a second run changes nothing");
    host.mutations()
}

#[tokio::test]
async fn a_failure_at_each_call_can_be_cleaned() {
    for (name, start, spec) in cases().await {
        for n in 1..=effects(&start, &spec).await {
            for plan in [
                FaultPlan::none().fail_call(n),
                FaultPlan::none().fail_after_call(n),
            ] {
                let host = start.fork().with_faults(plan);
                let mut receipt = Receipt::default();
                run_spec(&host, &spec, false, &mut receipt)
                    .await
                    .expect_err("a call fails");
                host.set_faults(FaultPlan::none());
                assert!(receipt.revert(&host).await.is_empty(), "{name}, call {n}");
                assert!(host.snapshot() == start.snapshot(), "{name}, call {n}");
            }
        }
        let host = start.fork();
        let mut receipt = Receipt::default();
        run_spec(&host, &spec, false, &mut receipt)
            .await
            .expect("it converges");
        assert!(receipt.revert(&host).await.is_empty());
        assert!(host.snapshot() == start.snapshot(), "{name}");
    }
}

#[tokio::test]
async fn after_a_crash_anywhere_the_next_run_converges() {
    for (name, start, spec) in cases().await {
        for n in 1..=effects(&start, &spec).await {
            for plan in [
                FaultPlan::none().crash_before(n),
                FaultPlan::none().crash_after(n),
            ] {
                let host = start.fork().with_faults(plan);
                let mut receipt = Receipt::default();
                run_spec(&host, &spec, false, &mut receipt)
                    .await
                    .expect_err("the program ends");
                host.end_crash();
                run_spec(&host, &spec, false, &mut Receipt::default())
                    .await
                    .expect("it converges");
                let settled = run_spec(&host, &spec, false, &mut Receipt::default()).await;
                assert_eq!(
                    settled.expect("it can be observed"),
                    None,
                    "{name}, call {n}"
                );
            }
        }
    }
}

#[tokio::test]
async fn absence_removes_the_files_and_can_be_taken_back() {
    for (name, start, spec) in cases().await {
        run_spec(&start, &spec, false, &mut Receipt::default())
            .await
            .expect("it converges");
        let before = start.snapshot();
        let mut receipt = Receipt::default();
        run_spec(&start, &spec, true, &mut receipt)
            .await
            .expect("it goes");
        for path in spec.paths() {
            assert!(
                start.with_world(|world| world.text(&path)).is_none(),
                "{name}: {}",
                path.display()
            );
        }
        let again = run_spec(&start, &spec, true, &mut Receipt::default()).await;
        assert_eq!(again.expect("nothing to do"), None, "{name}");
        assert!(receipt.revert(&start).await.is_empty());
        assert!(start.snapshot() == before, "{name}");
    }
}

/// No observation, change or receipt prints a line of a key.
#[tokio::test]
async fn keys_are_never_printed() {
    for (name, host, spec) in cases().await {
        let mut receipt = Receipt::default();
        let change = run_spec(&host, &spec, false, &mut receipt)
            .await
            .expect("it converges");
        let shown = format!("{change:?} {receipt:?} {spec:?}");
        for key in [CA_KEY, KEY, "/etc/pf9/kube.d/certs/admin/request.key"] {
            let Some(pem) = host.with_world(|world| world.text(key)) else {
                continue;
            };
            let line = pem.lines().nth(1).unwrap_or("garbage");
            assert!(!shown.contains(line), "{name} shows {key}");
        }
    }
}

/// The specifications in a plan are the same after they were written and read.
#[tokio::test]
async fn specifications_survive_serialization() {
    for (_, _, spec) in cases().await {
        let json = serde_json::to_string(&spec).expect("it serializes");
        assert_eq!(
            serde_json::from_str::<Spec>(&json).expect("it parses"),
            spec
        );
    }
}
