//! What the records say of a step in a plan, used if the resource cannot be asked for its state: whether this plan has
//! brought it about, or no run ever has.
//!
//! Pure: records in, an answer out.

use std::collections::{BTreeMap, BTreeSet};

use super::{Record, RunId};
use crate::model::{Outcome, StepId, Verb};
use crate::plan::PlannedStep;

/// What our records say of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recorded {
    /// This plan has brought it about.
    AsPlanned,
    /// No run ever has, or it was taken back.
    Never,
    /// Something was done for it, and its present state is not known.
    Open,
}

/// The records, and what is needed to read them.
pub(crate) struct Reading<'a> {
    pub(crate) records: &'a [Record],
    /// The plan's digest and its steps.
    pub(crate) digest: &'a str,
    pub(crate) steps: BTreeSet<&'a StepId>,
    /// Steps that have something on the host, according to the records.
    pub(crate) live_steps: BTreeSet<&'a StepId>,
}

impl Reading<'_> {
    /// What the records say of this step.
    pub(crate) fn of(&self, step: &PlannedStep) -> Recorded {
        let mut plans: BTreeMap<RunId, &str> = BTreeMap::new();
        // What runs did for the step and was not taken back, with the digest of the run's plan; `None` if the step was
        // cut or is partly taken back. The last entry counts.
        let mut done: Vec<(RunId, Option<&str>)> = Vec::new();
        let mut resources: BTreeSet<String> = BTreeSet::new();
        // The steps of the plan that the current run has changed.
        let mut changed_here: BTreeSet<&StepId> = BTreeSet::new();
        for record in self.records {
            match record {
                Record::Run {
                    run, digest, verb, ..
                } => {
                    changed_here.clear();
                    if applies(*verb) {
                        plans.insert(*run, digest.as_str());
                    }
                }
                Record::Intent { run, step: id, .. } => {
                    changed_here.extend(self.steps.get(id));
                    if *id == step.id {
                        done.push((*run, None));
                    }
                }
                Record::Undo { step: id, undo, .. } if *id == step.id => {
                    resources.insert(undo.key());
                }
                Record::Receipt { run, step: id, .. } if *id == step.id => {
                    done.push((*run, plans.get(run).copied()));
                }
                // A run of all phases saw every step as planned, also those that it had no need to change. What it took
                // back first counts among its changes, but is none of the plan's steps.
                Record::End {
                    run,
                    outcome: Outcome::Converged,
                    unchanged,
                    ..
                } if changed_here.len() + unchanged == self.steps.len()
                    && plans.get(run) == Some(&self.digest) =>
                {
                    done.push((*run, Some(self.digest)));
                }
                // What earlier runs did is in force again. Kept resources were not taken back.
                Record::Reverted {
                    run,
                    phase,
                    resource: None,
                    ..
                } if step.id.phase() == Some(phase.as_str()) && !step.policy.keep => {
                    done.retain(|(by, _)| by != run);
                }
                // Not everything could be taken back.
                Record::Reverted { run, phase, .. }
                    if step.id.phase() == Some(phase.as_str()) && !step.policy.keep =>
                {
                    done.push((*run, None));
                }
                Record::Pruned { run, resource, .. } => {
                    changed_here.clear();
                    if resources.remove(resource) {
                        if resources.is_empty() {
                            done.clear();
                        } else {
                            done.push((*run, None));
                        }
                    }
                }
                Record::CleanupDone { .. } => changed_here.clear(),
                Record::Cleaned { .. } => {
                    done.clear();
                    resources.clear();
                }
                _ => {}
            }
        }
        match done.last() {
            Some((_, Some(by))) if *by == self.digest => Recorded::AsPlanned,
            Some(_) => Recorded::Open,
            None if self.live_steps.contains(&step.id) => Recorded::Open,
            // Compaction drops old runs; then it cannot be told what they did.
            None if !plans.is_empty() && self.records.iter().any(begins) => Recorded::Never,
            None => Recorded::Open,
        }
    }
}

/// Whether a run of this kind applies steps.
fn applies(verb: Verb) -> bool {
    matches!(
        verb,
        Verb::Apply | Verb::Restart | Verb::Renew | Verb::Rotate
    )
}

/// Whether the records from this one on have everything that was done since the host was bare.
fn begins(record: &Record) -> bool {
    matches!(record, Record::Run { run: 1, .. } | Record::Cleaned { .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Ledger;
    use crate::model::{PhaseName, Span, Text};
    use crate::plan::StepPolicy;
    use crate::resource::{Action, ManifestSpec, Spec, Undo};

    fn phase() -> PhaseName {
        "addons".parse().unwrap()
    }

    fn id(name: &str) -> StepId {
        StepId::new(&phase(), "manifest", name)
    }

    fn begun(run: RunId, verb: Verb, digest: &str) -> Record {
        Record::Run {
            run,
            verb,
            role: "r".to_owned(),
            digest: digest.to_owned(),
            at: String::new(),
        }
    }

    fn intent(run: RunId, name: &str) -> Record {
        Record::Intent {
            run,
            phase: phase(),
            step: id(name),
            span: Span::file("phases/addons.rhai"),
            action: Action::Create,
            fields: Vec::new(),
        }
    }

    /// What a run writes of one step: intent, inverse and receipt.
    fn did(run: RunId, name: &str) -> Vec<Record> {
        let undo = Undo::RemoveFile { path: name.into() };
        vec![
            intent(run, name),
            Record::Undo {
                run,
                phase: phase(),
                step: id(name),
                keep: false,
                undo,
            },
            Record::Receipt {
                run,
                phase: phase(),
                step: id(name),
            },
        ]
    }

    fn reverted(run: RunId) -> Record {
        let phase = phase();
        Record::Reverted {
            run,
            phase,
            resource: None,
            remaining: Vec::new(),
        }
    }

    fn pruned(run: RunId, name: &str) -> Vec<Record> {
        let gone = Record::Pruned {
            run,
            phase: phase(),
            step: id(name),
            resource: format!("file {name}"),
            in_use: false,
        };
        vec![intent(run, name), gone]
    }

    fn end(run: RunId, changed: usize, unchanged: usize) -> Record {
        Record::End {
            run,
            outcome: Outcome::Converged,
            changed,
            unchanged,
            at: String::new(),
        }
    }

    /// What such records say of step `/a` in plan `now`, which has `/b` as well.
    fn recorded_of(parts: &[&[Record]]) -> Recorded {
        recorded_with_policy(parts, StepPolicy::default())
    }

    fn recorded_with_policy(parts: &[&[Record]], policy: StepPolicy) -> Recorded {
        let records = parts.concat();
        let (a, b) = (id("/a"), id("/b"));
        let resources = Ledger::live_resources_in(&records);
        let reading = Reading {
            records: &records,
            digest: "now",
            steps: [&a, &b].into(),
            live_steps: resources
                .iter()
                .flat_map(|resource| &resource.steps)
                .collect(),
        };
        reading.of(&PlannedStep {
            id: a.clone(),
            span: Span::file("phases/addons.rhai"),
            spec: Spec::Manifest(ManifestSpec {
                name: "a".to_owned(),
                text: Text::Known(String::new()),
                kubeconfig: "/a".into(),
            }),
            policy,
        })
    }

    #[test]
    fn every_run_that_applies_brings_about() {
        for verb in [Verb::Apply, Verb::Restart, Verb::Renew, Verb::Rotate] {
            let run = [begun(1, verb, "now")];
            assert_eq!(
                recorded_of(&[&run, &did(1, "/a")]),
                Recorded::AsPlanned,
                "{verb:?}"
            );
            assert_eq!(
                recorded_of(&[&run, &did(1, "/b")]),
                Recorded::Never,
                "{verb:?}"
            );
        }
        let another = [begun(1, Verb::Rotate, "another")];
        assert_eq!(recorded_of(&[&another, &did(1, "/a")]), Recorded::Open);
    }

    #[test]
    fn a_rollback_takes_back_what_its_own_run_did() {
        let (first, second) = (
            [begun(1, Verb::Apply, "now")],
            [begun(2, Verb::Apply, "another")],
        );
        let back = [reverted(2)];
        let did = |run| did(run, "/a");
        assert_eq!(
            recorded_of(&[&first, &did(1), &second, &did(2), &back]),
            Recorded::AsPlanned
        );
        assert_eq!(
            recorded_of(&[&first, &second, &did(2), &back]),
            Recorded::Never
        );
        let kept = StepPolicy {
            keep: true,
            ..StepPolicy::default()
        };
        assert_eq!(
            recorded_with_policy(&[&first, &did(1), &second, &did(2), &back], kept),
            Recorded::Open
        );
    }

    #[test]
    fn a_step_of_an_interrupted_run_is_open() {
        let run = [begun(1, Verb::Apply, "now"), intent(1, "/a")];
        assert_eq!(recorded_of(&[&run]), Recorded::Open);
        assert_eq!(recorded_of(&[&run, &[reverted(1)]]), Recorded::Never);
    }

    #[test]
    fn pruned_resources_belong_to_no_step() {
        let first = [begun(1, Verb::Apply, "another")];
        let old = did(1, "/gone");
        let second = [begun(2, Verb::Apply, "now")];
        let gone = pruned(2, "/gone");
        let all = |last| recorded_of(&[&first, &old, &second, &gone, &[last]]);
        assert_eq!(all(end(2, 1, 1)), Recorded::Never, "one of two phases");
        assert_eq!(all(end(2, 1, 2)), Recorded::AsPlanned, "all of them");
        let (was, gone) = (did(1, "/a"), pruned(2, "/a"));
        assert_eq!(recorded_of(&[&first, &was, &second]), Recorded::Open);
        assert_eq!(
            recorded_of(&[&first, &was, &second, &gone]),
            Recorded::Never
        );
    }

    #[test]
    fn history_has_no_compacted_runs() {
        let later = [begun(60, Verb::Apply, "now")];
        assert_eq!(recorded_of(&[&later]), Recorded::Open);
        assert_eq!(recorded_of(&[]), Recorded::Open);
    }
}
