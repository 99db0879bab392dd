//! What the daemon itself must remember over its restarts and the host's, beside `kube_status`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use engine::exec::STATE;
use serde::{Deserialize, Serialize};

use super::attempts::Attempts;

/// Bound on the file.
const LIMIT: u64 = 64 * 1024;

/// Remembered. A lost file costs a pause between attempts, and puts off a full clean.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct State {
    pub(super) attempts: Attempts,
    /// A stop has been carried out, and nothing was started since.
    pub(super) stopped: bool,
    /// In which run of the host that was: after a boot units and pods start by themselves.
    pub(super) stopped_in: String,
    /// In which run of the host it was last seen up, and not stopped since: after a boot nobody can say that it still is.
    pub(super) up_in: String,
    /// Until when nobody is to touch the host, seconds since 1970.
    pub(super) paused_until: Option<i64>,
    /// Why.
    pub(super) paused_because: String,
}

/// Tells one run of the host from another: the kernel's id of the boot, and when the first process started, for a host that
/// shares its kernel (`proc(5)`).
fn boot() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let stat = read("/proc/1/stat");
    // The name in parentheses may have blanks in it; the start time is the 20th field after it.
    let started = stat
        .rsplit(')')
        .next()
        .and_then(|rest| rest.split_whitespace().nth(19))
        .unwrap_or_default();
    format!(
        "{} {started}",
        read("/proc/sys/kernel/random/boot_id").trim()
    )
}

/// Where it is kept.
pub(super) fn path() -> PathBuf {
    PathBuf::from(STATE).join("nodeletd.json")
}

impl State {
    /// Whether a stop has been carried out since the host came up, and nothing was started since.
    pub(super) fn is_stopped(&self) -> bool {
        self.stopped && self.stopped_in == boot()
    }

    /// Notes that a stop has been carried out.
    pub(super) fn has_stopped(&mut self) {
        self.stopped = true;
        self.stopped_in = boot();
        self.up_in.clear();
    }

    /// Whether the host has come up anew since the role was last seen up. Where that is not remembered, nobody says so.
    pub(super) fn has_booted(&self) -> bool {
        !self.up_in.is_empty() && self.up_in != boot()
    }

    /// Notes that the role is up.
    pub(super) fn is_up(&mut self) {
        self.up_in = boot();
    }

    /// Notes that there is no role that could be up. Gives whether that is news.
    pub(super) fn is_gone(&mut self) -> bool {
        !std::mem::take(&mut self.up_in).is_empty()
    }

    pub(super) fn read(path: &Path) -> Self {
        let content = daemon::files::read(path, LIMIT).unwrap_or_else(|error| {
            tracing::warn!("starting without what was remembered: {error:#}");
            None
        });
        let Some(content) = content else {
            return Self::default();
        };
        serde_json::from_slice(&content).unwrap_or_else(|error| {
            tracing::warn!(
                "starting without what was remembered, a pause among it: {} cannot be understood: {error}",
                path.display()
            );
            Self::default()
        })
    }

    /// Whether the file says this; where nothing is remembered, there need be none.
    pub(super) fn stands_in(&self, path: &Path) -> bool {
        match daemon::files::read(path, LIMIT) {
            Ok(Some(stands)) => serde_json::to_vec_pretty(self).is_ok_and(|ours| ours == stands),
            Ok(None) => *self == Self::default(),
            Err(_) => false,
        }
    }

    pub(super) fn write(&self, path: &Path) -> Result<()> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)
                .with_context(|| format!("make {}", directory.display()))?;
        }
        daemon::files::replace(path, &serde_json::to_vec_pretty(self)?, 0o600)
    }
}
