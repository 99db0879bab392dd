//! Which master makes a successor, when its claim ends, and what is not exported meanwhile.

use super::*;
use crate::exec::kubernetes::rotate::check_export;

const CLAIM: &str = "nodelet-rotation-encryption";

/// The master that has claimed it; `None` without a claim.
async fn claimant(host: &FakeHost) -> Option<String> {
    let found = crate::host::ConfigMaps::config_map(host, &access(), "kube-system", CLAIM).await;
    found.expect("it answers")?.data.get("master").cloned()
}

async fn all_show(host: &FakeHost, text: &str) {
    for (node, id) in [("m-1", "b"), ("m-2", "c"), ("m-3", "d")] {
        annotate(host, node, &format!("{text} {id}")).await;
    }
}

#[tokio::test]
async fn only_one_master_makes_a_successor() {
    let host = host();
    let (before, after) = (replacement("settled 1-a -"), replacement("settled 2-b -"));
    let (first, second) = (rollout(&host, "m-1").await, rollout(&host, "m-2").await);
    let free = second.check_claim(&host, &access(), &before).await;
    free.expect("it is free");
    assert_eq!(claimant(&host).await, None, "a check changes nothing");
    for _ in 0..2 {
        let claimed = first.claim(&host, &access(), &before).await;
        claimed.expect("it is free, or its own");
    }
    for refused in [
        second.claim(&host, &access(), &before).await,
        second.check_claim(&host, &access(), &before).await,
    ] {
        let refused = refused.expect_err("the first one has it");
        assert!(refused.to_string().contains("m-1"), "{refused}");
    }
    for _ in 0..2 {
        let ended = first.end_claim(&host, &access(), &after).await;
        ended.expect("it ends, or there is none");
        assert_eq!(claimant(&host).await, None);
    }
    let claimed = second.claim(&host, &access(), &after).await;
    claimed.expect("it is free");
}

/// The last `finish` was interrupted before the claim ended.
#[tokio::test]
async fn a_claim_that_was_left_does_not_hold_up_the_next_replacement() {
    let host = host();
    let (before, after) = (replacement("settled 1-a -"), replacement("settled 2-b -"));
    all_show(&host, "settled 1-a -").await;
    let first = rollout(&host, "m-1").await;
    let claimed = first.claim(&host, &access(), &before).await;
    claimed.expect("it is free");
    let is_left = async |own: &str, present: &Replacement| {
        let its = rollout(&host, own).await;
        let left = its.end_left(&host, &access(), present).await;
        !left.expect("it answers").is_empty()
    };
    assert!(!is_left("m-2", &before).await, "the first one begins");
    annotate(&host, "m-2", "settled 2-b - c").await;
    assert!(
        !is_left("m-2", &after).await,
        "the others have not finished"
    );
    let second = rollout(&host, "m-2").await;
    let early = second.claim(&host, &access(), &after).await;
    early.expect_err("the others have not finished");
    all_show(&host, "settled 2-b -").await;
    assert!(is_left("m-2", &after).await);
    let taken = host.fork();
    let ended = rollout(&host, "m-2").await;
    let ended = ended.end_claim(&host, &access(), &after).await;
    ended.expect("it ends");
    assert_eq!(claimant(&host).await, None);
    assert!(!is_left("m-2", &after).await);
    // A new replacement takes it over, and is not ended by a late master.
    let second = rollout(&taken, "m-2").await;
    let claimed = second.claim(&taken, &access(), &after).await;
    claimed.expect("it was left");
    let late = rollout(&taken, "m-3").await;
    let ended = late.end_claim(&taken, &access(), &after).await;
    ended.expect("it answers");
    assert_eq!(claimant(&taken).await.as_deref(), Some("m-2"));
}

/// Another master may join at any time.
#[tokio::test]
async fn the_only_master_claims_and_shows_its_steps() {
    let host = only_master();
    keys(&host, None).await;
    let present = async || {
        let read = Replacement::read(&host, OF).await;
        read.expect("it can be read").expect("there is a key")
    };
    let before = present().await;
    let its = rollout(&host, "m-1").await;
    let claimed = its.claim(&host, &access(), &before).await;
    claimed.expect("it is free");
    keys(&host, Some(Rotation::Begin)).await;
    let shown = rollout(&host, "m-1").await.show(&host, &access()).await;
    shown.expect("it is shown");
    let joined = host.fork();
    joined.with_world_mut(|world| {
        world.etcd.voter("m-2", "172.30.0.12", 12);
        world.node("m-2", ClusterNode::default());
    });
    let second = rollout(&joined, "m-2").await;
    let checked = second.check(Rotation::Begin, &before, false);
    checked.expect_err("the first one has begun");
    let claimed = second.claim(&joined, &access(), &before).await;
    claimed.expect_err("the first one has claimed it");
    // The others were removed meanwhile: it finishes alone.
    for step in [Rotation::Switch, Rotation::Finish] {
        keys(&host, Some(step)).await;
        let shown = rollout(&host, "m-1").await.show(&host, &access()).await;
        shown.expect("it is shown");
    }
    let (its, after) = (rollout(&host, "m-1").await, present().await);
    assert_eq!(its.nodes()["m-1"], Some(after.clone()));
    assert!(its.is_over(&after));
    let ended = its.end_claim(&host, &access(), &after).await;
    ended.expect("it ends");
    assert_eq!(claimant(&host).await, None);
}

/// The exporting master itself may not have begun.
#[tokio::test]
async fn nothing_is_exported_while_another_master_replaces_it() {
    let host = host();
    let refused = async || {
        let checked = check_export(&host, &access(), &["etcd", OF]).await;
        checked.err().map(|error| error.to_string())
    };
    assert_eq!(refused().await, None);
    for (text, is_refused) in [
        ("begun 1-a 2-b c", true),
        ("switched 2-b 1-a c", true),
        ("begun 1-a 2-b ff", false),
        ("settled 2-b - c", false),
    ] {
        annotate(&host, "m-2", text).await;
        let said = refused().await;
        assert_eq!(said.is_some(), is_refused, "{text}: {said:?}");
        assert!(said.is_none_or(|said| said.contains("m-2")));
    }
    let second = rollout(&host, "m-2").await;
    let claimed = second
        .claim(&host, &access(), &replacement("settled 2-b -"))
        .await;
    claimed.expect("it is free");
    let said = refused().await.expect("one begins");
    assert!(said.contains(CLAIM), "{said}");
    let checked = check_export(&host, &access(), &[OF]).await;
    let Err(ResourceError::Unmet { next, .. }) = checked else {
        panic!("it is refused")
    };
    assert!(next.contains("cluster remove NODE"), "{next}");
}

/// A master was lost after its switch, and the others have finished.
#[tokio::test]
async fn a_replacement_ends_without_a_lost_master() {
    let host = host();
    let (before, after) = (replacement("settled 1-a -"), replacement("settled 2-b -"));
    let claimed = rollout(&host, "m-1").await;
    let claimed = claimed.claim(&host, &access(), &before).await;
    claimed.expect("it is free");
    all_show(&host, "settled 2-b -").await;
    annotate(&host, "m-3", "switched 2-b 1-a d").await;
    let left = async || {
        let its = rollout(&host, "m-1").await;
        let left = its.end_left(&host, &access(), &after).await;
        left.expect("it answers")
    };
    assert!(left().await.is_empty(), "m-3 has not finished");
    host.with_world_mut(|world| {
        world.etcd.members.pop();
        world.cluster.nodes.remove("m-3");
    });
    assert_eq!(left().await, ["end the claim"]);
    annotate(&host, "m-1", "switched 2-b 1-a b").await;
    assert_eq!(left().await, ["show the end on its Node", "end the claim"]);
}

/// A successor cannot be taken back, so it is not made if a node could not take part.
#[tokio::test]
async fn none_is_made_while_a_labelled_node_is_no_member() {
    for host in [host(), only_master()] {
        let settled = replacement("settled 1-a -");
        let check = async |step, present: &Replacement| {
            let its = rollout(&host, "m-1").await;
            its.check(step, present, false).err()
        };
        assert_eq!(next_of(check(Rotation::Begin, &settled).await), None);
        host.with_world_mut(|world| {
            let labels = [(MASTER_LABEL.to_owned(), String::new())].into();
            let node = ClusterNode {
                labels,
                ..ClusterNode::default()
            };
            world.node("w-1", node);
        });
        for (step, present) in [
            (Rotation::Begin, "settled 1-a -"),
            (Rotation::Switch, "switched 2-b 1-a"),
        ] {
            let present = replacement(present);
            for (node, id) in [("m-2", "c"), ("m-3", "d")] {
                if host.with_world(|world| world.has_node(node)) {
                    annotate(&host, node, &format!("{present} {id}")).await;
                }
            }
            let next = next_of(check(step, &present).await).expect("it is refused");
            for way in ["nodelet cluster remove w-1", "kubectl label node w-1"] {
                assert!(next.contains(way), "{step:?}: {next}");
            }
        }
        let begun = check(Rotation::Begin, &replacement("begun 1-a 2-b")).await;
        assert_eq!(next_of(begun), None, "an interrupted step is completed");
    }
}

fn next_of(error: Option<ResourceError>) -> Option<String> {
    match error? {
        ResourceError::Unmet { next, .. } => Some(next),
        other => panic!("{other}"),
    }
}

/// Also if the step before was not shown.
#[tokio::test]
async fn an_end_that_is_not_shown_is_open() {
    let host = host();
    for (text, is_open) in [
        ("begun 1-a 2-b", true),
        ("switched 2-b 1-a", true),
        ("begun 2-b 3-c", false),
        ("settled 2-b -", false),
    ] {
        annotate(&host, "m-1", &format!("{text} b")).await;
        let its = rollout(&host, "m-1").await;
        let present = replacement("settled 2-b -");
        let left = its.end_left(&host, &access(), &present).await;
        let left = left.expect("it answers");
        assert_eq!(!left.is_empty(), is_open, "{text}: {left:?}");
    }
}
