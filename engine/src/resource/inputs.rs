//! Content that a running thing has taken in, as one digest.
//!
//! A container or service restarts when what it read at its start is no longer what stands on disk. Comparing
//! content, not times, makes that survive crashes, touched files and clocks that jump.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

use super::{READ_LIMIT, ResourceResult};
use crate::host::Host;

/// SHA-256 over names and content of these files; a missing file counts as such, and so does one whose content is known
/// after apply: what has taken that in during a dry run is current.
pub(super) async fn digest(host: &dyn Host, paths: &[PathBuf]) -> ResourceResult<String> {
    let mut hash = Sha256::new();
    for path in paths {
        hash.update(path.as_os_str().as_encoded_bytes());
        if host.is_late(path).await? {
            hash.update([2]);
            continue;
        }
        match host.read(path, READ_LIMIT).await? {
            Some(content) => {
                hash.update([1]);
                hash.update((content.len() as u64).to_le_bytes());
                hash.update(&content);
            }
            None => hash.update([0]),
        }
    }
    Ok(crate::plan::hex(&hash.finalize()))
}

/// Whether all of these files can be read: what differs from them can be told, then.
///
/// # Errors
/// The content of one of them is known after apply.
pub(super) async fn settled(host: &dyn Host, paths: &[PathBuf]) -> ResourceResult<()> {
    for path in paths {
        if host.is_late(path).await? {
            host.read(path, READ_LIMIT).await?;
        }
    }
    Ok(())
}

/// File times and the times of starts come from clocks of different grain.
const TOLERANCE: Duration = Duration::from_millis(20);

/// When the newest of these files was written; `None` where there is none.
pub(super) async fn newest(
    host: &dyn Host,
    paths: &[PathBuf],
) -> ResourceResult<Option<SystemTime>> {
    let mut newest = None;
    for path in paths {
        if let Some(entry) = host.entry(path).await? {
            newest = newest.max(Some(entry.modified));
        }
    }
    Ok(newest)
}

/// Whether what started at `since` cannot have read what was written at `written`. A file from the future says nothing:
/// the clock was wrong when it was written.
pub(super) fn written_after_start(
    written: Option<SystemTime>,
    since: Option<SystemTime>,
    now: SystemTime,
) -> bool {
    match (written, since) {
        (Some(written), Some(since)) => written > since + TOLERANCE && written <= now + TOLERANCE,
        _ => false,
    }
}
