//! One digest over the files that a running container or service has read.
//!
//! A container or service is restarted when the files that it read at its start have other content now. Content is
//! compared, not times, so the result is right after a crash, a `touch` or a clock change.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

use super::{READ_LIMIT, ResourceResult};
use crate::host::Host;

/// SHA-256 over names and content of these files. A missing file has its own mark in the digest, and so has a file whose
/// content is known only after apply: a consumer that read such a file in a dry run is current.
pub(super) async fn digest(host: &dyn Host, paths: &[PathBuf]) -> ResourceResult<String> {
    let mut hash = Sha256::new();
    for path in paths {
        hash.update(path.as_os_str().as_encoded_bytes());
        if host.is_unknown(path).await? {
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
    Ok(crate::model::hex(&hash.finalize()))
}

/// Checks that the content of all these files is known, so that a difference is real.
///
/// # Errors
/// The content of one of the files is known only after apply.
pub(super) async fn wait_until_written(host: &dyn Host, paths: &[PathBuf]) -> ResourceResult<()> {
    for path in paths {
        if host.is_unknown(path).await? {
            host.read(path, READ_LIMIT).await?;
        }
    }
    Ok(())
}

/// File times and start times come from clocks of different resolution.
const TOLERANCE: Duration = Duration::from_millis(20);

/// When the newest of these files was written; `None` if none of them exists.
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

/// Whether a process that started at `since` cannot have read a file written at `written`. A file time in the future is
/// ignored: the clock was wrong when the file was written.
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
