//! The wait for a check in an apply: until it holds, its time is over, or its error cannot go away by itself.
//!
//! Not here: the single observations (`probe`), and what a pass makes of them (`status`).

use std::time::Duration;

use crate::exec::Runner;
use crate::exec::apply::permanent::PermanentErrors;
use crate::exec::apply::phase::Progress;
use crate::exec::apply::step::backoff;
use crate::exec::check::missing_node::MissingNode;
use crate::exec::event::{Event, millis};
use crate::model::chain;
use crate::plan::{PlannedCheck, PlannedPhase};
use crate::resource::{ResourceError, ResourceResult};

/// Longest pause before a server that answers slowly is asked again.
const REST: Duration = Duration::from_secs(5);

impl Runner<'_> {
    /// Waits until a check holds, at most its timeout.
    pub(in crate::exec) async fn wait_for(
        &self,
        phase: &PlannedPhase,
        check: &PlannedCheck,
        progress: &Progress,
    ) -> ResourceResult<()> {
        let started = self.host.elapsed();
        let mut last_reason = String::new();
        let mut attempt = 1;
        let mut permanent_errors = PermanentErrors::default();
        let mut missing = MissingNode::after_registration(started);
        loop {
            let mut permanent = false;
            let asked = self.host.elapsed();
            let reason = match self.probe(self.host, phase, &check.probe).await {
                Ok(None) => {
                    self.events.emit(Event::CheckPassed {
                        phase: phase.name.clone(),
                        check: check.name.clone(),
                        milliseconds: millis(self.host.elapsed().saturating_sub(started)),
                    });
                    return Ok(());
                }
                Ok(Some(reason)) => {
                    let deleted = self.error_of_check(&check.probe, &reason, &mut missing);
                    if let Some(error) = deleted.await {
                        return Err(error);
                    }
                    reason
                }
                Err(error) => {
                    missing.is_not_known();
                    permanent = error.is_permanent();
                    chain(&error).join(": ")
                }
            };
            if reason != last_reason {
                self.events.emit(Event::CheckWaiting {
                    phase: phase.name.clone(),
                    check: check.name.clone(),
                    reason: reason.clone(),
                });
                last_reason.clone_from(&reason);
            }
            let now = self.host.elapsed();
            let waited = now.saturating_sub(started);
            let when = if self.cancel.is_cancelled() {
                "before the run was asked to end".to_owned()
            } else if waited >= check.timeout {
                format!("within {}", humantime::format_duration(check.timeout))
            } else if permanent_errors.give_up(permanent, now) {
                "by waiting".to_owned()
            } else {
                String::new()
            };
            if !when.is_empty() {
                return Err(ResourceError::NotConverged {
                    what: format!("pass the check {when}: {reason}"),
                });
            }
            progress.failed(ResourceError::NotConverged {
                what: format!("pass the check: {reason}"),
            });
            // The first checks follow quickly: most components are up within a second. A server that answers slowly is
            // asked less often, to leave it time for its work.
            let rest = (now.saturating_sub(asked) * 3).min(REST);
            let pause = check.every.min(backoff(check.every / 5, attempt)).max(rest);
            self.pause(pause.min(check.timeout.saturating_sub(waited)))
                .await;
            attempt += 1;
        }
    }
}
