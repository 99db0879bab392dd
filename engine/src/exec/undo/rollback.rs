//! Rolls back a failed phase at once: what this attempt did in it, and no more.

use std::collections::BTreeSet;

use crate::exec::Runner;
use crate::exec::apply::session::Session;
use crate::exec::event::Event;
use crate::ledger::LedgerError;
use crate::model::chain;
use crate::plan::{PlannedPhase, PlannedStep};
use crate::resource::{Receipt, Undo, revert_each};

impl Runner<'_> {
    /// Reverts what a failed phase did, in reverse order, then runs those of its `on_rollback` steps that were noted.
    pub(in crate::exec) async fn roll_back(
        &self,
        phase: &PlannedPhase,
        session: &Session<'_>,
        undos: &[Undo],
        ways_back: &[&PlannedStep],
        unwritten: Option<LedgerError>,
    ) {
        let mut errors = Vec::new();
        let (mut back, mut stuck) = (BTreeSet::new(), BTreeSet::new());
        for (undo, result) in revert_each(undos, self.host).await {
            match result {
                Ok(()) => back.insert(undo.about()),
                Err(error) => {
                    errors.push(chain(&error).join(": "));
                    stuck.insert(undo.about())
                }
            };
        }
        let lane = session.lane_begun_here(&phase.name).await;
        // If nothing was done, there is nothing to roll back. A command may have done something without an undo, so an
        // intent counts.
        let has_begun = session.has_begun(&phase.name).await;
        let ways_back = ways_back.iter().copied().filter(|_| has_begun);
        // Then what the phase left behind: nothing of it was there before this run.
        for step in ways_back.chain(lane.iter().filter(|step| !step.policy.keep)) {
            // The rollback step needs no undo of its own.
            let mut ignored = Receipt::default();
            if let Err(error) = self.step(&phase.name, step, session, &mut ignored).await {
                errors.push(format!("{}: {}", step.span, chain(&error).join(": ")));
            }
        }
        // Only what could not be taken back stays in the ledger, for a clean to try again. What appears in place of the
        // rest later is not the role's.
        let mut written = None;
        if errors.is_empty() {
            written = session.reverted(phase, None).await.err();
        } else {
            for thing in back.difference(&stuck) {
                if written.is_none() {
                    written = session.reverted(phase, Some(thing)).await.err();
                }
            }
        }
        errors.extend(
            unwritten
                .into_iter()
                .chain(written)
                .map(|error| chain(&error).join(": ")),
        );
        self.events.emit(Event::PhaseRolledBack {
            phase: phase.name.clone(),
            reverted: undos.len(),
            errors,
        });
    }
}
