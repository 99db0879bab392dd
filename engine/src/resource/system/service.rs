//! A systemd unit that runs with the current configuration on disk, or does not run.
//!
//! A small stamp file beside the engine's state records which configuration a running unit has loaded, with the unit's
//! invocation id. If there is no stamp for the current invocation (an operator or another program started the unit), the
//! times decide: configuration that was written after the start has not been loaded.

use std::path::PathBuf;
use std::time::SystemTime;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::host::{Host, UnitState};
use crate::resource::change::Differences;
use crate::resource::docker::container_runtime;
use crate::resource::files::file::PRIVATE;
use crate::resource::{
    Action, Change, Checksums, Context, READ_LIMIT, Receipt, Resource, ResourceError,
    ResourceResult, Undo, create_parents, inputs,
};

/// The directory of the stamps.
const STAMPS: &str = "/var/opt/pf9/nodelet/services";

/// A unit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceSpec {
    /// Unit name with its suffix, for example `docker.service`.
    pub unit: String,
    /// Whether it should run.
    pub started: bool,
    /// Whether it should start at boot; `None` leaves this setting unchanged.
    pub enabled: Option<bool>,
    /// Files whose change needs a restart.
    pub restart_inputs: Vec<PathBuf>,
    /// Files whose change needs a reload.
    pub reload_inputs: Vec<PathBuf>,
    /// Programs of the role's package that it runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub runs: Vec<PathBuf>,
    /// The checksums by which the programs are verified before a start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksums: Option<Checksums>,
}

/// The configuration that one invocation of a unit has loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    invocation: String,
    restart: String,
    reload: String,
}

/// The current state of a unit.
#[derive(Debug)]
pub struct Observed {
    unit: UnitState,
    stamp: Option<Stamp>,
    restart: String,
    reload: String,
    /// Newest change of the inputs, for an invocation without a stamp.
    restart_changed: Option<SystemTime>,
    reload_changed: Option<SystemTime>,
    now: SystemTime,
}

#[async_trait]
impl Resource for ServiceSpec {
    type Observed = Observed;

    fn label(&self) -> String {
        self.unit.clone()
    }

    async fn observe(&self, cx: &Context<'_>) -> ResourceResult<Observed> {
        let stamp = cx.host.read(&self.stamp_path(), READ_LIMIT).await?;
        let observed = Observed {
            unit: cx.host.unit(&self.unit).await?,
            // An unreadable stamp counts as missing: the times decide.
            stamp: stamp.and_then(|json| serde_json::from_slice(&json).ok()),
            restart: inputs::digest(cx.host, &self.restart_inputs).await?,
            reload: inputs::digest(cx.host, &self.reload_inputs).await?,
            restart_changed: inputs::newest(cx.host, &self.restart_inputs).await?,
            reload_changed: inputs::newest(cx.host, &self.reload_inputs).await?,
            now: cx.host.now(),
        };
        // In a dry run, the content of inputs may be unknown: then it is unknown whether a restart or reload is needed.
        if observed.unit.is_active() && observed.restarts() {
            inputs::wait_until_written(cx.host, &self.restart_inputs).await?;
        } else if observed.unit.is_active() && !observed.unit.stale && observed.reloads() {
            inputs::wait_until_written(cx.host, &self.reload_inputs).await?;
        }
        Ok(observed)
    }

    fn diff(&self, observed: &Observed, _absent: bool) -> Option<Change> {
        let unit = &observed.unit;
        let mut differences = Differences::default();
        if let Some(enabled) = self.enabled
            && (unit.loaded || enabled)
            && unit.enabled != enabled
        {
            differences.note("at boot", at_boot(unit.enabled), at_boot(enabled));
        }
        if !self.started {
            if unit.is_active() || unit.active == "activating" {
                differences.note("state", &unit.active, "inactive");
            }
            return differences.into_change(Action::Remove);
        }
        let mut action = Action::Change;
        if !unit.is_active() {
            differences.note("state", &unit.active, "active");
            action = Action::Create;
        } else if observed.restarts() {
            differences.note("configuration", "changed since it started", "taken in");
            action = Action::Restart;
        } else if unit.stale {
            differences.note("unit file", "changed since it started", "taken in");
            action = Action::Restart;
        } else if observed.reloads() {
            differences.note("configuration", "changed since it was loaded", "taken in");
            action = Action::Reload;
        }
        differences.into_change(action)
    }

    async fn converge(
        &self,
        observed: &Observed,
        cx: &Context<'_>,
        receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        let Some(change) = self.diff(observed, cx.absent) else {
            return Ok(());
        };
        let name = || self.unit.clone();
        if !self.started {
            self.set_enabled(observed, cx.host, receipt).await?;
        }
        if observed.unit.stale {
            // A start would use the unit file that systemd loaded before the file changed.
            cx.host.reload_units().await?;
        }
        match change.action {
            Action::Remove => {
                if observed.unit.is_active() {
                    receipt.push(Undo::StartUnit { name: name() }).await?;
                }
                container_runtime::before_last_stop(cx.host, &self.unit).await;
                cx.host.stop_unit(&self.unit).await?;
                return Ok(());
            }
            Action::Create => {
                self.verify_programs(cx.host).await?;
                receipt.push(Undo::StopUnit { name: name() }).await?;
                // A unit that has reached its start limit refuses every start until `systemctl reset-failed`.
                cx.host.reset_failed_unit(&self.unit).await?;
                let began = cx.host.now();
                cx.host.start_unit(&self.unit).await?;
                container_runtime::after_start(cx.host, &self.unit, began).await;
            }
            Action::Restart => {
                self.verify_programs(cx.host).await?;
                receipt.push(Undo::RestartUnit { name: name() }).await?;
                container_runtime::restart(cx.host, &self.unit).await?;
            }
            Action::Reload => {
                receipt.push(Undo::RestartUnit { name: name() }).await?;
                cx.host.reload_unit(&self.unit).await?;
            }
            Action::Change | Action::Renew | Action::Run => {}
        }
        // Not before the start: enabling makes systemd reload all unit files, and the start would wait for that.
        self.set_enabled(observed, cx.host, receipt).await?;
        let unit = cx.host.unit(&self.unit).await?;
        if !unit.is_active() {
            return Err(ResourceError::NotConverged {
                what: format!(
                    "start {}: it is {} ({}); see `journalctl -u {}`: {}",
                    self.unit,
                    unit.active,
                    unit.sub,
                    self.unit,
                    cx.host
                        .unit_log(&self.unit, 3)
                        .await
                        .unwrap_or_default()
                        .trim()
                        .replace('\n', "; "),
                ),
            });
        }
        self.write_stamp(&unit, observed, cx.host, receipt).await
    }

    async fn quiesce(&self, cx: &Context<'_>, receipt: &mut Receipt<'_>) -> ResourceResult<bool> {
        let unit = cx.host.unit(&self.unit).await?;
        let runs = self.started && (unit.is_active() || unit.active == "activating");
        if runs {
            // If the role started the unit, an older undo (a stop) of the unit exists, and the older one is carried out.
            receipt
                .push(Undo::StartUnit {
                    name: self.unit.clone(),
                })
                .await?;
            container_runtime::before_stop(cx.host, &self.unit).await;
            cx.host.stop_unit(&self.unit).await?;
        }
        Ok(runs)
    }
}

impl ServiceSpec {
    /// A unit that should run, with nothing else about it: tests begin with one.
    #[must_use]
    pub fn bare(unit: &str) -> Self {
        Self {
            unit: unit.to_owned(),
            started: true,
            enabled: None,
            restart_inputs: Vec::new(),
            reload_inputs: Vec::new(),
            runs: Vec::new(),
            checksums: None,
        }
    }

    /// Checks that the programs of the unit are those of the package. Cancel safe.
    ///
    /// # Errors
    /// A program differs or cannot be read.
    pub(crate) async fn verify_programs(&self, host: &dyn Host) -> ResourceResult<()> {
        if let Some(checksums) = &self.checksums {
            for program in &self.runs {
                checksums.verify(host, program).await?;
            }
        }
        Ok(())
    }

    /// Sets whether the unit starts at boot, if that differs.
    async fn set_enabled(
        &self,
        observed: &Observed,
        host: &dyn Host,
        receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        let Some(enabled) = self.enabled else {
            return Ok(());
        };
        if observed.unit.enabled == enabled {
            return Ok(());
        }
        receipt
            .push(Undo::SetUnitEnabled {
                name: self.unit.clone(),
                enabled: observed.unit.enabled,
            })
            .await?;
        host.set_unit_enabled(&self.unit, enabled).await?;
        Ok(())
    }

    pub(crate) fn stamp_path(&self) -> PathBuf {
        PathBuf::from(STAMPS).join(format!("{}.json", self.unit))
    }

    async fn write_stamp(
        &self,
        unit: &UnitState,
        observed: &Observed,
        host: &dyn Host,
        receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        let stamp = Stamp {
            invocation: unit.invocation.clone(),
            restart: observed.restart.clone(),
            reload: observed.reload.clone(),
        };
        let json = serde_json::to_vec(&stamp).map_err(|source| ResourceError::NotConverged {
            what: format!("record what {} has loaded: {source}", self.unit),
        })?;
        create_parents(host, &self.stamp_path(), receipt).await?;
        receipt
            .push(Undo::RemoveFile {
                path: self.stamp_path(),
            })
            .await?;
        host.write(&self.stamp_path(), &json, PRIVATE).await?;
        Ok(())
    }
}

impl Observed {
    /// Whether the current invocation has not loaded the inputs that need a restart.
    fn restarts(&self) -> bool {
        self.outdated(|s| &s.restart, &self.restart, self.restart_changed)
    }

    /// Whether the current invocation has not loaded the inputs that need a reload.
    fn reloads(&self) -> bool {
        self.outdated(|s| &s.reload, &self.reload, self.reload_changed)
    }

    /// Whether the current invocation has not loaded the inputs on disk.
    fn outdated(
        &self,
        part: impl Fn(&Stamp) -> &String,
        digest: &str,
        changed: Option<SystemTime>,
    ) -> bool {
        match &self.stamp {
            Some(stamp) if stamp.invocation == self.unit.invocation => part(stamp) != digest,
            _ => inputs::written_after_start(changed, self.unit.active_since, self.now),
        }
    }
}

fn at_boot(enabled: bool) -> &'static str {
    if enabled { "starts" } else { "does not start" }
}
