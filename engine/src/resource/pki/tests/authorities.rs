//! Authorities: made once, and never replaced without a request.

use std::path::Path;

use super::*;
use crate::host::{Clock as _, Files as _};
use crate::resource::pki::certificate::facts::Certificate;
use crate::resource::pki::certificate::issue;
use crate::resource::pki::{Authority, keys};

fn certificate(host: &FakeHost) -> Certificate {
    Certificate::parse(CA, text(host, CA).as_bytes()).expect("it parses")
}

#[tokio::test]
async fn a_new_authority_can_sign_and_is_readable_only_by_root() {
    let host = with_authority().await;
    let authority = certificate(&host);
    assert!(authority.is_authority());
    assert!(authority.is_signed_by(&authority));
    assert_eq!(authority.facts.subject, "CN=kubernetes");
    assert_eq!(authority.facts.usage, "authority");
    let life = authority
        .facts
        .not_after
        .duration_since(host.now())
        .expect("it ends later");
    assert!(life > DAY * 3651 && life <= DAY * 3652, "{life:?}");
    assert!(authority.facts.not_before < host.now());
    assert!(authority.facts.serial.len() <= 40);
    for (path, mode) in [
        (CA, 0o644),
        (CA_KEY, 0o600),
        ("/etc/pf9/kube.d/ca/cluster", 0o700),
        ("/etc/pf9/kube.d/ca", 0o700),
        ("/etc/pf9/kube.d", 0o755),
    ] {
        let entry = host
            .entry(Path::new(path))
            .await
            .expect("it can be seen")
            .expect("it is there");
        assert_eq!(entry.attributes.mode, mode, "{path}");
    }
}

#[tokio::test]
async fn it_is_never_replaced() {
    let host = with_authority().await;
    let before = text(&host, CA);
    let other = AuthoritySpec {
        common_name: "another".to_owned(),
        years: 1,
        rotation: None,
        successor: None,
        ..cluster()
    };
    assert_eq!(apply(&host, &other).await, None);
    advance(&host, DAY * 3660);
    assert_eq!(
        apply(&host, &cluster()).await,
        None,
        "only an operator replaces an expired one"
    );
    assert_eq!(text(&host, CA), before);
    let cluster = Authority::read(&host, "cluster")
        .await
        .expect("it is readable");
    assert!(cluster.expect("it is there").facts().not_after < host.now());
    let etcd = Authority::read(&host, "etcd")
        .await
        .expect("nothing to read");
    assert!(etcd.is_none());
}

#[tokio::test]
async fn an_unusable_one_is_an_error_that_says_what_to_do_and_changes_nothing() {
    let other = with_authority().await;
    for (path, content, problem) in [
        (
            CA,
            "garbage".to_owned(),
            "ca/cluster/ca.crt: it holds no certificate in PEM",
        ),
        (
            CA_KEY,
            "garbage".to_owned(),
            "ca/cluster/ca.key: it holds no private key in PEM",
        ),
        (
            CA_KEY,
            String::new(),
            "ca/cluster/ca.key: it holds no private key in PEM",
        ),
        (
            CA_KEY,
            text(&other, CA_KEY)[..80].to_owned(),
            "ca.key: it is damaged or cut short",
        ),
        (
            CA_KEY,
            text(&other, CA_KEY),
            "ca.key: its key does not match the certificate beside it",
        ),
        (
            CA,
            "x".repeat(70_000),
            "ca.crt: it is larger than 65536 bytes",
        ),
        (
            CA_KEY,
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"
                .to_owned(),
            "it is encrypted",
        ),
    ] {
        let host = with_authority().await;
        forget(&host);
        put(&host, path, &content, 0o600);
        let before = host.snapshot();
        let error = failure(&host, &cluster()).await;
        assert!(
            error.starts_with("read authority `cluster`: /etc/pf9/kube.d/"),
            "{error}"
        );
        assert!(error.contains(problem), "{error}");
        assert!(
            error.contains("move /etc/pf9/kube.d/ca/cluster away"),
            "{error}"
        );
        assert!(failure(&host, &apiserver()).await.contains(problem));
        assert!(host.snapshot() == before);
    }
}

#[tokio::test]
async fn a_leaf_is_no_authority() {
    let host = with_certificate().await;
    let leaf = text(&host, CRT);
    forget(&host);
    put(&host, CA, &leaf, 0o644);
    assert!(
        failure(&host, &cluster())
            .await
            .contains("may not sign other certificates")
    );
}

#[tokio::test]
async fn a_key_without_a_certificate_gets_one_and_stays() {
    let host = with_authority().await;
    let key = text(&host, CA_KEY);
    forget(&host);
    host.with_world_mut(|world| world.remove(CA));
    let change = apply(&host, &cluster())
        .await
        .expect("a certificate is missing");
    assert!(change.differences.iter().any(|d| d.field == "certificate"));
    assert_eq!(text(&host, CA_KEY), key);
    assert_eq!(apply(&host, &cluster()).await, None);
}

#[tokio::test]
async fn a_certificate_without_its_key_is_kept_and_does_not_sign() {
    let host = with_certificate().await;
    forget(&host);
    host.with_world_mut(|world| world.remove(CA_KEY));
    assert_eq!(
        reissue_reasons(&host, &cluster()).await,
        ["record of its keys: missing → made, with copies"]
    );
    apply(&host, &cluster()).await;
    assert_eq!(apply(&host, &cluster()).await, None);
    assert_eq!(
        apply(&host, &apiserver()).await,
        None,
        "a certificate of another host is valid"
    );
    put(&host, KEY, "garbage", 0o600);
    let error = failure(&host, &apiserver()).await;
    assert!(error.contains("issue certificate `apiserver`: this host has the certificate of authority `cluster` but not its key"), "{error}");
}

#[tokio::test]
async fn modes_are_put_right() {
    let host = with_authority().await;
    let (certificate, key) = (text(&host, CA), text(&host, CA_KEY));
    put(&host, CA_KEY, &key, 0o644);
    assert_eq!(
        reissue_reasons(&host, &cluster()).await,
        ["mode: ca.key 0644 → ca.key 0600"]
    );
    apply(&host, &cluster()).await;
    assert_eq!(apply(&host, &cluster()).await, None);
    assert_eq!((text(&host, CA), text(&host, CA_KEY)), (certificate, key));
}

#[tokio::test]
async fn an_imported_rsa_authority_signs() {
    let host = FakeHost::new();
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).expect("a key");
    let pem = issue::self_signed(&cluster(), &pair, host.now()).expect("a certificate");
    put(&host, CA, &pem, 0o644);
    put(&host, CA_KEY, &pair.serialize_pem(), 0o600);
    apply(&host, &cluster()).await;
    apply(&host, &apiserver()).await;
    assert_eq!(apply(&host, &apiserver()).await, None);
}

#[tokio::test]
async fn an_authority_whose_name_cannot_be_written_is_refused() {
    let host = FakeHost::new();
    let pair = keys::generate().expect("a key");
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params
        .distinguished_name
        .push(rcgen::DnType::OrganizationName, "one");
    params
        .distinguished_name
        .push(rcgen::DnType::CustomDnType(vec![2, 5, 4, 10]), "two");
    put(
        &host,
        CA,
        &params.self_signed(&pair).expect("a certificate").pem(),
        0o644,
    );
    put(&host, CA_KEY, &pair.serialize_pem(), 0o600);
    let error = failure(&host, &apiserver()).await;
    assert!(
        error.contains("has a name or key that this program cannot sign with"),
        "{error}"
    );
}

#[tokio::test]
async fn debug_shows_no_key() {
    let host = with_authority().await;
    let authority = Authority::read(&host, "cluster")
        .await
        .expect("readable")
        .expect("there");
    let issued = authority.issue(&apiserver(), host.now()).expect("issued");
    let shown = format!("{authority:?} {issued:?}");
    for key in [text(&host, CA_KEY), issued.key.expose_pem().to_owned()] {
        let secret = key.lines().nth(1).expect("a line of base64");
        assert!(!shown.contains(secret));
    }
}
