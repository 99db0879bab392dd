//! The log that a step gets: it writes each undo to the ledger before the step makes the effect.
//!
//! Saved contents of files are written before the undos that name them.

use async_trait::async_trait;

use super::Ledger;
use super::disk::FILE;
use crate::ledger::{Record, RunId};
use crate::model::{PhaseName, StepId};
use crate::plan::PlannedStep;
use crate::resource::{ResourceResult, Undo, UndoLog};

/// Writes the undos of one step.
pub struct StepLog<'l, 'a> {
    ledger: &'l Ledger<'a>,
    run: RunId,
    phase: PhaseName,
    step: StepId,
    keep: bool,
}

impl<'a> Ledger<'a> {
    /// A log for the undos of one step.
    #[must_use]
    pub fn step_log<'l>(
        &'l self,
        run: RunId,
        phase: &PhaseName,
        step: &PlannedStep,
    ) -> StepLog<'l, 'a> {
        StepLog {
            ledger: self,
            run,
            phase: phase.clone(),
            step: step.id.clone(),
            keep: step.policy.keep,
        }
    }
}

#[async_trait]
impl UndoLog for StepLog<'_, '_> {
    async fn note(&self, undo: &Undo) -> ResourceResult<()> {
        if let Some(content) = undo.properties().content
            && let Some(bytes) = content.at_hand()
            && self.ledger.host.entry(&content.path()).await?.is_none()
        {
            // The content first: a record must never refer to content that is not there.
            self.ledger.host.write(&content.path(), bytes, FILE).await?;
        }
        self.ledger
            .append(Record::Undo {
                run: self.run,
                phase: self.phase.clone(),
                step: self.step.clone(),
                keep: self.keep,
                undo: undo.clone(),
            })
            .await?;
        Ok(())
    }
}
