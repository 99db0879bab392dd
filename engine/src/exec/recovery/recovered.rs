//! The result of a recovery: where the records come from, what was recorded, and what could not be known.
//!
//! Also the recovery in progress, which has the records beside the result.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::installed::is_ours;
use crate::ledger::{Record, RunId};
use crate::resource::Undo;

/// The result of a recovery, or of its dry run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Recovered {
    /// Where the records come from.
    pub source: RecoveredFrom,
    /// Resources that are recorded as the role's from now on, because this host has them as the role makes them.
    pub recorded: Vec<String>,
    /// What could not be known, a sentence each.
    pub unknown: Vec<String>,
    /// Saved contents of files that no record names; empty after a recovery from the copy.
    pub unused_contents: Vec<PathBuf>,
}

/// Where the records of a recovered ledger come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "from", rename_all = "snake_case")]
pub enum RecoveredFrom {
    /// The copy from the end of the last run: nothing is missing.
    Copy {
        /// That run.
        run: RunId,
    },
    /// The complete lines of a file, up to this run; the rest comes from the host.
    Part {
        /// The file.
        path: PathBuf,
        /// The last run in it.
        run: RunId,
    },
    /// Only the plan and the host.
    Host,
}

/// A recovery in progress.
pub(super) struct Rebuilt {
    pub(super) result: Recovered,
    pub(super) records: Vec<Record>,
}

impl Recovered {
    pub(super) fn of(source: RecoveredFrom) -> Rebuilt {
        Rebuilt {
            result: Self {
                source,
                recorded: Vec::new(),
                unknown: Vec::new(),
                unused_contents: Vec::new(),
            },
            records: Vec::new(),
        }
    }

    pub(super) fn note(&mut self, unknown_line: String) {
        if !self.unknown.contains(&unknown_line) {
            self.unknown.push(unknown_line);
        }
    }

    /// Notes what a clean will remove although it may have been there before the role.
    pub(super) fn record_uncertain(&mut self, undo: &Undo) {
        match undo {
            Undo::RemoveFile { path } if !is_ours(path) && !is_named_ours(path) => {
                self.note(format!(
                    "{}: whether a file was there before the role is not known; a clean removes it",
                    path.display()
                ));
            }
            _ => {}
        }
    }
}

/// Whether a file has `pf9` in its name: no other program makes such a file.
fn is_named_ours(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.contains("pf9")
}
