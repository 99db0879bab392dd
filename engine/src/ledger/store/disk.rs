//! Reads and writes of the engine's own records: their limits, the error of a disk that fails or does not answer, and the directories.
//!
//! Not here: what is written, and in which order (`write`).

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::host::{Attributes, Host, HostError};
use crate::ledger::LedgerError;
use crate::model::STATE;

/// Largest ledger that is read; compaction keeps it far below.
pub(in crate::ledger) const LIMIT: u64 = 64 * 1024 * 1024;
/// How long the disk may take for one read or write of the engine's own records.
pub(super) const TIMEOUT: Duration = Duration::from_secs(60);
pub(super) const FILE: Attributes = Attributes::root(0o600);
const DIRECTORY: Attributes = Attributes::root(0o700);

/// Bounds one read or write: a disk that does not answer ends a run with an error that says so, and does not block it
/// for ever.
pub(crate) async fn in_time<T>(
    work: impl Future<Output = Result<T, HostError>>,
) -> Result<T, HostError> {
    let done = tokio::time::timeout(TIMEOUT, work).await;
    done.map_err(|_| too_late())?
}

pub(super) fn too_late() -> HostError {
    HostError::Deadline {
        action: "read or write the engine's own records".to_owned(),
        after: TIMEOUT,
    }
}

pub(in crate::ledger) fn failed(action: &'static str) -> impl Fn(HostError) -> LedgerError {
    move |source| LedgerError::Host { action, source }
}

pub(in crate::ledger) fn content_folder() -> PathBuf {
    Path::new(STATE).join("content")
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
