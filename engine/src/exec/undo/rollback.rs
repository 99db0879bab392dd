//! Rolls back a failed phase at once: what this attempt did in it, and no more.

use std::collections::BTreeSet;

use crate::exec::Runner;
use crate::exec::apply::phase::Progress;
use crate::exec::event::Event;
use crate::exec::session::Session;
use crate::exec::undo::executor::{Executor, UndoPurpose, Undone};
use crate::ledger::LedgerError;
use crate::model::chain;
use crate::plan::{PlannedPhase, PlannedStep};
use crate::resource::{Receipt, Undo, in_order, last_order};

impl Runner<'_> {
    /// Reverts what a failed phase did, in reverse order, then runs those of its `on_rollback` steps that were noted. A
    /// rollback that has begun is not interrupted.
    pub(in crate::exec) async fn roll_back(
        &self,
        phase: &PlannedPhase,
        session: &Session<'_>,
        undos: &[Undo],
        rollback_steps: &[&PlannedStep],
        unwritten: Option<LedgerError>,
    ) {
        // If nothing was done, there is nothing to roll back. A command may have done something without an undo, so an
        // intent counts.
        let has_begun = session.has_begun(&phase.name).await;
        let rollback_steps = rollback_steps.iter().copied().filter(|_| has_begun);
        // Then what the phase left behind: nothing of it was there before this run.
        let cleanup = session.new_cleanup_steps(&phase.name).await;
        let cleanup = cleanup.iter().filter(|step| !step.policy.keep);
        let mut steps: Vec<&PlannedStep> = rollback_steps.chain(cleanup).collect();
        let mut executor = Executor::new(self.host, UndoPurpose::Rollback);
        let mut errors = Vec::new();
        let (mut back, mut stuck) = (BTreeSet::new(), BTreeSet::new());
        let mut waiting = in_order(undos);
        // The second round is for directories that were not empty before these steps.
        for _ in 0..2 {
            for undo in std::mem::take(&mut waiting) {
                match executor.undo(undo).await {
                    Undone::Done => _ = back.insert(undo.key()),
                    Undone::Again => _ = stuck.insert(undo.key()),
                    Undone::Full => waiting.push(undo),
                    Undone::Left(error) | Undone::Failed(error) => {
                        executor.failed += 1;
                        errors.push(chain(&error).join(": "));
                        stuck.insert(undo.key());
                    }
                }
            }
            for step in std::mem::take(&mut steps) {
                // The rollback step needs no undo of its own.
                let mut ignored = Receipt::default();
                if let Err(error) = self
                    .step(
                        (&phase.name, step),
                        session,
                        &mut ignored,
                        &Progress::default(),
                    )
                    .await
                {
                    errors.push(format!("{}: {}", step.span, chain(&error).join(": ")));
                }
            }
            waiting.sort_by_key(|undo| last_order(undo));
        }
        // Something else is in these directories: kept resources, or files of other programs.
        let full: Vec<String> = waiting.into_iter().map(Undo::key).collect();
        // Only what could not be taken back stays in the ledger, for a clean to try again. What appears in place of the
        // rest later is not the role's.
        let mut written = None;
        if errors.is_empty() {
            written = session.reverted(&phase.name, None, &full).await.err();
        } else {
            stuck.extend(full);
            for resource in back.difference(&stuck) {
                if written.is_none() {
                    let reverted = session.reverted(&phase.name, Some(resource.as_str()), &[]);
                    written = reverted.await.err();
                }
            }
        }
        let unwritten = unwritten.into_iter().chain(written);
        errors.extend(unwritten.map(|error| chain(&error).join(": ")));
        self.events.emit(Event::PhaseRolledBack {
            phase: phase.name.clone(),
            reverted: undos.len(),
            errors,
        });
    }
}
