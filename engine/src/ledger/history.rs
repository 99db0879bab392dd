//! What people ask the ledger: which runs there were, what they changed, what failed, and whose a thing is.

use std::collections::BTreeMap;

use serde::Serialize;

use super::store::{live, span_of};
use super::{Record, RunId};
use crate::exec::{Failure, Outcome, Verb};
use crate::plan::{PhaseName, Span, StepId};
use crate::resource::Action;

/// The runs of a host, oldest first.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct History {
    /// The runs.
    pub runs: Vec<Run>,
}

/// One run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Run {
    /// Its number.
    pub run: RunId,
    /// What it was for.
    pub verb: Verb,
    /// The role.
    pub role: String,
    /// The plan's digest.
    pub digest: String,
    /// When it began.
    pub at: String,
    /// How it ended; `None` if it was cut.
    pub outcome: Option<Outcome>,
    /// How many steps changed something.
    pub changed: usize,
    /// How many were as they should be.
    pub unchanged: usize,
    /// Phases in which something was done or failed.
    pub phases: BTreeMap<PhaseName, RunPhase>,
}

/// What a run did in a phase.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct RunPhase {
    /// Steps that were converged, with what was done and the fields that differed.
    pub steps: Vec<(StepId, Action, Vec<String>)>,
    /// Why it failed.
    pub failure: Option<Failure>,
    /// Whether it was taken back.
    pub reverted: bool,
}

/// Whose a thing is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cause {
    /// The thing, as the undo names it.
    pub thing: String,
    /// The step that brought it about.
    pub step: StepId,
    /// Where the script says so.
    pub span: Option<Span>,
    /// In which run.
    pub run: RunId,
    /// Whether it is kept by a clean.
    pub keep: bool,
}

impl History {
    /// The history in these records.
    #[must_use]
    pub fn of(records: &[Record]) -> Self {
        let mut runs: Vec<Run> = Vec::new();
        for record in records {
            if let Record::Run {
                run,
                verb,
                role,
                digest,
                at,
            } = record
            {
                runs.push(Run {
                    run: *run,
                    verb: *verb,
                    role: role.clone(),
                    digest: digest.clone(),
                    at: at.clone(),
                    outcome: None,
                    changed: 0,
                    unchanged: 0,
                    phases: BTreeMap::new(),
                });
                continue;
            }
            let Some(run) = runs.iter_mut().find(|run| Some(run.run) == record.run()) else {
                continue;
            };
            match record {
                Record::Intent {
                    phase,
                    step,
                    action,
                    fields,
                    ..
                } => {
                    let steps = &mut run.phases.entry(phase.clone()).or_default().steps;
                    steps.push((step.clone(), *action, fields.clone()));
                }
                Record::Failed { phase, failure, .. } => {
                    run.phases.entry(phase.clone()).or_default().failure = Some(failure.clone());
                }
                Record::Reverted { phase, .. } => {
                    run.phases.entry(phase.clone()).or_default().reverted = true;
                }
                Record::End {
                    outcome,
                    changed,
                    unchanged,
                    ..
                } => {
                    run.outcome = Some(*outcome);
                    run.changed = *changed;
                    run.unchanged = *unchanged;
                }
                _ => {}
            }
        }
        Self { runs }
    }

    /// Who brought about what matches `thing`: a path, a container's or unit's name, a step, a phase.
    #[must_use]
    pub fn causes(records: &[Record], thing: &str) -> Vec<Cause> {
        live(records)
            .into_iter()
            .filter(|live| {
                let about = live.undo.about();
                about == thing
                    || about.split_once(' ').is_some_and(|(_, name)| name == thing)
                    || about.split(' ').any(|word| word == thing)
                    || live.step.as_str() == thing
                    || live.phase.as_str() == thing
            })
            .map(|live| Cause {
                thing: live.undo.about(),
                span: span_of(records, &live.step),
                step: live.step,
                run: live.run,
                keep: live.keep,
            })
            .collect()
    }
}
