//! Attempts with growing pauses, for calls that other hosts answer.

use std::time::Duration;

use super::{Host, HostError, HostResult};

/// How often a question or a change is tried.
const TRIES: u32 = 7;
/// Pause after the first attempt that failed. Each further pause is twice as long, which gives 13 s in all. After a member was removed, etcd
/// may have to elect a leader, and the API server answers with an error until then.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// Tries it until it succeeds or is refused, with growing pauses. Cancel safe if `once` is.
///
/// # Errors
/// The last one.
pub(crate) async fn retried(
    host: &dyn Host,
    once: impl AsyncFn() -> HostResult<()>,
) -> HostResult<()> {
    let (mut attempt, mut pause) = (1, FIRST_PAUSE);
    loop {
        match once().await {
            Err(error) if attempt < TRIES && !matches!(error, HostError::Refused { .. }) => {
                host.pause(pause).await;
                attempt += 1;
                pause *= 2;
            }
            done => return done,
        }
    }
}
