//! A master takes the successor that another master has made.

use std::time::UNIX_EPOCH;

use super::*;
use crate::resource::pki::{
    Authority, ENCRYPTION, Replacement, Rotation, SentSuccessor, Stage, encryption_key_ids,
    received_id, successor_of,
};

const FILE: &str = "/root/successor.age";
const STEPS: [(Rotation, Stage); 3] = [
    (Rotation::Begin, Stage::Begun),
    (Rotation::Switch, Stage::Switched),
    (Rotation::Finish, Stage::Settled),
];

/// Two masters with the same keys, and the public key of the second one.
async fn two_masters() -> (FakeHost, FakeHost, String) {
    let first = first_master().await;
    let second = first.fork();
    let (identity, public) = new_identity();
    put(&second, IDENTITY, &identity, 0o600);
    (first, second, public)
}

fn sent(id: Option<String>) -> SentSuccessor {
    SentSuccessor {
        path: FILE.into(),
        id,
    }
}

fn etcd(rotation: Option<Rotation>, from: bool) -> AuthoritySpec {
    AuthoritySpec {
        name: "etcd".to_owned(),
        common_name: "etcd".to_owned(),
        rotation,
        successor: from.then(|| sent(None)),
        ..cluster()
    }
}

fn encryption(rotation: Option<Rotation>, from: bool) -> EncryptionKeysSpec {
    EncryptionKeysSpec {
        rotation,
        successor: from.then(|| sent(None)),
    }
}

/// Carries the successor of one master to another one.
async fn send(from: &FakeHost, to: &FakeHost, of: &str, public: &str) {
    let mut file = successor_of(from, of).await.expect("there is one");
    let now = from.with_world(|world| world.now());
    let since = now.duration_since(UNIX_EPOCH).expect("it is after 1970");
    file.expires = (since + HOUR).as_secs();
    let sealed = file.seal(public).expect("it is complete");
    put(to, FILE, &String::from_utf8_lossy(&sealed), 0o600);
}

async fn replacement(host: &FakeHost, of: &str) -> Replacement {
    let read = Replacement::read(host, of).await;
    read.expect("it can be read").expect("it is there")
}

async fn etcd_of(host: &FakeHost) -> Authority {
    let read = Authority::read(host, "etcd").await;
    read.expect("it can be read").expect("it is there")
}

#[tokio::test]
async fn two_masters_replace_an_authority_by_the_same_one() {
    let (first, second, public) = two_masters().await;
    let before = replacement(&first, "etcd").await;
    for (step, stage) in STEPS {
        apply(&first, &etcd(Some(step), false))
            .await
            .expect("a step");
        let from = step == Rotation::Begin;
        if from {
            send(&first, &second, "etcd", &public).await;
        }
        let spec = etcd(Some(step), from);
        let id = async || received_id(&second, "etcd", FILE.as_ref()).await;
        let made = replacement(&first, "etcd").await;
        if from {
            let id = id().await.expect("it can be read");
            assert_eq!(id.as_deref(), made.successor());
        }
        apply(&second, &spec).await.expect("a step");
        if from {
            assert_eq!(id().await.expect("it can be read"), None, "it has it");
        }
        assert_eq!(apply(&second, &spec).await, None, "{step:?} is repeated");
        assert_eq!(apply(&second, &etcd(None, false)).await, None, "{step:?}");
        let shown = replacement(&second, "etcd").await;
        assert_eq!(shown, replacement(&first, "etcd").await);
        assert_eq!(shown.stage, stage);
        let trusted = (etcd_of(&first).await, etcd_of(&second).await);
        assert_eq!(trusted.0.pem(), trusted.1.pem(), "{step:?}");
        assert!(trusted.1.can_sign());
    }
    let after = replacement(&second, "etcd").await;
    assert_ne!(after.uses, before.uses);
    // A master that has finished takes nothing, and makes nothing.
    apply(&first, &etcd(Some(Rotation::Begin), false)).await;
    let late = second.fork();
    send_present(&first, &late, &public).await;
    assert_eq!(apply(&late, &etcd(Some(Rotation::Begin), true)).await, None);
    assert_eq!(replacement(&late, "etcd").await, after);
}

/// A file with the authority that the host has already, as a master that has not finished sends it.
async fn send_present(from: &FakeHost, to: &FakeHost, public: &str) {
    let mut file = successor_of(from, "etcd").await.expect("there is one");
    std::mem::swap(&mut file.id, &mut file.replaces);
    file.expires = 4_102_444_800;
    let sealed = file.seal(public).expect("it is complete");
    put(to, FILE, &String::from_utf8_lossy(&sealed), 0o600);
}

#[tokio::test]
async fn two_masters_replace_the_encryption_key_by_the_same_one() {
    let (first, second, public) = two_masters().await;
    let ids = async |host: &FakeHost| encryption_key_ids(host).await.expect("they can be read");
    let [old] = ids(&first).await.try_into().expect("one key");
    for (step, stage) in STEPS {
        apply(&first, &encryption(Some(step), false))
            .await
            .expect("a step");
        let from = step == Rotation::Begin;
        if from {
            send(&first, &second, ENCRYPTION, &public).await;
        }
        let spec = encryption(Some(step), from);
        apply(&second, &spec).await.expect("a step");
        assert_eq!(apply(&second, &spec).await, None, "{step:?} is repeated");
        assert_eq!(ids(&first).await, ids(&second).await, "{step:?}");
        assert_eq!(replacement(&second, ENCRYPTION).await.stage, stage);
        for path in ["encryption/config.yaml", "ca/encryption/keys.yaml"] {
            let path = format!("/etc/pf9/kube.d/{path}");
            assert_eq!(text(&first, &path), text(&second, &path));
        }
    }
    assert!(!ids(&second).await.contains(&old));
}

/// A master that joined late takes the successor of one that has switched.
#[tokio::test]
async fn a_master_that_has_switched_sends_it_as_well() {
    let (first, second, public) = two_masters().await;
    for step in [Rotation::Begin, Rotation::Switch] {
        apply(&first, &etcd(Some(step), false)).await;
        apply(&first, &encryption(Some(step), false)).await;
    }
    send(&first, &second, "etcd", &public).await;
    apply(&second, &etcd(Some(Rotation::Begin), true)).await;
    send(&first, &second, ENCRYPTION, &public).await;
    apply(&second, &encryption(Some(Rotation::Begin), true)).await;
    for of in ["etcd", ENCRYPTION] {
        let (first, second) = (
            replacement(&first, of).await,
            replacement(&second, of).await,
        );
        assert_eq!(second.stage, Stage::Begun);
        assert!(second.is_of_same(&first), "{first} {second}");
    }
}

#[tokio::test]
async fn a_file_that_does_not_fit_changes_nothing() {
    let (first, second, public) = two_masters().await;
    apply(&first, &etcd(Some(Rotation::Begin), false)).await;
    let refused = async |host: &FakeHost, why: &str| {
        let before = host.snapshot();
        let said = failure(host, &etcd(Some(Rotation::Begin), true)).await;
        assert!(said.contains(why), "{said}");
        assert!(host.snapshot() == before, "{why}");
    };
    refused(&second, "it is not there").await;
    send(&first, &second, "etcd", &public).await;
    let with_file = second.fork();
    let nameless = second.fork();
    nameless.with_world_mut(|world| world.remove(IDENTITY));
    refused(&nameless, "age.key").await;
    let old = second.fork();
    advance(&old, HOUR * 2);
    refused(&old, "it expired").await;
    put(&second, FILE, "no age file", 0o600);
    refused(&second, "take the successor of `etcd`").await;
    let (_, other) = new_identity();
    send(&first, &second, "etcd", &other).await;
    refused(&second, "the key of another host").await;
    // Of another authority.
    let front_proxy = AuthoritySpec {
        name: "front-proxy".to_owned(),
        ..etcd(Some(Rotation::Begin), false)
    };
    apply(&first, &front_proxy).await;
    send(&first, &second, "front-proxy", &public).await;
    refused(&second, "it is the successor of `front-proxy`").await;
    // Of another cluster.
    let stranger = first_master().await;
    apply(&stranger, &etcd(Some(Rotation::Begin), false)).await;
    send(&stranger, &second, "etcd", &public).await;
    refused(&second, "of another cluster").await;
    // A second successor.
    apply(&with_file, &etcd(Some(Rotation::Begin), false)).await;
    refused(&with_file, "two were made").await;
    // A certificate that is not the named one, and a key that does not match.
    let mut file = successor_of(&first, "etcd").await.expect("there is one");
    file.expires = 4_102_444_800;
    let stranger = successor_of(&stranger, "etcd").await.expect("there is one");
    for change in [
        |file: &mut SuccessorFile, other: &SuccessorFile| {
            file.key.clone_from(&other.key);
        },
        |file: &mut SuccessorFile, other: &SuccessorFile| {
            file.key.clone_from(&other.key);
            file.certificate.clone_from(&other.certificate);
        },
    ] {
        let mut file = file.clone();
        change(&mut file, &stranger);
        let sealed = file.seal(&public).expect("it can be sealed");
        put(&second, FILE, &String::from_utf8_lossy(&sealed), 0o600);
        refused(&second, "take the successor of `etcd`").await;
    }
}

/// Both files are for this host and of its cluster. Only one of the successors is shown by a master.
#[tokio::test]
async fn a_file_that_was_exchanged_after_its_check_is_refused() {
    let (first, second, public) = two_masters().await;
    let stranger = first.fork();
    for master in [&first, &stranger] {
        apply(master, &etcd(Some(Rotation::Begin), false)).await;
        apply(master, &encryption(Some(Rotation::Begin), false)).await;
    }
    for of in ["etcd", ENCRYPTION] {
        send(&first, &second, of, &public).await;
        let id = received_id(&second, of, FILE.as_ref()).await;
        let id = id.expect("it can be read");
        assert!(id.is_some(), "{of} is new");
        let take = async |host: &FakeHost| {
            let (mut one, mut other) = (
                etcd(Some(Rotation::Begin), true),
                encryption(Some(Rotation::Begin), true),
            );
            one.successor = Some(sent(id.clone()));
            other.successor = Some(sent(id.clone()));
            let mut receipt = Receipt::default();
            match of {
                ENCRYPTION => run(host, &other, false, &mut receipt).await,
                _ => run(host, &one, false, &mut receipt).await,
            }
        };
        let exchanged = second.fork();
        send(&stranger, &exchanged, of, &public).await;
        let before = exchanged.snapshot();
        let error = take(&exchanged).await.expect_err("it is another one");
        assert!(chain(&error).contains("it was exchanged"), "{error}");
        assert!(exchanged.snapshot() == before, "{of}");
        take(&second).await.expect("it is the one that was checked");
        let taken = replacement(&second, of).await;
        assert_eq!(taken, replacement(&first, of).await);
    }
}

#[tokio::test]
async fn nothing_is_sent_without_a_replacement() {
    let (first, _, _) = two_masters().await;
    for of in ["etcd", ENCRYPTION] {
        let error = successor_of(&first, of).await.expect_err("there is none");
        assert!(error.to_string().contains("this host has none"), "{error}");
    }
}
