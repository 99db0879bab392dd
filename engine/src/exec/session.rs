//! One run: how effects are meant, and where they are written down.

use super::{Failure, Mode, Outcome, Verb};
use crate::host::Host;
use crate::ledger::{Ledger, LedgerError, RunId};
use crate::plan::{PhaseName, Plan, PlannedPhase, PlannedStep};
use crate::resource::{Change, Receipt};

/// A run in progress.
pub(super) struct Session<'a> {
    pub(super) mode: Mode,
    /// A dry run writes nothing down.
    written: Option<(Ledger<'a>, RunId)>,
}

impl<'a> Session<'a> {
    /// A run whose effects are real.
    pub(super) async fn begin(
        host: &'a dyn Host,
        verb: Verb,
        plan: &Plan,
    ) -> Result<Self, LedgerError> {
        let ledger = Ledger::open(host).await?;
        let run = ledger.begin(verb, &plan.role, &plan.digest()).await?;
        Ok(Self {
            mode: Mode::Apply,
            written: Some((ledger, run)),
        })
    }

    /// A run on a simulated host.
    pub(super) fn simulated() -> Self {
        Self {
            mode: Mode::DryRun,
            written: None,
        }
    }

    /// The ledger of a run whose effects are real.
    pub(super) fn ledger(&self) -> Option<(&Ledger<'a>, RunId)> {
        self.written.as_ref().map(|(ledger, run)| (ledger, *run))
    }

    /// A receipt for one step.
    pub(super) fn receipt(&self, phase: &PhaseName, step: &PlannedStep) -> Receipt<'_> {
        match &self.written {
            Some((ledger, run)) => Receipt::logged(Box::new(ledger.step_log(*run, phase, step))),
            None => Receipt::default(),
        }
    }

    pub(super) async fn intent(
        &self,
        phase: &PhaseName,
        step: &PlannedStep,
        change: &Change,
    ) -> Result<(), LedgerError> {
        match &self.written {
            Some((ledger, run)) => ledger.intent(*run, phase, step, change).await,
            None => Ok(()),
        }
    }

    pub(super) async fn converged(
        &self,
        phase: &PhaseName,
        step: &PlannedStep,
    ) -> Result<(), LedgerError> {
        match &self.written {
            Some((ledger, run)) => ledger.receipt(*run, phase, &step.id).await,
            None => Ok(()),
        }
    }

    pub(super) async fn failed(
        &self,
        phase: &PlannedPhase,
        failure: &Failure,
    ) -> Result<(), LedgerError> {
        match &self.written {
            Some((ledger, run)) => ledger.failed(*run, &phase.name, failure).await,
            None => Ok(()),
        }
    }

    pub(super) async fn reverted(&self, phase: &PlannedPhase) -> Result<(), LedgerError> {
        match &self.written {
            Some((ledger, run)) => ledger.reverted(*run, &phase.name).await,
            None => Ok(()),
        }
    }

    pub(super) async fn end(
        &self,
        outcome: Outcome,
        totals: (usize, usize),
    ) -> Result<(), LedgerError> {
        match &self.written {
            Some((ledger, run)) => ledger.end(*run, outcome, totals).await,
            None => Ok(()),
        }
    }
}
