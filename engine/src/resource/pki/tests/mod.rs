//! Real keys and certificates on a fake host.

mod authorities;
mod certificates;
mod encryption_keys;
mod every_resource;
mod handshakes;
mod inventories;
mod kept;
mod kubeconfigs;
mod masters;
mod scans;
mod service_account_keys;
mod validity;
pub(crate) mod workers;

use std::time::Duration;

use super::{AuthoritySpec, CertificateSpec, KubeconfigSpec, SignedBy, Usage};
use crate::host::fake::FakeHost;
use crate::resource::{
    Change, Context, NoSecrets, Outputs, Receipt, Resource, ResourceError, ResourceResult,
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn cluster() -> AuthoritySpec {
    AuthoritySpec {
        name: "cluster".to_owned(),
        common_name: "kubernetes".to_owned(),
        years: 10,
        rotation: None,
        successor: None,
    }
}

fn apiserver() -> CertificateSpec {
    CertificateSpec {
        path: "apiserver".to_owned(),
        authority: "cluster".to_owned(),
        common_name: "kube-apiserver".to_owned(),
        organizations: Vec::new(),
        usage: Usage::Server,
        dns_names: vec!["localhost".to_owned(), "kubernetes.default.svc".to_owned()],
        addresses: vec![
            "10.0.0.7".parse().expect("an address"),
            "fd00::7".parse().expect("an address"),
        ],
        life: DAY * 90,
        signed_by: SignedBy::Authority,
    }
}

fn admin() -> CertificateSpec {
    CertificateSpec {
        path: "admin".to_owned(),
        common_name: "admin".to_owned(),
        organizations: vec!["system:masters".to_owned()],
        usage: Usage::Client,
        dns_names: Vec::new(),
        addresses: Vec::new(),
        ..apiserver()
    }
}

fn admin_kubeconfig() -> KubeconfigSpec {
    KubeconfigSpec {
        name: "admin".to_owned(),
        server: "https://10.0.0.10:443".to_owned(),
        certificate: "admin".to_owned(),
        authority: "cluster".to_owned(),
        user: "admin".to_owned(),
        by_path: false,
    }
}

/// A host with the cluster's authority.
async fn with_authority() -> FakeHost {
    let host = FakeHost::new();
    apply(&host, &cluster()).await;
    host
}

/// A host with the authority and the API server's certificate.
async fn with_certificate() -> FakeHost {
    let host = with_authority().await;
    apply(&host, &apiserver()).await;
    host
}

/// Observes, compares and converges, and records the undos in `receipt`.
async fn run<R: Resource>(
    host: &FakeHost,
    resource: &R,
    absent: bool,
    receipt: &mut Receipt<'_>,
) -> ResourceResult<Option<Change>> {
    let outputs = Outputs::default();
    let cx = Context {
        host,
        outputs: &outputs,
        secrets: &NoSecrets,
        absent,
        cancel: None,
    };
    let observed = resource.observe(&cx).await?;
    let change = resource.diff(&observed, absent);
    if change.is_some() {
        resource.converge(&observed, &cx, receipt).await?;
    }
    Ok(change)
}

async fn apply<R: Resource>(host: &FakeHost, resource: &R) -> Option<Change> {
    run(host, resource, false, &mut Receipt::default())
        .await
        .expect("it converges")
}

async fn failure<R: Resource>(host: &FakeHost, resource: &R) -> String {
    let error = run(host, resource, false, &mut Receipt::default())
        .await
        .expect_err("it fails");
    chain(&error)
}

/// What would change, without changing it: `field: before → after`.
async fn reissue_reasons<R: Resource>(host: &FakeHost, resource: &R) -> Vec<String> {
    let outputs = Outputs::default();
    let cx = Context {
        host,
        outputs: &outputs,
        secrets: &NoSecrets,
        absent: false,
        cancel: None,
    };
    let observed = resource.observe(&cx).await.expect("it can be observed");
    let differences = resource
        .diff(&observed, false)
        .map(|change| change.differences)
        .unwrap_or_default();
    differences
        .iter()
        .map(|d| format!("{}: {} → {}", d.field, d.before, d.after))
        .collect()
}

fn chain(error: &ResourceError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn text(host: &FakeHost, path: &str) -> String {
    host.with_world(|world| world.text(path))
        .expect("the file is there")
}

fn put(host: &FakeHost, path: &str, content: &str, mode: u32) {
    host.with_world_mut(|world| world.file_with_mode(path, content, mode));
}

/// Removes the records of the host, as on a host that was brought up by a version without records.
fn forget(host: &FakeHost) {
    host.with_world_mut(|world| world.remove(crate::model::RECORDS));
}

fn advance(host: &FakeHost, by: Duration) {
    host.with_world_mut(|world| world.advance(by));
}

const CA: &str = "/etc/pf9/kube.d/ca/cluster/ca.crt";
const CA_KEY: &str = "/etc/pf9/kube.d/ca/cluster/ca.key";
const CRT: &str = "/etc/pf9/kube.d/certs/apiserver/request.crt";
const KEY: &str = "/etc/pf9/kube.d/certs/apiserver/request.key";
const TRUST: &str = "/etc/pf9/kube.d/certs/apiserver/ca.crt";
