//! Steps that cannot be simulated, because they need what only another host has: the content of a join file, or a signature of the masters.
//!
//! What such a step has made on this host is told from its files, and from the name of its container.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::found::Presence;
use super::installed::{OURS, is_ours};
use crate::exec::Runner;
use crate::exec::event::Event;
use crate::ledger::{Record, RunId};
use crate::model::{PhaseName, StepId};
use crate::plan::{Plan, PlannedStep};
use crate::resource::{ResourceResult, Spec, Undo};

/// A step that was taken out of the simulated plan.
pub(super) struct UnpredictedStep {
    phase: PhaseName,
    step: PlannedStep,
    /// Why it cannot be simulated.
    why: String,
}

/// Takes the steps out of a plan that need a join file.
pub(super) fn take_joins(plan: &mut Plan) -> Vec<UnpredictedStep> {
    let joins = |step: &PlannedStep| matches!(step.spec, Spec::JoinFile(_) | Spec::JoinMaster(_));
    let mut taken = Vec::new();
    for phase in plan.phases.iter_mut().filter(|its| its.skipped.is_none()) {
        let name = &phase.name;
        taken.extend(
            phase
                .steps
                .extract_if(.., |step| joins(step))
                .map(|step| UnpredictedStep {
                    phase: name.clone(),
                    step,
                    why: "a simulated host has no join file".to_owned(),
                }),
        );
    }
    taken
}

/// Takes the step out of a plan at which its apply failed, according to the events. `None` if no step has failed.
pub(super) fn take_failed(plan: &mut Plan, events: &[Event]) -> Option<UnpredictedStep> {
    let (failed, failure) = events.iter().find_map(|event| match event {
        Event::PhaseFailed { phase, failure } => Some((phase, failure)),
        _ => None,
    })?;
    let done: BTreeSet<&StepId> = events
        .iter()
        .filter_map(|event| match event {
            Event::StepUnchanged { step, .. } | Event::StepChanged { step, .. } => Some(step),
            _ => None,
        })
        .collect();
    let phase = plan.phases.iter_mut().find(|its| its.name == *failed)?;
    let at = phase
        .steps
        .iter()
        .position(|step| !done.contains(&step.id))?;
    Some(UnpredictedStep {
        phase: phase.name.clone(),
        step: phase.steps.remove(at),
        why: failure.chain.join(": "),
    })
}

impl UnpredictedStep {
    pub(super) fn phase(&self) -> &PhaseName {
        &self.phase
    }

    /// A sentence if what it has made cannot be told from its files: it stays.
    pub(super) fn unknown(&self) -> Option<String> {
        // What is in the cluster does not depend on this ledger: masters delete the node of a worker that leaves.
        let is_of_cluster =
            self.step.spec.is_of_cluster() || matches!(self.step.spec, Spec::EtcdPromoted(_));
        let stays = !is_of_cluster && !self.step.policy.absent;
        (self.undos().is_empty() && stays).then(|| {
            format!(
                "{}: what it has made is unknown, and stays, because it cannot be simulated: {}",
                self.step.id, self.why
            )
        })
    }

    /// What takes back all that it can have made, in the order in which it is made.
    fn undos(&self) -> Vec<Undo> {
        if self.step.policy.absent {
            return Vec::new();
        }
        match &self.step.spec {
            Spec::Container(container) => {
                let name = container.name.clone();
                return vec![Undo::RemoveContainer { name }];
            }
            Spec::Service(service) => {
                let name = service.unit.clone();
                return vec![Undo::StopUnit { name }];
            }
            Spec::Directory(directory) => {
                let path = directory.path.clone();
                return vec![Undo::RemoveDirectory { path }];
            }
            _ => {}
        }
        let files = self.step.spec.made_files();
        // All that are made for it. A directory is removed only if nothing is left in it.
        let directories: BTreeSet<PathBuf> = files
            .iter()
            .flat_map(|path| path.ancestors().skip(1))
            .filter(|its| is_ours(its) && OURS.iter().all(|ours| !its.as_os_str().eq(*ours)))
            .map(PathBuf::from)
            .collect();
        let directories = directories
            .into_iter()
            .map(|path| Undo::RemoveDirectory { path });
        let files = files.into_iter().map(|path| Undo::RemoveFile { path });
        directories.chain(files).collect()
    }
}

impl Runner<'_> {
    /// The records of what such a step has made on this host, without what is `known`.
    pub(super) async fn found_of(
        &self,
        its: &UnpredictedStep,
        known: &BTreeSet<String>,
        run: RunId,
    ) -> ResourceResult<Vec<Record>> {
        let mut records = Vec::new();
        for undo in its.undos() {
            if known.contains(&undo.key()) {
                continue;
            }
            // With saved records, too: the resources are the role's own.
            if let Presence::Present(undo) = self.found(&undo, false).await? {
                records.push(Record::Undo {
                    run,
                    phase: its.phase.clone(),
                    step: its.step.id.clone(),
                    keep: its.step.policy.keep,
                    undo,
                });
            }
        }
        Ok(records)
    }
}
