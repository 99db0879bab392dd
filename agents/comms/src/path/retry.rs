//! Attempts to reach the plane, with growing pauses.
//!
//! A plane that is restarted, or a network that comes back, should not be an error for local programs. The pauses differ from host to host, so that
//! hosts do not come back all at once.

use std::time::Duration;

use rand::Rng as _;
use tokio::sync::watch;
use tokio::time::Instant;

use super::PathError;

/// So long after the first attempt, no other one begins: the local program may know better what to do.
const LONGEST: Duration = Duration::from_secs(5);
/// The first pause, and the longest.
const PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// A change of the network is waited for so long at most before an attempt: the next ones often follow at once, as when a link comes up, and hosts of the same
/// network should not come back all at once.
const SETTLES: Duration = Duration::from_millis(100);

/// The part of a pause that is waited: at random, from a half to the whole.
#[must_use]
pub fn random_part() -> f64 {
    rand::rng().random_range(0.5..1.0)
}

/// Makes attempts until one succeeds, one fails for good, or it takes too long. A pause ends when the configuration changes, and 50 to 100 ms after the first change of the network in it.
/// `again` is called before each further attempt, and `part` tells which part of each of these times is waited ([`random_part`]).
/// Cancel safe if `attempt` is.
///
/// # Errors
/// Of the last attempt.
pub async fn retried<T, F: Future<Output = Result<T, PathError>>, A, B>(
    mut attempt: impl FnMut() -> F,
    mut configuration: watch::Receiver<A>,
    mut network: watch::Receiver<B>,
    again: impl Fn(),
    mut part: impl FnMut() -> f64,
) -> Result<T, PathError> {
    let began = Instant::now();
    let mut pause = PAUSE;
    configuration.mark_unchanged();
    network.mark_unchanged();
    loop {
        let error = match attempt().await {
            Ok(made) => return Ok(made),
            Err(error) => error,
        };
        let jittered = pause.mul_f64(part());
        if !error.may_pass() || began.elapsed() + jittered > LONGEST {
            return Err(error);
        }
        tokio::select! {
            () = tokio::time::sleep(jittered) => {}
            () = changed(&mut configuration) => pause = PAUSE,
            () = changed(&mut network) => {
                pause = PAUSE;
                let left = LONGEST.saturating_sub(began.elapsed());
                tokio::time::sleep(SETTLES.mul_f64(part()).min(left)).await;
                // The next attempt begins after these changes.
                network.mark_unchanged();
            }
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
        again();
    }
}

/// Waits for a change. Of a value that does not change any more, there is none.
async fn changed<T>(value: &mut watch::Receiver<T>) {
    if value.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;
    use std::io;

    use super::*;

    fn unreachable() -> PathError {
        PathError::Resolve {
            name: "plane.test".to_owned(),
            source: io::ErrorKind::NotFound.into(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_waited_out() {
        let (_kept, value) = watch::channel(());
        let began = Instant::now();
        let comes = || began.elapsed() > Duration::from_secs(2);
        let attempt = || ready(if comes() { Ok(()) } else { Err(unreachable()) });
        let made = retried(attempt, value.clone(), value, || {}, || 0.9).await;
        made.expect("it is there after two seconds");
        assert!(began.elapsed() < Duration::from_secs(4));
    }

    #[tokio::test(start_paused = true)]
    async fn it_does_not_take_long_and_some_errors_stay() {
        let (_kept, value) = watch::channel(());
        let began = Instant::now();
        let mut attempts = 0;
        let attempt = || {
            attempts += 1;
            ready(Err::<(), _>(unreachable()))
        };
        let failed = retried(attempt, value.clone(), value.clone(), || {}, || 0.5).await;
        failed.expect_err("it does not come");
        assert!((3..20).contains(&attempts), "{attempts}");
        assert!(began.elapsed() <= LONGEST);
        let refused = PathError::Refused {
            proxy: "p".to_owned(),
            target: "t".to_owned(),
            status: 407,
        };
        let mut refused = Some(refused);
        let attempt = || ready(Err::<(), _>(refused.take().expect("one attempt")));
        let failed = retried(attempt, value.clone(), value, || {}, || 0.5).await;
        failed.expect_err("it needs a password");
    }

    async fn ends_the_pause(of_configuration: bool, after: Duration) {
        let (_kept, still) = watch::channel(());
        let (sender, value) = watch::channel(());
        let began = Instant::now();
        let mut first = true;
        let attempt = || {
            if std::mem::take(&mut first) {
                let sender = sender.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    sender.send_replace(());
                });
                return ready(Err(unreachable()));
            }
            ready(Ok(()))
        };
        let made = match of_configuration {
            true => retried(attempt, value, still, || {}, || 0.9).await,
            false => retried(attempt, still, value, || {}, || 0.9).await,
        };
        made.expect("the second one");
        assert_eq!(began.elapsed(), after);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_ends_the_pause() {
        ends_the_pause(true, Duration::from_millis(10)).await;
        ends_the_pause(false, Duration::from_millis(10 + 90)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn changes_of_the_network_that_follow_at_once_are_one() {
        let (_kept, still) = watch::channel(());
        let (sender, network) = watch::channel(());
        tokio::spawn(async move {
            for _ in 0..1000 {
                tokio::time::sleep(Duration::from_millis(10)).await;
                sender.send_replace(());
            }
        });
        let began = Instant::now();
        let attempts = std::cell::RefCell::new(Vec::new());
        let attempt = || {
            attempts.borrow_mut().push(began.elapsed());
            ready(Err::<(), _>(unreachable()))
        };
        let failed = retried(attempt, still, network, || {}, || 0.5).await;
        failed.expect_err("it does not come");
        assert!(began.elapsed() <= LONGEST);
        let all = attempts.into_inner();
        // Without changes, there are eight.
        assert!(all.len() > 50, "{all:?}");
        let is_late = |two: &[Duration]| two[1] - two[0] >= Duration::from_millis(50);
        assert!(all.windows(2).all(is_late), "{all:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_and_differ_by_their_parts() {
        let (_kept, value) = watch::channel(());
        for (part, wanted) in [(0.5, 5), (1.0, 4)] {
            let began = Instant::now();
            let attempts = std::cell::RefCell::new(Vec::new());
            let attempt = || {
                attempts.borrow_mut().push(began.elapsed().as_millis());
                ready(Err::<(), _>(unreachable()))
            };
            let failed = retried(attempt, value.clone(), value.clone(), || {}, || part).await;
            failed.expect_err("it does not come");
            let all = attempts.into_inner();
            assert!(all.len() > wanted, "{all:?}");
            let pauses = all.windows(2).map(|two| two[1] - two[0]);
            let pauses: Vec<u128> = pauses.take(3).collect();
            let first = if part < 1.0 { 100 } else { 200 };
            assert_eq!(pauses, [first, first * 2, first * 4]);
        }
        assert!((0..100).all(|_| (0.5..1.0).contains(&random_part())));
    }
}
