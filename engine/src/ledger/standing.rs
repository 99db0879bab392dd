//! What of the records counts: undos that have not been carried out, clean lanes, and what compaction keeps.
//!
//! Pure: records in, records out.

use std::collections::{BTreeMap, BTreeSet};

use super::tip::id_of;
use super::{Record, RunId, VERSION};
use crate::exec::{Outcome, Verb};
use crate::plan::{PhaseName, PlannedStep, Span, StepId};
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

/// A thing that was changed and not taken back, and every step that noted an inverse of it.
#[derive(Debug, Clone, PartialEq)]
pub struct StandingThing {
    /// What leads back to the start: the oldest undo. It is kept if any of them is.
    pub undo: LiveUndo,
    /// Those that noted one, oldest first.
    pub steps: Vec<StepId>,
    /// Where the script says the step that began it, if that is still written down.
    pub span: Option<Span>,
}

/// What counts of some records, by their places among them.
#[derive(Default)]
pub(super) struct Standing {
    /// Undos that are not taken back, not cleaned, and of each thing the oldest; and whether a clean leaves the thing.
    undos: Vec<(usize, bool)>,
    lanes: Vec<Lane>,
}

/// A clean lane with the steps that are left of it.
struct Lane {
    place: usize,
    run: RunId,
    phase: PhaseName,
    steps: Vec<PlannedStep>,
    /// Some of it has been carried out.
    holes: bool,
}

impl Standing {
    pub(super) fn of(records: &[Record]) -> Self {
        let mut standing = Self::whole(records);
        keep_oldest(records, &mut standing.undos);
        standing
    }

    /// The same with all undos of a thing.
    fn whole(records: &[Record]) -> Self {
        let mut standing = Self::default();
        for (place, record) in records.iter().enumerate() {
            match record {
                Record::Undo { keep, .. } => standing.undos.push((place, *keep)),
                Record::CleanLane { .. } => standing.lane(place, record),
                // A rollback has carried them out; what comes to be there afterwards may be somebody else's.
                Record::Reverted { run, phase, thing } => {
                    standing.revert(records, *run, phase, thing.as_deref());
                }
                Record::Cleaned { run, kept } => standing.clean(records, *run, *kept),
                Record::Withdrawn { thing, .. } => standing
                    .undos
                    .retain(|(place, _)| about(&records[*place]).is_some_and(|its| its != *thing)),
                Record::LaneWithdrawn { phase, step, .. } => {
                    standing.withdraw_lane(phase, step.as_ref());
                }
                _ => {}
            }
        }
        standing
    }

    /// The first one of a phase counts: later ones could take for ours what the first one found there. One with holes takes
    /// up what fills them.
    fn lane(&mut self, place: usize, record: &Record) {
        let Record::CleanLane {
            run,
            phase,
            steps,
            holes,
        } = record
        else {
            return;
        };
        let Some(known) = self.lanes.iter_mut().find(|known| known.phase == *phase) else {
            self.lanes.push(Lane {
                place,
                run: *run,
                phase: phase.clone(),
                steps: steps.clone(),
                holes: *holes,
            });
            return;
        };
        if known.holes {
            for step in steps {
                if known.steps.iter().all(|its| its.id != step.id) {
                    known.steps.push(step.clone());
                }
            }
            known.holes = *holes;
        }
    }

    fn withdraw_lane(&mut self, phase: &PhaseName, step: Option<&StepId>) {
        let Some(at) = self.lanes.iter().position(|its| its.phase == *phase) else {
            return;
        };
        let its = &mut self.lanes[at];
        its.holes = true;
        its.steps.retain(|one| match step {
            Some(step) => one.id != *step,
            None => one.policy.keep,
        });
        if its.steps.is_empty() {
            self.lanes.remove(at);
        }
    }

    fn revert(&mut self, records: &[Record], wanted: RunId, name: &PhaseName, thing: Option<&str>) {
        self.undos.retain(|(place, _)| match &records[*place] {
            Record::Undo {
                run,
                phase,
                keep,
                undo,
                ..
            } => {
                let meant = thing.is_none_or(|thing| undo.about() == thing);
                *keep || *run != wanted || phase != name || !meant
            }
            _ => false,
        });
        if thing.is_none() {
            self.lanes
                .retain(|lane| lane.run != wanted || lane.phase != *name);
        }
    }

    fn clean(&mut self, records: &[Record], cleaning: RunId, kept: bool) {
        // What the clean itself has noted is what it had to leave.
        let (left, mut before): (Vec<_>, Vec<_>) = self
            .undos
            .iter()
            .partition(|(place, _)| records[*place].run() == Some(cleaning));
        // A younger undo of a thing that is as it was at the start has nothing to lead back to.
        keep_oldest(records, &mut before);
        before.extend(left);
        before.retain(|(_, keep)| kept && *keep);
        self.undos = before;
        for lane in &mut self.lanes {
            lane.steps.retain(|step| kept && step.policy.keep);
            lane.holes = true;
        }
        self.lanes.retain(|lane| !lane.steps.is_empty());
    }

    /// Phases of which something stands, in the order in which they came to be.
    pub(super) fn phases(self, records: &[Record]) -> Vec<PhaseName> {
        let mut phases = Vec::new();
        for record in self.into_records(records) {
            if let Record::Undo { phase, .. } | Record::CleanLane { phase, .. } = record
                && !phases.contains(&phase)
            {
                phases.push(phase);
            }
        }
        phases
    }

    /// The clean lane of a phase, if one of these runs wrote it down.
    pub(super) fn lane_of(self, runs: &BTreeSet<RunId>, name: &PhaseName) -> Vec<PlannedStep> {
        let mut lanes = self.lanes.into_iter();
        let own = lanes.find(|lane| runs.contains(&lane.run) && lane.phase == *name);
        own.map(|lane| lane.steps).unwrap_or_default()
    }

    /// Its records, in the order in which they were written.
    fn into_records(self, records: &[Record]) -> Vec<Record> {
        let undos = self
            .undos
            .into_iter()
            .map(|(place, kept)| (place, kept_as(&records[place], kept)));
        let lanes = self.lanes.into_iter().map(|lane| {
            let record = Record::CleanLane {
                run: lane.run,
                phase: lane.phase,
                steps: lane.steps,
                holes: lane.holes,
            };
            (lane.place, record)
        });
        let mut all: Vec<(usize, Record)> = undos.chain(lanes).collect();
        all.sort_by_key(|(place, _)| *place);
        all.into_iter().map(|(_, record)| record).collect()
    }
}

/// Of two undos of one thing, the older one leads back to the start. The thing is kept if any of them says so.
fn keep_oldest(records: &[Record], undos: &mut Vec<(usize, bool)>) {
    let named = |(place, keep): &(usize, bool)| Some((about(&records[*place])?, *keep));
    let kept: BTreeSet<String> = undos
        .iter()
        .filter_map(named)
        .filter_map(|(thing, keep)| keep.then_some(thing))
        .collect();
    let mut seen = BTreeSet::new();
    undos.retain_mut(|(place, keep)| {
        let Some(thing) = about(&records[*place]) else {
            return false;
        };
        *keep = kept.contains(&thing);
        seen.insert(thing)
    });
}

/// The thing that an undo is about.
fn about(record: &Record) -> Option<String> {
    match record {
        Record::Undo { undo, .. } => Some(undo.about()),
        _ => None,
    }
}

/// An undo with this mark.
fn kept_as(record: &Record, kept: bool) -> Record {
    let mut record = record.clone();
    if let Record::Undo { keep, .. } = &mut record {
        *keep = kept;
    }
    record
}

/// An undo's record as people ask for it.
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

/// Undos that count: not taken back, not cleaned, and of each thing the oldest.
pub(super) fn live(records: &[Record]) -> Vec<LiveUndo> {
    let undos = Standing::of(records).undos.into_iter();
    undos
        .filter_map(|(place, keep)| live_undo(&kept_as(&records[place], keep)))
        .collect()
}

/// All undos that these runs noted in a phase and that were not taken back, in their order, but for what is kept.
pub(super) fn noted_by(
    records: &[Record],
    runs: &BTreeSet<RunId>,
    name: &PhaseName,
) -> Vec<LiveUndo> {
    let undos = Standing::whole(records).undos.into_iter();
    undos
        .filter_map(|(place, _)| live_undo(&records[place]))
        .filter(|its| runs.contains(&its.run) && its.phase == *name && !its.keep)
        .collect()
}

/// Runs that were to apply this very plan and were cut, with the phases that they did bring to their end. The next apply of the
/// plan goes on from there; whatever has converged since has done so already.
pub(super) fn cut_runs(records: &[Record], digest: &str) -> BTreeMap<RunId, BTreeSet<PhaseName>> {
    let mut cut: BTreeMap<RunId, BTreeSet<PhaseName>> = BTreeMap::new();
    for record in records {
        match record {
            Record::Run {
                run,
                verb: Verb::Apply,
                digest: its,
                ..
            } if its == digest => {
                cut.insert(*run, BTreeSet::new());
            }
            Record::Stands { phase, .. } => {
                for stands in cut.values_mut() {
                    stands.insert(phase.clone());
                }
            }
            Record::End { outcome, run, .. } => match outcome {
                Outcome::Converged | Outcome::Cleaned => cut.clear(),
                Outcome::Interrupted => {}
                _ => {
                    cut.remove(run);
                }
            },
            _ => {}
        }
    }
    cut
}

/// Everything that stands, by thing, in the order in which it came to be.
pub(super) fn things(records: &[Record]) -> Vec<StandingThing> {
    let mut things: Vec<StandingThing> = Vec::new();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for (place, _) in Standing::whole(records).undos {
        let Record::Undo {
            run,
            phase,
            step,
            keep,
            undo,
        } = &records[place]
        else {
            continue;
        };
        if let Some(known) = places.get(&undo.about()) {
            let known = &mut things[*known];
            known.undo.keep |= keep;
            if !known.steps.contains(step) {
                known.steps.push(step.clone());
            }
            continue;
        }
        places.insert(undo.about(), things.len());
        things.push(StandingThing {
            undo: LiveUndo {
                run: *run,
                phase: phase.clone(),
                step: step.clone(),
                keep: *keep,
                undo: undo.clone(),
            },
            steps: vec![step.clone()],
            span: span_of(records, step),
        });
    }
    things
}

pub(super) fn clean_lanes(records: &[Record]) -> Vec<(PhaseName, Vec<PlannedStep>)> {
    let lanes = Standing::of(records).lanes.into_iter();
    lanes.map(|lane| (lane.phase, lane.steps)).collect()
}

/// The same with the runs that wrote them down.
pub(super) fn clean_lanes_noted(records: &[Record]) -> Vec<(RunId, PhaseName, Vec<PlannedStep>)> {
    let lanes = Standing::of(records).lanes.into_iter();
    lanes
        .map(|lane| (lane.run, lane.phase, lane.steps))
        .collect()
}

/// The steps of a phase's clean lane, and whether it has holes; `None` if it has none.
pub(super) fn clean_lane(records: &[Record], phase: &PhaseName) -> Option<(Vec<StepId>, bool)> {
    let mut lanes = Standing::of(records).lanes.into_iter();
    let its = lanes.find(|lane| lane.phase == *phase)?;
    Some((
        its.steps.into_iter().map(|step| step.id).collect(),
        its.holes,
    ))
}

/// The header, the records of the last runs that people may ask about, and one record per live thing.
pub(super) fn compacted(records: &[Record]) -> Vec<Record> {
    let runs: BTreeSet<RunId> = records.iter().filter_map(Record::run).collect();
    let first = runs
        .iter()
        .rev()
        .take(RUNS_KEPT)
        .min()
        .copied()
        .unwrap_or(0);
    let standing = Standing::of(records).into_records(records);
    let mut kept = vec![Record::Header {
        version: VERSION,
        id: id_of(records),
    }];
    // Which line of a script a thing is owed to can be asked for as long as it stands.
    let mut older: BTreeMap<&StepId, &Record> = BTreeMap::new();
    let mut recent = Vec::new();
    for record in records {
        match record {
            Record::Header { .. } | Record::Undo { .. } | Record::CleanLane { .. } => {}
            // Numbers of runs go on from the highest: at least one record of the last run stays.
            record if record.run() >= Some(first) => recent.push(record),
            Record::Intent { step, .. } => {
                older.insert(step, record);
            }
            _ => {}
        }
    }
    let stands = |step: &StepId| {
        let is_its =
            |record: &Record| matches!(record, Record::Undo { step: its, .. } if its == step);
        standing.iter().any(is_its)
    };
    let owed = older.into_iter().filter(|(step, _)| stands(step));
    kept.extend(owed.map(|(_, record)| record.clone()));
    kept.extend(recent.into_iter().cloned());
    // They come last: a record that something was taken back must not follow what stands.
    kept.extend(standing);
    kept
}

/// Where a step of a script stands: for `why`.
pub(super) fn span_of(records: &[Record], wanted: &StepId) -> Option<Span> {
    records.iter().rev().find_map(|record| match record {
        Record::Intent { step, span, .. } if step == wanted => Some(span.clone()),
        _ => None,
    })
}
