//! Conditions: whether phases do their work. Read-only, bounded, and honest about what is not known.

use serde::{Deserialize, Serialize};

use super::Runner;
use super::advice::chain;
use super::event::Event;
use super::lasting::Lasting;
use super::step::{backoff, millis};
use crate::host::HostError;
use crate::plan::{PhaseName, PlannedCheck, PlannedPhase, Span};
use crate::resource::{ResourceError, ResourceResult};

/// Typed result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Status {
    /// It holds.
    True,
    /// It could not be determined.
    Unknown,
    /// It does not hold.
    False,
}

/// One check's result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// What is asserted.
    pub check: String,
    /// Where the script says it.
    pub span: Span,
    /// Whether it holds.
    pub status: Status,
    /// Why not, or why that is not known; empty when it holds.
    pub reason: String,
}

/// All conditions of a phase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseHealth {
    /// The phase.
    pub phase: PhaseName,
    /// Why it has none, if it does nothing here.
    pub skipped: Option<String>,
    /// Its conditions.
    pub conditions: Vec<Condition>,
}

impl PhaseHealth {
    /// The worst of its conditions; True without any.
    #[must_use]
    pub fn status(&self) -> Status {
        self.conditions
            .iter()
            .map(|condition| condition.status)
            .max()
            .unwrap_or(Status::True)
    }
}

impl Runner<'_> {
    /// Makes every check of the selected phases once. Changes nothing.
    pub async fn check(&self) -> Vec<PhaseHealth> {
        let phases = self.selection.phases(self.plan);
        let health = phases.into_iter().map(|phase| async move {
            let mut conditions = Vec::new();
            if phase.skipped.is_none() {
                for check in &phase.checks {
                    conditions.push(self.condition(phase, check).await);
                }
            }
            PhaseHealth {
                phase: phase.name.clone(),
                skipped: phase.skipped.clone(),
                conditions,
            }
        });
        futures::future::join_all(health).await
    }

    async fn condition(&self, phase: &PlannedPhase, check: &PlannedCheck) -> Condition {
        let (status, reason) = match self.probe(phase, &check.probe).await {
            Ok(None) => (Status::True, String::new()),
            Ok(Some(reason)) => (Status::False, reason),
            // Who refuses us is there, and does not do its work for us.
            Err(error @ ResourceError::Host(HostError::Refused { .. })) => {
                (Status::False, chain(&error).join(": "))
            }
            Err(error) => (Status::Unknown, chain(&error).join(": ")),
        };
        Condition {
            check: check.name.clone(),
            span: check.span.clone(),
            status,
            reason,
        }
    }

    /// Waits until a check holds, at most its timeout.
    pub(super) async fn wait_for(
        &self,
        phase: &PlannedPhase,
        check: &PlannedCheck,
    ) -> ResourceResult<()> {
        let started = self.host.elapsed();
        let mut told = String::new();
        let mut attempt = 1;
        let mut lasting = Lasting::default();
        loop {
            let mut permanent = false;
            let reason = match self.probe(phase, &check.probe).await {
                Ok(None) => {
                    self.events.emit(Event::CheckPassed {
                        phase: phase.name.clone(),
                        check: check.name.clone(),
                        milliseconds: millis(self.host.elapsed().saturating_sub(started)),
                    });
                    return Ok(());
                }
                Ok(Some(reason)) => reason,
                Err(error) => {
                    permanent = error.is_permanent();
                    chain(&error).join(": ")
                }
            };
            if reason != told {
                self.events.emit(Event::CheckWaiting {
                    phase: phase.name.clone(),
                    check: check.name.clone(),
                    reason: reason.clone(),
                });
                told.clone_from(&reason);
            }
            let waited = self.host.elapsed().saturating_sub(started);
            let when = if self.cancel.is_cancelled() {
                "before the run was asked to end".to_owned()
            } else if waited >= check.timeout {
                format!("within {}", humantime::format_duration(check.timeout))
            } else if lasting.believed(permanent, self.host.elapsed()) {
                "by waiting".to_owned()
            } else {
                String::new()
            };
            if !when.is_empty() {
                return Err(ResourceError::NotConverged {
                    what: format!("see it hold {when}: {reason}"),
                });
            }
            // The first looks come quickly: most things are up within a second.
            let pause = check.every.min(backoff(check.every / 5, attempt));
            self.pause(pause.min(check.timeout.saturating_sub(waited)))
                .await;
            attempt += 1;
        }
    }
}
