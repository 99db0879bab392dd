//! The token of a worker that has left: it would work for its host until its expiry. A token for the next join stays.

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);

/// A cluster with node `w-1`, which has a token of this moment and is not Ready.
async fn with_token(replaces: bool) -> (FakeHost, ClusterAccess, Token) {
    let (host, access) = master();
    let its = issue(&host, &access, "w-1", replaces).await;
    let not_ready = ClusterNode {
        ready: Some(false),
        ..labelled(&[WORKER_LABEL])
    };
    host.with_world_mut(|world| world.node("w-1", not_ready));
    (host, access, its)
}

async fn leave(host: &FakeHost, access: &ClusterAccess) {
    let marked = mark_as_left(host, access, "w-1", host.now()).await;
    marked.expect("it answers");
}

/// As [`with_token`], and a second later the worker has left.
async fn of_a_worker_that_has_left() -> (FakeHost, ClusterAccess, Token) {
    let (host, access, its) = with_token(false).await;
    host.pause(SECOND).await;
    leave(&host, &access).await;
    (host, access, its)
}

async fn record(host: &FakeHost, access: &ClusterAccess) -> Admission {
    let record = admission(host, access, "w-1").await;
    record.expect("it answers").expect("it is there")
}

/// Deletes the marked node. Returns whether its token is still there.
async fn token_stays(host: &FakeHost, access: &ClusterAccess, its: &Token) -> bool {
    let deletes = ("w-1".to_owned(), Care::Delete);
    assert_eq!(cared(host, access).await, [deletes]);
    let stays = its_token(host, access, its).await;
    assert_eq!(record(host, access).await.token_id.is_some(), stays);
    stays
}

#[tokio::test]
async fn the_token_of_a_worker_that_has_left_ends() {
    for replaces in [false, true] {
        let (host, access, its) = with_token(replaces).await;
        host.pause(MILLISECOND).await;
        leave(&host, &access).await;
        // If it replaces a node, it is for another host.
        assert_eq!(token_stays(&host, &access, &its).await, replaces);
    }
}

#[tokio::test]
async fn a_token_from_after_the_mark_stays_also_if_it_is_from_the_same_second() {
    for later in [Duration::ZERO, MILLISECOND, 2 * SECOND] {
        let (host, access, _) = with_token(false).await;
        host.pause(5 * MILLISECOND).await;
        leave(&host, &access).await;
        host.pause(later).await;
        let next = issue(&host, &access, "w-1", false).await;
        assert!(token_stays(&host, &access, &next).await, "{later:?}");
    }
}

/// Earlier versions wrote whole seconds, so the token may be from after the mark.
#[tokio::test]
async fn a_token_of_a_record_with_whole_seconds_stays_if_it_is_from_the_second_of_the_mark() {
    for (pause, stays) in [(5 * MILLISECOND, true), (SECOND, false)] {
        let (host, access, its) = with_token(false).await;
        let earlier = Admission {
            admitted_at: humantime::format_rfc3339_seconds(host.now()).to_string(),
            ..record(&host, &access).await
        };
        assert!(put(&host, &access, &earlier).await.unwrap());
        host.pause(pause).await;
        leave(&host, &access).await;
        assert_eq!(token_stays(&host, &access, &its).await, stays, "{pause:?}");
    }
}

#[tokio::test]
async fn a_token_stays_as_long_as_its_marked_node_is_not_deleted() {
    let (host, access, its) = of_a_worker_that_has_left().await;
    host.set_faults(FaultPlan::none().fail("delete_node", "w-1").times(1));
    let results = care_for_workers(&host, &access).await.unwrap();
    assert!(matches!(results.as_slice(), [(_, Err(_))]), "{results:?}");
    assert!(its_token(&host, &access, &its).await);
    assert!(!token_stays(&host, &access, &its).await);
}

#[tokio::test]
async fn a_token_that_could_not_be_ended_is_reported_with_what_ends_it() {
    let (host, access, its) = of_a_worker_that_has_left().await;
    host.set_faults(FaultPlan::none().fail("delete_object", "*").times(1));
    let results = care_for_workers(&host, &access).await.unwrap();
    let [(_, Ok(Care::Delete)), (_, Err(error))] = results.as_slice() else {
        panic!("{results:?}");
    };
    let text = crate::model::chain(error).join(": ");
    assert!(text.contains("`nodelet cluster remove w-1`"), "{text}");
    assert!(its_token(&host, &access, &its).await);
    assert_eq!(
        remove(&host, &access, "w-1", false).await,
        Removal::WithoutNode
    );
    assert!(!its_token(&host, &access, &its).await);
}

#[tokio::test]
async fn the_token_ends_also_if_the_answer_to_the_deletion_is_lost() {
    let (host, access, its) = of_a_worker_that_has_left().await;
    // The first call notes the leave.
    host.set_faults(FaultPlan::none().fail_after_call(2));
    assert!(!token_stays(&host, &access, &its).await);
}
