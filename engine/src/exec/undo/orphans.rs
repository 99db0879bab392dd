//! Finds what is on a host although the plan does not have it: from a phase that is skipped now or no longer in the
//! role, or from a step whose condition has become false.
//!
//! The ledger says what was made, and by which step. The plan says which steps there are and what they are about. What
//! any step of the plan is about is not left over, no matter which step made it. What is kept is not left over either.

use std::collections::BTreeSet;
use std::path::Path;

use crate::exec::Selection;
use crate::host::Host;
use crate::ledger::{Ledger, LiveResource, LiveUndo, Record};
use crate::model::{PhaseName, Span, StepId};
use crate::plan::{Plan, PlannedStep};
use crate::resource::docker::container_runtime;
use crate::resource::{Action, Change, ResourceResult, Spec, Undo};

/// What one phase has left, in the order in which it is taken back.
#[derive(Debug)]
pub(in crate::exec) struct Leftover {
    pub(in crate::exec) phase: PhaseName,
    pub(in crate::exec) steps: Vec<LeftoverStep>,
    /// Steps that remove what the phase leaves behind, if the plan no longer has the phase.
    pub(in crate::exec) lane: Vec<PlannedStep>,
}

/// What one step has left, the last thing first.
#[derive(Debug)]
pub(in crate::exec) struct LeftoverStep {
    pub(in crate::exec) id: StepId,
    pub(in crate::exec) span: Span,
    pub(in crate::exec) things: Vec<LiveResource>,
}

impl LeftoverStep {
    /// As a change that removes everything. Directories are listed only if there is nothing else.
    pub(in crate::exec) fn change(&self) -> Change {
        let alone = self.is_directories();
        let reported_steps = self
            .things
            .iter()
            .map(|thing| &thing.undo.undo)
            .filter(|undo| alone || !is_directory(undo));
        reported_steps.fold(Change::new(Action::Remove), |change, undo| {
            change.with(undo.about(), "not in the plan", "")
        })
    }

    /// Whether only directories are left. Other files may still be in them.
    pub(in crate::exec) fn is_directories(&self) -> bool {
        self.things
            .iter()
            .all(|thing| is_directory(&thing.undo.undo))
    }
}

impl Leftover {
    /// The names of what is left, for messages.
    pub(in crate::exec) fn things(&self) -> Vec<String> {
        let alone = self.steps.iter().all(LeftoverStep::is_directories);
        let reported_steps = self
            .steps
            .iter()
            .filter(|step| alone || !step.is_directories());
        let things =
            reported_steps.flat_map(|step| step.change().differences.into_iter().map(|d| d.field));
        let lane = self
            .lane
            .iter()
            .map(|step| format!("{} {}", step.spec.kind(), step.spec.label()));
        things.chain(lane).collect()
    }
}

/// What the selected phases have left, the phase that was applied last comes first. Reads the ledger, and whether
/// directories are empty; changes nothing.
///
/// # Errors
/// The ledger cannot be read.
pub(in crate::exec) async fn leftovers(
    host: &dyn Host,
    plan: &Plan,
    selection: &Selection,
) -> ResourceResult<Vec<Leftover>> {
    let records = Ledger::read(host).await?;
    let mut left = of(&records, plan);
    left.retain(|leftover| selection.names(plan, &leftover.phase));
    for leftover in &mut left {
        forget_full_directories(host, leftover).await;
    }
    left.retain(|leftover| !leftover.steps.is_empty() || !leftover.lane.is_empty());
    Ok(left)
}

/// The same, only from records.
fn of(records: &[Record], plan: &Plan) -> Vec<Leftover> {
    let wanted = Wanted::of(plan);
    let mut left: Vec<Leftover> = Vec::new();
    let mut at = |phase: &PhaseName| {
        left.iter()
            .position(|known| known.phase == *phase)
            .unwrap_or_else(|| {
                left.push(Leftover {
                    phase: phase.clone(),
                    steps: Vec::new(),
                    lane: Vec::new(),
                });
                left.len() - 1
            })
    };
    let mut things = Vec::new();
    for thing in Ledger::live_resources_in(records) {
        if !wanted.wants(&thing) {
            things.push((at(&thing.undo.phase), thing));
        }
    }
    let mut lanes = Vec::new();
    for (phase, mut steps) in Ledger::clean_lanes_in(records) {
        steps.retain(|step| !step.policy.keep);
        if !steps.is_empty() && !wanted.phases.contains(&phase) {
            lanes.push((at(&phase), steps));
        }
    }
    for (at, thing) in things {
        let steps = &mut left[at].steps;
        match steps.iter_mut().find(|step| step.id == thing.undo.step) {
            Some(step) => step.things.push(thing),
            None => steps.push(LeftoverStep {
                id: thing.undo.step.clone(),
                span: thing
                    .span
                    .clone()
                    .unwrap_or_else(|| Span::file(format!("phases/{}.rhai", thing.undo.phase))),
                things: vec![thing],
            }),
        }
    }
    for (at, steps) in lanes {
        left[at].lane = steps;
    }
    for leftover in &mut left {
        leftover.steps.reverse();
        for step in &mut leftover.steps {
            step.things.reverse();
        }
    }
    left.reverse();
    left
}

/// The undos of things that an earlier plan had no longer and that were in use then, if this plan has them again.
pub(in crate::exec) fn planned_again(things: Vec<LiveResource>, plan: &Plan) -> Vec<LiveUndo> {
    let wanted = Wanted::of(plan);
    let again = things
        .into_iter()
        .filter(|thing| thing.in_use && wanted.has(thing));
    again.map(|thing| thing.undo).collect()
}

/// What the steps of the plan are about.
struct Wanted<'a> {
    phases: BTreeSet<&'a PhaseName>,
    steps: BTreeSet<&'a StepId>,
    things: BTreeSet<String>,
    packages: BTreeSet<&'a str>,
    /// Whether the plan has containers or images.
    containers: bool,
}

impl<'a> Wanted<'a> {
    fn of(plan: &'a Plan) -> Self {
        let phases = || plan.phases.iter().filter(|phase| phase.skipped.is_none());
        let specs = || {
            phases()
                .flat_map(|phase| &phase.steps)
                .map(|step| &step.spec)
        };
        Self {
            phases: phases().map(|phase| &phase.name).collect(),
            steps: phases()
                .flat_map(|phase| &phase.steps)
                .map(|step| &step.id)
                .collect(),
            things: specs().flat_map(Spec::claims).collect(),
            packages: specs()
                .filter_map(|spec| match spec {
                    Spec::Packages(packages) => Some(packages.names.iter().map(String::as_str)),
                    _ => None,
                })
                .flatten()
                .collect(),
            containers: specs().any(|spec| matches!(spec, Spec::Container(_) | Spec::Image(_))),
        }
    }

    /// Whether a thing stays.
    fn wants(&self, thing: &LiveResource) -> bool {
        thing.undo.keep
            // A clean takes it back, when what uses it is gone.
            || thing.in_use
            // It belongs to no step alone: taking back a unit's file loads the units again anyway.
            || thing.undo.undo == Undo::ReloadUnits
            || self.has(thing)
    }

    /// Whether the plan has a thing.
    fn has(&self, thing: &LiveResource) -> bool {
        let undo = &thing.undo.undo;
        thing.steps.iter().any(|step| self.steps.contains(step))
            || self.things.contains(&undo.about())
            || match undo {
                Undo::PurgePackages { names } => {
                    names
                        .iter()
                        .any(|name| self.packages.contains(name.as_str()))
                        || (self.containers && container_runtime::is_engine(names))
                }
                Undo::RemoveTree { path } | Undo::ClearDirectory { path, .. } => {
                    self.has_below(path)
                }
                _ => false,
            }
    }

    /// Whether a step is about something in this directory.
    fn has_below(&self, directory: &Path) -> bool {
        self.things.iter().any(|thing| {
            thing
                .split_once(' ')
                .is_some_and(|(_, path)| Path::new(path).starts_with(directory))
        })
    }
}

/// Drops directories that are not empty. Such a directory is removed together with the last file in it, even years
/// later; by itself it is not left over.
async fn forget_full_directories(host: &dyn Host, leftover: &mut Leftover) {
    if !leftover.lane.is_empty() || !leftover.steps.iter().all(LeftoverStep::is_directories) {
        // They are checked again when everything else is gone.
        return;
    }
    for step in &mut leftover.steps {
        let mut empty = Vec::new();
        for thing in step.things.drain(..) {
            let Undo::RemoveDirectory { path } = &thing.undo.undo else {
                continue;
            };
            let is_there = host.entry(path).await.is_ok_and(|entry| entry.is_some());
            if is_there && host.list(path).await.is_ok_and(|names| names.is_empty()) {
                empty.push(thing);
            }
        }
        step.things = empty;
    }
    leftover.steps.retain(|step| !step.things.is_empty());
}

pub(in crate::exec) fn is_directory(undo: &Undo) -> bool {
    matches!(undo, Undo::RemoveDirectory { .. })
}
