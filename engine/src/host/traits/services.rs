//! Units of the service manager (systemd).

use std::time::{Duration, SystemTime};

use crate::host::HostResult;

/// A unit as systemd reports it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnitState {
    /// Whether a unit file exists (`LoadState=loaded`).
    pub loaded: bool,
    /// `ActiveState`: `active`, `inactive`, `failed`, `activating`, `deactivating`, `reloading`.
    pub active: String,
    /// `SubState`, for example `running` or `auto-restart`.
    pub sub: String,
    /// Whether it starts at boot (`UnitFileState=enabled`, `static` counts as not).
    pub enabled: bool,
    /// Identity of the present run; a new one at every start.
    pub invocation: String,
    /// When it became active, by the wall clock: compare it with other recorded times only.
    pub active_since: Option<SystemTime>,
    /// How long it has been active, by a clock that cannot be set.
    pub active_for: Option<Duration>,
    /// Whether the unit file on disk is newer than what the manager loaded (`NeedDaemonReload`).
    pub stale: bool,
    /// Whether the manager has not ended a job for it yet (`Job`): it is being started or stopped, or waits for that.
    pub job: bool,
}

impl UnitState {
    /// Active in the sense of `systemctl is-active`.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.active == "active" || self.active == "reloading"
    }

    /// Being started, or queued for a start, as at boot. A unit that has failed and waits for its next start does not count.
    #[must_use]
    pub fn is_being_started(&self) -> bool {
        self.job && matches!(self.active.as_str(), "inactive" | "activating")
    }
}

/// The service manager. Verbs wait for the job to end, at most 105 s, and carry the unit's result and the tail of
/// its journal in the error.
#[async_trait::async_trait]
pub trait Services {
    /// State of a unit such as `docker.service`; an unknown one is not `loaded`. Cancel safe.
    async fn unit(&self, name: &str) -> HostResult<UnitState>;

    /// The number of a service's main process; `None` if it does not run. Cancel safe.
    async fn main_process(&self, name: &str) -> HostResult<Option<u32>>;

    /// Lets the main process of a service go on that a signal has stopped (SIGCONT). Other processes of the service get no signal.
    async fn continue_unit(&self, name: &str) -> HostResult<()>;

    /// Starts a unit. When cancelled the job goes on.
    async fn start_unit(&self, name: &str) -> HostResult<()>;

    /// Stops a unit. Fine if it does not run or does not exist.
    async fn stop_unit(&self, name: &str) -> HostResult<()>;

    /// Stops and starts a unit.
    async fn restart_unit(&self, name: &str) -> HostResult<()>;

    /// Asks a unit to read its configuration again; restarts it if it cannot.
    async fn reload_unit(&self, name: &str) -> HostResult<()>;

    /// Makes a unit start at boot or not. Loads unit files again.
    async fn set_unit_enabled(&self, name: &str, enabled: bool) -> HostResult<()>;

    /// Forgets a failure and the start-limit counter.
    async fn reset_failed_unit(&self, name: &str) -> HostResult<()>;

    /// Loads all unit files again.
    async fn reload_units(&self) -> HostResult<()>;

    /// The last lines of a unit's journal. Cancel safe.
    async fn unit_log(&self, name: &str, lines: usize) -> HostResult<String>;
}
