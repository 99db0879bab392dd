//! Reading, writing, repairing and compacting the ledger's file.
//!
//! `queries` has what the records say.

mod queries;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures::future::BoxFuture;
use sha2::Digest as _;
use tokio::sync::Mutex;

use super::{LedgerError, Record, RunId, VERSION};
use crate::host::{Attributes, Host, HostError};
use crate::ledger::contents::{
    Recoverable, copy_path, damaged_path, ended_part, path, read, recoverable, tip_path,
};
use crate::ledger::hash_chain::Chain;
use crate::ledger::last_run::{LastRun, id_of};
use crate::ledger::live_resource::{LiveUndo, compacted, live};
use crate::model::{Outcome, PhaseName, STATE, StepId, Verb};
use crate::plan::PlannedStep;
use crate::resource::docker::container_runtime;
use crate::resource::{ResourceResult, Undo, UndoLog, pki};

/// Largest ledger that is read; compaction keeps it far below.
pub(super) const LIMIT: u64 = 64 * 1024 * 1024;
/// Lines beyond which a run's end compacts.
const COMPACT_BEYOND: usize = 2_000;

/// How long the disk may take for one read or write of the engine's own records.
const TIMEOUT: Duration = Duration::from_secs(60);

/// How long the container runtime may take to name the role's containers.
const RUNTIME: Duration = Duration::from_secs(10);

pub(super) const FILE: Attributes = Attributes::root(0o600);
/// What a run may have to write, in bytes, copies of files included; the role's largest run writes a tenth of it.
const ROOM: u64 = 1024 * 1024;
const DIRECTORY: Attributes = Attributes::root(0o700);

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

    /// Writes the tip and the copy again if they are missing, damaged or out of date. Returns whether they were.
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

    /// Why records with nothing to take back are not complete: this host has containers of a role or its
    /// administrator's kubeconfig, or cannot say whether it has. Asks the container runtime, if it answers; needs
    /// neither settings nor a role.
    pub async fn contradicted_by_host(host: &dyn Host, records: &[Record]) -> Option<LedgerError> {
        if live(records).iter().any(|live| !live.keep) {
            return None;
        }
        let listing = async {
            host.container_runtime().await.ok()?;
            // An agent's temporary container has another value there, and is in no ledger.
            let ours = (
                container_runtime::OWNER.to_owned(),
                container_runtime::OURS.to_owned(),
            );
            host.containers(&BTreeMap::from([ours])).await.ok()
        };
        let listed = tokio::time::timeout(RUNTIME, listing).await.ok().flatten();
        let mut evidence: Vec<String> = listed
            .iter()
            .flatten()
            .map(|one| format!("container {}", one.name))
            .collect();
        // A runtime that is down or hangs does not name its containers. A clean removes this file; other files beside
        // it may be the operator's own.
        let kubeconfig = pki::kubeconfig_path("admin");
        match in_time(host.entry(&kubeconfig)).await {
            Ok(None) => {}
            Ok(Some(_)) => evidence.push(format!("file {}", kubeconfig.display())),
            Err(error) => return Some(failed("compare this host with")(error)),
        }
        if evidence.is_empty() {
            return None;
        }
        let path = path();
        Some(match records {
            [] => LedgerError::Missing { path, evidence },
            _ => LedgerError::Incomplete { path, evidence },
        })
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

    /// What a lost ledger can be recovered from.
    pub(crate) async fn recoverable(host: &dyn Host) -> Result<Recoverable, LedgerError> {
        let own = host_part(host).await?;
        recoverable(host, |id| id.starts_with(&own)).await
    }

    /// Writes a ledger of these records in place of one that was lost. The last run in them is `run`, which changed
    /// `changed` resources. The damaged file is kept beside the ledger.
    pub(crate) async fn recover(
        host: &'a dyn Host,
        mut records: Vec<Record>,
        damaged: Option<Vec<u8>>,
        (run, changed): (RunId, usize),
    ) -> Result<(), LedgerError> {
        in_time(create_directories(host))
            .await
            .map_err(failed("create"))?;
        if let Some(damaged) = damaged {
            in_time(host.write(&damaged_path(), &damaged, FILE))
                .await
                .map_err(failed("keep"))?;
        }
        if !matches!(records.first(), Some(Record::Header { .. })) {
            let header = Record::Header {
                version: VERSION,
                id: Some(new_id(host).await?),
            };
            records.insert(0, header);
        }
        let ledger = Self::of(host, records, Chain::default(), true);
        ledger.end(run, Outcome::Converged, (changed, 0)).await
    }

    /// Saved contents of files that none of these records names, not even one that no longer counts.
    pub(crate) async fn unused_contents(
        host: &dyn Host,
        records: &[Record],
    ) -> Result<Vec<PathBuf>, LedgerError> {
        let named = |record: &Record, name: &str| {
            let Record::Undo { undo, .. } = record else {
                return false;
            };
            undo.kept().is_some_and(|kept| kept.sha256 == name)
        };
        let names = in_time(host.list(&content_folder())).await;
        let mut names = names.map_err(failed("look for contents of"))?;
        names.retain(|name| !records.iter().any(|record| named(record, name)));
        Ok(names
            .iter()
            .map(|name| content_folder().join(name))
            .collect())
    }

    /// What is wrong with the saved contents of files that a clean would bring back, a sentence each.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub async fn damaged_contents(host: &dyn Host) -> Result<Vec<String>, LedgerError> {
        let mut problems = Vec::new();
        for live in live(&Self::read(host).await?) {
            let Some(kept) = live.undo.kept() else {
                continue;
            };
            let digest = in_time(host.remembered_digest(&kept.path())).await;
            let digest = digest.ok().flatten();
            if digest.as_ref() != Some(&kept.sha256) {
                problems.push(format!(
                    "{} is missing or damaged, so a clean cannot bring back the previous content of {}; bring it back from a backup of \
                     this host",
                    kept.path().display(),
                    live.undo.key()
                ));
            }
        }
        Ok(problems)
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

    /// Begins a run and returns its number.
    ///
    /// # Errors
    /// It could not be written, or there is no room for what follows.
    pub async fn begin(&self, verb: Verb, role: &str, digest: &str) -> Result<RunId, LedgerError> {
        Self::has_room(self.host, verb).await?;
        let state = self.state.lock().await;
        let last = state.records.iter().filter_map(Record::run).max();
        drop(state);
        let run = last.unwrap_or(0) + 1;
        self.append(Record::Run {
            run,
            verb,
            role: role.to_owned(),
            digest: digest.to_owned(),
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
    /// repair: a record must never follow half a line. What a record announces must not be done if it could not be
    /// written.
    pub(crate) async fn append(&self, record: Record) -> Result<(), LedgerError> {
        // One writer at a time: records of phases that run in parallel must not mix within a line.
        let mut state = self.state.lock().await;
        self.repair(&mut state).await?;
        state.tail_in_doubt = true;
        let mut chain = state.chain.clone();
        let line = chain.next_line(&record);
        let host = self.host;
        let append = async move { host.append(&path(), line.as_bytes(), FILE).await };
        state.in_flight = Some(Box::pin(append));
        self.settle(&mut state).await.map_err(failed("write"))?;
        state.tail_in_doubt = false;
        state.chain = chain;
        state.records.push(record);
        Ok(())
    }

    /// Waits for the end of a write that has begun, even if its caller gave up long ago. A write that does not end in
    /// time stays in flight, and the next caller waits for it in turn.
    async fn settle(&self, state: &mut LedgerState<'a>) -> Result<(), HostError> {
        let Some(write) = &mut state.in_flight else {
            return Ok(());
        };
        match tokio::time::timeout(TIMEOUT, write).await {
            Ok(written) => {
                state.in_flight = None;
                written
            }
            Err(_) => Err(too_late()),
        }
    }

    /// Writes the file again if it may not end with the last record.
    async fn repair(&self, state: &mut LedgerState<'a>) -> Result<(), LedgerError> {
        if let Err(error) = self.settle(state).await
            && state.in_flight.is_some()
        {
            return Err(failed("write")(error));
        }
        if state.tail_in_doubt {
            let records = state.records.clone();
            self.replace(state, records).await?;
        }
        Ok(())
    }

    /// Writes the whole file. If that fails, the records in memory stay as before.
    async fn replace(
        &self,
        state: &mut LedgerState<'a>,
        records: Vec<Record>,
    ) -> Result<(), LedgerError> {
        let mut chain = Chain::default();
        let text: String = records
            .iter()
            .map(|record| chain.next_line(record))
            .collect();
        let written = self.write(state, path(), text.into_bytes()).await;
        if written.is_err() {
            state.tail_in_doubt = true;
        }
        written.map_err(failed("write"))?;
        state.records = records;
        state.chain = chain;
        state.tail_in_doubt = false;
        Ok(())
    }

    /// Writes a file of the ledger. It is on disk when this returns.
    async fn write(
        &self,
        state: &mut LedgerState<'a>,
        path: PathBuf,
        content: Vec<u8>,
    ) -> Result<(), HostError> {
        let host = self.host;
        let write = async move { host.write(&path, &content, FILE).await };
        state.in_flight = Some(Box::pin(write));
        self.settle(state).await
    }

    async fn write_tip(&self, state: &mut LedgerState<'a>) -> Result<(), LedgerError> {
        let tip = LastRun::of(&state.records).text();
        let written = self.write(state, tip_path(), tip).await;
        written.map_err(failed("write the tip of"))
    }

    /// Updates the files beside the ledger. The copy comes first, so that the tip never names an ended run that the
    /// copy lacks.
    async fn keep_copies(&self, state: &mut LedgerState<'a>) -> Result<(), LedgerError> {
        let bytes = in_time(self.host.read(&path(), LIMIT)).await;
        let bytes = bytes.map_err(failed("read"))?.unwrap_or_default();
        if let Some(ended) = ended_part(&bytes, &state.records) {
            let written = self.write(state, copy_path(), ended.to_vec()).await;
            written.map_err(failed("write the copy of"))?;
        }
        self.write_tip(state).await
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
            // The content first: a record must never refer to content that is not there.
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

pub(super) fn content_folder() -> PathBuf {
    Path::new(STATE).join("content")
}

/// Bounds one read or write: a disk that does not answer ends a run with an error that says so, and does not block it
/// for ever.
pub(crate) async fn in_time<T>(
    work: impl Future<Output = Result<T, HostError>>,
) -> Result<T, HostError> {
    let done = tokio::time::timeout(TIMEOUT, work).await;
    done.map_err(|_| too_late())?
}

fn too_late() -> HostError {
    HostError::Deadline {
        action: "read or write the engine's own records".to_owned(),
        after: TIMEOUT,
    }
}

pub(super) fn failed(action: &'static str) -> impl Fn(HostError) -> LedgerError {
    move |source| LedgerError::Host { action, source }
}

fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

pub(super) async fn create_directories(host: &dyn Host) -> Result<(), HostError> {
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

/// An id for a new ledger: from the host, and the time when the ledger began.
async fn new_id(host: &dyn Host) -> Result<String, LedgerError> {
    let began = format!("{:?}", host.now());
    Ok(format!("{}-{}", host_part(host).await?, digest(&began)))
}

/// The part of a ledger's id that identifies the host.
pub(super) async fn host_part(host: &dyn Host) -> Result<String, LedgerError> {
    let machine = in_time(host.read(Path::new("/etc/machine-id"), 4096)).await;
    let machine = machine.map_err(failed("name"))?.unwrap_or_default();
    let mut known = String::from_utf8_lossy(&machine).trim().to_owned();
    if known.is_empty() {
        let name = in_time(host.sysctl("kernel.hostname")).await;
        known = name.map_err(failed("name"))?.unwrap_or_default();
    }
    Ok(digest(&known))
}

fn digest(text: &str) -> String {
    let mut hex = crate::model::hex(&sha2::Sha256::digest(text));
    hex.truncate(8);
    hex
}
