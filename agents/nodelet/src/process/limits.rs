//! The limits of status passes, for commands that make the same checks: checks must not take CPU and memory from the node's pods, whether
//! nodeletd or an operator runs them.
//!
//! With control groups of version 1, and below nodeletd's unit with version 2, this process joins the group that nodeletd's passes run
//! in. Elsewhere with version 2 it gets a transient scope from systemd, because a process must not move itself into the group of another
//! unit. If neither is possible, its priority is lowered and a warning says so.
//!
//! What a phase starts must never inherit the limits: a command that changes the host leaves them first, and joins only a group that it
//! can leave again.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use daemon::child::Child;
use engine::env::{KubeEnv, SettingValue};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::process::cgroup::{self, Leaf};
use crate::process::priority;

/// Timeout for systemd to make a scope.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Limits that this process has.
pub(crate) struct Limits {
    /// The `cgroup.procs` of the groups that it was in before.
    back: Vec<PathBuf>,
    /// Its priority before it was lowered.
    priority: Option<i32>,
}

impl Limits {
    /// Limits this process until it ends, as the settings say. For a command that changes nothing.
    pub(crate) async fn for_good(settings: &KubeEnv) {
        let Some(cpu_limit) = wanted(settings) else {
            return;
        };
        if !nix::unistd::Uid::effective().is_root() {
            // Only root makes groups.
            priority::lower();
            return;
        }
        let joined = match own_leaf(cpu_limit) {
            Ok(leaf) => leaf.join(),
            Err(_) if is_version_2() => transient_scope(cpu_limit).await,
            Err(error) => Err(error),
        };
        if let Err(error) = joined {
            warn(&error);
            priority::lower();
        }
    }

    /// Limits this process until [`Limits::leave`]. For the checks of a command that changes the host.
    pub(crate) fn enter(settings: &KubeEnv) -> Self {
        let mut limits = Self {
            back: Vec::new(),
            priority: None,
        };
        let Some(cpu_limit) = wanted(settings) else {
            return limits;
        };
        let joined = own_leaf(cpu_limit).and_then(|leaf| {
            limits.back = leaf.current_groups()?;
            leaf.join()
        });
        if let Err(error) = joined {
            warn(&error);
            limits.priority = priority::own();
            if limits.priority.is_some() {
                priority::lower();
            }
        }
        limits
    }

    /// Ends the limits.
    ///
    /// # Errors
    /// The process cannot leave its control group: it must start nothing then.
    pub(crate) fn leave(self) -> Result<()> {
        cgroup::join(&self.back).context("leave the control group of status passes")?;
        if let Some(before) = self.priority {
            priority::restore(before);
        }
        Ok(())
    }
}

/// The limit in percent of one CPU, if the settings ask for one.
fn wanted(settings: &KubeEnv) -> Option<u32> {
    match (settings.get("USE_CGROUPS"), settings.get("CPU_LIMIT")) {
        (Some(SettingValue::Bool(true)), Some(SettingValue::Integer(percent))) => {
            u32::try_from(*percent).ok()
        }
        _ => None,
    }
}

fn warn(error: &anyhow::Error) {
    tracing::warn!("the checks run with lowered priority instead of in a control group: {error:#}");
}

fn is_version_2() -> bool {
    Path::new(cgroup::MOUNT).join("cgroup.controllers").exists()
}

/// The group of nodeletd's passes, where this process may join it.
fn own_leaf(cpu_limit: u32) -> Result<Leaf> {
    if is_version_2() {
        let own = fs::read_to_string("/proc/self/cgroup").context("read /proc/self/cgroup")?;
        // In another unit, a group of ours would interfere with those of the unit's owner.
        if !own.trim_end().ends_with("/pf9-nodeletd.service/supervisor") {
            bail!("join the control group of status passes: this process is not nodeletd's");
        }
    }
    Leaf::for_status(cpu_limit)
}

/// A scope of systemd's with the same limits, with this process in it.
async fn transient_scope(cpu_limit: u32) -> Result<()> {
    let scope = format!("nodelet-check-{}.scope", std::process::id());
    let micros = u64::from(cpu_limit) * 10_000;
    let own = std::process::id().to_string();
    let (micros, memory) = (micros.to_string(), cgroup::MEMORY.to_string());
    let words = [
        &["busctl", "--system", "--quiet", "--timeout=3", "call"][..],
        &[
            "org.freedesktop.systemd1",
            "/org/freedesktop/systemd1",
            "org.freedesktop.systemd1.Manager",
            "StartTransientUnit",
            "ssa(sv)a(sa(sv))",
            &scope,
            "fail",
            "4",
        ],
        &["PIDs", "au", "1", &own],
        &["CPUQuotaPerSecUSec", "t", &micros],
        &["MemoryMax", "t", &memory],
        &["CollectMode", "s", "inactive-or-failed"],
        &["0"],
    ];
    let asking = Child {
        argv: words.concat().into_iter().map(str::to_owned).collect(),
        limit: TIMEOUT,
        grace: Duration::ZERO,
        cancel: CancellationToken::new(),
    };
    let ended = asking
        .run(drop)
        .await
        .context("ask systemd for a scope with `busctl`")?;
    if ended.code != Some(0) {
        bail!("ask systemd for a scope: {}", ended.errors.trim());
    }
    // systemd moves this process later, in a job.
    let until = Instant::now() + TIMEOUT;
    loop {
        let own = fs::read_to_string("/proc/self/cgroup").context("read /proc/self/cgroup")?;
        if own.contains(&scope) {
            return Ok(());
        }
        if Instant::now() >= until {
            bail!(
                "ask systemd for a scope: it is not there within {} s",
                TIMEOUT.as_secs()
            );
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
