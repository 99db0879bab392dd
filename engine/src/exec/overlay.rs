//! The host that a dry run against a real one plays on: an overlay that knows what the plan brings, and what our own
//! records say of a cluster that does not answer.

use std::collections::{BTreeMap, BTreeSet};

use crate::host::fake::{KubernetesRules, key};
use crate::host::overlay::{Memory, OverlayHost, Remembered};
use crate::host::{ClusterNode, Host};
use crate::ledger::{Ledger, Record, RunId};
use crate::plan::{Plan, PlannedStep, StepId};
use crate::resource::{NodeSpec, Spec};

use super::{Outcome, Verb};

/// An overlay above `lower` for a dry run of `plan`. Reads, and nothing else.
pub async fn overlay_host<'a>(lower: &'a dyn Host, plan: &Plan) -> OverlayHost<'a> {
    let memory = memory(lower, plan).await;
    let mut host = OverlayHost::new(lower)
        .with_memory(memory)
        .with_kubernetes(|rules| {
            // Which subnet the node will get is the controller-manager's to decide: known after apply.
            rules.pod_cidr.clear();
            rules.node_name = steps(plan).find_map(|step| match &step.spec {
                Spec::Node(node) => Some(node.name.clone()),
                _ => None,
            });
        });
    for step in steps(plan) {
        if let Spec::Image(image) = &step.spec {
            host = host.with_archive(image.archive.clone(), image.reference.clone());
        }
    }
    host
}

fn steps(plan: &Plan) -> impl Iterator<Item = &PlannedStep> {
    plan.phases
        .iter()
        .filter(|phase| phase.skipped.is_none())
        .flat_map(|phase| &phase.steps)
}

/// What is remembered of the cluster's nodes and objects, for when its API server does not answer.
async fn memory(lower: &dyn Host, plan: &Plan) -> Memory {
    let mut memory = Memory {
        empty: begins_empty(lower, plan).await,
        ..Memory::default()
    };
    // An unreadable ledger remembers nothing: then it is known after apply.
    let records = Ledger::read(lower).await.unwrap_or_default();
    let things = Ledger::things_in(&records);
    let reading = Reading {
        records: &records,
        digest: &plan.digest(),
        steps: steps(plan).map(|step| &step.id).collect(),
        standing: things.iter().flat_map(|thing| &thing.steps).collect(),
    };
    for step in steps(plan) {
        if !matches!(step.spec, Spec::Node(_) | Spec::Manifest(_)) {
            continue;
        }
        let as_planned = match reading.of(step) {
            // An object that is to go is not there once that was done; without it somebody else may have made one.
            Told::AsPlanned => !step.policy.absent,
            Told::Never if !step.policy.absent => false,
            Told::Never | Told::Open => continue,
        };
        match &step.spec {
            Spec::Node(node) => {
                let remembered = if as_planned {
                    Remembered::AsPlanned(planned_node(node))
                } else {
                    Remembered::Never
                };
                memory.nodes.insert(node.name.clone(), remembered);
            }
            Spec::Manifest(manifest) => {
                for object in manifest.known_objects().into_iter().flatten() {
                    if let Ok(key) = key(&object) {
                        let remembered = if as_planned {
                            Remembered::AsPlanned(object)
                        } else {
                            Remembered::Never
                        };
                        memory.objects.insert(key, remembered);
                    }
                }
            }
            _ => {}
        }
    }
    memory
}

/// Whether etcd will find no data on this host.
async fn begins_empty(lower: &dyn Host, plan: &Plan) -> bool {
    let etcd = KubernetesRules::default().etcd_container;
    for step in steps(plan) {
        let Spec::Container(container) = &step.spec else {
            continue;
        };
        if container.name != etcd {
            continue;
        }
        for mount in container.mounts.iter().filter(|mount| !mount.read_only) {
            match lower.entry(&mount.source.join("member")).await {
                Ok(None) => {}
                // Data, or a directory that we may not look into.
                Ok(Some(_)) | Err(_) => return false,
            }
        }
        return true;
    }
    false
}

/// What our records say of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// This very plan brought it about.
    AsPlanned,
    /// No run ever did, or it was taken back.
    Never,
    /// Something was done for it, and how that stands cannot be told.
    Open,
}

/// What to read the records with.
struct Reading<'a> {
    records: &'a [Record],
    /// The plan's digest and its steps.
    digest: &'a str,
    steps: BTreeSet<&'a StepId>,
    /// Steps of which something stands by the records.
    standing: BTreeSet<&'a StepId>,
}

impl Reading<'_> {
    fn of(&self, step: &PlannedStep) -> Told {
        let mut plans: BTreeMap<RunId, &str> = BTreeMap::new();
        // What runs did for the step and nobody took back, by the digests of their plans; none of what was cut or is
        // partly gone. The last one counts.
        let mut done: Vec<(RunId, Option<&str>)> = Vec::new();
        let mut things: BTreeSet<String> = BTreeSet::new();
        // The plan's steps that the present run has changed.
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
                    things.insert(undo.about());
                }
                Record::Receipt { run, step: id, .. } if *id == step.id => {
                    done.push((*run, plans.get(run).copied()));
                }
                // A run of all phases saw every step as planned, also those that it had no need to change. What it took
                // back first is among its changes, and none of the plan's steps.
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
                // What earlier runs did stands again; what is kept was not taken back.
                Record::Reverted {
                    run,
                    phase,
                    thing: None,
                } if step.id.phase() == Some(phase.as_str()) && !step.policy.keep => {
                    done.retain(|(by, _)| by != run);
                }
                // Not everything could be taken back.
                Record::Reverted { run, phase, .. }
                    if step.id.phase() == Some(phase.as_str()) && !step.policy.keep =>
                {
                    done.push((*run, None));
                }
                Record::Withdrawn { run, thing, .. } => {
                    changed_here.clear();
                    if things.remove(thing) {
                        if things.is_empty() {
                            done.clear();
                        } else {
                            done.push((*run, None));
                        }
                    }
                }
                Record::LaneWithdrawn { .. } => changed_here.clear(),
                Record::Cleaned { .. } => {
                    done.clear();
                    things.clear();
                }
                _ => {}
            }
        }
        match done.last() {
            Some((_, Some(by))) if *by == self.digest => Told::AsPlanned,
            Some(_) => Told::Open,
            None if self.standing.contains(&step.id) => Told::Open,
            // Compaction drops old runs; then it cannot be told what they did.
            None if !plans.is_empty() && self.records.iter().any(begins) => Told::Never,
            None => Told::Open,
        }
    }
}

/// Whether a run of this kind brings steps about.
fn applies(verb: Verb) -> bool {
    matches!(
        verb,
        Verb::Apply | Verb::Restart | Verb::Renew | Verb::Rotate
    )
}

/// Whether all that was done since the host was bare comes after this record or is told by it.
fn begins(record: &Record) -> bool {
    matches!(record, Record::Run { run: 1, .. } | Record::Cleaned { .. })
}

fn planned_node(node: &NodeSpec) -> ClusterNode {
    ClusterNode {
        labels: node.labels.clone(),
        taints: node.taints.clone(),
        pod_cidr: Some(
            node.pod_cidr
                .clone()
                .unwrap_or_else(|| "known after apply".to_owned()),
        ),
        ..ClusterNode::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{PhaseName, Span, StepPolicy, Text};
    use crate::resource::{Action, ManifestSpec, Undo};

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
            thing: None,
        }
    }

    fn withdrawn(run: RunId, name: &str) -> Vec<Record> {
        let gone = Record::Withdrawn {
            run,
            phase: phase(),
            step: id(name),
            thing: format!("file {name}"),
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
    fn told(parts: &[&[Record]]) -> Told {
        told_of(parts, StepPolicy::default())
    }

    fn told_of(parts: &[&[Record]], policy: StepPolicy) -> Told {
        let records = parts.concat();
        let (a, b) = (id("/a"), id("/b"));
        let things = Ledger::things_in(&records);
        let reading = Reading {
            records: &records,
            digest: "now",
            steps: [&a, &b].into(),
            standing: things.iter().flat_map(|thing| &thing.steps).collect(),
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
            assert_eq!(told(&[&run, &did(1, "/a")]), Told::AsPlanned, "{verb:?}");
            assert_eq!(told(&[&run, &did(1, "/b")]), Told::Never, "{verb:?}");
        }
        let another = [begun(1, Verb::Rotate, "another")];
        assert_eq!(told(&[&another, &did(1, "/a")]), Told::Open);
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
            told(&[&first, &did(1), &second, &did(2), &back]),
            Told::AsPlanned
        );
        assert_eq!(told(&[&first, &second, &did(2), &back]), Told::Never);
        let kept = StepPolicy {
            keep: true,
            ..StepPolicy::default()
        };
        assert_eq!(
            told_of(&[&first, &did(1), &second, &did(2), &back], kept),
            Told::Open
        );
    }

    #[test]
    fn what_was_cut_may_stand() {
        let run = [begun(1, Verb::Apply, "now"), intent(1, "/a")];
        assert_eq!(told(&[&run]), Told::Open);
        assert_eq!(told(&[&run, &[reverted(1)]]), Told::Never);
    }

    #[test]
    fn what_was_withdrawn_counts_for_no_step_of_the_plan() {
        let first = [begun(1, Verb::Apply, "another")];
        let old = did(1, "/gone");
        let second = [begun(2, Verb::Apply, "now")];
        let gone = withdrawn(2, "/gone");
        let all = |last| told(&[&first, &old, &second, &gone, &[last]]);
        assert_eq!(all(end(2, 1, 1)), Told::Never, "one of two phases");
        assert_eq!(all(end(2, 1, 2)), Told::AsPlanned, "all of them");
        let (was, gone) = (did(1, "/a"), withdrawn(2, "/a"));
        assert_eq!(told(&[&first, &was, &second]), Told::Open);
        assert_eq!(told(&[&first, &was, &second, &gone]), Told::Never);
    }

    #[test]
    fn what_was_dropped_by_compaction_cannot_be_told() {
        let later = [begun(60, Verb::Apply, "now")];
        assert_eq!(told(&[&later]), Told::Open);
        assert_eq!(told(&[]), Told::Open);
    }
}
