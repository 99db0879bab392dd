//! Lost or replaced keys and authorities: restored from their copies, or left as they are and reported.

use super::*;
use crate::model::RECORDS;
use crate::resource::Action;
use crate::resource::pki::{
    Authority, Rotation, ServiceAccountKeySpec, Stage, authority_record, service_account_record,
};

const SIGNS: &str = "/etc/pf9/kube.d/certs/apiserver/svcacct.key";
const VERIFIES: &str = "/etc/pf9/kube.d/certs/apiserver/svcacct.pub";
const NEXT: &str = "/etc/pf9/kube.d/ca/cluster/next.crt";
const NEXT_KEY: &str = "/etc/pf9/kube.d/ca/cluster/next.key";
const PREVIOUS: &str = "/etc/pf9/kube.d/ca/cluster/previous.crt";

/// Kinds of damage: the file is missing, empty, cut short, garbage, or another one of its kind.
fn damages(host: &FakeHost, other: &FakeHost, path: &str) -> Vec<Option<String>> {
    let whole = text(host, path);
    vec![
        None,
        Some(String::new()),
        Some(whole[..whole.len() / 2].to_owned()),
        Some("garbage".to_owned()),
        Some(text(other, path)),
    ]
}

fn damage(host: &FakeHost, path: &str, content: Option<&str>) {
    host.with_world_mut(|world| match content {
        Some(content) => world.file_with_mode(path, content, 0o600),
        None => world.remove(path),
    });
}

async fn read(host: &FakeHost) -> Authority {
    let its = Authority::read(host, "cluster").await;
    its.expect("it can be read").expect("it is there")
}

#[tokio::test]
async fn lost_files_of_an_authority_are_restored() {
    let (start, other) = (with_certificate().await, with_certificate().await);
    for (path, name) in [(CA, "ca.crt"), (CA_KEY, "ca.key")] {
        for content in damages(&start, &other, path) {
            let host = start.fork();
            damage(&host, path, content.as_deref());
            let change = apply(&host, &cluster()).await.expect("it differs");
            assert_eq!(change.action, Action::Change);
            let restored = |d: &crate::resource::Difference| {
                d.field == name && d.after == "restored from its copy"
            };
            assert!(change.differences.iter().any(restored), "{change:?}");
            assert_eq!(text(&host, path), text(&start, path), "{content:?}");
            assert_eq!(apply(&host, &cluster()).await, None);
            assert_eq!(apply(&host, &apiserver()).await, None);
            assert!(host.snapshot() == start.snapshot(), "{path} {content:?}");
        }
    }
}

#[tokio::test]
async fn a_foreign_authority_signs_nothing_and_is_not_trusted() {
    let (start, other) = (with_certificate().await, with_certificate().await);
    let host = start.fork();
    for path in [CA, CA_KEY] {
        damage(&host, path, Some(&text(&other, path)));
    }
    // It issues nothing, even if only the certificate is converged.
    damage(&host, CRT, None);
    let error = failure(&host, &apiserver()).await;
    assert!(
        error.contains("ca/cluster/ca.crt: it is another certificate"),
        "{error}"
    );
    assert!(error.contains("`nodelet apply` restores it"), "{error}");
    apply(&host, &cluster()).await;
    apply(&host, &apiserver()).await;
    assert_eq!(text(&host, CA), text(&start, CA));
    assert_eq!(text(&host, TRUST), text(&start, TRUST));

    // If only the key is another one, the certificate is still trusted.
    let host = start.fork();
    damage(&host, CA_KEY, Some(&text(&other, CA_KEY)));
    assert!(!read(&host).await.can_sign());
    assert_eq!(apply(&host, &apiserver()).await, None);
    damage(&host, CRT, None);
    let error = failure(&host, &apiserver()).await;
    assert!(error.contains("but not its key"), "{error}");
}

#[tokio::test]
async fn a_file_beside_the_authority_is_not_trusted_and_goes() {
    let (start, other) = (with_certificate().await, with_certificate().await);
    for name in [NEXT, PREVIOUS] {
        let host = start.fork();
        damage(&host, name, Some(&text(&other, CA)));
        assert_eq!(read(&host).await.stage(), Stage::Settled);
        assert_eq!(apply(&host, &apiserver()).await, None);
        let change = apply(&host, &cluster()).await.expect("it differs");
        assert!(
            change.differences.iter().any(|d| d.after == "removed"),
            "{change:?}"
        );
        assert!(host.snapshot() == start.snapshot());
    }
}

#[tokio::test]
async fn unrecoverable_keys_are_named_and_nothing_changes() {
    let (start, other) = (with_certificate().await, with_certificate().await);
    let record = authority_record("cluster");
    let json = start
        .with_world(|world| world.text(&record))
        .expect("it is there");
    // The record, with the copy of the key cut to half.
    let parsed: serde_json::Value = serde_json::from_str(&json).expect("it is JSON");
    let copy = parsed["files"]["ca.key"]["content"].as_str().expect("text");
    let damaged = json.replace(copy, &copy[..copy.len() / 2]);
    for content in damages(&start, &other, CA_KEY) {
        let host = start.fork();
        host.with_world_mut(|world| world.file_with_mode(&record, &damaged, 0o600));
        damage(&host, CA_KEY, content.as_deref());
        let before = host.snapshot();
        let error = failure(&host, &cluster()).await;
        assert!(
            error
                .starts_with("read authority `cluster`: /etc/pf9/kube.d/ca/cluster/ca.key: it is "),
            "{error}"
        );
        assert!(error.contains("no intact copy"), "{error}");
        assert!(error.contains("Put the right file back"), "{error}");
        assert!(host.snapshot() == before);
    }
    // A damaged copy of an intact key is written again, and so is a record with a damaged identity or a truncated record.
    let identity = parsed["files"]["ca.key"]["identity"]
        .as_str()
        .expect("text");
    for damaged in [damaged, json.replace(identity, "00"), json[..90].to_owned()] {
        let host = start.fork();
        host.with_world_mut(|world| world.file_with_mode(&record, &damaged, 0o600));
        assert!(apply(&host, &cluster()).await.is_some());
        assert!(host.snapshot() == start.snapshot());
    }
}

#[tokio::test]
async fn a_host_without_a_record_takes_what_its_certificates_prove() {
    let (start, other) = (with_certificate().await, with_certificate().await);
    forget(&start);
    let host = start.fork();
    assert_eq!(
        reissue_reasons(&host, &cluster()).await,
        ["record of its keys: missing → made, with copies"]
    );
    apply(&host, &cluster()).await;
    assert_eq!(apply(&host, &cluster()).await, None);
    damage(&host, CA_KEY, None);
    apply(&host, &cluster()).await;
    assert_eq!(text(&host, CA_KEY), text(&start, CA_KEY));

    // Another authority, or none, beside certificates of the original one.
    for (certificate, key) in [
        (Some(text(&other, CA)), Some(text(&other, CA_KEY))),
        (None, Some(text(&other, CA_KEY))),
        (None, None),
    ] {
        let host = start.fork();
        damage(&host, CA, certificate.as_deref());
        damage(&host, CA_KEY, key.as_deref());
        let before = host.snapshot();
        let error = failure(&host, &cluster()).await;
        assert!(error.contains("ca/cluster/ca.crt: "), "{error}");
        assert!(error.contains("there are "), "{error}");
        assert!(
            error.contains("move /etc/pf9/kube.d/ca/cluster away"),
            "{error}"
        );
        assert!(host.snapshot() == before);
        // The remedy that the error names.
        for path in [CA, CA_KEY, CRT, KEY, TRUST] {
            host.with_world_mut(|world| world.remove(path));
        }
        apply(&host, &cluster()).await;
        apply(&host, &apiserver()).await;
    }
}

/// A host that has only the certificate of an authority gets a key that does not belong to it.
#[tokio::test]
async fn a_foreign_key_of_a_certificate_alone_is_held_and_can_be_moved_away() {
    let (host, other) = (with_certificate().await, with_certificate().await);
    forget(&host);
    host.with_world_mut(|world| world.remove(CA_KEY));
    apply(&host, &cluster()).await.expect("it is recorded");
    let alone = host.fork();
    damage(&host, CA_KEY, Some(&text(&other, CA_KEY)));
    let before = host.snapshot();
    let error = failure(&host, &cluster()).await;
    assert!(error.contains("does not match the certificate"), "{error}");
    assert!(error.contains(&format!("move {CA_KEY} away")), "{error}");
    assert!(!error.contains("a new authority is made"), "{error}");
    assert!(host.snapshot() == before);
    host.with_world_mut(|world| world.remove(CA_KEY));
    assert_eq!(apply(&host, &cluster()).await, None);
    assert!(host.snapshot() == alone.snapshot());
}

/// After a disk was partly restored, the record may be older than the authority.
#[tokio::test]
async fn an_older_record_takes_no_authority_away_that_is_in_use() {
    let (host, other) = (with_certificate().await, with_certificate().await);
    let record = authority_record("cluster");
    let older = other
        .with_world(|world| world.text(&record))
        .expect("it is there");
    host.with_world_mut(|world| world.file_with_mode(&record, &older, 0o600));
    let before = host.snapshot();
    let error = failure(&host, &cluster()).await;
    assert!(
        error.contains("authority-cluster.json records another"),
        "{error}"
    );
    assert!(host.snapshot() == before);
    // Both remedies that the error names lead to an authority that was there before, and none to a new one.
    assert!(
        error.contains("If the recorded authority is the right one, move /etc/pf9/kube.d/ca/cluster/ca.crt away"),
        "{error}"
    );
    assert!(!error.contains("a new authority is made"), "{error}");
    let recorded = host.fork();
    recorded.with_world_mut(|world| world.remove(CA));
    apply(&recorded, &cluster()).await.expect("it is restored");
    for path in [CA, CA_KEY] {
        assert_eq!(text(&recorded, path), text(&other, path));
    }
    apply(&recorded, &apiserver())
        .await
        .expect("it is issued again");
    let present = host.fork();
    present.with_world_mut(|world| world.remove(&record));
    apply(&present, &cluster()).await.expect("it is recorded");
    for path in [CA, CA_KEY] {
        assert_eq!(text(&present, path), text(&host, path));
    }
    // A record at the path of another record is ignored.
    let misplaced = older.replace("authority-cluster", "authority-etcd");
    host.with_world_mut(|world| world.file_with_mode(&record, &misplaced, 0o600));
    assert_eq!(
        reissue_reasons(&host, &cluster()).await,
        ["record of its keys: it belongs to authority-etcd → made, with copies"]
    );
    forget(&host);
    apply(&host, &cluster()).await;
    assert_eq!(apply(&host, &apiserver()).await, None);
}

#[tokio::test]
async fn the_record_follows_a_replacement() {
    let host = with_certificate().await;
    let old = text(&host, CA_KEY);
    let step = |rotation| AuthoritySpec {
        rotation: Some(rotation),
        ..cluster()
    };
    for (rotation, files) in [
        (Rotation::Begin, &[CA, CA_KEY, NEXT, NEXT_KEY][..]),
        (Rotation::Switch, &[CA, CA_KEY, PREVIOUS]),
        (Rotation::Finish, &[CA, CA_KEY]),
    ] {
        apply(&host, &step(rotation)).await.expect("it is its turn");
        apply(&host, &apiserver()).await;
        for path in files {
            let lost = host.fork();
            damage(&lost, path, None);
            apply(&lost, &cluster()).await.expect("it is restored");
            assert!(lost.snapshot() == host.snapshot(), "{rotation:?}: {path}");
        }
        // What the step has removed is not restored.
        assert_eq!(apply(&host, &cluster()).await, None, "{rotation:?}");
    }
    assert_ne!(text(&host, CA_KEY), old);
    // The old key is no longer in the record.
    use base64::Engine as _;
    let copy = base64::engine::general_purpose::STANDARD.encode(&old);
    let record = host.with_world(|world| world.text(authority_record("cluster")));
    assert!(!record.expect("it is there").contains(&copy));
}

#[tokio::test]
async fn a_foreign_service_account_key_is_replaced_by_the_cluster_s_own() {
    let spec = ServiceAccountKeySpec {};
    let (start, other) = (FakeHost::new(), FakeHost::new());
    apply(&start, &spec).await;
    apply(&other, &spec).await;
    for (path, field) in [(SIGNS, "key"), (VERIFIES, "public half")] {
        for content in damages(&start, &other, path) {
            let host = start.fork();
            damage(&host, path, content.as_deref());
            let change = apply(&host, &spec).await.expect("it differs");
            assert!(
                change.differences.iter().any(|d| d.field == field),
                "{change:?}"
            );
            for path in [SIGNS, VERIFIES] {
                assert_eq!(text(&host, path), text(&start, path), "{content:?}");
            }
            assert_eq!(apply(&host, &spec).await, None);
        }
    }
    // With both halves of another pair, or the record of another host, no file shows which is right.
    let record = service_account_record();
    for paths in [&[SIGNS, VERIFIES][..], &[record.to_str().expect("ASCII")]] {
        let host = start.fork();
        for path in paths {
            damage(&host, path, Some(&text(&other, path)));
        }
        let before = host.snapshot();
        let error = failure(&host, &spec).await;
        assert!(
            error.contains("service-account.json records another key"),
            "{error}"
        );
        assert!(host.snapshot() == before);
        // The record has a good copy, so the remedy never begins with a new key.
        let remedy = format!("move {SIGNS} and {VERIFIES} away: `nodelet apply` then restores");
        let accepts = format!(
            "move {} away: `nodelet apply` then accepts",
            record.display()
        );
        assert!(error.contains(&remedy), "{error}");
        assert!(error.contains(&accepts), "{error}");
        assert!(!error.contains("if it is lost"), "{error}");
        let recorded = text(&host, record.to_str().expect("ASCII"));
        let restored = host.fork();
        for path in [SIGNS, VERIFIES] {
            restored.with_world_mut(|world| world.remove(path));
        }
        apply(&restored, &spec).await.expect("it is restored");
        let json: serde_json::Value = serde_json::from_str(&recorded).expect("it is JSON");
        let copy = json["files"]["svcacct.key"]["content"]
            .as_str()
            .expect("text");
        use base64::Engine as _;
        let key = base64::engine::general_purpose::STANDARD.encode(text(&restored, SIGNS));
        assert_eq!(key, copy, "the recorded key");
        let accepted = host.fork();
        accepted.with_world_mut(|world| world.remove(&record));
        apply(&accepted, &spec).await.expect("it is recorded");
        assert_eq!(text(&accepted, SIGNS), text(&host, SIGNS));
        // It is enough to put one of the files back.
        damage(&host, paths[0], Some(&text(&start, paths[0])));
        apply(&host, &spec).await;
        assert!(host.snapshot() == start.snapshot());
    }
    // Without a copy, the key is left as it is.
    let host = start.fork();
    let json = start
        .with_world(|world| world.text(&record))
        .expect("it is there");
    let parsed: serde_json::Value = serde_json::from_str(&json).expect("it is JSON");
    let copy = parsed["files"]["svcacct.key"]["content"]
        .as_str()
        .expect("text");
    host.with_world_mut(|world| world.file_with_mode(&record, json.replace(copy, ""), 0o600));
    damage(&host, SIGNS, Some(&text(&other, SIGNS)));
    let before = host.snapshot();
    let error = failure(&host, &spec).await;
    assert!(
        error.contains("svcacct.key: it is another key, and there is no intact copy of it"),
        "{error}"
    );
    assert!(host.snapshot() == before, "no public half of it is derived");
    assert!(
        error.contains("Only if there is no copy of it anywhere")
            && error.contains("every service-account token becomes invalid"),
        "{error}"
    );
}

#[tokio::test]
async fn a_service_account_key_without_a_record_is_proven_by_its_public_half() {
    let spec = ServiceAccountKeySpec {};
    let other = FakeHost::new();
    apply(&other, &spec).await;
    let start = with_certificate().await;
    apply(&start, &spec).await;
    forget(&start);
    let host = start.fork();
    assert_eq!(
        reissue_reasons(&host, &spec).await,
        ["record of its keys: missing → made, with copies"]
    );
    apply(&host, &spec).await;
    assert_eq!(text(&host, SIGNS), text(&start, SIGNS));
    for (path, content, problem) in [
        (SIGNS, Some(text(&other, SIGNS)), "svcacct.pub: it is not"),
        (
            VERIFIES,
            Some(text(&other, VERIFIES)),
            "svcacct.pub: it is not",
        ),
        (VERIFIES, None, "svcacct.pub: it is not"),
        (SIGNS, None, "svcacct.key: it is missing"),
    ] {
        let host = start.fork();
        damage(&host, path, content.as_deref());
        let before = host.snapshot();
        let error = failure(&host, &spec).await;
        assert!(error.contains(problem), "{error}");
        assert!(host.snapshot() == before);
    }
    // A bring-up that was interrupted between the two files, before any component used the key.
    let host = FakeHost::new();
    put(&host, SIGNS, &text(&other, SIGNS), 0o600);
    apply(&host, &spec).await;
    assert_eq!(text(&host, VERIFIES), text(&other, VERIFIES));
}

#[tokio::test]
async fn records_are_for_root_alone() {
    let host = with_authority().await;
    let record = authority_record("cluster");
    let json = host
        .with_world(|world| world.text(&record))
        .expect("it is there");
    host.with_world_mut(|world| world.file_with_mode(&record, &json, 0o644));
    assert_eq!(
        reissue_reasons(&host, &cluster()).await,
        ["mode: authority-cluster.json 0644 → authority-cluster.json 0600"]
    );
    apply(&host, &cluster()).await;
    assert_eq!(apply(&host, &cluster()).await, None);
    use crate::host::Files as _;
    for directory in [RECORDS, "/var/opt/pf9/nodelet"] {
        let entry = host.entry(std::path::Path::new(directory)).await;
        let entry = entry.expect("it can be seen").expect("it is there");
        assert_eq!(entry.attributes.mode, 0o700, "{directory}");
    }
}
