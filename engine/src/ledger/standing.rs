//! What of the records counts: undos that have not been carried out, clean lanes, and what compaction keeps.
//!
//! Pure: records in, records out.

use std::collections::{BTreeMap, BTreeSet};

use super::{Record, RunId, VERSION};
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
    /// Undos that are not taken back, not cleaned, and of each thing the oldest.
    undos: Vec<usize>,
    /// Clean lanes, with the steps that are left of them.
    lanes: Vec<(usize, RunId, PhaseName, Vec<PlannedStep>)>,
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
                Record::Undo { .. } => standing.undos.push(place),
                // The first one counts: later ones could take for ours what the first one found there.
                Record::CleanLane { run, phase, steps }
                    if standing.lanes.iter().all(|(_, _, known, _)| known != phase) =>
                {
                    let lane = (place, *run, phase.clone(), steps.clone());
                    standing.lanes.push(lane);
                }
                // A rollback has carried them out; what comes to be there afterwards may be somebody else's.
                Record::Reverted { run, phase } => standing.revert(records, *run, phase),
                Record::Cleaned { run, kept } => standing.clean(records, *run, *kept),
                Record::Withdrawn { thing, .. } => standing.undos.retain(
                    |place| matches!(&records[*place], Record::Undo { undo, .. } if undo.about() != *thing),
                ),
                Record::LaneWithdrawn { phase, .. } => {
                    for (_, _, its, steps) in &mut standing.lanes {
                        steps.retain(|step| its != phase || step.policy.keep);
                    }
                    standing.lanes.retain(|(_, _, _, steps)| !steps.is_empty());
                }
                _ => {}
            }
        }
        standing
    }

    fn revert(&mut self, records: &[Record], wanted: RunId, name: &PhaseName) {
        self.undos.retain(|place| match &records[*place] {
            Record::Undo {
                run, phase, keep, ..
            } => *keep || *run != wanted || phase != name,
            _ => false,
        });
        self.lanes
            .retain(|(_, run, phase, _)| *run != wanted || phase != name);
    }

    fn clean(&mut self, records: &[Record], cleaning: RunId, kept: bool) {
        // What the clean itself has noted is what it had to leave.
        let (left, mut before): (Vec<usize>, Vec<usize>) = self
            .undos
            .iter()
            .partition(|place| records[**place].run() == Some(cleaning));
        // A younger undo of a thing that is as it was at the start has nothing to lead back to.
        keep_oldest(records, &mut before);
        before.extend(left);
        before.retain(|place| kept && matches!(records[*place], Record::Undo { keep: true, .. }));
        self.undos = before;
        for (_, _, _, steps) in &mut self.lanes {
            steps.retain(|step| kept && step.policy.keep);
        }
        self.lanes.retain(|(_, _, _, steps)| !steps.is_empty());
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

    /// The clean lane of a phase, if this run wrote it down.
    pub(super) fn lane_of(self, wanted: RunId, name: &PhaseName) -> Vec<PlannedStep> {
        let mut own = self
            .lanes
            .into_iter()
            .filter(|(_, run, phase, _)| *run == wanted && phase == name);
        own.next().map(|(_, _, _, steps)| steps).unwrap_or_default()
    }

    /// Its records, in the order in which they were written.
    fn into_records(self, records: &[Record]) -> Vec<Record> {
        let undos = self
            .undos
            .into_iter()
            .map(|place| (place, records[place].clone()));
        let lanes = self.lanes.into_iter().map(|(place, run, phase, steps)| {
            let lane = Record::CleanLane { run, phase, steps };
            (place, lane)
        });
        let mut all: Vec<(usize, Record)> = undos.chain(lanes).collect();
        all.sort_by_key(|(place, _)| *place);
        all.into_iter().map(|(_, record)| record).collect()
    }
}

/// Of two undos of one thing, the older one leads back to the start.
fn keep_oldest(records: &[Record], undos: &mut Vec<usize>) {
    let mut seen = BTreeSet::new();
    undos.retain(|place| match &records[*place] {
        Record::Undo { undo, .. } => seen.insert(undo.about()),
        _ => false,
    });
}

/// Undos that count: not taken back, not cleaned, and of each thing the oldest.
pub(super) fn live(records: &[Record]) -> Vec<LiveUndo> {
    let undos = Standing::of(records).undos.into_iter();
    undos
        .filter_map(|place| match &records[place] {
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
        })
        .collect()
}

/// Everything that stands, by thing, in the order in which it came to be.
pub(super) fn things(records: &[Record]) -> Vec<StandingThing> {
    let mut things: Vec<StandingThing> = Vec::new();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for place in Standing::whole(records).undos {
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
    lanes.map(|(_, _, phase, steps)| (phase, steps)).collect()
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
    let mut kept = vec![Record::Header { version: VERSION }];
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
