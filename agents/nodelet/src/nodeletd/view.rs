//! How the host stands, for everybody who asks: the socket, `nodelet status`, metrics.

use std::time::Duration;

use engine::exec::{PhaseHealth, Status};
use engine::plan::PhaseName;
use serde::{Deserialize, Serialize};

use super::kube_status::{KubeStatus, NodeState};
use super::renewal::RenewalQueue;
use super::state::State;
use crate::pass::{Pass, ServiceState};

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

/// The settings that stand in the files are in use.
const SETTINGS_VALID: &str = "SettingsValid";
/// The host may be worked on with the settings in use.
const SETTINGS_ALLOWED: &str = "SettingsAllowed";

/// What happened since the daemon's start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counters {
    pub(crate) passes: u64,
    pub(crate) failed_passes: u64,
    pub(crate) repairs: u64,
    pub(crate) failed_attempts: u64,
    pub(crate) full_cleans: u64,
}

/// What the daemon knows at the moment, beside what a pass says.
#[derive(Debug)]
pub(super) struct Now<'a> {
    /// Seconds since 1970.
    pub(super) at: i64,
    pub(super) status: &'a KubeStatus,
    pub(super) state: &'a State,
    pub(super) paused: bool,
    /// Why there is no control group for passes; empty if there is one.
    pub(super) group_problem: &'a str,
    pub(super) renewals: &'a RenewalQueue,
    /// Why the host does not fit what it is to become; empty if it does.
    pub(super) unfit: &'a str,
    pub(super) hints: &'a [String],
    pub(super) counters: Counters,
}

impl Now<'_> {
    fn after(&self, time: Duration) -> i64 {
        self.at
            .saturating_add(i64::try_from(time.as_secs()).unwrap_or(i64::MAX))
    }

    fn conditions(
        &self,
        settings: &[String],
        refused: Option<&str>,
        due: &[String],
    ) -> Vec<DaemonCondition> {
        vec![
            DaemonCondition::new(SETTINGS_VALID, settings.join("; ")),
            DaemonCondition::new(SETTINGS_ALLOWED, refused.unwrap_or_default().to_owned()),
            DaemonCondition::new("HostFits", self.unfit.to_owned()),
            DaemonCondition::new("StatusCgroup", self.group_problem.to_owned()),
            DaemonCondition::new("CertificatesRenewed", self.renewals.problem(due)),
        ]
    }
}

impl DaemonCondition {
    /// A condition that holds unless something is wrong.
    fn new(name: &str, wrong: String) -> Self {
        Self {
            name: name.to_owned(),
            status: if wrong.is_empty() {
                Status::True
            } else {
                Status::False
            },
            reason: wrong,
        }
    }
}

impl View {
    /// Whether the settings in use are the last good ones, since those that stand in the files are wrong.
    pub(crate) fn keeps_last_good(&self) -> bool {
        let settings = self.conditions.iter().find(|c| c.name == SETTINGS_VALID);
        settings.is_some_and(|condition| condition.status == Status::False)
    }

    /// Why nobody would repair anything now, if so.
    pub(super) fn touches_nothing(&self) -> Option<String> {
        let refused = self.conditions.iter().find(|c| c.name == SETTINGS_ALLOWED);
        let refused = refused.filter(|condition| condition.status == Status::False);
        if self.paused_until.is_some() {
            Some(format!("paused: {}", self.paused_because))
        } else if self.desired != "true" {
            Some(format!("KUBE_SERVICE_STATE is {}", self.desired))
        } else {
            refused.map(|condition| condition.reason.clone())
        }
    }

    /// After a pass: what is being `doing`, and when the `next` one and the next `attempt` come.
    pub(super) fn of(
        pass: &Pass,
        now: &Now<'_>,
        doing: &str,
        next: Duration,
        attempt: Option<Duration>,
    ) -> Self {
        Self {
            node_state: now.status.pf9_kube_node_state,
            desired: match pass.desired.service_state {
                ServiceState::True => "true",
                ServiceState::False => "false",
                ServiceState::Ignore => "ignore",
            }
            .to_owned(),
            role: pass.desired.node.clone(),
            cluster_id: pass.desired.cluster_id.clone(),
            attempts: now.status.pf9_kube_start_attempt,
            doing: if now.paused { "paused" } else { doing }.to_owned(),
            last_pass: Some(now.status.status_check_timestamp),
            next_pass: Some(now.after(next)),
            next_attempt: attempt.map(|time| now.after(time)),
            paused_until: now.state.paused_until.filter(|_| now.paused),
            paused_because: now.state.paused_because.clone(),
            conditions: now.conditions(&pass.settings_problems, pass.refused.as_deref(), &pass.due),
            phases: pass.health.clone(),
            restart_set: pass.restart_set.clone(),
            hints: now.hints.to_vec(),
            counters: now.counters,
        }
    }

    /// After a pass that did not come to its end: what was seen `before`, and that it failed.
    pub(super) fn after_failed_pass(before: Option<&Self>, now: &Now<'_>, error: &str) -> Self {
        // What the settings are like, and what is due, only a pass can tell.
        let mut conditions = now.conditions(&[], None, &[]);
        for condition in &mut conditions {
            if condition.name != "StatusCgroup" {
                condition.status = Status::Unknown;
                "the last status pass failed".clone_into(&mut condition.reason);
            }
        }
        conditions.push(DaemonCondition::new("StatusPassWorks", error.to_owned()));
        let blank = Self {
            node_state: now.status.pf9_kube_node_state,
            desired: "ignore".to_owned(),
            role: "none".to_owned(),
            cluster_id: String::new(),
            attempts: now.status.pf9_kube_start_attempt,
            doing: String::new(),
            last_pass: None,
            next_pass: None,
            next_attempt: None,
            paused_until: None,
            paused_because: String::new(),
            conditions: Vec::new(),
            phases: Vec::new(),
            restart_set: Vec::new(),
            hints: Vec::new(),
            counters: now.counters,
        };
        Self {
            doing: "a status pass failed".to_owned(),
            conditions,
            counters: now.counters,
            ..before.cloned().unwrap_or(blank)
        }
    }
}

#[cfg(test)]
impl View {
    /// Of a host at rest with one phase, `etcd-backup`.
    pub(crate) fn at_rest() -> Self {
        let view = serde_json::json!({
            "node_state": "ok", "desired": "true", "role": "master", "cluster_id": "c",
            "attempts": 0, "doing": "watching", "last_pass": 1, "next_pass": 2, "next_attempt": null,
            "paused_until": null, "paused_because": "",
            "conditions": [{"name": SETTINGS_VALID, "status": "True", "reason": ""}],
            "phases": [{"phase": "etcd-backup", "skipped": null, "conditions": []}],
            "restart_set": [], "hints": [],
            "counters": {"passes": 1, "failed_passes": 0, "repairs": 0, "failed_attempts": 0, "full_cleans": 0},
        });
        serde_json::from_value(view).expect("a view")
    }
}
