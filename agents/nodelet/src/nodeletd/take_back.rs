//! When to take back what stands without being in the plan. What cannot be taken back is tried again with growing pauses, and is
//! never a reason to restart or to clean anything: the node itself is well.

use engine::exec::left_over_phases;
use tokio::time::Instant;

use super::decide::backoff;
use super::worker::Change;
use crate::pass::Pass;

/// Tries since nothing was left over.
#[derive(Debug, Default)]
pub(super) struct TakeBacks {
    tries: u32,
    /// When the last one ended.
    last: Option<Instant>,
}

impl TakeBacks {
    /// Whether there is something, and no pause after a failure.
    pub(super) fn due(&mut self, pass: &Pass, now: Instant) -> bool {
        if left_over_phases(&pass.health).is_empty() {
            *self = Self::default();
            return false;
        }
        let waited = self.last.map(|last| now.saturating_duration_since(last));
        waited.is_none_or(|waited| waited >= backoff(self.tries, pass.desired.loop_interval))
    }

    /// Takes note of how one ended.
    pub(super) fn ended(&mut self, change: Change, now: Instant) {
        match change {
            // Whether it was a success the next pass says.
            Change::Done | Change::Failed | Change::Refused | Change::Interrupted => {
                self.tries = self.tries.saturating_add(1);
                self.last = Some(now);
            }
            Change::Busy => {}
        }
    }
}
