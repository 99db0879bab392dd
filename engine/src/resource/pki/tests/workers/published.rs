//! A worker follows the masters that replace the authority of the cluster.

use super::joining::{JOIN, join_file_with, spec};
use super::signing::{apply_signed, client, kubeconfig, masters_sign, worker_with_identity};
use crate::resource::pki::certificate::facts::Certificate;
use crate::resource::pki::tests::*;
use crate::resource::pki::{PUBLISHED, PublishedAuthorities, Replacement, Rotation, Stage};

const CERTIFICATE: &str = "/etc/pf9/kube.d/certs/kubelet/apiserver/request.crt";
const STEPS: [(Rotation, Stage); 3] = [
    (Rotation::Begin, Stage::Begun),
    (Rotation::Switch, Stage::Switched),
    (Rotation::Finish, Stage::Settled),
];

/// Takes a step on a master; gives what it publishes.
async fn take(master: &FakeHost, step: Rotation) -> PublishedAuthorities {
    let rotation = AuthoritySpec {
        rotation: Some(step),
        ..cluster()
    };
    apply(master, &rotation).await.expect("a step");
    let published = PublishedAuthorities::of_master(master).await;
    published.expect("it can be read").expect("it has one")
}

async fn present(host: &FakeHost) -> Replacement {
    let read = Replacement::read(host, "cluster").await;
    read.expect("it can be read").expect("it is there")
}

/// The worker takes what was published, and gets its certificates from this master.
async fn follow(master: &FakeHost, worker: &FakeHost, published: &PublishedAuthorities) {
    published.keep(worker).await.expect("it knows one of them");
    apply(worker, &spec()).await.expect("it follows");
    let change = apply_signed(master, worker, &client()).await;
    change.expect("it converges");
    apply(worker, &kubeconfig()).await;
}

fn is_signed_by(worker: &FakeHost, pem: &str) -> bool {
    let leaf = Certificate::parse("", text(worker, CERTIFICATE).as_bytes()).expect("it parses");
    let authority = Certificate::parse("", pem.as_bytes()).expect("it parses");
    leaf.is_signed_by(&authority)
}

/// The join file with the old authority is still there.
#[tokio::test]
async fn a_worker_follows_the_masters() {
    let (master, worker) = worker_with_identity().await;
    let old = text(&master, CA);
    for (step, stage) in STEPS {
        let published = take(&master, step).await;
        published.keep(&worker).await.expect("it knows one of them");
        apply(&worker, &spec()).await.expect("it follows");
        assert_eq!(apply(&worker, &spec()).await, None, "{step:?}");
        let its = present(&worker).await;
        assert_eq!(Some(&its), published.replacement().as_ref(), "{step:?}");
        assert_eq!(its, present(&master).await, "{step:?}");
        assert_eq!(its.stage, stage);
        let change = apply_signed(&master, &worker, &client()).await;
        assert!(change.expect("it converges").is_some(), "{step:?}");
        assert_eq!(is_signed_by(&worker, &old), step == Rotation::Begin);
        assert!(is_signed_by(&worker, &published.current));
        apply(&worker, &kubeconfig()).await;
        assert_eq!(apply(&worker, &client()).await, None, "{step:?}");
        assert!(worker.with_world(|world| world.text(CA_KEY)).is_none());
    }
    run(&worker, &spec(), true, &mut Receipt::default())
        .await
        .expect("it is removed");
    let left = worker.with_world(|world| world.text(PUBLISHED));
    assert_eq!(left, None);
}

#[tokio::test]
async fn what_does_not_fit_is_not_taken() {
    let (master, worker) = worker_with_identity().await;
    let before = present(&worker).await;
    let stranger = with_authority().await;
    let foreign = PublishedAuthorities::of_master(&stranger).await;
    let foreign = foreign.expect("it can be read").expect("it has one");
    let refused = foreign
        .keep(&worker)
        .await
        .expect_err("it is another cluster");
    assert!(
        refused.to_string().contains("trusts none of them"),
        "{refused}"
    );
    let json = serde_json::to_string(&foreign).expect("it is JSON");
    for content in [json.as_str(), "{", "{\"current\":\"\"}"] {
        put(&worker, PUBLISHED, content, 0o600);
        assert_eq!(apply(&worker, &spec()).await, None, "{content}");
        assert_eq!(present(&worker).await, before);
    }
    let published = take(&master, Rotation::Begin).await;
    let mut data = published.data();
    let read = |data: &std::collections::BTreeMap<&str, &str>| {
        let owned = data.iter();
        let owned = owned.map(|(name, pem)| ((*name).to_owned(), (*pem).to_owned()));
        PublishedAuthorities::of_data(&owned.collect())
    };
    assert_eq!(read(&data), Some(published.clone()));
    // Two beside the current one, several in an entry, and no authority.
    let leaf = text(&worker, CERTIFICATE);
    let two = format!("{0}{0}", published.current);
    for (name, pem) in [
        ("previous", published.current.as_str()),
        ("current", two.as_str()),
        ("current", leaf.as_str()),
        ("current", "no PEM"),
    ] {
        let mut data = data.clone();
        data.insert(name, pem);
        assert_eq!(read(&data), None, "{name}");
    }
    data.remove("current");
    assert_eq!(read(&data), None);
}

/// The worker has a newer authority from a join file.
#[tokio::test]
async fn what_was_published_before_another_replacement_is_ignored() {
    let (master, worker) = worker_with_identity().await;
    let before = PublishedAuthorities::of_master(&master).await;
    let before = before.expect("it can be read").expect("it has one");
    before.keep(&worker).await.expect("it knows it");
    advance(&master, DAY);
    take(&master, Rotation::Begin).await;
    let published = PublishedAuthorities::of_master(&master).await;
    let next = published.expect("it can be read").expect("it has one");
    assert!(!next.are_older(&worker).await.expect("it can be read"));
    next.keep(&worker).await.expect("it knows one of them");
    apply(&worker, &spec()).await.expect("it follows");
    // The join file has only the old authority.
    worker.with_world_mut(|world| world.remove(PUBLISHED));
    assert_eq!(apply(&worker, &spec()).await, None);
    assert_eq!(present(&worker).await.stage, Stage::Begun);
    assert!(before.are_older(&worker).await.expect("it can be read"));
    worker.with_world_mut(|world| world.remove(JOIN));
    before.keep(&worker).await.expect("it is an old file");
    assert_eq!(apply(&worker, &spec()).await, None);
    assert_eq!(present(&worker).await.stage, Stage::Begun);
}

/// The masters published a replacement and did not publish its end. The worker uses the successor already.
#[tokio::test]
async fn a_worker_does_not_go_back_to_an_earlier_stage() {
    let (master, worker) = worker_with_identity().await;
    for host in [&master, &worker] {
        advance(host, DAY);
    }
    let mut earlier: Vec<PublishedAuthorities> = Vec::new();
    for (step, _) in STEPS {
        let published = take(&master, step).await;
        follow(&master, &worker, &published).await;
        let is = present(&worker).await;
        assert_eq!(Some(&is), published.replacement().as_ref(), "{step:?}");
        for old in &earlier {
            let stage = old.replacement().map(|old| old.stage);
            let are_older = old.are_older(&worker).await;
            assert!(are_older.expect("it can be read"), "{stage:?}");
            let json = serde_json::to_string(old).expect("it is JSON");
            put(&worker, PUBLISHED, &json, 0o600);
            assert_eq!(apply(&worker, &spec()).await, None, "{stage:?}");
            assert_eq!(present(&worker).await, is, "{stage:?}");
        }
        published.keep(&worker).await.expect("it knows one of them");
        earlier.push(published);
    }
    assert_eq!(present(&worker).await.stage, Stage::Settled);
}

/// The first master was lost before another one took its successor. Its clock may have been ahead.
#[tokio::test]
async fn an_abandoned_successor_is_dropped_with_the_next_one() {
    for ahead in [Duration::ZERO, DAY * 10] {
        let (first, worker) = worker_with_identity().await;
        let second = first.fork();
        advance(&first, ahead);
        let abandoned = take(&first, Rotation::Begin).await;
        abandoned.keep(&worker).await.expect("it knows one of them");
        apply(&worker, &spec()).await.expect("it follows");
        let trusted = present(&worker).await;
        assert_eq!(Some(&trusted), abandoned.replacement().as_ref());
        for (step, _) in STEPS {
            for host in [&second, &worker] {
                advance(host, DAY);
            }
            let next = take(&second, step).await;
            let is_older = next.are_older(&worker).await;
            assert!(!is_older.expect("it can be read"), "{step:?} {ahead:?}");
            follow(&second, &worker, &next).await;
            let is = present(&worker).await;
            assert_eq!(Some(&is), next.replacement().as_ref(), "{step:?} {ahead:?}");
            assert!(!is.ids().iter().any(|id| trusted.successor() == Some(id)));
        }
    }
}

/// The join file has an abandoned successor that begins later than the next one, and is valid all the time.
#[tokio::test]
async fn a_valid_join_file_does_not_bring_an_abandoned_successor_back() {
    let (first, worker) = worker_with_identity().await;
    let old = text(&first, CA);
    let second = first.fork();
    advance(&first, DAY * 10);
    let abandoned = take(&first, Rotation::Begin).await;
    let abandoned = abandoned.next.expect("it has begun");
    join_file_with(&worker, &format!("{old}{abandoned}"));
    apply(&worker, &spec()).await.expect("both are trusted");
    let trusted = present(&worker).await;
    assert_eq!(trusted.stage, Stage::Begun);
    for (step, _) in STEPS {
        advance(&second, Duration::from_secs(60));
        let next = take(&second, step).await;
        follow(&second, &worker, &next).await;
        assert_eq!(apply(&worker, &spec()).await, None, "{step:?}");
        let is = present(&worker).await;
        assert_eq!(Some(&is), next.replacement().as_ref(), "{step:?}");
        assert!(!is.ids().iter().any(|id| trusted.successor() == Some(id)));
    }
}

/// The clock of the master that made the first authority was ahead, so the successor begins earlier. The join file has both.
#[tokio::test]
async fn a_valid_join_file_does_not_bring_a_predecessor_back_that_begins_later() {
    let (master, worker) = worker_with_identity().await;
    let old = text(&master, CA);
    let with_old = master.fork();
    for host in [&master, &with_old, &worker] {
        advance(host, DAY);
    }
    let next = take(&master, Rotation::Begin).await;
    let new = next.next.clone().expect("it has begun");
    // The worker has the authority that begins later, and is told that the other one replaces it.
    let joined = format!("{old}{new}");
    let stages = [
        (&master, &new, Some(&old), None),
        (&with_old, &old, None, Some(&new)),
        (&with_old, &old, None, None),
    ];
    next.keep(&worker).await.expect("it knows one of them");
    apply(&worker, &spec()).await.expect("it follows");
    take(&master, Rotation::Switch).await;
    let over = take(&master, Rotation::Finish).await;
    follow(&master, &worker, &over).await;
    join_file_with(&worker, &joined);
    apply(&worker, &spec()).await.expect("both are trusted");
    for (signer, current, next, previous) in stages {
        let published = PublishedAuthorities {
            current: current.clone(),
            next: next.cloned(),
            previous: previous.cloned(),
        };
        let stage = published.replacement();
        follow(signer, &worker, &published).await;
        assert_eq!(Some(present(&worker).await), stage, "{stage:?}");
        assert_eq!(apply(&worker, &spec()).await, None, "{stage:?}");
    }
}

/// A worker at the end of a replacement gets a join file that was made before that end.
#[tokio::test]
async fn a_join_file_from_before_the_end_of_a_replacement_brings_no_predecessor_back() {
    let (master, worker) = worker_with_identity().await;
    let old = text(&master, CA);
    for host in [&master, &worker] {
        advance(host, DAY);
    }
    let mut both = String::new();
    for (step, stage) in STEPS {
        let published = take(&master, step).await;
        follow(&master, &worker, &published).await;
        if stage == Stage::Switched {
            both = format!("{}{old}", published.current);
        }
    }
    let settled = present(&worker).await;
    assert_eq!(settled.stage, Stage::Settled);
    for authorities in [both.as_str(), old.as_str()] {
        worker.with_world_mut(|world| world.remove(PUBLISHED));
        join_file_with(&worker, authorities);
        apply(&worker, &spec()).await;
        assert_eq!(present(&worker).await, settled);
        assert_eq!(apply(&worker, &spec()).await, None);
    }
}

/// What the masters published was never fetched, and the worker was off until the replacement was over.
#[tokio::test]
async fn a_join_file_with_the_successor_alone_ends_a_replacement() {
    let (master, worker) = worker_with_identity().await;
    for host in [&master, &worker] {
        advance(host, DAY);
    }
    let begun = take(&master, Rotation::Begin).await;
    follow(&master, &worker, &begun).await;
    worker.with_world_mut(|world| world.remove(PUBLISHED));
    take(&master, Rotation::Switch).await;
    let over = take(&master, Rotation::Finish).await;
    join_file_with(&worker, &over.current);
    apply(&worker, &spec()).await.expect("it takes the token");
    assert_eq!(Some(present(&worker).await), over.replacement());
}

/// The worker has joined with both, and the authority that signs begins later than its successor: the clock of its master was ahead.
#[tokio::test]
async fn a_wrong_order_of_a_join_file_is_corrected_by_what_the_masters_publish() {
    let (master, worker) = worker_with_identity().await;
    let old = text(&master, CA);
    let before = present(&worker).await;
    advance(&master, DAY);
    let next = take(&master, Rotation::Begin).await;
    let new = next.next.clone().expect("it has begun");
    // As if the successor were the one that is replaced: the worker has them in the order of their age.
    let reversed = PublishedAuthorities {
        current: new.clone(),
        next: Some(old.clone()),
        previous: None,
    };
    join_file_with(&worker, &format!("{new}{old}"));
    apply(&worker, &spec()).await.expect("both are trusted");
    let is = present(&worker).await;
    assert_eq!((is.stage, &is.uses), (Stage::Begun, &before.uses));
    assert!(!reversed.are_older(&worker).await.expect("it can be read"));
    reversed.keep(&worker).await.expect("it knows one of them");
    apply(&worker, &spec()).await.expect("it follows");
    assert_eq!(Some(present(&worker).await), reversed.replacement());
    // The join file is still there.
    assert_eq!(apply(&worker, &spec()).await, None);
}

/// A renewal was asked for before the switch, and signed before it when the host did not wait any more.
#[tokio::test]
async fn a_certificate_of_the_predecessor_is_asked_for_again() {
    let (master, worker) = worker_with_identity().await;
    let old = text(&master, CA);
    let published = take(&master, Rotation::Begin).await;
    published.keep(&worker).await.expect("it knows one of them");
    apply(&worker, &spec()).await.expect("it follows");
    apply_signed(&master, &worker, &client())
        .await
        .expect("it trusts both");
    apply(&worker, &kubeconfig()).await;
    advance(&worker, DAY * 20);
    failure(&worker, &client()).await;
    masters_sign(&master, &worker, &client()).await;
    let behind = master.fork();
    let published = take(&master, Rotation::Switch).await;
    published.keep(&worker).await.expect("it knows one of them");
    apply(&worker, &spec()).await.expect("it follows");
    let before = text(&worker, CERTIFICATE);
    // A master that has not switched signs again: the certificate that is there stays in use.
    let late = worker.fork();
    let error = apply_signed(&behind, &late, &client()).await;
    let error = error.expect_err("the predecessor signs").to_string();
    assert!(error.contains("by the predecessor"), "{error}");
    assert_eq!(text(&late, CERTIFICATE), before);
    for host in [&worker, &late] {
        let change = apply_signed(&master, host, &client()).await;
        change.expect("it is signed").expect("it is renewed");
        assert!(is_signed_by(host, &published.current));
        assert!(!is_signed_by(host, &old));
    }
}
