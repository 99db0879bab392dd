//! How the host stands, for everybody who asks: the socket, `nodelet status`, metrics.

use engine::exec::{PhaseHealth, Status};
use engine::plan::PhaseName;
use serde::{Deserialize, Serialize};

use super::kube_status::NodeState;

/// One look at the daemon.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct View {
    pub(crate) node_state: NodeState,
    /// `KUBE_SERVICE_STATE` as it is in force.
    pub(crate) desired: String,
    pub(crate) role: String,
    pub(crate) cluster_id: String,
    /// Attempts since the host was last healthy.
    pub(crate) attempts: u32,
    /// What the daemon is doing.
    pub(crate) doing: String,
    /// When the last pass ended, seconds since 1970; `None` before the first.
    pub(crate) last_pass: Option<i64>,
    /// When the next one comes at the latest, seconds since 1970.
    pub(crate) next_pass: Option<i64>,
    /// When the next attempt comes, seconds since 1970, if the host is not as it should be.
    pub(crate) next_attempt: Option<i64>,
    /// Until when nobody is to touch the host, seconds since 1970.
    pub(crate) paused_until: Option<i64>,
    pub(crate) paused_because: String,
    /// What is wrong with the daemon's own work, one condition each.
    pub(crate) conditions: Vec<DaemonCondition>,
    pub(crate) phases: Vec<PhaseHealth>,
    /// What a repair would restart now.
    pub(crate) restart_set: Vec<PhaseName>,
    /// What woke the daemon before its last pass.
    pub(crate) hints: Vec<String>,
    pub(crate) counters: Counters,
}

/// Something that people should know of, beside the phases' own conditions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DaemonCondition {
    /// For example `SettingsValid`.
    pub(crate) name: String,
    pub(crate) status: Status,
    pub(crate) reason: String,
}

/// What happened since the daemon's start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counters {
    pub(crate) passes: u64,
    pub(crate) failed_passes: u64,
    pub(crate) repairs: u64,
    pub(crate) failed_attempts: u64,
    pub(crate) full_cleans: u64,
}
