//! The records of a ledger without an exact copy, made again from what remains of it, the plan and the host.
//!
//! `before_role` gives the records of an apply on a simulated host. `found` compares each resource in them with this host. What is on this
//! host is recorded with the undo that takes it back.

use std::collections::BTreeSet;

use super::before_role::SimulatedApply;
use super::found::Presence;
use super::recovered::{Rebuilt, Recovered, RecoveredFrom};
use crate::exec::Runner;
use crate::ledger::{Ledger, Record, Recoverable, RunId};
use crate::model::{PhaseName, StepId, Verb};
use crate::plan::PlannedStep;
use crate::resource::{ResourceResult, Spec, Undo};

impl Runner<'_> {
    /// The records that an apply on this host before the role would have written, for the resources that are on it now.
    pub(super) async fn rebuild(&self, from: &Recoverable, run: RunId) -> ResourceResult<Rebuilt> {
        let mut rebuilt = match &from.part {
            Some((path, records)) => {
                let mut rebuilt = Recovered::of(RecoveredFrom::Part {
                    path: path.clone(),
                    run: last_run(records),
                });
                rebuilt.records.clone_from(records);
                rebuilt
            }
            None => Recovered::of(RecoveredFrom::Host),
        };
        let live = Ledger::live_in(&rebuilt.records);
        let known: BTreeSet<String> = live.iter().map(|live| live.undo.key()).collect();
        let on_top = live.iter().any(|live| !live.keep);
        let cleanups: BTreeSet<String> = Ledger::all_cleanup_steps_in(&rebuilt.records)
            .iter()
            .map(|(phase, _)| phase.to_string())
            .collect();
        let bare = self.as_before(&mut rebuilt.result.unknown).await?;
        self.note_kernel(&known, &mut rebuilt.result).await?;
        let SimulatedApply {
            records: applied,
            unpredicted,
        } = self.applied_to_bare(&bare).await?;
        // Leaves out what the saved records name: it is known.
        let names = |undo: &Undo| match undo {
            Undo::PurgePackages { names } => names.clone(),
            _ => Vec::new(),
        };
        let purged: BTreeSet<String> = live.iter().flat_map(|live| names(&live.undo)).collect();
        rebuilt.result.unknown.retain(|line| {
            let (resource, _) = line.split_once(": ").unwrap_or((line, ""));
            let package = resource.strip_prefix("package ");
            !known.contains(resource) && !package.is_some_and(|name| purged.contains(name))
        });
        rebuilt.records.push(self.begins(run));
        let mut wanted: BTreeSet<StepId> = BTreeSet::new();
        let mut resources = BTreeSet::new();
        // Each record with the step that must have an undo for it.
        let mut mapped = Vec::new();
        for record in applied {
            match record {
                Record::Undo {
                    phase,
                    step,
                    keep,
                    undo,
                    ..
                } => {
                    if known.contains(&undo.key()) || resources.contains(&undo.key()) {
                        continue;
                    }
                    resources.insert(undo.key());
                    match self.found(&undo, on_top).await? {
                        Presence::Present(undo) => {
                            wanted.insert(step.clone());
                            if undo != Undo::ReloadUnits {
                                rebuilt.result.recorded.push(undo.key());
                            }
                            rebuilt.result.record_uncertain(&undo);
                            let record = Record::Undo {
                                run,
                                phase,
                                step,
                                keep,
                                undo,
                            };
                            mapped.push((None, record));
                        }
                        Presence::Nothing => {}
                        Presence::Unknown(why) => rebuilt.result.note(why),
                    }
                }
                Record::CleanupSteps {
                    phase, steps: all, ..
                } if !cleanups.contains(phase.as_str()) => {
                    let mut steps = Vec::new();
                    for step in all {
                        match self.possibly_foreign(&step.spec).await? {
                            Some(why) => rebuilt.result.note(why),
                            None => steps.push(step),
                        }
                    }
                    let partial = false;
                    let record = Record::CleanupSteps {
                        run,
                        phase,
                        steps,
                        partial,
                    };
                    mapped.push((None, record));
                }
                Record::Intent {
                    phase,
                    step,
                    span,
                    action,
                    fields,
                    ..
                } => {
                    let of = step.clone();
                    let record = Record::Intent {
                        run,
                        phase,
                        step,
                        span,
                        action,
                        fields,
                    };
                    mapped.push((Some(of), record));
                }
                Record::Receipt { phase, step, .. } => {
                    mapped.push((Some(step.clone()), Record::Receipt { run, phase, step }));
                }
                Record::Header { .. }
                | Record::Run { .. }
                | Record::PhaseApplied { .. }
                | Record::CleanupSteps { .. }
                | Record::Failed { .. }
                | Record::Reverted { .. }
                | Record::Pruned { .. }
                | Record::CleanupDone { .. }
                | Record::Cleaned { .. }
                | Record::End { .. } => {}
            }
        }
        resources.extend(known.iter().cloned());
        for its in &unpredicted {
            if let Some(unknown) = its.unknown() {
                rebuilt.result.note(unknown);
            }
            let records = self.found_of(its, &resources, run).await?;
            let after = self.position(its.phase());
            let is_later =
                |record: &Record| record.phase().is_some_and(|its| self.position(its) > after);
            let at = mapped.iter().position(|(_, record)| is_later(record));
            let at = at.unwrap_or(mapped.len());
            for record in &records {
                if let Record::Undo { undo, .. } = record {
                    resources.insert(undo.key());
                    rebuilt.result.recorded.push(undo.key());
                    rebuilt.result.record_uncertain(undo);
                }
            }
            mapped.splice(at..at, records.into_iter().map(|record| (None, record)));
        }
        // A simulated host has no other nodes, and makes no routes to them.
        let undo = Undo::RemoveNodeRoutes;
        if !known.contains(&undo.key()) && !self.host.node_routes().await?.is_empty() {
            let phases = self.plan.phases.iter();
            let phases = phases.filter(|phase| phase.skipped.is_none());
            let steps = phases.flat_map(|phase| phase.steps.iter().map(move |its| (phase, its)));
            let is_of_routes = |step: &PlannedStep| {
                matches!(step.spec, Spec::NodeRoutes(_)) && !step.policy.absent
            };
            for (phase, step) in steps.filter(|(_, step)| is_of_routes(step)) {
                rebuilt.result.recorded.push(undo.key());
                let record = Record::Undo {
                    run,
                    phase: phase.name.clone(),
                    step: step.id.clone(),
                    keep: step.policy.keep,
                    undo: undo.clone(),
                };
                mapped.push((None, record));
            }
        }
        mapped.retain(|(of, _)| of.as_ref().is_none_or(|step| wanted.contains(step)));
        let records = mapped.into_iter().map(|(_, record)| record);
        rebuilt.records.extend(records);
        Ok(rebuilt)
    }

    /// The place of a phase in the plan.
    fn position(&self, phase: &PhaseName) -> Option<usize> {
        self.plan.phases.iter().position(|its| its.name == *phase)
    }

    /// The record with which the recovery begins.
    pub(super) fn begins(&self, run: RunId) -> Record {
        let at = humantime::format_rfc3339_seconds(self.host.now()).to_string();
        Record::Run {
            run,
            verb: Verb::Recover,
            role: self.plan.role.clone(),
            digest: self.plan.digest(),
            cluster_digest: Some(self.plan.cluster_digest()),
            at,
        }
    }
}

/// The number of the last run in these records; 0 if there is none.
pub(super) fn last_run(records: &[Record]) -> RunId {
    records.iter().filter_map(Record::run).max().unwrap_or(0)
}
