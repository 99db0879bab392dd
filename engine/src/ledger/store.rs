//! Reading, writing, repairing and compacting the ledger's file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::sync::Mutex;

use super::seal::{CHAINED, Chain, Line};
use super::standing::{
    LiveUndo, Standing, StandingThing, clean_lane, clean_lanes, compacted, cut_runs, live,
    noted_by, things,
};
use super::{History, LedgerError, Record, RunId, VERSION};
use crate::exec::{Failure, Outcome, STATE, Verb};
use crate::host::{Attributes, Host, HostError};
use crate::plan::{PhaseName, PlannedStep, Span, StepId};
use crate::resource::{Change, ResourceResult, Undo, UndoLog};

/// Largest ledger that is read; compaction keeps it far below.
const LIMIT: u64 = 64 * 1024 * 1024;
/// Lines beyond which a run's end compacts.
const COMPACT_BEYOND: usize = 2_000;

/// How long the disk may take for one of our own reads or writes.
const PATIENCE: Duration = Duration::from_secs(60);

const FILE: Attributes = Attributes::root(0o600);
/// What a run may have to write, in bytes, copies of files included; the largest of the role writes a tenth of it.
const ROOM: u64 = 1024 * 1024;
const DIRECTORY: Attributes = Attributes::root(0o700);

/// A host's ledger, open for writing.
pub struct Ledger<'a> {
    host: &'a dyn Host,
    pages: Mutex<Pages>,
}

/// What is written down, and whether the file ends with it.
struct Pages {
    records: Vec<Record>,
    /// Where the file's chain ends.
    chain: Chain,
    /// A write was cut or has failed: half a line may stand at the end of the file.
    tail_in_doubt: bool,
}

impl<'a> Ledger<'a> {
    /// Opens the ledger of a host, or begins one. A half-written last line is cut off. Hold the host's lock.
    ///
    /// # Errors
    /// It cannot be read, is newer than this program, or has been changed by others.
    pub async fn open(host: &'a dyn Host) -> Result<Self, LedgerError> {
        in_time(create_directories(host))
            .await
            .map_err(failed("create"))?;
        let book = read(host).await?;
        if book.records.is_empty() {
            // Of one that somebody has moved away.
            in_time(host.remove(&tip_path()))
                .await
                .map_err(failed("create"))?;
        }
        let ledger = Self {
            host,
            pages: Mutex::new(Pages {
                // One of an older form is written anew: a file has one form.
                tail_in_doubt: book.torn || book.older || book.records.is_empty(),
                records: book.records,
                chain: book.chain,
            }),
        };
        let mut pages = ledger.pages.lock().await;
        if pages.records.is_empty() {
            pages.records.push(Record::Header { version: VERSION });
        }
        ledger.repair(&mut pages).await?;
        drop(pages);
        Ok(ledger)
    }

    /// Reads a host's ledger without changing anything; empty where there is none.
    ///
    /// # Errors
    /// As [`Ledger::open`].
    pub async fn read(host: &dyn Host) -> Result<Vec<Record>, LedgerError> {
        Ok(read(host).await?.records)
    }

    /// Whether there is room for the records of such a run. Asked before one that consists of several: a stop that has room and a
    /// start that has none would leave a host down.
    ///
    /// # Errors
    /// There is not, or it cannot be told.
    pub async fn has_room(host: &dyn Host, verb: Verb) -> Result<(), LedgerError> {
        let space = host.space(Path::new(STATE)).await;
        let free = space.map_err(failed("look at the room for"))?.free;
        let enough = match verb {
            // They make room.
            Verb::Stop | Verb::Clean => ROOM / 16,
            _ => ROOM,
        };
        if free < enough {
            return Err(LedgerError::Full { free });
        }
        Ok(())
    }

    /// Begins a run and returns its number.
    ///
    /// # Errors
    /// It could not be written, or what follows could not be.
    pub async fn begin(&self, verb: Verb, role: &str, digest: &str) -> Result<RunId, LedgerError> {
        Self::has_room(self.host, verb).await?;
        let pages = self.pages.lock().await;
        let last = pages.records.iter().filter_map(Record::run).max();
        drop(pages);
        let run = last.unwrap_or(0) + 1;
        self.append(Record::Run {
            run,
            verb,
            role: role.to_owned(),
            digest: digest.to_owned(),
            at: self.now(),
        })
        .await?;
        Ok(run)
    }

    /// Notes that a step is about to converge.
    ///
    /// # Errors
    /// It could not be written; the step must not converge then.
    pub async fn intent(
        &self,
        run: RunId,
        phase: &PhaseName,
        step: &PlannedStep,
        change: &Change,
    ) -> Result<(), LedgerError> {
        self.append(Record::Intent {
            run,
            phase: phase.clone(),
            step: step.id.clone(),
            span: step.span.clone(),
            action: change.action,
            fields: change.differences.iter().map(|d| d.field.clone()).collect(),
        })
        .await
    }

    /// Notes that something that the plan no longer has is about to be taken back.
    ///
    /// # Errors
    /// It could not be written; nothing must be taken back then.
    pub async fn withdrawal(
        &self,
        run: RunId,
        phase: &PhaseName,
        (step, span): (&StepId, &Span),
        change: &Change,
    ) -> Result<(), LedgerError> {
        self.append(Record::Intent {
            run,
            phase: phase.clone(),
            step: step.clone(),
            span: span.clone(),
            action: change.action,
            fields: change.differences.iter().map(|d| d.field.clone()).collect(),
        })
        .await
    }

    /// Notes that a thing was taken back; `step` had begun it.
    ///
    /// # Errors
    /// It could not be written.
    pub async fn withdrawn(
        &self,
        run: RunId,
        phase: &PhaseName,
        step: &StepId,
        thing: &str,
    ) -> Result<(), LedgerError> {
        self.append(Record::Withdrawn {
            run,
            phase: phase.clone(),
            step: step.clone(),
            thing: thing.to_owned(),
        })
        .await
    }

    /// Notes that the clean lane of a phase was carried out, or this step of it.
    ///
    /// # Errors
    /// It could not be written.
    pub async fn lane_withdrawn(
        &self,
        run: RunId,
        phase: &PhaseName,
        step: Option<&StepId>,
    ) -> Result<(), LedgerError> {
        self.append(Record::LaneWithdrawn {
            run,
            phase: phase.clone(),
            step: step.cloned(),
        })
        .await
    }

    /// Whether one of these runs was about to converge anything in a phase.
    pub async fn has_intent(&self, runs: &BTreeSet<RunId>, name: &PhaseName) -> bool {
        let pages = self.pages.lock().await;
        pages.records.iter().any(|record| {
            matches!(record, Record::Intent { run, phase, .. } if runs.contains(run) && phase == name)
        })
    }

    /// Whether the last run has no end.
    pub async fn was_cut(&self) -> bool {
        let pages = self.pages.lock().await;
        let mut back = pages.records.iter().rev();
        let last = back.find(|record| matches!(record, Record::Run { .. } | Record::End { .. }));
        matches!(last, Some(Record::Run { .. }))
    }

    /// Runs that were to apply this very plan and were cut, with the phases that they did bring to their end.
    pub async fn cut_runs(&self, digest: &str) -> BTreeMap<RunId, BTreeSet<PhaseName>> {
        cut_runs(&self.pages.lock().await.records, digest)
    }

    /// Notes that a phase in which a run changed something has come to its end.
    ///
    /// # Errors
    /// It could not be written.
    pub async fn stands(&self, run: RunId, phase: &PhaseName) -> Result<(), LedgerError> {
        let phase = phase.clone();
        self.append(Record::Stands { run, phase }).await
    }

    /// All undos that these runs noted in a phase and that were not carried out, in their order, but for what is kept.
    pub async fn noted_by(&self, runs: &BTreeSet<RunId>, phase: &PhaseName) -> Vec<Undo> {
        let noted = noted_by(&self.pages.lock().await.records, runs, phase);
        noted.into_iter().map(|live| live.undo).collect()
    }

    /// Notes that a step has converged.
    ///
    /// # Errors
    /// It could not be written.
    pub async fn receipt(
        &self,
        run: RunId,
        phase: &PhaseName,
        step: &StepId,
    ) -> Result<(), LedgerError> {
        self.append(Record::Receipt {
            run,
            phase: phase.clone(),
            step: step.clone(),
        })
        .await
    }

    /// Notes the steps that remove what a phase's things will leave behind.
    ///
    /// # Errors
    /// It could not be written.
    pub async fn clean_lane(
        &self,
        run: RunId,
        phase: &PhaseName,
        steps: Vec<PlannedStep>,
    ) -> Result<(), LedgerError> {
        self.append(Record::CleanLane {
            run,
            phase: phase.clone(),
            steps,
            holes: false,
        })
        .await
    }

    /// Notes a failure.
    ///
    /// # Errors
    /// It could not be written.
    pub async fn failed(
        &self,
        run: RunId,
        phase: &PhaseName,
        failure: &Failure,
    ) -> Result<(), LedgerError> {
        self.append(Record::Failed {
            run,
            phase: phase.clone(),
            failure: failure.clone(),
        })
        .await
    }

    /// Notes that what a run did in a phase has been taken back, or this thing of it.
    ///
    /// # Errors
    /// It could not be written.
    pub async fn reverted(
        &self,
        run: RunId,
        phase: &PhaseName,
        thing: Option<String>,
    ) -> Result<(), LedgerError> {
        self.append(Record::Reverted {
            run,
            phase: phase.clone(),
            thing,
        })
        .await
    }

    /// Notes that everything has been taken back; `kept` says whether what is to be kept stays. Directories that are
    /// still there because of it go when it does.
    ///
    /// # Errors
    /// It could not be written.
    pub async fn cleaned(
        &self,
        run: RunId,
        kept: bool,
        directories: &[LiveUndo],
    ) -> Result<(), LedgerError> {
        // They are noted first: as kept ones they outlive the record that follows.
        for live in directories.iter().filter(|_| kept) {
            self.append(Record::Undo {
                run,
                phase: live.phase.clone(),
                step: live.step.clone(),
                keep: true,
                undo: live.undo.clone(),
            })
            .await?;
        }
        self.append(Record::Cleaned { run, kept }).await
    }

    /// Ends a run, and compacts the ledger when it has grown long.
    ///
    /// # Errors
    /// It could not be written.
    pub async fn end(
        &self,
        run: RunId,
        outcome: Outcome,
        totals: (usize, usize),
    ) -> Result<(), LedgerError> {
        self.append(Record::End {
            run,
            outcome,
            changed: totals.0,
            unchanged: totals.1,
            at: self.now(),
        })
        .await?;
        let tip = run.to_string();
        in_time(self.host.write(&tip_path(), tip.as_bytes(), FILE))
            .await
            .map_err(failed("write the tip of"))?;
        // What an interrupted run did is the next one's to take back, and compaction keeps of each thing the oldest inverse.
        let carried_on = outcome == Outcome::Interrupted;
        if !carried_on && self.pages.lock().await.records.len() > COMPACT_BEYOND {
            self.compact().await?;
        }
        Ok(())
    }

    /// Undos that have not been carried out, oldest first: for each thing the one that leads back to the start.
    pub async fn live(&self) -> Vec<LiveUndo> {
        live(&self.pages.lock().await.records)
    }

    /// The same of records.
    #[must_use]
    pub fn live_in(records: &[Record]) -> Vec<LiveUndo> {
        live(records)
    }

    /// Everything that stands, by thing, oldest first.
    pub async fn things(&self) -> Vec<StandingThing> {
        things(&self.pages.lock().await.records)
    }

    /// Everything that stands by these records, by thing, oldest first.
    #[must_use]
    pub fn things_in(records: &[Record]) -> Vec<StandingThing> {
        things(records)
    }

    /// Steps that remove what phases left behind, by phase, oldest first.
    pub async fn clean_lanes(&self) -> Vec<(PhaseName, Vec<PlannedStep>)> {
        clean_lanes(&self.pages.lock().await.records)
    }

    /// Which such steps of a phase are written down, and whether some of them have been carried out since; `None` where none
    /// ever were.
    pub async fn clean_lane_of(&self, phase: &PhaseName) -> Option<(Vec<StepId>, bool)> {
        clean_lane(&self.pages.lock().await.records, phase)
    }

    /// The same of records.
    #[must_use]
    pub fn clean_lanes_in(records: &[Record]) -> Vec<(PhaseName, Vec<PlannedStep>)> {
        clean_lanes(records)
    }

    /// Phases of which something stands, in the order in which they came to be.
    #[must_use]
    pub fn phases_in(records: &[Record]) -> Vec<PhaseName> {
        Standing::of(records).phases(records)
    }

    /// The role of the last run that had one.
    #[must_use]
    pub fn role_in(records: &[Record]) -> Option<String> {
        records.iter().rev().find_map(|record| match record {
            Record::Run { role, .. } if !role.is_empty() => Some(role.clone()),
            _ => None,
        })
    }

    /// The role that stands by these records; none where nothing does but what a clean has kept.
    #[must_use]
    pub fn standing_role_in(records: &[Record]) -> Option<String> {
        let stands = live(records).iter().any(|live| !live.keep);
        stands.then(|| Self::role_in(records)).flatten()
    }

    /// The clean lane of a phase, if one of these runs wrote it down.
    pub async fn lane_of(&self, runs: &BTreeSet<RunId>, phase: &PhaseName) -> Vec<PlannedStep> {
        Standing::of(&self.pages.lock().await.records).lane_of(runs, phase)
    }

    /// The runs as people ask about them.
    pub async fn history(&self) -> History {
        History::of(&self.pages.lock().await.records)
    }

    /// Rewrites the ledger to one record per live thing and the last runs, in one atomic step, and drops content that
    /// nothing refers to any more.
    ///
    /// # Errors
    /// It could not be written; the old one stands then.
    pub async fn compact(&self) -> Result<(), LedgerError> {
        let mut pages = self.pages.lock().await;
        let compacted = compacted(&pages.records);
        pages.chain = self.replace(&compacted).await?;
        pages.records = compacted;
        pages.tail_in_doubt = false;
        let wanted: BTreeSet<String> = live(&pages.records)
            .iter()
            .filter_map(|live| Some(live.undo.kept()?.sha256.clone()))
            .collect();
        let folder = content_folder();
        for name in self.host.list(&folder).await.map_err(failed("tidy up"))? {
            if !wanted.contains(&name) {
                self.host
                    .remove(&folder.join(name))
                    .await
                    .map_err(failed("tidy up"))?;
            }
        }
        Ok(())
    }

    /// A log for the undos of one step.
    #[must_use]
    pub fn step_log<'l>(
        &'l self,
        run: RunId,
        phase: &PhaseName,
        step: &PlannedStep,
    ) -> StepLog<'l, 'a> {
        StepLog {
            ledger: self,
            run,
            phase: phase.clone(),
            step: step.id.clone(),
            keep: step.policy.keep,
        }
    }

    /// Appends a record. It is on disk when this returns. When it fails or is cancelled, the next one begins with a
    /// repair: a record must never be glued to half a line.
    async fn append(&self, record: Record) -> Result<(), LedgerError> {
        // One writer at a time: records of phases that run side by side must not mix within a line.
        let mut pages = self.pages.lock().await;
        self.repair(&mut pages).await?;
        pages.tail_in_doubt = true;
        let mut chain = pages.chain.clone();
        let line = chain.seal(&record);
        in_time(self.host.append(&path(), line.as_bytes(), FILE))
            .await
            .map_err(failed("write"))?;
        pages.tail_in_doubt = false;
        pages.chain = chain;
        pages.records.push(record);
        Ok(())
    }

    /// Writes the file anew where it may not end with the last record.
    async fn repair(&self, pages: &mut Pages) -> Result<(), LedgerError> {
        if pages.tail_in_doubt {
            pages.chain = self.replace(&pages.records).await?;
            pages.tail_in_doubt = false;
        }
        Ok(())
    }

    /// Writes the whole file, and says where its chain ends.
    async fn replace(&self, records: &[Record]) -> Result<Chain, LedgerError> {
        let mut chain = Chain::default();
        let text: String = records.iter().map(|record| chain.seal(record)).collect();
        in_time(self.host.write(&path(), text.as_bytes(), FILE))
            .await
            .map_err(failed("write"))?;
        Ok(chain)
    }

    fn now(&self) -> String {
        rfc3339(self.host.now())
    }
}

/// Writes the undos of one step.
pub struct StepLog<'l, 'a> {
    ledger: &'l Ledger<'a>,
    run: RunId,
    phase: PhaseName,
    step: StepId,
    keep: bool,
}

#[async_trait]
impl UndoLog for StepLog<'_, '_> {
    async fn note(&self, undo: &Undo) -> ResourceResult<()> {
        if let Some(content) = undo.kept()
            && let Some(bytes) = content.at_hand()
            && self.ledger.host.entry(&content.path()).await?.is_none()
        {
            // The content first: a record must never refer to what is not there.
            self.ledger.host.write(&content.path(), bytes, FILE).await?;
        }
        self.ledger
            .append(Record::Undo {
                run: self.run,
                phase: self.phase.clone(),
                step: self.step.clone(),
                keep: self.keep,
                undo: undo.clone(),
            })
            .await?;
        Ok(())
    }
}

/// Where the ledger stands.
fn path() -> PathBuf {
    Path::new(STATE).join("ledger.jsonl")
}

/// Says which run was the last to come to its end: lines that are missing at the end of the ledger leave no other trace.
fn tip_path() -> PathBuf {
    Path::new(STATE).join("ledger.tip")
}

fn content_folder() -> PathBuf {
    Path::new(STATE).join("content")
}

/// A disk that does not answer ends a run with an error that says so, and does not hold it up for ever.
pub(crate) async fn in_time<T>(
    work: impl Future<Output = Result<T, HostError>>,
) -> Result<T, HostError> {
    let deadline = |_| HostError::Deadline {
        action: "read or write the engine's own records".to_owned(),
        after: PATIENCE,
    };
    let done = tokio::time::timeout(PATIENCE, work).await;
    done.map_err(deadline)?
}

fn failed(action: &'static str) -> impl Fn(HostError) -> LedgerError {
    move |source| LedgerError::Host { action, source }
}

fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

async fn create_directories(host: &dyn Host) -> Result<(), HostError> {
    let mut directory = PathBuf::from("/");
    for part in content_folder().iter().skip(1) {
        directory.push(part);
        if host.entry(&directory).await?.is_none() {
            let private = directory.starts_with(STATE);
            let attributes = if private {
                DIRECTORY
            } else {
                Attributes::root(0o755)
            };
            host.create_directory(&directory, attributes).await?;
        }
    }
    Ok(())
}

/// What stands in the file.
#[derive(Default)]
struct Book {
    records: Vec<Record>,
    chain: Chain,
    /// A half-written line follows.
    torn: bool,
    /// It is of an older form.
    older: bool,
    /// It is of a form without a chain.
    unchained: bool,
}

async fn read(host: &dyn Host) -> Result<Book, LedgerError> {
    // The tip first: a run that ends meanwhile has written its end before it.
    let tip = in_time(host.read(&tip_path(), LIMIT)).await;
    let bytes = in_time(host.read(&path(), LIMIT)).await;
    let Some(bytes) = bytes.map_err(failed("read"))? else {
        return Ok(Book::default());
    };
    let corrupt = |line: usize, problem: String| LedgerError::Corrupt {
        path: path(),
        line,
        problem,
    };
    let whole = bytes
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |end| end + 1);
    let text = std::str::from_utf8(&bytes[..whole]).map_err(|error| {
        let line = bytes[..error.valid_up_to()]
            .iter()
            .filter(|b| **b == b'\n')
            .count()
            + 1;
        corrupt(line, "it is no text".to_owned())
    })?;
    let mut book = Book {
        torn: whole < bytes.len(),
        ..Book::default()
    };
    for (number, text) in text.lines().enumerate() {
        let number = number + 1;
        if let Some(newer) = newer(text) {
            return Err(newer);
        }
        let Line { record, form } = book
            .chain
            .open(text, book.unchained)
            .map_err(|problem| corrupt(number, problem))?;
        if (number == 1) != matches!(record, Record::Header { .. }) {
            let problem = "the header stands elsewhere than in the first line: lines before it, or it, are missing";
            return Err(corrupt(number, problem.to_owned()));
        }
        book.unchained |= form.is_some_and(|version| version < CHAINED);
        book.older |= form.is_some_and(|version| version < VERSION);
        book.records.push(record);
    }
    if let Some(Record::Header { version }) = book.records.first_mut() {
        *version = VERSION;
    }
    let tip = tip.map_err(failed("read the tip of"))?;
    let ended = tip.and_then(|text| String::from_utf8_lossy(&text).trim().parse::<RunId>().ok());
    let is_there = |wanted: RunId| {
        let its = |record: &Record| matches!(record, Record::End { run, .. } if *run == wanted);
        book.records.iter().any(its)
    };
    match ended.filter(|run| !is_there(*run)) {
        Some(run) => Err(corrupt(
            book.records.len() + 1,
            format!(
                "run {run} had come to its end, and that is not in it: lines are missing at the end"
            ),
        )),
        None => Ok(book),
    }
}

/// The error for a header of a newer form.
fn newer(text: &str) -> Option<LedgerError> {
    let json: serde_json::Value = serde_json::from_str(text).ok()?;
    let found = (json["r"] == "header").then(|| json["version"].as_u64())??;
    (found > u64::from(VERSION)).then(|| LedgerError::Newer {
        path: path(),
        found: u32::try_from(found).unwrap_or(u32::MAX),
        known: VERSION,
    })
}
