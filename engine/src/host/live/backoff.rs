//! Growing pauses between two looks at the same thing.

use std::time::{Duration, Instant};

use crate::model::doubled;

/// Pauses that double from a tenth of a second to five seconds, with jitter, until a deadline.
#[derive(Debug)]
pub(super) struct Backoff {
    count: u32,
    deadline: Instant,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(5);

    /// Pauses for at most `timeout` in all.
    pub(super) fn new(timeout: Duration) -> Self {
        Self {
            count: 0,
            deadline: Instant::now() + timeout,
        }
    }

    /// Waits before the next look. `false`, at once, when the deadline has passed. Cancel safe.
    pub(super) async fn pause(&mut self) -> bool {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        self.count = self.count.saturating_add(1);
        let pause = doubled(self.count, Self::FIRST, Self::LONGEST);
        let jittered = pause.mul_f64(rand::random_range(0.75..1.25));
        tokio::time::sleep(jittered.min(left)).await;
        true
    }
}
