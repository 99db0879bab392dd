//! What the daemon itself must remember over its restarts and the host's, beside `kube_status`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use engine::exec::STATE;
use serde::{Deserialize, Serialize};

/// Bound on the file.
const LIMIT: u64 = 64 * 1024;

/// Remembered. A lost file costs a pause between attempts, and nothing else.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct State {
    /// When the last attempt ended, seconds since 1970.
    pub(super) last_attempt_ended: Option<i64>,
    /// A stop has been carried out, and nothing was started since.
    pub(super) stopped: bool,
    /// Until when nobody is to touch the host, seconds since 1970.
    pub(super) paused_until: Option<i64>,
    /// Why.
    pub(super) paused_because: String,
}

/// Where it is kept.
pub(super) fn path() -> PathBuf {
    PathBuf::from(STATE).join("nodeletd.json")
}

impl State {
    pub(super) fn read(path: &Path) -> Self {
        let content = daemon::files::read(path, LIMIT).unwrap_or_else(|error| {
            tracing::warn!("starting without what was remembered: {error:#}");
            None
        });
        content
            .and_then(|content| serde_json::from_slice(&content).ok())
            .unwrap_or_default()
    }

    pub(super) fn write(&self, path: &Path) -> Result<()> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)
                .with_context(|| format!("make {}", directory.display()))?;
        }
        daemon::files::replace(path, &serde_json::to_vec_pretty(self)?, 0o600)
    }
}
