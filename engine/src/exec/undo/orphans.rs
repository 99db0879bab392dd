//! Finds what is on a host although the plan does not have it: from a phase that is skipped now or no longer in the
//! role, or from a step whose condition has become false.
//!
//! The ledger says what was made, and by which step. The plan says which steps there are and what they are about. What
//! any step of the plan is about is not an orphan, no matter which step made it. What is kept is not an orphan either.

use crate::exec::Selection;
use crate::exec::planned_resources::PlannedResources;
use crate::host::Host;
use crate::ledger::{Ledger, LiveResource, Record};
use crate::model::{PhaseName, Span, StepId};
use crate::plan::{Plan, PlannedStep};
use crate::resource::{Action, Change, ResourceResult, Undo};

/// What one phase has left, in the order in which it is taken back.
#[derive(Debug)]
pub(in crate::exec) struct PhaseOrphans {
    pub(in crate::exec) phase: PhaseName,
    pub(in crate::exec) steps: Vec<OrphanStep>,
    /// Steps that remove what the phase leaves behind, if the plan no longer has the phase.
    pub(in crate::exec) cleanup: Vec<PlannedStep>,
}

/// What one step has left, the last resource first.
#[derive(Debug)]
pub(in crate::exec) struct OrphanStep {
    pub(in crate::exec) id: StepId,
    pub(in crate::exec) span: Span,
    pub(in crate::exec) resources: Vec<LiveResource>,
}

impl OrphanStep {
    /// As a change that removes everything. Directories are listed only if there is nothing else.
    pub(in crate::exec) fn change(&self) -> Change {
        let alone = self.is_directories();
        let reported_steps = self
            .resources
            .iter()
            .map(|resource| &resource.undo.undo)
            .filter(|undo| alone || !is_directory(undo));
        reported_steps.fold(Change::new(Action::Remove), |change, undo| {
            change.with(undo.key(), "not in the plan", "")
        })
    }

    /// Whether only directories are left. Other files may still be in them.
    pub(in crate::exec) fn is_directories(&self) -> bool {
        self.resources
            .iter()
            .all(|resource| is_directory(&resource.undo.undo))
    }
}

impl PhaseOrphans {
    /// The names of what is left, for messages.
    pub(in crate::exec) fn resources(&self) -> Vec<String> {
        let alone = self.steps.iter().all(OrphanStep::is_directories);
        let reported_steps = self
            .steps
            .iter()
            .filter(|step| alone || !step.is_directories());
        let resources =
            reported_steps.flat_map(|step| step.change().differences.into_iter().map(|d| d.field));
        let cleanup = self
            .cleanup
            .iter()
            .map(|step| format!("{} {}", step.spec.kind(), step.spec.label()));
        resources.chain(cleanup).collect()
    }
}

/// What the selected phases have left, the phase that was applied last comes first. Reads the ledger, and whether
/// directories are empty; changes nothing.
///
/// # Errors
/// The ledger cannot be read.
pub(in crate::exec) async fn orphans(
    host: &dyn Host,
    plan: &Plan,
    selection: &Selection,
) -> ResourceResult<Vec<PhaseOrphans>> {
    let records = Ledger::read(host).await?;
    let mut left = of(&records, plan);
    left.retain(|orphan| selection.names(plan, &orphan.phase));
    for orphan in &mut left {
        forget_full_directories(host, orphan).await;
    }
    left.retain(|orphan| !orphan.steps.is_empty() || !orphan.cleanup.is_empty());
    Ok(left)
}

/// The same, only from records.
fn of(records: &[Record], plan: &Plan) -> Vec<PhaseOrphans> {
    let planned = PlannedResources::of(plan);
    let mut left: Vec<PhaseOrphans> = Vec::new();
    let mut at = |phase: &PhaseName| {
        left.iter()
            .position(|known| known.phase == *phase)
            .unwrap_or_else(|| {
                left.push(PhaseOrphans {
                    phase: phase.clone(),
                    steps: Vec::new(),
                    cleanup: Vec::new(),
                });
                left.len() - 1
            })
    };
    let mut resources = Vec::new();
    for resource in Ledger::live_resources_in(records) {
        if !planned.keeps(&resource) {
            resources.push((at(&resource.undo.phase), resource));
        }
    }
    let mut cleanups = Vec::new();
    for (phase, mut steps) in Ledger::all_cleanup_steps_in(records) {
        steps.retain(|step| !step.policy.keep);
        if !steps.is_empty() && !planned.phases.contains(&phase) {
            cleanups.push((at(&phase), steps));
        }
    }
    for (at, resource) in resources {
        let steps = &mut left[at].steps;
        match steps.iter_mut().find(|step| step.id == resource.undo.step) {
            Some(step) => step.resources.push(resource),
            None => steps.push(OrphanStep {
                id: resource.undo.step.clone(),
                span: resource
                    .span
                    .clone()
                    .unwrap_or_else(|| Span::file(format!("phases/{}.rhai", resource.undo.phase))),
                resources: vec![resource],
            }),
        }
    }
    for (at, steps) in cleanups {
        left[at].cleanup = steps;
    }
    for orphan in &mut left {
        orphan.steps.reverse();
        for step in &mut orphan.steps {
            step.resources.reverse();
        }
    }
    left.reverse();
    left
}

/// Drops directories that are not empty. Such a directory is removed together with the last file in it, even years
/// later; by itself it is not an orphan.
async fn forget_full_directories(host: &dyn Host, orphan: &mut PhaseOrphans) {
    if !orphan.cleanup.is_empty() || !orphan.steps.iter().all(OrphanStep::is_directories) {
        // They are checked again when everything else is gone.
        return;
    }
    for step in &mut orphan.steps {
        let mut empty = Vec::new();
        for resource in step.resources.drain(..) {
            let Undo::RemoveDirectory { path } = &resource.undo.undo else {
                continue;
            };
            let is_there = host.entry(path).await.is_ok_and(|entry| entry.is_some());
            if is_there && host.list(path).await.is_ok_and(|names| names.is_empty()) {
                empty.push(resource);
            }
        }
        step.resources = empty;
    }
    orphan.steps.retain(|step| !step.resources.is_empty());
}

pub(in crate::exec) fn is_directory(undo: &Undo) -> bool {
    matches!(undo, Undo::RemoveDirectory { .. })
}
