//! When to remove what is on the host but not in the plan. A failed removal is tried again with growing pauses. It never leads to a
//! restart or a clean, because the node itself is healthy.

use engine::exec::left_over_phases;
use tokio::time::Instant;

use super::decide::backoff;
use super::worker::Change;
use crate::pass::Pass;

/// Removals that were tried since there was nothing to remove.
#[derive(Debug, Default)]
pub(super) struct TakeBacks {
    tries: u32,
    /// When the last one ended.
    last: Option<Instant>,
}

impl TakeBacks {
    /// Whether there is something to remove, and no pause after a failure.
    pub(super) fn due(&mut self, pass: &Pass, now: Instant) -> bool {
        if left_over_phases(&pass.health).is_empty() {
            *self = Self::default();
            return false;
        }
        let waited = self.last.map(|last| now.saturating_duration_since(last));
        waited.is_none_or(|waited| waited >= backoff(self.tries, pass.desired.loop_interval))
    }

    /// Records how a removal ended.
    pub(super) fn ended(&mut self, change: Change, now: Instant) {
        match change {
            // The next pass shows whether it helped.
            Change::Done | Change::Failed | Change::Refused | Change::Interrupted => {
                self.tries = self.tries.saturating_add(1);
                self.last = Some(now);
            }
            Change::Busy => {}
        }
    }
}
