//! What a stopped process (SIGSTOP) adds to the condition of a check, so that an operator looks for no other cause.
//!
//! Not here: which processes are stopped, and what a repair does about it (`repair::stopped`, `repair::wake`).

use crate::exec::Runner;
use crate::exec::check::condition::Condition;
use crate::plan::PlannedPhase;

/// The signal, in the reason of a check whose process it has stopped.
const SIGNAL: &str = "SIGSTOP";

impl Runner<'_> {
    /// Adds to the reason of a failed check that a process of its phase is stopped, if the reason does not say so. Returns whether one is.
    pub(in crate::exec::check) async fn note_stopped(
        &self,
        phase: &PlannedPhase,
        condition: &mut Condition,
    ) -> bool {
        let is_stopped = self.is_stopped(phase).await;
        if is_stopped && !condition.reason.contains(SIGNAL) {
            condition.reason += &format!("; a signal has stopped one of its processes ({SIGNAL})");
        }
        is_stopped
    }
}
