//! A step that was interrupted or has failed, and how it is completed: with the plan that has no new step, as an apply does.
//!
//! The ledger knows such a step: its run has no good end. A file that the run was about to write may be half of what it should be, or a
//! component may not have read it, so the next step cannot be checked before. Start with [`Runner::interrupted_step`].

use std::collections::BTreeSet;

use crate::exec::{Renewals, Runner};
use crate::ledger::{History, Ledger, Run};
use crate::model::{Outcome, StepId, Verb};
use crate::plan::Plan;
use crate::resource::pki::{ENCRYPTION, FINISH_FIELDS};
use crate::resource::{ResourceResult, Spec};

/// A step that was interrupted or has failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterruptedStep {
    /// The names of what it has begun to finish.
    finishes: BTreeSet<String>,
}

impl InterruptedStep {
    /// Whether it was the step `finish` of this authority, or of `encryption`, and has begun to change it.
    #[must_use]
    pub fn finishes(&self, of: &str) -> bool {
        self.finishes.contains(of)
    }
}

impl Runner<'_> {
    /// The step of a replacement that has not come to its end on this host, if there is one. Its renewals are a part of it. Reads only.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub async fn interrupted_step(&self) -> ResourceResult<Option<InterruptedStep>> {
        let records = Ledger::read(self.host).await?;
        Ok(interrupted(&History::of(&records).runs, self.plan))
    }

    /// Completes an interrupted step. The runner's plan has no new step.
    ///
    /// # Errors
    /// As [`Runner::apply`].
    ///
    /// # Cancel safety
    /// As [`Runner::apply`]. The next call goes on.
    pub async fn complete_step(self) -> ResourceResult<Outcome> {
        self.rotate().await
    }

    /// Predicts what [`Runner::complete_step`] would do. The host must be a simulated one, as for [`Runner::dry_run`].
    ///
    /// # Errors
    /// The simulated host failed.
    pub async fn predict_completion(mut self) -> ResourceResult<Outcome> {
        self.renewals = Renewals::none();
        self.dry_run().await
    }
}

/// The step that these runs, oldest first, have left without an end. An apply does not count as its end: it may have been one of some phases
/// only. The completion of a step that is complete changes nothing.
fn interrupted(runs: &[Run], plan: &Plan) -> Option<InterruptedStep> {
    let mut left: Option<InterruptedStep> = None;
    let mut is_by_renewals = true;
    for run in runs {
        match (run.verb, run.outcome) {
            (Verb::Rotate, Some(Outcome::Converged)) | (_, Some(Outcome::Cleaned)) => {
                left = None;
                is_by_renewals = true;
            }
            // nodeletd renews as well, also when nothing is replaced.
            (Verb::Renew, Some(Outcome::Converged)) if is_by_renewals => left = None,
            // Nothing was touched.
            (Verb::Rotate, Some(Outcome::Refused)) => {}
            // A renewal that fails is taken back.
            (Verb::Rotate, _) | (Verb::Renew, None | Some(Outcome::Interrupted)) => {
                is_by_renewals &= run.verb == Verb::Renew;
                let mut finishes = left.map(|its| its.finishes).unwrap_or_default();
                finishes.extend(finished_by(run, plan));
                left = Some(InterruptedStep { finishes });
            }
            _ => {}
        }
    }
    left
}

/// What a run was about to finish.
fn finished_by(run: &Run, plan: &Plan) -> impl Iterator<Item = String> {
    let steps = run.phases.values().flat_map(|phase| &phase.steps);
    let finished = steps.filter(|(_, _, fields)| {
        let mut fields = fields.iter();
        fields.any(|field| FINISH_FIELDS.contains(&field.as_str()))
    });
    finished.filter_map(|(step, ..)| name_of(step, plan))
}

/// The authority that a step of the plan makes, or `encryption`.
fn name_of(id: &StepId, plan: &Plan) -> Option<String> {
    let mut steps = plan.phases.iter().flat_map(|phase| &phase.steps);
    match &steps.find(|step| step.id == *id)?.spec {
        Spec::Authority(spec) => Some(spec.name.clone()),
        Spec::EncryptionKeys(_) => Some(ENCRYPTION.to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(verb: Verb, outcome: Option<Outcome>) -> Run {
        Run {
            run: 1,
            verb,
            role: "a role".to_owned(),
            digest: "a digest".to_owned(),
            at: String::new(),
            outcome,
            changed: 0,
            unchanged: 0,
            phases: std::collections::BTreeMap::new(),
        }
    }

    #[test]
    fn only_a_step_without_a_good_end_is_interrupted() {
        let is = |runs: &[(Verb, Option<Outcome>)]| {
            let runs: Vec<Run> = runs.iter().map(|(verb, end)| run(*verb, *end)).collect();
            interrupted(&runs, &Plan::bare(Vec::new())).is_some()
        };
        let killed = (Verb::Rotate, None);
        let converged = Some(Outcome::Converged);
        assert!(!is(&[]));
        assert!(!is(&[(Verb::Apply, None), (Verb::Rotate, converged)]));
        assert!(!is(&[(Verb::Rotate, Some(Outcome::Refused))]));
        assert!(is(&[killed]));
        for end in [Outcome::Failed, Outcome::Interrupted] {
            assert!(is(&[(Verb::Rotate, Some(end))]), "{end:?}");
        }
        // nodeletd has repaired some phases, or an operator has applied some.
        assert!(is(&[killed, (Verb::Restart, converged)]));
        assert!(is(&[killed, (Verb::Apply, converged)]));
        assert!(!is(&[killed, (Verb::Rotate, converged)]));
        assert!(!is(&[killed, (Verb::Clean, Some(Outcome::Cleaned))]));
        // A renewal belongs to the step `switch`. It is taken back if it fails.
        assert!(is(&[(Verb::Rotate, converged), (Verb::Renew, None)]));
        assert!(!is(&[(Verb::Renew, Some(Outcome::Failed))]));
        assert!(!is(&[(Verb::Renew, None), (Verb::Renew, converged)]));
        assert!(is(&[killed, (Verb::Renew, converged)]));
    }
}
