//! Writes to the ledger's file and to the files beside it: a record never follows half a line, and no two writes are under way at once.
//!
//! A write that was cut, failed or was given up leaves the end of the file in doubt. The next write then begins with a repair. Not here:
//! when a run writes which record (`store`, `exec`).

use std::path::PathBuf;

use super::disk::{FILE, LIMIT, TIMEOUT, failed, in_time, too_late};
use super::{Ledger, LedgerState};
use crate::host::HostError;
use crate::ledger::contents::{copy_path, ended_part, path, tip_path};
use crate::ledger::hash_chain::Chain;
use crate::ledger::last_run::LastRun;
use crate::ledger::{LedgerError, Record};

impl<'a> Ledger<'a> {
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
    pub(super) async fn repair(&self, state: &mut LedgerState<'a>) -> Result<(), LedgerError> {
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
    pub(super) async fn replace(
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

    pub(super) async fn write_tip(&self, state: &mut LedgerState<'a>) -> Result<(), LedgerError> {
        let tip = LastRun::of(&state.records).text();
        let written = self.write(state, tip_path(), tip).await;
        written.map_err(failed("write the tip of"))
    }

    /// Updates the files beside the ledger. The copy comes first, so that the tip never names an ended run that the
    /// copy lacks.
    pub(super) async fn keep_copies(&self, state: &mut LedgerState<'a>) -> Result<(), LedgerError> {
        let bytes = in_time(self.host.read(&path(), LIMIT)).await;
        let bytes = bytes.map_err(failed("read"))?.unwrap_or_default();
        if let Some(ended) = ended_part(&bytes, &state.records) {
            let written = self.write(state, copy_path(), ended.to_vec()).await;
            written.map_err(failed("write the copy of"))?;
        }
        self.write_tip(state).await
    }
}
