//! Answers of the ledger for operators: which runs there were, what they changed, what failed, and which step made a
//! resource.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Record, RunId};
use crate::ledger::live_resource::{cleanup_steps_noted, live, span_of};
use crate::model::{Failure, Outcome, PhaseName, Span, StepId, Verb};
use crate::plan::PlannedStep;
use crate::resource::{Action, Spec};

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
    /// How it ended; `None` if it was interrupted.
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

/// The step that made a resource.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cause {
    /// The resource, as the undo names it; or what a clean will do about it.
    pub resource: String,
    /// The step that made it.
    pub step: StepId,
    /// Where the script says so.
    pub span: Option<Span>,
    /// In which run.
    pub run: RunId,
    /// Whether it is kept by a clean.
    pub keep: bool,
    /// Whether no step made it: a running component leaves it behind, and a clean takes it back.
    pub left: bool,
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
                ..
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
}

/// What the ledger knows about a resource.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Why {
    /// What the question is about.
    pub subject: String,
    /// The recorded changes of it that were not taken back.
    pub causes: Vec<Cause>,
    /// What was done to it, run by run, oldest first.
    pub attempts: Vec<Attempt>,
}

/// What one run did to a resource.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Attempt {
    /// The run, and when it began.
    pub run: RunId,
    /// When it began.
    pub at: String,
    /// The phase.
    pub phase: PhaseName,
    /// Steps that were converged.
    pub steps: Vec<(StepId, Action, Vec<String>)>,
    /// Why the phase failed.
    pub failure: Option<Failure>,
    /// Whether it was taken back.
    pub reverted: bool,
}

impl Why {
    /// What these records know about `resource`: a phase, a step, a path, the name of a container, unit …
    #[must_use]
    pub fn of(records: &[Record], resource: &str) -> Self {
        let mut causes: Vec<Cause> = live(records)
            .into_iter()
            .filter(|live| {
                is_about(&live.undo.key(), resource)
                    || is_step(&live.step, resource)
                    || live.phase.as_str() == resource
            })
            .map(|live| Cause {
                resource: live.undo.key(),
                span: span_of(records, &live.step),
                step: live.step,
                run: live.run,
                keep: live.keep,
                left: false,
            })
            .collect();
        causes.extend(left_behind(records, resource));
        let mut attempts = Vec::new();
        for run in History::of(records).runs {
            for (phase, mut done) in run.phases {
                let whole = phase.as_str() == resource;
                done.steps.retain(|(step, ..)| {
                    whole
                        || is_step(step, resource)
                        || causes.iter().any(|cause| cause.step == *step)
                });
                let failed_here = done
                    .failure
                    .as_ref()
                    .is_some_and(|failure| whole || failed_at(failure, resource));
                if done.steps.is_empty() && !failed_here {
                    continue;
                }
                attempts.push(Attempt {
                    run: run.run,
                    at: run.at.clone(),
                    phase,
                    steps: done.steps,
                    failure: done.failure.filter(|_| failed_here || whole),
                    reverted: done.reverted,
                });
            }
        }
        Self {
            subject: resource.to_owned(),
            causes,
            attempts,
        }
    }

    /// Whether the ledger knows anything about it.
    #[must_use]
    pub fn is_known(&self) -> bool {
        !self.causes.is_empty() || !self.attempts.is_empty()
    }
}

/// What a phase leaves behind although no step has made it: kernel settings, chains, interfaces and other traces. If
/// several prefixes match, the longest one counts.
fn left_behind(records: &[Record], resource: &str) -> Vec<Cause> {
    let mut found = Vec::new();
    let mut longest = 0;
    for (run, phase, steps) in cleanup_steps_noted(records) {
        for step in steps {
            let label = step.spec.label();
            let begins = match &step.spec {
                Spec::FirewallChains(its) => its.is_ours(resource),
                Spec::Ipsets(its) => resource.starts_with(&its.prefix),
                _ => false,
            };
            if begins {
                longest = longest.max(label.len());
            }
            if begins
                || label == resource
                || is_step(&step.id, resource)
                || phase.as_str() == resource
            {
                found.push((begins.then_some(label.len()), run, step));
            }
        }
    }
    found.retain(|(begins, ..)| begins.is_none_or(|length| length == longest));
    let cause = |(_, run, step): (Option<usize>, RunId, PlannedStep)| Cause {
        resource: format!(
            "{} {}, left behind by a running component",
            step.spec.kind(),
            step.spec.label()
        ),
        step: step.id,
        span: Some(step.span),
        run,
        keep: step.policy.keep,
        left: true,
    };
    found.into_iter().map(cause).collect()
}

/// Whether a failure was in a step or check of this name.
fn failed_at(failure: &Failure, resource: &str) -> bool {
    let about = failure.what.strip_prefix(Failure::UNDO);
    let about = about.unwrap_or(&failure.what);
    let label = about.split_once(' ').map_or(about, |(_, label)| label);
    label.trim_matches('"') == resource || is_about(about, resource)
}

/// `file /etc/x` is about `/etc/x`; `packages a b` is about `a`; `running unit docker.service` about `docker`.
pub(crate) fn is_about(about: &str, resource: &str) -> bool {
    about == resource
        || about
            .split(' ')
            .skip(1)
            .any(|word| word == resource || word.strip_suffix(".service") == Some(resource))
}

/// A step by its id, or by its id without the phase, or by its label alone.
pub(crate) fn is_step(step: &StepId, resource: &str) -> bool {
    let id = step.as_str();
    let rest = id.split_once('/').map_or(id, |(_, rest)| rest);
    let label = rest.split_once(':').map_or(rest, |(_, label)| label);
    id == resource || rest == resource || label == resource
}
