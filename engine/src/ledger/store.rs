//! The ledger of a host, open for writing: it is opened, runs begin and end in it, and it is compacted.
//!
//! `queries` has what the records say. `write` has the single writes and their repair, `disk` the limits and directories, and `step_log`
//! the undos of a step. `loss` is about a ledger that is lost, and `id` about its id.

pub(super) mod disk;
mod id;
mod loss;
mod queries;
mod step_log;
mod write;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use futures::future::BoxFuture;
use tokio::sync::Mutex;

use super::{LedgerError, Record, RunId, VERSION};
use crate::host::{Host, HostError};
use crate::ledger::contents::{path, read};
use crate::ledger::hash_chain::Chain;
use crate::ledger::last_run::{LastRun, id_of};
use crate::ledger::live_resource::{LiveUndo, compacted, live};
use crate::ledger::store::disk::{content_folder, create_directories, failed, in_time};
use crate::ledger::store::id::new_id;
use crate::model::{Outcome, PhaseName, STATE, Verb};
use crate::plan::Plan;

pub use step_log::StepLog;

/// Lines beyond which a run's end compacts.
const COMPACT_BEYOND: usize = 2_000;
/// What a run may have to write, in bytes, copies of files included; the role's largest run writes a tenth of it.
const ROOM: u64 = 1024 * 1024;

/// A host's ledger, open for writing.
pub struct Ledger<'a> {
    host: &'a dyn Host,
    state: Mutex<LedgerState<'a>>,
}

/// The records, and whether the file ends with them.
struct LedgerState<'a> {
    records: Vec<Record>,
    /// Where the file's chain ends.
    chain: Chain,
    /// A write was cut or has failed: the file may end with half a line.
    tail_in_doubt: bool,
    /// A write that has begun. The disk may carry it out after its caller gave up, so nothing else is written before it
    /// has ended.
    in_flight: Option<BoxFuture<'a, Result<(), HostError>>>,
}

impl<'a> Ledger<'a> {
    /// Opens the ledger of a host, or begins one. Removes a half-written last line. The caller must hold the host's
    /// lock.
    ///
    /// # Errors
    /// It cannot be read, has another version, or was changed by another program.
    pub async fn open(host: &'a dyn Host) -> Result<Self, LedgerError> {
        let contents = read(host).await?;
        in_time(create_directories(host))
            .await
            .map_err(failed("create"))?;
        let in_doubt = contents.truncated || contents.records.is_empty();
        let ledger = Self::of(host, contents.records, contents.chain, in_doubt);
        let mut state = ledger.state.lock().await;
        let is_new = state.records.is_empty();
        if is_new {
            state.records.push(Record::Header {
                version: VERSION,
                id: Some(new_id(host).await?),
            });
        }
        ledger.repair(&mut state).await?;
        if (contents.copies_due || is_new)
            && let Err(error) = ledger.keep_copies(&mut state).await
        {
            // The ledger itself is good; a status pass tries again.
            tracing::warn!("could not {}", crate::model::chain(&error).join(": "));
        }
        drop(state);
        Ok(ledger)
    }

    /// A ledger of these records; nothing is written yet.
    fn of(host: &'a dyn Host, records: Vec<Record>, chain: Chain, tail_in_doubt: bool) -> Self {
        let state = LedgerState {
            records,
            chain,
            tail_in_doubt,
            in_flight: None,
        };
        let state = Mutex::new(state);
        Self { host, state }
    }

    /// Whether the tip or the copy is missing, damaged or out of date. They are out of date also while a run is under way.
    ///
    /// # Errors
    /// As [`Ledger::open`].
    pub async fn are_copies_due(host: &dyn Host) -> Result<bool, LedgerError> {
        Ok(read(host).await?.copies_due)
    }

    /// Writes the tip and the copy again if they are missing, damaged or out of date. Returns whether they were. The caller must hold
    /// the host's lock.
    ///
    /// # Errors
    /// As [`Ledger::open`], or they cannot be written.
    pub async fn renew_copies(host: &dyn Host) -> Result<bool, LedgerError> {
        let contents = read(host).await?;
        if !contents.copies_due {
            return Ok(false);
        }
        let ledger = Ledger::of(host, contents.records, contents.chain, false);
        let mut state = ledger.state.lock().await;
        ledger.keep_copies(&mut state).await?;
        drop(state);
        Ok(true)
    }

    /// The path of a host's ledger.
    #[must_use]
    pub fn path() -> PathBuf {
        path()
    }

    /// The id of the ledger that a `ledger.tip` of this content belongs to.
    #[must_use]
    pub fn id_in_tip(content: &[u8]) -> Option<String> {
        LastRun::parse(content)?.id
    }

    /// The id of the ledger that begins with this line.
    #[must_use]
    pub fn id_in_header(line: &[u8]) -> Option<String> {
        id_of(&[serde_json::from_slice(line).ok()?])
    }

    /// Reads a host's ledger without changing anything; empty where there is none.
    ///
    /// # Errors
    /// As [`Ledger::open`].
    pub async fn read(host: &dyn Host) -> Result<Vec<Record>, LedgerError> {
        Ok(read(host).await?.records)
    }

    /// Whether there is room for the records of such a run. Checked before an action of several runs: a stop that has
    /// room and a start that has none would leave a host down.
    ///
    /// # Errors
    /// There is no room, or the host cannot say how much there is.
    pub async fn has_room(host: &dyn Host, verb: Verb) -> Result<(), LedgerError> {
        let space = host.space(Path::new(STATE)).await;
        let free = space.map_err(failed("look at the room for"))?.free;
        let enough = match verb {
            // These runs make room.
            Verb::Stop | Verb::Clean => ROOM / 16,
            _ => ROOM,
        };
        if free < enough {
            return Err(LedgerError::Full { free });
        }
        Ok(())
    }

    /// Begins a run of a plan, perhaps of none, and returns its number.
    ///
    /// # Errors
    /// It could not be written, or there is no room for what follows.
    pub async fn begin(
        &self,
        verb: Verb,
        role: &str,
        plan: Option<&Plan>,
    ) -> Result<RunId, LedgerError> {
        Self::has_room(self.host, verb).await?;
        let state = self.state.lock().await;
        let last = state.records.iter().filter_map(Record::run).max();
        drop(state);
        let run = last.unwrap_or(0) + 1;
        self.append(Record::Run {
            run,
            verb,
            role: role.to_owned(),
            digest: plan.map(Plan::digest).unwrap_or_default(),
            cluster_digest: plan.map(Plan::cluster_digest),
            at: self.now(),
        })
        .await?;
        // The tip is written before the first effect of the run: a ledger from before this run must not be taken for
        // the complete one.
        let mut state = self.state.lock().await;
        self.write_tip(&mut state).await?;
        Ok(run)
    }

    /// Notes that everything has been taken back; `kept` says whether kept resources stay. `directories` are still there
    /// because kept resources are in them; they are removed with these.
    ///
    /// # Errors
    /// It could not be written.
    pub async fn cleaned(
        &self,
        run: RunId,
        kept: bool,
        directories: &[LiveUndo],
    ) -> Result<(), LedgerError> {
        // Noted first and as kept, so that they outlive the record that follows.
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

    /// Ends a run of these phases, and compacts the ledger when it has grown long.
    ///
    /// # Errors
    /// It could not be written.
    pub async fn end(
        &self,
        run: RunId,
        outcome: Outcome,
        totals: (usize, usize),
        phases: Vec<PhaseName>,
    ) -> Result<(), LedgerError> {
        self.append(Record::End {
            run,
            outcome,
            changed: totals.0,
            unchanged: totals.1,
            phases,
            at: self.now(),
        })
        .await?;
        let mut state = self.state.lock().await;
        self.keep_copies(&mut state).await?;
        drop(state);
        // The next run may have to take back what an interrupted run did, and compaction keeps only the oldest undo of
        // each resource.
        let carried_on = outcome == Outcome::Interrupted;
        if !carried_on && self.state.lock().await.records.len() > COMPACT_BEYOND {
            self.compact().await?;
        }
        Ok(())
    }

    /// Rewrites the ledger to one record per live resource and the last runs, in one atomic step, and drops content that
    /// nothing refers to any more.
    ///
    /// # Errors
    /// It could not be written; the old file stays then.
    pub async fn compact(&self) -> Result<(), LedgerError> {
        let mut state = self.state.lock().await;
        self.repair(&mut state).await?;
        let compacted = compacted(&state.records);
        self.replace(&mut state, compacted).await?;
        self.keep_copies(&mut state).await?;
        let wanted: BTreeSet<String> = live(&state.records)
            .iter()
            .filter_map(|live| Some(live.undo.properties().content?.sha256.clone()))
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

    fn now(&self) -> String {
        rfc3339(self.host.now())
    }
}

fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}
