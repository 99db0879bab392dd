//! What can be wrong with a ledger.

use std::path::PathBuf;

use crate::host::HostError;

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
    /// There is not room enough for what a run may have to write.
    #[error("begin a run: No space left on device for the ledger of it, {free} bytes are free")]
    Full {
        /// What is free for us, in bytes.
        free: u64,
    },
    /// It was written by a newer program.
    #[error("read the ledger {}: its form has version {found}, this program knows {known}; use a newer nodelet", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// A line is not the one that comes next: somebody or something has changed the file.
    #[error("read the ledger {}:{line}: {problem}; bring it back from a backup, or move it away (`mv {p} {p}.away`) to go on without what it knows: then a clean is refused, and what was here before us has to be brought back by hand", path.display(), p = path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
}
