//! What the records say of a step in a plan, used if the resource cannot be asked for its state: whether it is as this plan has it, or no run ever
//! has brought it about.
//!
//! Pure: records in, an answer out.

use std::collections::{BTreeMap, BTreeSet};

use super::{Record, RunId};
use crate::model::{Outcome, PhaseName, StepId, Verb};
use crate::plan::PlannedStep;
use crate::resource::Spec;

/// What our records say of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recorded {
    /// A run has brought it about as this plan has it.
    AsPlanned,
    /// No run ever has, or it was taken back.
    Never,
    /// Something was done for it, and its present state is not known.
    Open,
}

/// The records, and what is needed to read them.
pub(crate) struct Reading<'a> {
    pub(crate) records: &'a [Record],
    /// The plan's digests.
    pub(crate) digests: Digests<'a>,
    /// Steps that have something on the host, according to the records.
    pub(crate) live_steps: BTreeSet<&'a StepId>,
    /// Whether other masters are known: they change objects of the cluster, too.
    pub(crate) has_other_masters: bool,
}

/// The digests of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Digests<'a> {
    /// Of all of it.
    pub(crate) plan: &'a str,
    /// Of what it wants of the cluster ([`Plan::cluster_digest`](crate::plan::Plan::cluster_digest)); runs of earlier versions have none.
    pub(crate) cluster: Option<&'a str>,
}

impl<'a> Digests<'a> {
    /// The digest that is the same only if the step is.
    fn of(self, step: &PlannedStep) -> Option<&'a str> {
        match step.spec {
            // Routes follow the members of the cluster, and the plan has the list of the masters.
            Spec::NodeRoutes(_) => self.cluster.and(Some(self.plan)),
            _ => self.cluster,
        }
    }
}

impl Reading<'_> {
    /// What the records say of this step, whose state only the API server knows.
    pub(crate) fn of(&self, step: &PlannedStep) -> Recorded {
        let wanted = self.digests.of(step);
        let mut plans: BTreeMap<RunId, Option<&str>> = BTreeMap::new();
        // What runs did for the step and was not taken back, with the digest of the run's plan; `None` if the step was
        // cut or is partly taken back. The last entry counts.
        let mut done: Vec<(RunId, Option<&str>)> = Vec::new();
        let mut resources: BTreeSet<String> = BTreeSet::new();
        let mut stops: BTreeSet<RunId> = BTreeSet::new();
        for record in self.records {
            match record {
                // A clean that was interrupted may have removed anything.
                Record::Run {
                    run,
                    verb: Verb::Clean,
                    ..
                } => unless_empty(&mut done, *run),
                Record::Run {
                    run,
                    verb: Verb::Stop,
                    ..
                } => {
                    stops.insert(*run);
                }
                // A stop that drains cordons the node. That of a repair does nothing but end what runs, and has no such records.
                Record::Intent { run, .. }
                    if stops.contains(run)
                        && matches!(&step.spec, Spec::Node(node) if node.schedulable) =>
                {
                    unless_empty(&mut done, *run);
                }
                Record::Run {
                    run,
                    digest,
                    cluster_digest,
                    verb,
                    ..
                } if applies(*verb) => {
                    let digests = Digests {
                        plan: digest,
                        cluster: cluster_digest.as_deref(),
                    };
                    let its = digests.of(step);
                    plans.insert(*run, its);
                    // Another client may have changed the resource first, so that this run only sees it as its own plan has it.
                    if its.is_some() && its != wanted {
                        unless_empty(&mut done, *run);
                    }
                }
                Record::Intent { run, step: id, .. } if *id == step.id => {
                    done.push((*run, None));
                }
                Record::Undo { step: id, undo, .. } if *id == step.id => {
                    resources.insert(undo.key());
                }
                Record::Receipt { run, step: id, .. } if *id == step.id => {
                    done.push((*run, plans.get(run).copied().flatten()));
                }
                // Such a run saw the step as planned, also if it had no need to change it.
                Record::End {
                    run,
                    outcome: Outcome::Converged,
                    phases,
                    ..
                } => match plans.get(run) {
                    Some(digest) if *digest == wanted => {
                        let mut names = phases.iter().map(PhaseName::as_str);
                        if names.any(|name| step.id.phase() == Some(name)) {
                            done.push((*run, wanted));
                        }
                    }
                    // A run of an earlier version does not tell what it saw.
                    Some(None) => done.push((*run, None)),
                    Some(Some(_)) | None => {}
                },
                // What earlier runs did is in force again. Kept resources were not taken back, nor what another master has done.
                Record::Reverted {
                    run,
                    phase,
                    resource: None,
                    ..
                } if !self.has_other_masters
                    && step.id.phase() == Some(phase.as_str())
                    && !step.policy.keep =>
                {
                    let before = done.len();
                    done.retain(|(by, _)| by != run);
                    // A run that wanted the same and had to change the step had not found it as planned.
                    if done.len() < before && plans.get(run) == Some(&wanted) {
                        unless_empty(&mut done, *run);
                    }
                }
                // Not everything could be taken back.
                Record::Reverted { run, phase, .. }
                    if step.id.phase() == Some(phase.as_str()) && !step.policy.keep =>
                {
                    done.push((*run, None));
                }
                Record::Pruned { run, resource, .. } if resources.remove(resource) => {
                    if resources.is_empty() {
                        done.clear();
                    } else {
                        done.push((*run, None));
                    }
                }
                Record::Cleaned { .. } => {
                    done.clear();
                    resources.clear();
                }
                _ => {}
            }
        }
        match done.last() {
            Some((_, by)) if by.is_some() && *by == wanted => Recorded::AsPlanned,
            Some(_) => Recorded::Open,
            None if self.live_steps.contains(&step.id) => Recorded::Open,
            // Compaction drops old runs; then it cannot be told what they did.
            None if !plans.is_empty() && self.records.iter().any(begins) => Recorded::Never,
            None => Recorded::Open,
        }
    }
}

/// Notes a run after which the state of the step is not known, if something was done for it before.
fn unless_empty(done: &mut Vec<(RunId, Option<&str>)>, run: RunId) {
    if !done.is_empty() {
        done.push((run, None));
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
    use crate::model::{Span, Text};
    use crate::plan::StepPolicy;
    use crate::resource::{Action, ManifestSpec, NodeRoutesSpec, NodeSpec, Undo};

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
            digest: "plan".to_owned(),
            cluster_digest: Some(digest.to_owned()),
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

    /// The end of a run of this phase.
    fn end(run: RunId, name: &str) -> Record {
        Record::End {
            run,
            outcome: Outcome::Converged,
            changed: 1,
            unchanged: 1,
            phases: vec![name.parse().expect("a name")],
            at: String::new(),
        }
    }

    /// What such records say of step `/a` in plan `now`.
    fn recorded_of(parts: &[&[Record]]) -> Recorded {
        recorded_with_policy(parts, StepPolicy::default())
    }

    fn recorded_with_policy(parts: &[&[Record]], policy: StepPolicy) -> Recorded {
        let manifest = ManifestSpec {
            name: "a".to_owned(),
            text: Text::Known(String::new()),
            kubeconfig: "/a".into(),
        };
        recorded_of_spec(parts, Spec::Manifest(manifest), policy, false)
    }

    fn recorded_of_spec(
        parts: &[&[Record]],
        spec: Spec,
        policy: StepPolicy,
        has_other_masters: bool,
    ) -> Recorded {
        let records = parts.concat();
        let resources = Ledger::live_resources_in(&records);
        let reading = Reading {
            records: &records,
            digests: Digests {
                plan: "plan",
                cluster: Some("now"),
            },
            live_steps: resources
                .iter()
                .flat_map(|resource| &resource.steps)
                .collect(),
            has_other_masters,
        };
        reading.of(&PlannedStep {
            id: id("/a"),
            span: Span::file("phases/addons.rhai"),
            spec,
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

    /// Another client had deleted the object, and what recreated it was taken back.
    #[test]
    fn a_rolled_back_repair_leaves_a_step_open() {
        let first = [begun(1, Verb::Apply, "now"), end(1, "addons")];
        let repair = [begun(2, Verb::Restart, "now")];
        let all = |second: &[Record]| {
            recorded_of(&[&first, &did(1, "/a"), &repair, second, &[reverted(2)]])
        };
        assert_eq!(all(&did(2, "/a")), Recorded::Open);
        assert_eq!(all(&did(2, "/b")), Recorded::AsPlanned);
    }

    #[test]
    fn a_clean_that_has_no_end_leaves_a_step_open() {
        let first = [begun(1, Verb::Apply, "now"), end(1, "addons")];
        let clean = [begun(2, Verb::Clean, "now")];
        assert_eq!(recorded_of(&[&first, &clean]), Recorded::Open);
        let cleaned = Record::Cleaned {
            run: 2,
            kept: false,
        };
        assert_eq!(recorded_of(&[&first, &clean, &[cleaned]]), Recorded::Never);
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
        assert_eq!(all(end(2, "etcd")), Recorded::Never, "another phase");
        assert_eq!(all(end(2, "addons")), Recorded::AsPlanned);
        let (was, gone) = (did(1, "/a"), pruned(2, "/a"));
        assert_eq!(recorded_of(&[&first, &was, &second]), Recorded::Open);
        assert_eq!(
            recorded_of(&[&first, &was, &second, &gone]),
            Recorded::Never
        );
    }

    #[test]
    fn a_run_of_an_earlier_version_leaves_a_step_open() {
        let mut run = begun(1, Verb::Apply, "now");
        if let Record::Run { cluster_digest, .. } = &mut run {
            *cluster_digest = None;
        }
        let all = [run, end(1, "addons")];
        assert_eq!(recorded_of(&[&all, &did(1, "/a")]), Recorded::Open);
        // It may have seen the step as planned.
        assert_eq!(recorded_of(&[&all]), Recorded::Open);
    }

    /// On one of several masters, another one may have changed the object first.
    #[test]
    fn a_run_that_wanted_something_else_leaves_a_step_open() {
        let first = [begun(1, Verb::Apply, "now")];
        let second = [begun(2, Verb::Apply, "another"), end(2, "addons")];
        let earlier = did(1, "/a");
        assert_eq!(recorded_of(&[&first, &earlier, &second]), Recorded::Open);
        let third = [begun(3, Verb::Apply, "now"), end(3, "addons")];
        let all = [&first, &earlier[..], &second, &third];
        assert_eq!(recorded_of(&all), Recorded::AsPlanned);
        // The step is new in this plan.
        assert_eq!(recorded_of(&[&first, &second]), Recorded::Never);
        // It failed, or has no end.
        let failed = [begun(2, Verb::Apply, "another"), reverted(2)];
        for second in [&failed[..1], &failed] {
            let all = [&first[..], &earlier, second];
            let manifest = ManifestSpec {
                name: "a".to_owned(),
                text: Text::Known(String::new()),
                kubeconfig: "/a".into(),
            };
            let policy = StepPolicy::default();
            let recorded = recorded_of_spec(&all, Spec::Manifest(manifest), policy, true);
            assert_eq!(recorded, Recorded::Open, "{}", second.len());
        }
    }

    #[test]
    fn routes_are_as_planned_only_by_the_same_plan() {
        let routes = || {
            Spec::NodeRoutes(NodeRoutesSpec {
                node: "a".to_owned(),
                network: "10.20.0.0/16".parse().expect("a network"),
                kubeconfig: "/a".into(),
            })
        };
        let of = |run: &[Record]| recorded_of_spec(&[run], routes(), StepPolicy::default(), false);
        let mut run = vec![begun(1, Verb::Apply, "now"), end(1, "addons")];
        assert_eq!(of(&run), Recorded::AsPlanned);
        if let Record::Run { digest, .. } = &mut run[0] {
            "with one master less".clone_into(digest);
        }
        run.extend(did(1, "/a"));
        assert_eq!(of(&run), Recorded::Open);
    }

    #[test]
    fn a_stop_leaves_the_node_open() {
        let node = |schedulable| {
            Spec::Node(NodeSpec {
                name: "a".to_owned(),
                kubeconfig: "/a".into(),
                labels: BTreeMap::new(),
                taints: Vec::new(),
                untainted: Vec::new(),
                schedulable,
                shared_settings: BTreeMap::new(),
                pod_subnets: None,
            })
        };
        let run = [begun(1, Verb::Apply, "now"), end(1, "addons")];
        let drains = [begun(2, Verb::Stop, "now"), intent(2, "drain")];
        // The stop of a repair has no steps.
        let ends = [begun(2, Verb::Stop, "now")];
        for (schedulable, stop, wanted) in [
            (true, &drains[..], Recorded::Open),
            (true, &ends, Recorded::AsPlanned),
            (false, &drains, Recorded::AsPlanned),
        ] {
            let policy = StepPolicy::default();
            let recorded = recorded_of_spec(&[&run, stop], node(schedulable), policy, false);
            assert_eq!(recorded, wanted, "{schedulable} {}", stop.len());
        }
        assert_eq!(recorded_of(&[&run, &drains]), Recorded::AsPlanned);
    }

    #[test]
    fn history_has_no_compacted_runs() {
        let later = [begun(60, Verb::Apply, "now")];
        assert_eq!(recorded_of(&[&later]), Recorded::Open);
        assert_eq!(recorded_of(&[]), Recorded::Open);
    }
}
