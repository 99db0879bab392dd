//! The daemon's own state, kept over restarts of the daemon and of the host, beside `kube_status`.
//!
//! This file reads and writes it; `disk` does so outside of the loop. The other files are its parts: `attempts` (failed attempts and
//! their pauses), `interrupted_runs`, `pause`, `renewal`, `retry` (the growing pauses between tries). They decide nothing.
//!
//! Not here: what is decided from it (`supervisor::decide`), and what is reported of the host (`status`). Start with `State` in this file,
//! then `attempts`.

pub(in crate::nodeletd) mod attempts;
pub(in crate::nodeletd) mod disk;
pub(in crate::nodeletd) mod interrupted_runs;
pub(in crate::nodeletd) mod pause;
pub(in crate::nodeletd) mod renewal;
pub(in crate::nodeletd) mod retry;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use engine::model::STATE;
use serde::{Deserialize, Serialize};

use crate::nodeletd::state::attempts::Attempts;

/// Bound on the file.
const LIMIT: u64 = 64 * 1024;

/// The saved state. If the file is lost, the next attempt does not wait, a full clean comes later, and a pause is lost.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct State {
    pub(super) attempts: Attempts,
    /// A stop has been carried out, and nothing was started since.
    pub(super) stopped: bool,
    /// The boot in which that was: after another boot units and pods start by themselves.
    pub(super) stopped_in: String,
    /// The boot in which the role was last seen up, and not stopped since: after another boot this is unknown.
    pub(super) up_in: String,
    /// End of the pause, seconds since 1970.
    pub(super) paused_until: Option<i64>,
    /// Reason for the pause.
    pub(super) paused_because: String,
}

/// Identifies a boot of the host: the kernel's id of the boot, and when the first process started, for a host that shares its kernel
/// (`proc(5)`).
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

/// Path of the state file.
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

    /// Whether the host has booted since the role was last seen up; false if no such time is recorded.
    pub(super) fn has_booted(&self) -> bool {
        !self.up_in.is_empty() && self.up_in != boot()
    }

    /// Notes that the role is up.
    pub(super) fn is_up(&mut self) {
        self.up_in = boot();
    }

    /// Notes that there is no role that could be up. Returns whether this changed the state.
    pub(super) fn is_gone(&mut self) -> bool {
        !std::mem::take(&mut self.up_in).is_empty()
    }

    pub(super) fn read(path: &Path) -> Self {
        let content = daemon::files::read(path, LIMIT).unwrap_or_else(|error| {
            tracing::warn!("starting without the saved state: {error:#}");
            None
        });
        let Some(content) = content else {
            return Self::default();
        };
        serde_json::from_slice(&content).unwrap_or_else(|error| {
            tracing::warn!(
                "starting without the saved state, including any pause: {} cannot be parsed: {error}",
                path.display()
            );
            Self::default()
        })
    }

    /// Whether the file has this content; the default state needs no file.
    pub(super) fn is_content_of(&self, path: &Path) -> bool {
        match daemon::files::read(path, LIMIT) {
            Ok(Some(on_disk)) => serde_json::to_vec_pretty(self).is_ok_and(|ours| ours == on_disk),
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
