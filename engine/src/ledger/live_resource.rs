//! Which records count: undos that have not been carried out, cleanup steps, and what compaction keeps.
//!
//! Pure: records in, records out.

use std::collections::{BTreeMap, BTreeSet};

use super::{Record, RunId, VERSION};
use crate::ledger::last_run::id_of;
use crate::model::{Outcome, PhaseName, Span, StepId, Verb};
use crate::plan::PlannedStep;
use crate::resource::Undo;

/// Runs whose records survive compaction.
pub(super) const RUNS_KEPT: usize = 50;

/// An undo that has not been carried out.
#[derive(Debug, Clone, PartialEq)]
pub struct LiveUndo {
    /// The run that noted it.
    pub run: RunId,
    /// The phase.
    pub phase: PhaseName,
    /// The step.
    pub step: StepId,
    /// Whether a clean leaves it.
    pub keep: bool,
    /// The inverse.
    pub undo: Undo,
}

/// A resource that was changed and not taken back, and every step that noted an undo of it.
#[derive(Debug, Clone, PartialEq)]
pub struct LiveResource {
    /// The oldest undo, which leads back to the state before the role. The resource is kept if any of its undos is.
    pub undo: LiveUndo,
    /// The steps that noted an undo of it, oldest first.
    pub steps: Vec<StepId>,
    /// Where the script has the step that changed it first, if that is still recorded.
    pub span: Option<Span>,
    /// The plan had it no longer, and it could not be taken back, because something on the host uses it: it stays until a
    /// clean.
    pub in_use: bool,
}

/// The records that count, by their places among all.
#[derive(Default)]
pub(super) struct LiveRecords {
    /// The oldest undo of each resource that was neither taken back nor cleaned; and whether a clean leaves the resource.
    undos: Vec<(usize, bool)>,
    cleanups: Vec<Cleanup>,
}

/// The cleanup steps of a phase that are left.
struct Cleanup {
    place: usize,
    run: RunId,
    phase: PhaseName,
    steps: Vec<PlannedStep>,
    /// Some steps of it have been carried out.
    partial: bool,
}

impl LiveRecords {
    pub(super) fn of(records: &[Record]) -> Self {
        let mut live_records = Self::with_all_undos(records);
        keep_oldest(records, &mut live_records.undos);
        live_records
    }

    /// The same with all undos of a resource.
    fn with_all_undos(records: &[Record]) -> Self {
        let mut live_records = Self::default();
        for (place, record) in records.iter().enumerate() {
            match record {
                Record::Undo { keep, .. } => live_records.undos.push((place, *keep)),
                Record::CleanupSteps { .. } => live_records.cleanup(place, record),
                // A rollback has carried them out. What appears there afterwards may not be the role's.
                Record::Reverted {
                    run,
                    phase,
                    resource,
                    remaining,
                } => live_records.revert(records, (*run, phase), resource.as_deref(), remaining),
                Record::Cleaned { run, kept } => live_records.clean(records, *run, *kept),
                Record::Pruned {
                    resource,
                    in_use: false,
                    ..
                } => live_records.undos.retain(|(place, _)| {
                    key_of(&records[*place]).is_some_and(|its| its != *resource)
                }),
                Record::CleanupDone { phase, step, .. } => {
                    live_records.end_cleanup(phase, step.as_ref());
                }
                _ => {}
            }
        }
        live_records
    }

    /// The first record of a phase counts: a later one could take for the role's what the first one found there. A record
    /// that is partial takes the steps of a later one that it does not have.
    fn cleanup(&mut self, place: usize, record: &Record) {
        let Record::CleanupSteps {
            run,
            phase,
            steps,
            partial,
        } = record
        else {
            return;
        };
        let Some(known) = self.cleanups.iter_mut().find(|known| known.phase == *phase) else {
            self.cleanups.push(Cleanup {
                place,
                run: *run,
                phase: phase.clone(),
                steps: steps.clone(),
                partial: *partial,
            });
            return;
        };
        if known.partial {
            for step in steps {
                if known.steps.iter().all(|its| its.id != step.id) {
                    known.steps.push(step.clone());
                }
            }
            known.partial = *partial;
        }
    }

    fn end_cleanup(&mut self, phase: &PhaseName, step: Option<&StepId>) {
        let Some(at) = self.cleanups.iter().position(|its| its.phase == *phase) else {
            return;
        };
        let its = &mut self.cleanups[at];
        its.partial = true;
        its.steps.retain(|one| match step {
            Some(step) => one.id != *step,
            None => one.policy.keep,
        });
        if its.steps.is_empty() {
            self.cleanups.remove(at);
        }
    }

    /// Drops what a run did in a phase, or only `resource`, except for the `remaining` ones.
    fn revert(
        &mut self,
        records: &[Record],
        (wanted, name): (RunId, &PhaseName),
        resource: Option<&str>,
        remaining: &[String],
    ) {
        self.undos.retain(|(place, _)| match &records[*place] {
            Record::Undo {
                run,
                phase,
                keep,
                undo,
                ..
            } => {
                let meant = match resource {
                    Some(resource) => undo.key() == resource,
                    None => remaining.is_empty() || !remaining.contains(&undo.key()),
                };
                *keep || *run != wanted || phase != name || !meant
            }
            _ => false,
        });
        if resource.is_none() {
            self.cleanups
                .retain(|cleanup| cleanup.run != wanted || cleanup.phase != *name);
        }
    }

    fn clean(&mut self, records: &[Record], cleaning: RunId, kept: bool) {
        // The undos that the clean itself has noted are for what it had to leave.
        let (left, mut before): (Vec<_>, Vec<_>) = self
            .undos
            .iter()
            .partition(|(place, _)| records[*place].run() == Some(cleaning));
        // A younger undo of a resource is not needed: the resource is as it was before the role.
        keep_oldest(records, &mut before);
        before.extend(left);
        before.retain(|(_, keep)| kept && *keep);
        self.undos = before;
        for cleanup in &mut self.cleanups {
            cleanup.steps.retain(|step| kept && step.policy.keep);
            cleanup.partial = true;
        }
        self.cleanups.retain(|cleanup| !cleanup.steps.is_empty());
    }

    /// Phases that have something on the host, in the order in which they were first applied.
    pub(super) fn phases(self, records: &[Record]) -> Vec<PhaseName> {
        let mut phases = Vec::new();
        for record in self.into_records(records) {
            if let Record::Undo { phase, .. } | Record::CleanupSteps { phase, .. } = record
                && !phases.contains(&phase)
            {
                phases.push(phase);
            }
        }
        phases
    }

    /// The cleanup steps of a phase, if one of these runs has recorded them.
    pub(super) fn cleanup_steps_of_runs(
        self,
        runs: &BTreeSet<RunId>,
        name: &PhaseName,
    ) -> Vec<PlannedStep> {
        let mut cleanups = self.cleanups.into_iter();
        let own = cleanups.find(|cleanup| runs.contains(&cleanup.run) && cleanup.phase == *name);
        own.map(|cleanup| cleanup.steps).unwrap_or_default()
    }

    /// Its records, in the order in which they were written.
    fn into_records(self, records: &[Record]) -> Vec<Record> {
        let undos = self
            .undos
            .into_iter()
            .map(|(place, kept)| (place, with_keep(&records[place], kept)));
        let cleanups = self.cleanups.into_iter().map(|cleanup| {
            let record = Record::CleanupSteps {
                run: cleanup.run,
                phase: cleanup.phase,
                steps: cleanup.steps,
                partial: cleanup.partial,
            };
            (cleanup.place, record)
        });
        let mut all: Vec<(usize, Record)> = undos.chain(cleanups).collect();
        all.sort_by_key(|(place, _)| *place);
        all.into_iter().map(|(_, record)| record).collect()
    }
}

/// Keeps the oldest undo of each resource, which leads back to the state before the role. The resource is kept if any of its
/// undos says so.
fn keep_oldest(records: &[Record], undos: &mut Vec<(usize, bool)>) {
    let named = |(place, keep): &(usize, bool)| Some((key_of(&records[*place])?, *keep));
    let kept: BTreeSet<String> = undos
        .iter()
        .filter_map(named)
        .filter_map(|(resource, keep)| keep.then_some(resource))
        .collect();
    let mut seen = BTreeSet::new();
    undos.retain_mut(|(place, keep)| {
        let Some(resource) = key_of(&records[*place]) else {
            return false;
        };
        *keep = kept.contains(&resource);
        seen.insert(resource)
    });
}

/// The resource that an undo is about.
fn key_of(record: &Record) -> Option<String> {
    match record {
        Record::Undo { undo, .. } => Some(undo.key()),
        _ => None,
    }
}

/// The record of an undo with this `keep` mark.
fn with_keep(record: &Record, kept: bool) -> Record {
    let mut record = record.clone();
    if let Record::Undo { keep, .. } = &mut record {
        *keep = kept;
    }
    record
}

/// The record of an undo as a [`LiveUndo`].
fn live_undo(record: &Record) -> Option<LiveUndo> {
    match record {
        Record::Undo {
            run,
            phase,
            step,
            keep,
            undo,
        } => Some(LiveUndo {
            run: *run,
            phase: phase.clone(),
            step: step.clone(),
            keep: *keep,
            undo: undo.clone(),
        }),
        _ => None,
    }
}

/// Undos that count: the oldest undo of each resource that was neither taken back nor cleaned.
pub(super) fn live(records: &[Record]) -> Vec<LiveUndo> {
    let undos = LiveRecords::of(records).undos.into_iter();
    undos
        .filter_map(|(place, keep)| live_undo(&with_keep(&records[place], keep)))
        .collect()
}

/// All undos that these runs noted in a phase and that were not taken back, in their order, without those of kept
/// resources.
pub(super) fn noted_by(
    records: &[Record],
    runs: &BTreeSet<RunId>,
    name: &PhaseName,
) -> Vec<LiveUndo> {
    let undos = LiveRecords::with_all_undos(records).undos.into_iter();
    undos
        .filter_map(|(place, _)| live_undo(&records[place]))
        .filter(|its| runs.contains(&its.run) && its.phase == *name && !its.keep)
        .collect()
}

/// Runs that applied this plan and were interrupted, with the phases that they completed. The next apply of the plan continues
/// them, unless a run has converged since.
pub(super) fn interrupted_runs(
    records: &[Record],
    digest: &str,
) -> BTreeMap<RunId, BTreeSet<PhaseName>> {
    let mut interrupted: BTreeMap<RunId, BTreeSet<PhaseName>> = BTreeMap::new();
    for record in records {
        match record {
            Record::Run {
                run,
                verb: Verb::Apply,
                digest: its,
                ..
            } if its == digest => {
                interrupted.insert(*run, BTreeSet::new());
            }
            Record::PhaseApplied { phase, .. } => {
                for applied in interrupted.values_mut() {
                    applied.insert(phase.clone());
                }
            }
            Record::End { outcome, run, .. } => match outcome {
                Outcome::Converged | Outcome::Cleaned => interrupted.clear(),
                Outcome::Interrupted => {}
                Outcome::Failed | Outcome::Refused | Outcome::Stopped | Outcome::Predicted => {
                    interrupted.remove(run);
                }
            },
            _ => {}
        }
    }
    interrupted
}

/// Directories that a rollback of a phase left because something else was in them, if the phase has not been completed
/// since.
pub(super) fn left_by_rollback(records: &[Record], name: &PhaseName) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for record in records {
        match record {
            Record::Reverted {
                phase, remaining, ..
            } if phase == name => {
                all.extend(remaining.iter().cloned());
            }
            Record::PhaseApplied { phase, .. } if phase == name => all.clear(),
            _ => {}
        }
    }
    all
}

/// The places of the records that say what rollbacks left of phases that have not been completed since. A record that
/// repeats what an earlier one says is left out: a phase may fail again and again.
fn places_of_left(records: &[Record]) -> BTreeSet<usize> {
    let mut known: BTreeSet<(&PhaseName, &String)> = BTreeSet::new();
    let mut places: BTreeMap<usize, &PhaseName> = BTreeMap::new();
    for (place, record) in records.iter().enumerate() {
        match record {
            Record::Reverted {
                phase, remaining, ..
            } => {
                let before = known.len();
                known.extend(remaining.iter().map(|directory| (phase, directory)));
                if known.len() > before {
                    places.insert(place, phase);
                }
            }
            Record::PhaseApplied { phase, .. } => {
                known.retain(|(its, _)| *its != phase);
                places.retain(|_, its| *its != phase);
            }
            _ => {}
        }
    }
    places.into_keys().collect()
}

/// Resources that could not be taken back because something on the host uses them. A resource that was made again, or that is
/// in a plan again, is not among them.
fn left_in_use(records: &[Record]) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for record in records {
        match record {
            Record::Pruned {
                resource,
                in_use: true,
                ..
            } => _ = all.insert(resource.clone()),
            Record::Pruned { resource, .. } => _ = all.remove(resource),
            Record::Undo { undo, .. } if !all.is_empty() => _ = all.remove(&undo.key()),
            _ => {}
        }
    }
    all
}

/// The records that say of live resources that they are in use: the last one of each resource, in their order.
fn marks_in_use(records: &[Record], live_records: &[Record]) -> Vec<Record> {
    let live: BTreeSet<String> = live_records.iter().filter_map(key_of).collect();
    let mut unmarked = left_in_use(records);
    unmarked.retain(|resource| live.contains(resource));
    let mut marks = Vec::new();
    for record in records.iter().rev() {
        if let Record::Pruned {
            resource,
            in_use: true,
            ..
        } = record
            && unmarked.remove(resource)
        {
            marks.push(record.clone());
        }
    }
    marks.reverse();
    marks
}

/// Every resource that was changed and not taken back, in the order of the first change.
pub(super) fn resources(records: &[Record]) -> Vec<LiveResource> {
    let in_use = left_in_use(records);
    let mut resources: Vec<LiveResource> = Vec::new();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for (place, _) in LiveRecords::with_all_undos(records).undos {
        let Some(live) = live_undo(&records[place]) else {
            continue;
        };
        let key = live.undo.key();
        if let Some(known) = places.get(&key) {
            let known = &mut resources[*known];
            known.undo.keep |= live.keep;
            if !known.steps.contains(&live.step) {
                known.steps.push(live.step);
            }
            continue;
        }
        resources.push(LiveResource {
            steps: vec![live.step.clone()],
            span: span_of(records, &live.step),
            in_use: in_use.contains(&key),
            undo: live,
        });
        places.insert(key, resources.len() - 1);
    }
    resources
}

pub(super) fn all_cleanup_steps(records: &[Record]) -> Vec<(PhaseName, Vec<PlannedStep>)> {
    let cleanups = LiveRecords::of(records).cleanups.into_iter();
    cleanups
        .map(|cleanup| (cleanup.phase, cleanup.steps))
        .collect()
}

/// The same with the runs that recorded them.
pub(super) fn cleanup_steps_noted(records: &[Record]) -> Vec<(RunId, PhaseName, Vec<PlannedStep>)> {
    let cleanups = LiveRecords::of(records).cleanups.into_iter();
    cleanups
        .map(|cleanup| (cleanup.run, cleanup.phase, cleanup.steps))
        .collect()
}

/// The cleanup steps of a phase, and whether some of them have been carried out; `None` if it has none.
pub(super) fn cleanup_steps(records: &[Record], phase: &PhaseName) -> Option<(Vec<StepId>, bool)> {
    let mut cleanups = LiveRecords::of(records).cleanups.into_iter();
    let its = cleanups.find(|cleanup| cleanup.phase == *phase)?;
    let ids = its.steps.iter().map(|step| step.id.clone());
    Some((ids.collect(), its.partial))
}

/// The header, the records of the last runs, which operators may ask about, and one record per live resource. Also what
/// earlier runs said of resources that are in use, and of directories that a rollback left.
pub(super) fn compacted(records: &[Record]) -> Vec<Record> {
    let runs: BTreeSet<RunId> = records.iter().filter_map(Record::run).collect();
    let first = runs
        .iter()
        .rev()
        .take(RUNS_KEPT)
        .min()
        .copied()
        .unwrap_or(0);
    let live_records = LiveRecords::of(records).into_records(records);
    let marks = marks_in_use(records, &live_records);
    let left = places_of_left(records);
    let mut kept = vec![Record::Header {
        version: VERSION,
        id: id_of(records),
    }];
    // An operator may ask which line of a script made a resource, for as long as the resource is on the host.
    let mut older: BTreeMap<&StepId, &Record> = BTreeMap::new();
    let mut recent = Vec::new();
    for (place, record) in records.iter().enumerate() {
        match record {
            Record::Header { .. }
            | Record::Undo { .. }
            | Record::CleanupSteps { .. }
            | Record::Pruned { in_use: true, .. } => {}
            // The number of the next run is one more than the highest: at least one record of the last run stays.
            record if record.run() >= Some(first) || left.contains(&place) => {
                recent.push(record);
            }
            Record::Intent { step, .. } => {
                older.insert(step, record);
            }
            _ => {}
        }
    }
    let is_live = |step: &StepId| {
        let is_its =
            |record: &Record| matches!(record, Record::Undo { step: its, .. } if its == step);
        live_records.iter().any(is_its)
    };
    let owed = older.into_iter().filter(|(step, _)| is_live(step));
    kept.extend(owed.map(|(_, record)| record.clone()));
    kept.extend(recent.into_iter().cloned());
    // Live records come behind these: no record after them may say that they were taken back.
    kept.extend(live_records);
    // An undo ends the mark of its resource, so the marks come last.
    kept.extend(marks);
    kept
}

/// Where the script has a step: for `why`.
pub(super) fn span_of(records: &[Record], wanted: &StepId) -> Option<Span> {
    records.iter().rev().find_map(|record| match record {
        Record::Intent { step, span, .. } if step == wanted => Some(span.clone()),
        _ => None,
    })
}
