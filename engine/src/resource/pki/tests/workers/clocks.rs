//! Join files on hosts whose clocks are wrong.

use super::joining::{file, host_with_identity, place, spec};
use crate::resource::pki::tests::*;

/// Joins with a file for an hour that a master made so long after the time of this host, which is `later` when it reads it.
async fn joins(made_after: Duration, later: Duration) -> Result<(), (String, String)> {
    let master = with_authority().await;
    let (worker, public) = host_with_identity();
    let mut its = file(&worker, &text(&master, CA));
    its.expires += made_after.as_secs();
    its.issued = Some(its.expires - 60 * 60);
    place(&worker, &its, &public);
    advance(&worker, later);
    let before = worker.snapshot();
    match run(&worker, &spec(), false, &mut Receipt::default()).await {
        Ok(_) => Ok(()),
        Err(ResourceError::Unmet { what, next }) => {
            assert!(worker.snapshot() == before, "nothing is changed");
            assert!(what.contains("the clock of this host says"), "{what}");
            assert!(next.starts_with("set the clock of this host"), "{next}");
            Err((what, next))
        }
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_clock_that_does_not_fit_the_join_file_is_named() {
    let none = Duration::ZERO;
    let (what, next) = joins(DAY * 10, none).await.expect_err("it is behind");
    assert!(what.contains("it was made at"), "{what}");
    assert!(next.contains("set the clock of that master"), "{next}");
    let (what, next) = joins(none, DAY * 30).await.expect_err("it is ahead");
    assert!(what.contains("it expired at"), "{what}");
    assert!(what.contains("(it was made at"), "{what}");
    assert!(next.contains("nodelet pki issue worker-1"), "{next}");
    // Clocks of hosts differ a little.
    let tolerated = Duration::from_secs(5 * 60);
    assert_eq!(joins(tolerated, none).await, Ok(()));
    let second = Duration::from_secs(1);
    let (what, _) = joins(tolerated + second * 2, none)
        .await
        .expect_err("it is more");
    assert!(what.contains("it was made at"), "{what}");
}
