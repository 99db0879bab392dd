//! Whether the ledger of a host knows what the role has made on it.
//!
//! A clean with a ledger that was deleted, emptied or replaced would remove nothing of the role. So this module looks
//! on the host for what certainly belongs to the role: its containers by their label, its unit files and, if the ledger
//! names nothing to take back, files as planned in the role's own directories.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use crate::exec::Runner;
use crate::host::EntryKind;
use crate::ledger::{Ledger, LedgerError, Record};
use crate::plan::PlannedStep;
use crate::resource::Spec;

/// Directories that only the role and nodelet use. What is planned elsewhere may have been there before the role.
pub(in crate::exec) const OURS: [&str; 3] = ["/etc/pf9", "/opt/pf9", "/var/opt/pf9"];
/// How long the container runtime may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);

impl Runner<'_> {
    /// Why the ledger of this host cannot be relied on; `None` if it can. Reads only.
    pub async fn lost_ledger(&self) -> Option<LedgerError> {
        let records = match Ledger::read(self.host).await {
            Ok(records) => records,
            Err(error) => return Some(error),
        };
        let evidence = self.unrecorded(&records).await;
        if evidence.is_empty() {
            return None;
        }
        let path = Ledger::path();
        Some(if records.is_empty() {
            LedgerError::Missing { path, evidence }
        } else {
            LedgerError::Incomplete { path, evidence }
        })
    }

    /// What the role has on this host that is not in these records, in the words of `Undo::key`.
    pub(in crate::exec) async fn unrecorded(&self, records: &[Record]) -> Vec<String> {
        let live = Ledger::live_in(records);
        let known: BTreeSet<String> = live.iter().map(|live| live.undo.key()).collect();
        let mut found = self.installed(live.iter().all(|live| live.keep)).await;
        found.retain(|resource| !known.contains(resource));
        found
    }

    /// What certainly belongs to the role on this host, without what a clean keeps. With `files`, also files as planned
    /// in the role's own directories.
    pub async fn installed(&self, files: bool) -> Vec<String> {
        let runtime = tokio::time::timeout(TIMEOUT, self.host.container_runtime()).await;
        // The containers of a runtime that does not answer are not known.
        let runtime = matches!(runtime, Ok(Ok(())));
        let mut found = Vec::new();
        for step in self.plan.phases.iter().flat_map(|phase| &phase.steps) {
            if step.policy.keep || step.policy.absent {
                continue;
            }
            match &step.spec {
                Spec::Container(container) if runtime => {
                    let exists = container.exists(self.host);
                    if matches!(tokio::time::timeout(TIMEOUT, exists).await, Ok(true)) {
                        found.push(format!("container {}", container.name));
                    }
                }
                Spec::File(file) if file.unit => {
                    let is_file = |kind: EntryKind| matches!(kind, EntryKind::File(_));
                    let entry = self.host.entry(&file.path).await.ok().flatten();
                    if entry.is_some_and(|entry| is_file(entry.kind)) {
                        found.push(format!("file {}", file.path.display()));
                    }
                }
                Spec::File(_) | Spec::EnvFile(_) if files => {
                    for path in step.spec.paths() {
                        if is_ours(&path) && self.is_as_planned(step).await {
                            found.push(format!("file {}", path.display()));
                        }
                    }
                }
                _ => {}
            }
        }
        found
    }

    async fn is_as_planned(&self, step: &PlannedStep) -> bool {
        let cx = self.context(false);
        matches!(step.spec.pending(&cx).await, Ok(None))
    }
}

/// Whether a path is in one of [`OURS`].
pub(in crate::exec) fn is_ours(path: &Path) -> bool {
    OURS.iter().any(|ours| path.starts_with(ours))
}
