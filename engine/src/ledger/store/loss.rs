//! A ledger that is lost, or of which parts are lost: how the host shows it, and how another one takes its place.
//!
//! Also the saved contents of files, which can be lost without the ledger. Not here: what the remains of a ledger are (`contents`), and
//! the records that the host itself gives (`exec::recovery`).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::Ledger;
use super::disk::{FILE, content_folder, create_directories, failed, in_time};
use super::id::{host_part, new_id};
use crate::host::Host;
use crate::ledger::contents::{Recoverable, damaged_path, path, recoverable};
use crate::ledger::hash_chain::Chain;
use crate::ledger::live_resource::live;
use crate::ledger::{LedgerError, Record, RunId, VERSION};
use crate::model::Outcome;
use crate::resource::docker::container_runtime;
use crate::resource::pki;

/// How long the container runtime may take to name the role's containers.
const RUNTIME: Duration = Duration::from_secs(10);

impl<'a> Ledger<'a> {
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

    /// What is wrong with the saved contents of files that a clean would bring back, a sentence each.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub async fn damaged_contents(host: &dyn Host) -> Result<Vec<String>, LedgerError> {
        let mut problems = Vec::new();
        for live in live(&Self::read(host).await?) {
            let Some(kept) = live.undo.properties().content else {
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
        ledger
            .end(run, Outcome::Converged, (changed, 0), Vec::new())
            .await
    }

    /// Saved contents of files that none of these records names. Records of undos that no longer count are included.
    pub(crate) async fn unused_contents(
        host: &dyn Host,
        records: &[Record],
    ) -> Result<Vec<PathBuf>, LedgerError> {
        let named = |record: &Record, name: &str| {
            let Record::Undo { undo, .. } = record else {
                return false;
            };
            let content = undo.properties().content;
            content.is_some_and(|content| content.sha256 == name)
        };
        let names = in_time(host.list(&content_folder())).await;
        let mut names = names.map_err(failed("look for contents of"))?;
        names.retain(|name| !records.iter().any(|record| named(record, name)));
        Ok(names
            .iter()
            .map(|name| content_folder().join(name))
            .collect())
    }
}
