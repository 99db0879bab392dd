//! Taints that the record of a worker names: masters keep them on its node.

use super::*;
use crate::kubernetes::admission::{parse_taint, set_taints};
use crate::kubernetes::workers::taints::{TAINTS, keep_taints};

const GPU: &str = "gpu=true:NoSchedule";

fn taints(texts: &[&str]) -> Vec<Taint> {
    let read = |text: &&str| parse_taint(text).expect("a taint");
    texts.iter().map(read).collect()
}

/// Admits node `w-1` with these taints; `None` for those of its earlier record.
async fn admit_with(host: &FakeHost, access: &ClusterAccess, texts: Option<&[&str]>) {
    let token = Token::random().expect("random numbers");
    let named = texts.map(taints);
    let new = NewToken {
        token: &token,
        now: host.now(),
        expires: host.now() + MINUTE,
        replaces: true,
        taints: named.as_deref(),
    };
    let admitted = admit(host, access, "w-1", &new).await;
    admitted.expect("it answers");
}

/// A cluster with node `w-1`, whose record names these taints, and which has others.
async fn tainted(named: &[&str], present: &[&str]) -> (FakeHost, ClusterAccess) {
    let (host, access) = master();
    admit_with(&host, &access, Some(named)).await;
    let node = ClusterNode {
        taints: taints(present),
        ..labelled(&[WORKER_LABEL])
    };
    host.with_world_mut(|world| world.node("w-1", node));
    (host, access)
}

async fn node(host: &FakeHost, access: &ClusterAccess) -> ClusterNode {
    nodes(host, access)
        .await
        .remove("w-1")
        .expect("it is there")
}

async fn record(host: &FakeHost, access: &ClusterAccess) -> Admission {
    let record = admission(host, access, "w-1").await;
    record.expect("it answers").expect("it is there")
}

fn done(all: &[Care]) -> Vec<(String, Care)> {
    all.iter().map(|care| ("w-1".to_owned(), *care)).collect()
}

/// Changes the node as other clients do.
fn change(host: &FakeHost, change: impl FnOnce(&mut ClusterNode)) {
    host.with_world_mut(|world| {
        change(world.cluster.nodes.get_mut("w-1").expect("it is there"));
    });
}

#[tokio::test]
async fn a_new_node_gets_the_taints_of_its_record_before_its_label() {
    let (host, access) = tainted(&[GPU, "team=a:NoExecute"], &["theirs:NoSchedule"]).await;
    change(&host, |node| node.labels.clear());
    let cared = cared(&host, &access).await;
    assert_eq!(cared, done(&[Care::Taint, Care::Label]));
    let present = node(&host, &access).await;
    let expected = taints(&[GPU, "team=a:NoExecute", "theirs:NoSchedule"]);
    assert_eq!(present.taints, expected);
    assert!(!needs_care(&present), "{present:?}");
}

#[tokio::test]
async fn a_removed_or_changed_taint_of_the_record_returns() {
    let (host, access) = tainted(&[GPU], &[]).await;
    assert_eq!(cared(&host, &access).await, done(&[Care::Taint]));
    for changed in [&[][..], &["gpu=false:NoSchedule"]] {
        change(&host, |node| node.taints = taints(changed));
        // nodeletd sees it in the node alone.
        assert!(needs_care(&node(&host, &access).await));
        assert_eq!(cared(&host, &access).await, done(&[Care::Taint]));
        let present = node(&host, &access).await;
        assert_eq!(present.taints, taints(&[GPU]));
        assert!(!needs_care(&present), "{present:?}");
    }
    assert_eq!(cared(&host, &access).await, []);
}

/// A worker may change the annotations of its node.
#[tokio::test]
async fn the_record_decides_and_not_the_annotation() {
    let (host, access) = tainted(&[GPU], &["theirs:NoSchedule"]).await;
    for annotated in [Some("theirs=1:NoSchedule"), Some("?"), None] {
        change(&host, |node| {
            node.taints = taints(&["theirs:NoSchedule"]);
            node.annotations.remove(TAINTS);
            let mark = annotated.map(|line| (TAINTS.to_owned(), line.to_owned()));
            node.annotations.extend(mark);
        });
        assert_eq!(cared(&host, &access).await, done(&[Care::Taint]));
        let present = node(&host, &access).await;
        assert_eq!(present.taints, taints(&[GPU, "theirs:NoSchedule"]));
        assert_eq!(present.annotations[TAINTS], GPU);
    }
}

#[tokio::test]
async fn a_taint_that_a_later_record_does_not_name_is_removed_once() {
    let (host, access) = tainted(&[GPU, "team=a:NoExecute"], &["theirs:NoSchedule"]).await;
    keep_taints_of(&host, &access, "w-1").await.unwrap();
    admit_with(&host, &access, None).await;
    let kept = record(&host, &access).await;
    assert_eq!(kept.taints, taints(&[GPU, "team=a:NoExecute"]));
    assert_eq!(kept.untainted, []);

    admit_with(&host, &access, Some(&["team=b:NoExecute"])).await;
    assert_eq!(record(&host, &access).await.untainted, taints(&[GPU]));
    assert_eq!(cared(&host, &access).await, done(&[Care::Taint]));
    let present = node(&host, &access).await;
    let expected = taints(&["team=b:NoExecute", "theirs:NoSchedule"]);
    assert_eq!(present.taints, expected);
    assert_eq!(record(&host, &access).await.untainted, []);
    // An operator sets it again.
    change(&host, |node| node.taints.extend(taints(&[GPU])));
    assert_eq!(cared(&host, &access).await, []);

    // It needs no new admission.
    let before = record(&host, &access).await;
    assert!(set_taints(&host, &access, "w-1", &[]).await.unwrap());
    let after = record(&host, &access).await;
    assert_eq!(after.token_id, before.token_id);
    keep_taints_of(&host, &access, "w-1").await.unwrap();
    let present = node(&host, &access).await;
    assert_eq!(present.taints, taints(&[GPU, "theirs:NoSchedule"]));
    assert!(!present.annotations.contains_key(TAINTS), "{present:?}");
    assert!(!set_taints(&host, &access, "w-2", &[]).await.unwrap());
    revoke(&host, &access, "w-1", "").await.unwrap();
    assert!(!set_taints(&host, &access, "w-1", &[]).await.unwrap());
}

/// The later record finds the node as it wants it, just before the patch of the earlier one is made.
#[tokio::test]
async fn a_record_that_changes_before_the_patch_is_carried_out_after_it() {
    let (host, access) = tainted(&[GPU], &[]).await;
    let host = host.yielding();
    let mut kept = std::pin::pin!(keep_taints(&host, &access, "w-1"));
    // Node and record are read, and the patch is next.
    for _ in 0..3 {
        assert!(futures::poll!(&mut kept).is_pending());
    }
    let set = set_taints(&host, &access, "w-1", &[]).await;
    assert!(set.expect("it answers"));
    let now = keep_taints(&host, &access, "w-1").await;
    now.expect("there is nothing to do");
    kept.await.expect("it answers");
    assert_eq!(node(&host, &access).await.taints, []);
}

/// Only a taint of an operator keeps the node of a worker that has left.
#[tokio::test]
async fn a_worker_with_the_taints_of_its_record_can_leave() {
    for (present, leaves) in [(GPU, true), ("gpu=true:NoExecute", false)] {
        let (host, access) = tainted(&[GPU], &[present]).await;
        let marked = mark_as_left(&host, &access, "w-1", host.now()).await;
        marked.expect("it answers");
        let results = care_for_workers(&host, &access).await.expect("it answers");
        match results.as_slice() {
            [(_, Ok(Care::Delete))] => assert!(leaves, "{present}"),
            [(_, Err(error))] => {
                let text = crate::model::chain(error).join(": ");
                assert!(!leaves && text.contains("the taint gpu"), "{text}");
            }
            _ => panic!("{results:?}"),
        }
        assert_eq!(nodes(&host, &access).await.is_empty(), leaves);
    }
    // It comes back without taints.
    let (host, access) = tainted(&[GPU], &[GPU]).await;
    let marked = mark_as_left(&host, &access, "w-1", host.now()).await;
    marked.expect("it answers");
    assert_eq!(cared(&host, &access).await, done(&[Care::Delete]));
    host.with_world_mut(|world| world.node("w-1", labelled(&[])));
    let back = done(&[Care::Taint, Care::Label]);
    assert_eq!(cared(&host, &access).await, back);
    assert_eq!(node(&host, &access).await.taints, taints(&[GPU]));
}

#[tokio::test]
async fn a_failed_change_of_taints_is_reported_and_repeated() {
    let (host, access) = tainted(&[GPU], &[]).await;
    host.set_faults(FaultPlan::none().fail("patch_node", "w-1"));
    let results = care_for_workers(&host, &access).await.expect("it answers");
    assert!(matches!(results.as_slice(), [(_, Err(_))]), "{results:?}");
    host.set_faults(FaultPlan::none());
    assert_eq!(cared(&host, &access).await, done(&[Care::Taint]));
}
