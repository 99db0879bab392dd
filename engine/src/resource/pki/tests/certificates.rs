//! Certificates: what is issued, and every reason to issue again.

use std::collections::BTreeSet;
use std::path::Path;

use super::*;
use crate::host::Files as _;
use crate::resource::Action;
use crate::resource::pki::certificate::facts::Certificate;

fn parse(host: &FakeHost, path: &str) -> Certificate {
    Certificate::parse(path, text(host, path).as_bytes()).expect("it parses")
}

#[tokio::test]
async fn a_new_certificate_is_what_was_asked_for() {
    let host = with_certificate().await;
    let leaf = parse(&host, CRT);
    assert_eq!(leaf.facts.common_name, "kube-apiserver");
    assert_eq!(
        leaf.facts.names,
        BTreeSet::from(["kubernetes.default.svc".to_owned(), "localhost".to_owned()])
    );
    assert_eq!(
        leaf.facts.addresses,
        apiserver().addresses.into_iter().collect()
    );
    assert_eq!(leaf.facts.usage, "server");
    assert!(!leaf.is_authority());
    assert!(leaf.is_signed_by(&parse(&host, CA)));
    assert_eq!(text(&host, TRUST), text(&host, CA));
    assert_ne!(leaf.facts.serial, parse(&host, CA).facts.serial);
    assert_eq!(apply(&host, &apiserver()).await, None);

    apply(&host, &admin()).await;
    let admin = parse(&host, "/etc/pf9/kube.d/certs/admin/request.crt");
    assert_eq!(admin.facts.organizations, ["system:masters"]);
    assert_eq!(admin.facts.usage, "client");
}

#[tokio::test]
async fn future_actions_are_described() {
    let host = with_authority().await;
    assert_eq!(
        reissue_reasons(&host, &apiserver()).await,
        [
            "common name:  → kube-apiserver",
            "names:  → kubernetes.default.svc, localhost",
            "addresses:  → 10.0.0.7, fd00::7",
            "usage:  → server",
            "authority:  → cluster",
            "valid for:  → 90 days",
        ]
    );
    let change = apply(&host, &apiserver()).await.expect("it is made");
    assert_eq!((change.action, change.text), (Action::Create, None));
}

/// Each way in which the specification may have changed, with the one reason it gives.
#[tokio::test]
async fn a_changed_specification_is_a_reason() {
    let with = |change: fn(&mut CertificateSpec)| {
        let mut spec = apiserver();
        change(&mut spec);
        spec
    };
    let host = with_certificate().await;
    for (spec, expected) in [
        (
            with(|s| s.common_name = "x".to_owned()),
            "common name: kube-apiserver → x",
        ),
        (
            with(|s| s.organizations = vec!["o".to_owned()]),
            "organizations:  → o",
        ),
        (
            with(|s| s.dns_names.truncate(1)),
            "names: kubernetes.default.svc, localhost → localhost",
        ),
        (
            with(|s| s.addresses.truncate(1)),
            "addresses: 10.0.0.7, fd00::7 → 10.0.0.7",
        ),
        (with(|s| s.usage = Usage::Client), "usage: server → client"),
        (
            with(|s| s.usage = Usage::Peer),
            "usage: server → server and client",
        ),
        (
            with(|s| s.dns_names.push("10.0.0.9".to_owned())),
            "addresses: 10.0.0.7, fd00::7 → 10.0.0.7, 10.0.0.9, fd00::7",
        ),
    ] {
        assert_eq!(reissue_reasons(&host, &spec).await, [expected]);
        let host = host.fork();
        let key = text(&host, KEY);
        apply(&host, &spec).await;
        assert_ne!(text(&host, KEY), key, "a new certificate has a new key");
        assert_eq!(apply(&host, &spec).await, None);
    }
    let mut same = apiserver();
    same.dns_names = vec![
        "Kubernetes.Default.svc".to_owned(),
        "localhost".to_owned(),
        "localhost".to_owned(),
    ];
    same.addresses.reverse();
    same.life = DAY * 30;
    assert_eq!(
        reissue_reasons(&host, &same).await,
        [""; 0],
        "order, case and life change nothing"
    );
}

/// Each way in which the files may be damaged.
#[tokio::test]
async fn damaged_files_are_a_reason() {
    let host = with_certificate().await;
    let other = with_certificate().await;
    let half = |path| text(&host, path)[..100].to_owned();
    for (path, content, expected) in [
        (
            KEY,
            half(KEY),
            "key: unreadable: it is damaged or cut short → a new key",
        ),
        (
            KEY,
            "garbage".to_owned(),
            "key: unreadable: it holds no private key in PEM → a new key",
        ),
        (
            KEY,
            text(&other, KEY),
            "key: does not match the certificate → a new key",
        ),
        (
            KEY,
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n".to_owned(),
            "key: unreadable: its key is damaged or of a kind that is not supported → a new key",
        ),
        (
            KEY,
            "x".repeat(70_000),
            "key: unreadable: it is larger than 65536 bytes → a new key",
        ),
        (
            CRT,
            half(CRT),
            "certificate: unreadable: it is damaged or cut short → issued again",
        ),
        (
            CRT,
            "garbage".to_owned(),
            "certificate: unreadable: it holds no certificate in PEM → issued again",
        ),
        (
            CRT,
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned(),
            "certificate: unreadable: its certificate is damaged → issued again",
        ),
        (
            CRT,
            text(&host, CA),
            "key: does not match the certificate → a new key",
        ),
    ] {
        let host = host.fork();
        let mode = if path == KEY { 0o600 } else { 0o644 };
        put(&host, path, &content, mode);
        assert_eq!(
            reissue_reasons(&host, &apiserver())
                .await
                .first()
                .map(String::as_str),
            Some(expected)
        );
        apply(&host, &apiserver()).await;
        assert_eq!(apply(&host, &apiserver()).await, None, "{expected}");
    }
    for (path, expected) in [
        (KEY, "key: missing → a new key"),
        (CRT, "certificate: missing → issued again"),
    ] {
        let host = host.fork();
        host.with_world_mut(|world| world.remove(path));
        assert_eq!(reissue_reasons(&host, &apiserver()).await, [expected]);
        apply(&host, &apiserver()).await;
        assert_eq!(apply(&host, &apiserver()).await, None);
    }
}

#[tokio::test]
async fn a_new_authority_issues_everything_again() {
    let host = with_certificate().await;
    forget(&host);
    host.with_world_mut(|world| world.remove("/etc/pf9/kube.d/ca"));
    assert_eq!(
        reissue_reasons(&host, &apiserver()).await,
        ["authority: CN=kubernetes → `cluster`, which is not there yet"]
    );
    let error = failure(&host, &apiserver()).await;
    assert_eq!(
        error,
        "find authority `cluster` that signs certificate `apiserver`: make or import it first"
    );
    // A new authority with its record, as after an import.
    let new = with_authority().await;
    for (path, mode) in [(CA, 0o644), (CA_KEY, 0o600)] {
        put(&host, path, &text(&new, path), mode);
    }
    let record = crate::resource::pki::authority_record("cluster");
    let record = record.to_str().expect("a path in ASCII");
    put(&host, record, &text(&new, record), 0o600);
    apply(&host, &cluster()).await;
    assert_eq!(
        reissue_reasons(&host, &apiserver()).await,
        [
            "authority: CN=kubernetes, but its signature does not verify → `cluster` (CN=kubernetes)",
            "trust: another certificate → authority `cluster`",
        ]
    );
    apply(&host, &apiserver()).await;
    assert_eq!(apply(&host, &apiserver()).await, None);
}

#[tokio::test]
async fn another_authority_is_a_reason() {
    let host = with_certificate().await;
    apply(
        &host,
        &AuthoritySpec {
            name: "etcd".to_owned(),
            common_name: "etcd".to_owned(),
            years: 1,
            rotation: None,
            successor: None,
        },
    )
    .await;
    let spec = CertificateSpec {
        authority: "etcd".to_owned(),
        ..apiserver()
    };
    assert_eq!(
        reissue_reasons(&host, &spec).await,
        [
            "authority: CN=kubernetes → `etcd` (CN=etcd)",
            "trust: another certificate → authority `etcd`"
        ]
    );
    apply(&host, &spec).await;
    assert_eq!(apply(&host, &spec).await, None);
}

#[tokio::test]
async fn trust_and_modes_are_put_right_without_issuing_again() {
    let host = with_certificate().await;
    let (certificate, key) = (text(&host, CRT), text(&host, KEY));
    put(&host, TRUST, "garbage", 0o600);
    put(&host, KEY, &key, 0o640);
    assert_eq!(
        reissue_reasons(&host, &apiserver()).await,
        [
            "trust: another certificate → authority `cluster`",
            "mode: request.key 0640 → request.key 0600",
            "mode: ca.crt 0600 → ca.crt 0644",
        ]
    );
    apply(&host, &apiserver()).await;
    assert_eq!(apply(&host, &apiserver()).await, None);
    assert_eq!((text(&host, CRT), text(&host, KEY)), (certificate, key));
    host.with_world_mut(|world| world.remove(TRUST));
    assert_eq!(
        reissue_reasons(&host, &apiserver()).await,
        ["trust: missing → authority `cluster`"]
    );
}

/// An operator may store the files elsewhere and link to them; a dangling link is replaced.
#[tokio::test]
async fn links_are_followed_and_directories_are_not_ours_to_remove() {
    let host = with_certificate().await;
    let certificate = text(&host, CRT);
    put(&host, "/srv/a.crt", &certificate, 0o640);
    host.with_world_mut(|world| world.remove(CRT));
    host.symlink(Path::new(CRT), "/srv/a.crt")
        .await
        .expect("it is linked");
    assert_eq!(reissue_reasons(&host, &apiserver()).await, [""; 0]);
    host.with_world_mut(|world| world.remove("/srv/a.crt"));
    let before = host.snapshot();
    assert_eq!(
        reissue_reasons(&host, &apiserver()).await,
        ["certificate: unreadable: it is a dangling link → issued again"]
    );
    let mut receipt = Receipt::default();
    run(&host, &apiserver(), false, &mut receipt)
        .await
        .expect("it converges");
    assert_eq!(apply(&host, &apiserver()).await, None);
    assert!(receipt.revert(&host).await.is_empty());
    assert!(host.snapshot() == before);

    host.with_world_mut(|world| world.remove(CRT));
    host.with_world_mut(|world| world.directory(CRT));
    let error = failure(&host, &apiserver()).await;
    assert!(
        error.contains("request.crt a file: a directory is there"),
        "{error}"
    );
}

#[tokio::test]
async fn invalid_specifications_are_refused() {
    let with = |change: fn(&mut CertificateSpec)| {
        let mut spec = apiserver();
        change(&mut spec);
        spec
    };
    let host = with_authority().await;
    for (spec, field) in [
        (with(|s| s.path = "../../../root/x".to_owned()), "path"),
        (with(|s| s.path = "/etc".to_owned()), "path"),
        (with(|s| s.path = "a/b/c/d".to_owned()), "path"),
        (with(|s| s.path = String::new()), "path"),
        (with(|s| s.authority = "../x".to_owned()), "authority"),
        (with(|s| s.common_name = " ".to_owned()), "common_name"),
        (with(|s| s.common_name = "a\nb".to_owned()), "common_name"),
        (
            with(|s| s.organizations = vec!["a".to_owned(), "b".to_owned()]),
            "organizations",
        ),
        (with(|s| s.dns_names = vec!["a b".to_owned()]), "dns_names"),
        (with(|s| s.dns_names = vec!["-".to_owned()]), "dns_names"),
        (
            with(|s| s.dns_names = vec!["ä.example".to_owned()]),
            "dns_names",
        ),
        (with(|s| s.life = Duration::ZERO), "valid_for"),
        (with(|s| s.life = DAY * 36_501), "valid_for"),
    ] {
        let error = failure(&host, &spec).await;
        assert!(error.contains(&format!(": {field} `")), "{field}: {error}");
    }
    assert!(
        with(|s| s.dns_names = vec!["*.apps.example.com".to_owned()])
            .validate()
            .is_ok()
    );
    assert!(
        with(|s| s.common_name = format!("system:node:{}", "n".repeat(63)))
            .validate()
            .is_ok()
    );
}
