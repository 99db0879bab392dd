//! Growing pauses between failures.

use std::time::Duration;

/// Pause after so many failures: none before the first one, then `first`, doubled each time, at most `longest`.
#[must_use]
pub fn doubled(failures: u32, first: Duration, longest: Duration) -> Duration {
    let pause = |doublings: u32| first.saturating_mul(1 << doublings.min(10)).min(longest);
    failures.checked_sub(1).map_or(Duration::ZERO, pause)
}
