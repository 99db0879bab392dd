//! The manifest beside each snapshot: what the snapshot is, and what was proven of it.

use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::snapshot::Content;

/// The version of the format that is written. A newer one is refused, because this release does not know what it proves.
pub(super) const VERSION: u32 = 1;
/// Bound on the file.
const LIMIT: u64 = 64 * 1024;

/// The manifest. Times are RFC 3339, in UTC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) version: u32,
    /// When the snapshot was begun.
    pub(crate) taken: String,
    /// When a restore of it had succeeded.
    pub(crate) proven: String,
    /// etcd's revision in the snapshot.
    pub(crate) revision: i64,
    /// Keys at that revision: as many in etcd as in the restored copy.
    pub(crate) keys: u64,
    pub(crate) content: Content,
    /// The cluster that it is of: the UID of the namespace kube-system.
    pub(crate) cluster: String,
    /// `CLUSTER_ID` of the host; empty if it has none.
    pub(crate) cluster_id: String,
    /// Names of the keys with which Secrets in the snapshot may be encrypted. The values of these keys are on the host that took it, and
    /// in no backup.
    #[serde(default)]
    pub(crate) encryption_keys: Vec<String>,
    /// The host that took it.
    pub(crate) host: String,
    pub(crate) versions: Versions,
}

/// The versions of the programs that made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Versions {
    pub(crate) etcd: String,
    pub(crate) nodelet: String,
    /// The image of etcd whose programs proved it and can restore it.
    pub(crate) image: String,
}

impl Manifest {
    /// Reads a manifest; `None` if there is none.
    ///
    /// # Errors
    /// It is no manifest, or one of a newer format.
    pub(super) fn read(path: &Path) -> Result<Option<Self>> {
        let Some(content) = daemon::files::read(path, LIMIT)? else {
            return Ok(None);
        };
        let manifest: Self = serde_json::from_slice(&content)
            .with_context(|| format!("understand {}", path.display()))?;
        if manifest.version > VERSION {
            bail!(
                "understand {}: it has form {}, and this nodelet knows {VERSION}",
                path.display(),
                manifest.version
            );
        }
        Ok(Some(manifest))
    }

    /// When the snapshot was begun, if it says so.
    pub(super) fn taken(&self) -> Option<SystemTime> {
        humantime::parse_rfc3339(&self.taken).ok()
    }

    pub(super) fn write(&self, path: &Path) -> Result<()> {
        daemon::files::replace(path, &serde_json::to_vec_pretty(self)?, 0o600)
    }
}
