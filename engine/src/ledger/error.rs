//! What can be wrong with a ledger.

use std::path::PathBuf;

use crate::host::HostError;
use crate::resource::ResourceError;

/// What to do about a ledger that was lost or damaged.
pub const RECOVER: &str =
    "`nodelet recover --dry-run` shows what can be recovered, `nodelet recover` recovers it";

/// A ledger that cannot be used. `Display` completes "failed to …".
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// It cannot be read or written.
    #[error("{action} the ledger")]
    Host {
        /// The verb.
        action: &'static str,
        /// What the host said.
        #[source]
        source: HostError,
    },
    /// There is not enough room for what a run may have to write.
    #[error("begin a run: No space left on device for its records, {free} bytes are free")]
    Full {
        /// Free space, in bytes.
        free: u64,
    },
    /// It was written by a newer program.
    #[error("read the ledger {}: its format has version {found}, this program knows {known}; use a newer nodelet", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// Something that is no ledger is in its place. A recovery does not replace it, because it cannot keep a copy of it.
    #[error("read the ledger {}: {problem}; move it away (`mv {} /root/`), then {RECOVER}", path.display(), path.display())]
    Unusable {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// There is no ledger where there was one, or where a role is installed. A clean with a new one would take nothing
    /// of that back.
    #[error("use the ledger {}: it is missing or empty, but this host has {}; {RECOVER}", path.display(), evidence.join(", "))]
    Missing {
        /// The file.
        path: PathBuf,
        /// What shows that there was one.
        evidence: Vec<String>,
    },
    /// It does not know resources on this host that the role has made.
    #[error("use the ledger {}: it does not know {}, which the role made on this host; {RECOVER}", path.display(), evidence.join(", "))]
    Incomplete {
        /// The file.
        path: PathBuf,
        /// What it does not know.
        evidence: Vec<String>,
    },
    /// A line is not the one that comes next: the file was changed, truncated or replaced, or an older program wrote it.
    #[error("read the ledger {}:{line}: {problem}; {RECOVER}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
}

impl From<LedgerError> for ResourceError {
    fn from(error: LedgerError) -> Self {
        Self::Ledger(Box::new(error))
    }
}
