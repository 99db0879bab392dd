//! What the records say: what a run did, what is on the host, and how it is taken back.
//!
//! Not here: how records count (`live_resource`), and how they are read from the file (`contents`) and written to it (`write`).

use std::collections::{BTreeMap, BTreeSet};

use super::Ledger;
use crate::ledger::history::History;
use crate::ledger::live_resource::{
    LiveRecords, LiveResource, LiveUndo, all_cleanup_steps, cleanup_steps, interrupted_runs,
    left_by_rollback, live, noted_by, resources,
};
use crate::ledger::record::{Record, RunId};
use crate::model::{Outcome, PhaseName, StepId, Verb};
use crate::plan::PlannedStep;
use crate::resource::Undo;

impl Ledger<'_> {
    /// Whether one of these runs was about to converge anything in a phase.
    pub async fn has_intent(&self, runs: &BTreeSet<RunId>, name: &PhaseName) -> bool {
        let state = self.state.lock().await;
        state.records.iter().any(|record| {
            matches!(record, Record::Intent { run, phase, .. } if runs.contains(run) && phase == name)
        })
    }

    /// Whether the last run has no end.
    pub async fn was_interrupted(&self) -> bool {
        let state = self.state.lock().await;
        let mut back = state.records.iter().rev();
        let last = back.find(|record| matches!(record, Record::Run { .. } | Record::End { .. }));
        matches!(last, Some(Record::Run { .. }))
    }

    /// Runs that applied this plan and were interrupted, with the phases that they completed.
    pub async fn interrupted_runs(&self, digest: &str) -> BTreeMap<RunId, BTreeSet<PhaseName>> {
        interrupted_runs(&self.state.lock().await.records, digest)
    }

    /// All undos that these runs noted in a phase and that were not carried out, in their order, without those of kept
    /// resources.
    pub async fn noted_by(&self, runs: &BTreeSet<RunId>, phase: &PhaseName) -> Vec<Undo> {
        let noted = noted_by(&self.state.lock().await.records, runs, phase);
        noted.into_iter().map(|live| live.undo).collect()
    }

    /// Directories that a rollback of a phase left, if the phase has not been completed since.
    pub async fn left_by_rollback(&self, phase: &PhaseName) -> BTreeSet<String> {
        left_by_rollback(&self.state.lock().await.records, phase)
    }

    /// Undos that have not been carried out, oldest first: for each resource the one that leads back to the state before
    /// the role.
    pub async fn live(&self) -> Vec<LiveUndo> {
        live(&self.state.lock().await.records)
    }

    /// The same, from these records.
    #[must_use]
    pub fn live_in(records: &[Record]) -> Vec<LiveUndo> {
        live(records)
    }

    /// Every resource that was changed and not taken back, oldest first.
    pub async fn resources(&self) -> Vec<LiveResource> {
        resources(&self.state.lock().await.records)
    }

    /// The same, from these records.
    #[must_use]
    pub fn live_resources_in(records: &[Record]) -> Vec<LiveResource> {
        resources(records)
    }

    /// Steps that remove what phases left behind, by phase, oldest first.
    pub async fn all_cleanup_steps(&self) -> Vec<(PhaseName, Vec<PlannedStep>)> {
        all_cleanup_steps(&self.state.lock().await.records)
    }

    /// The cleanup steps of a phase, and whether some have been carried out since; `None` if the phase has none.
    pub async fn cleanup_steps_of(&self, phase: &PhaseName) -> Option<(Vec<StepId>, bool)> {
        cleanup_steps(&self.state.lock().await.records, phase)
    }

    /// Like [`Ledger::all_cleanup_steps`], from these records.
    #[must_use]
    pub fn all_cleanup_steps_in(records: &[Record]) -> Vec<(PhaseName, Vec<PlannedStep>)> {
        all_cleanup_steps(records)
    }

    /// Phases that have something on the host, in the order in which they were first applied.
    #[must_use]
    pub fn phases_in(records: &[Record]) -> Vec<PhaseName> {
        LiveRecords::of(records).phases(records)
    }

    /// The role of the last run that had one.
    #[must_use]
    pub fn role_in(records: &[Record]) -> Option<String> {
        records.iter().rev().find_map(|record| match record {
            Record::Run { role, .. } if !role.is_empty() => Some(role.clone()),
            _ => None,
        })
    }

    /// The role that is on the host, according to these records; none if only kept resources are.
    #[must_use]
    pub fn installed_role_in(records: &[Record]) -> Option<String> {
        let has_live = live(records).iter().any(|live| !live.keep);
        has_live.then(|| Self::role_in(records)).flatten()
    }

    /// Whether the last clean has not ended well, according to these records. Its end may be missing although nothing is left to take back.
    #[must_use]
    pub fn is_clean_unfinished_in(records: &[Record]) -> bool {
        let last = records.iter().rev().find_map(|record| match record {
            Record::Run {
                run,
                verb: Verb::Clean,
                ..
            } => Some(*run),
            _ => None,
        });
        last.is_some_and(|last| {
            let is_its_end = |record: &Record| {
                matches!(record, Record::End { run, outcome: Outcome::Cleaned, .. } if *run == last)
            };
            !records.iter().any(is_its_end)
        })
    }

    /// The cleanup steps of a phase, if one of these runs has recorded them.
    pub async fn cleanup_steps_of_runs(
        &self,
        runs: &BTreeSet<RunId>,
        phase: &PhaseName,
    ) -> Vec<PlannedStep> {
        LiveRecords::of(&self.state.lock().await.records).cleanup_steps_of_runs(runs, phase)
    }

    /// The runs, for questions of operators.
    pub async fn history(&self) -> History {
        History::of(&self.state.lock().await.records)
    }
}
