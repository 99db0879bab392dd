//! The state of the host, as the socket, `nodelet status` and the metrics show it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use engine::exec::{PhaseHealth, Status};
use engine::model::{PhaseName, SystemError};
use serde::{Deserialize, Serialize};

use super::kube_status::{KubeStatus, NodeState};
use crate::nodeletd::cluster_work::ClusterProblems;
use crate::nodeletd::state::attempts::Attempts;
use crate::nodeletd::state::renewal::RenewalQueue;
use crate::pass::{Pass, ServiceState, WithoutSubnet};

/// A snapshot of the daemon's state.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
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
    /// End of the pause, seconds since 1970.
    pub(crate) paused_until: Option<i64>,
    pub(crate) paused_because: String,
    /// The settings or the role in use are the last good ones, because those on the host are invalid.
    #[serde(default)]
    pub(crate) keeps_last_good: bool,
    /// Why the settings in use do not allow changes to the host.
    #[serde(default)]
    pub(crate) refused: Option<String>,
    /// Why nothing is changed now, not even if a phase fails: the settings are refused, or the ledger is lost.
    #[serde(default)]
    pub(crate) prevents_changes: Option<String>,
    /// No role is to be on this host, so none is brought up.
    #[serde(default)]
    pub(crate) is_unassigned: bool,
    /// Failed passes since the last successful one, whose results are still shown.
    #[serde(default)]
    pub(crate) failed_in_a_row: u32,
    /// Conditions of the daemon's own work.
    pub(crate) conditions: Vec<DaemonCondition>,
    pub(crate) phases: Vec<PhaseHealth>,
    /// Phases with a check that fails. A repair restarts these and the phases that need them.
    #[serde(default)]
    pub(crate) failed: Vec<PhaseName>,
    /// A backup is needed at once, because there is none.
    #[serde(default)]
    pub(crate) lacks_backup: bool,
    /// What woke the daemon before its last pass.
    #[serde(default)]
    pub(crate) triggers: Vec<String>,
    pub(crate) counters: Counters,
}

/// A condition of the daemon, beside those of the phases.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DaemonCondition {
    /// For example `SettingsValid`.
    pub(crate) name: String,
    pub(crate) status: Status,
    pub(crate) reason: String,
}

/// A condition that follows from the result of a pass alone.
pub(in crate::nodeletd) struct PassCondition {
    pub(in crate::nodeletd) name: &'static str,
    /// What is wrong; empty if nothing is.
    wrong: fn(&Pass) -> String,
}

/// The settings on the host are in force.
pub(in crate::nodeletd) const SETTINGS_VALID: PassCondition = PassCondition {
    name: "SettingsValid",
    wrong: |pass| match &pass.settings_problems[..] {
        [] => String::new(),
        problems => format!("{}; the last good ones are in force", joined(problems)),
    },
};

/// The installed role is in force.
pub(in crate::nodeletd) const ROLE_VALID: PassCondition = PassCondition {
    name: "RoleValid",
    wrong: |pass| match &pass.role_problems[..] {
        [] => String::new(),
        problems => format!("{}; the last good role is in force", joined(problems)),
    },
};

/// The settings allow changes to the host.
pub(in crate::nodeletd) const SETTINGS_ALLOWED: PassCondition = PassCondition {
    name: "SettingsAllowed",
    wrong: |pass| {
        let refused = pass.refused.as_ref();
        let is_up = pass.desired.service_state == ServiceState::True;
        let does = match pass.restarts_only && is_up {
            true => {
                "; until then nodeletd repairs what fails with the last good settings and role, and changes nothing else"
            }
            false => "",
        };
        let waits = pass.pending_release.as_ref().map_or_else(String::new, |release| {
            format!(
                "; release {release} of the role is installed and comes into force when the name is right: until then, nodelet starts no program and loads no image that differs in it (systemd does, at boot or if a program ends)"
            )
        });
        refused.map_or_else(String::new, |why| format!("could not {why}{does}{waits}"))
    },
};

/// The ledger, and what a clean needs beside it, can be relied on.
pub(in crate::nodeletd) const LEDGER_VALID: PassCondition = PassCondition {
    name: "LedgerValid",
    wrong: |pass| match pass.ledger_lost.as_str() {
        "" => pass.ledger_problem.clone(),
        lost => format!("{lost}; until then nodeletd checks the host, but changes nothing"),
    },
};

/// The condition that each node has a pod subnet, or gets one.
const NODES_HAVE_SUBNETS: &str = "NodesHaveSubnets";

impl PassCondition {
    /// Whether it does not hold after this pass.
    pub(in crate::nodeletd) fn is_wrong(&self, pass: &Pass) -> bool {
        !(self.wrong)(pass).is_empty()
    }
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

/// What the daemon knows itself, beside the result of a pass.
#[derive(Debug)]
pub(in crate::nodeletd) struct Now<'a> {
    /// Seconds since 1970.
    pub(in crate::nodeletd) at: i64,
    pub(in crate::nodeletd) status: &'a KubeStatus,
    /// Rest of the pause; `None` if there is none.
    pub(in crate::nodeletd) paused: Option<Duration>,
    pub(in crate::nodeletd) paused_because: &'a str,
    /// Why the socket accepts no requests; empty if it accepts them.
    pub(in crate::nodeletd) api_problem: String,
    /// Why the status file or the state file could not be written; empty if both were.
    pub(in crate::nodeletd) unwritten: String,
    /// Why work for the cluster is left to do.
    pub(in crate::nodeletd) cluster: ClusterProblems,
    /// Why there is no control group for passes; empty if there is one.
    pub(in crate::nodeletd) group_problem: &'a str,
    /// That changes are interrupted again and again; empty if they are not.
    pub(in crate::nodeletd) interrupted_runs: &'a str,
    pub(in crate::nodeletd) renewals: &'a RenewalQueue,
    /// Why the last change was refused; empty if it was not.
    pub(in crate::nodeletd) precondition_error: &'a str,
    pub(in crate::nodeletd) attempts: &'a Attempts,
    /// Why the role does not stop although it is to be down; empty if it stops.
    pub(in crate::nodeletd) stop_error: &'a str,
    pub(in crate::nodeletd) triggers: &'a [String],
    pub(in crate::nodeletd) counters: Counters,
    /// Failed passes since the last successful one.
    pub(in crate::nodeletd) failed_in_a_row: u32,
}

impl Now<'_> {
    fn after(&self, time: Duration) -> i64 {
        self.at
            .saturating_add(i64::try_from(time.as_secs()).unwrap_or(i64::MAX))
    }

    /// The conditions after `pass`. After a failed pass (`None`), those that need a result of it are unknown.
    fn conditions(&self, pass: Option<&Pass>) -> Vec<DaemonCondition> {
        let condition_for = |name: &str, wrong: &dyn Fn(&Pass) -> String| match pass {
            Some(pass) => DaemonCondition::new(name, wrong(pass)),
            None => DaemonCondition {
                name: name.to_owned(),
                status: Status::Unknown,
                reason: "the last status pass failed".to_owned(),
            },
        };
        let of_pass = |condition: &PassCondition| condition_for(condition.name, &condition.wrong);
        let known = |name: &str, wrong: &str| DaemonCondition::new(name, wrong.to_owned());
        vec![
            of_pass(&SETTINGS_VALID),
            of_pass(&ROLE_VALID),
            of_pass(&SETTINGS_ALLOWED),
            condition_for("ClusterIdSet", &|pass| {
                if pass.installed && pass.desired.lacks_cluster() {
                    "CLUSTER_ID is not set in the settings, but a role is installed on this host and KUBE_SERVICE_STATE is true: nodeletd still repairs it, but its backups do not name their cluster; set CLUSTER_ID".to_owned()
                } else {
                    String::new()
                }
            }),
            of_pass(&LEDGER_VALID),
            match pass {
                Some(pass) => nodes_have_subnets(pass, &self.cluster.subnets),
                None => condition_for(NODES_HAVE_SUBNETS, &|_| String::new()),
            },
            known("RequestsDecided", &self.cluster.certificates),
            known("WorkersCaredFor", &self.cluster.workers),
            condition_for("HostFits", &|_| self.precondition_error.to_owned()),
            known("LastRepairSucceeded", self.attempts.failure()),
            condition_for("FullCleanHelps", &|pass| {
                let useless_clean = self.attempts.useless_clean(&pass.failed);
                useless_clean.unwrap_or_default()
            }),
            condition_for("RoleStops", &|_| self.stop_error.to_owned()),
            known("ChangesComplete", self.interrupted_runs),
            known("LocalApi", &self.api_problem),
            known("StateWritten", &with_next_step(&self.unwritten)),
            known("StatusCgroup", self.group_problem),
            condition_for("CertificatesRenewed", &|pass| {
                self.renewals.problem(&pass.due)
            }),
        ]
    }

    fn paused_until(&self) -> Option<i64> {
        self.paused.map(|left| self.after(left))
    }
}

/// The time of the host in seconds since 1970.
pub(crate) fn unix_now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| i64::try_from(time.as_secs()).unwrap_or(i64::MAX))
}

/// The problems as one text. A problem may end with a line feed, which is removed.
pub(in crate::nodeletd) fn joined(problems: &[String]) -> String {
    let problems: Vec<&str> = problems.iter().map(|problem| problem.trim_end()).collect();
    problems.join("; ")
}

/// Why a state file is not written, and what to do about it. nodeletd tries again with each status pass.
fn with_next_step(problem: &str) -> String {
    match SystemError::of(problem) {
        // nodeletd is root, and this advice would be to become root.
        None | Some(SystemError::Forbidden) => problem.to_owned(),
        Some(error) => format!(
            "{problem}; {}, then nodeletd writes the file again",
            error.next_step(None)
        ),
    }
}

/// Whether each node has a pod subnet, or gets one.
fn nodes_have_subnets(pass: &Pass, not_given: &str) -> DaemonCondition {
    let WithoutSubnet {
        named,
        more,
        unknown,
    } = &pass.without_subnet;
    let name = NODES_HAVE_SUBNETS;
    if !unknown.is_empty() {
        return DaemonCondition {
            name: name.to_owned(),
            status: Status::Unknown,
            reason: unknown.clone(),
        };
    }
    if named.is_empty() {
        return DaemonCondition::new(name, not_given.to_owned());
    }
    let more = match more {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let wrong = format!(
        "pods with an address of their own cannot run on {}{more}: nodes get their pod subnet from nodeletd on a master, but nodeletd on this \
         master changes nothing while KUBE_SERVICE_STATE is not true or its settings are refused",
        named.join(", ")
    );
    DaemonCondition::new(name, wrong)
}

impl DaemonCondition {
    /// A condition that holds if `wrong` is empty.
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
    /// Why no repair would be made now, if so.
    pub(in crate::nodeletd) fn touches_nothing(&self) -> Option<String> {
        if self.paused_until.is_some() {
            Some(format!("paused: {}", self.paused_because))
        } else if self.desired != "true" {
            Some(format!("KUBE_SERVICE_STATE is {}", self.desired))
        } else if self.is_unassigned {
            Some("this host is not to be a node: ROLE is none, or CLUSTER_ID is not set".to_owned())
        } else {
            self.prevents_changes.clone()
        }
    }

    /// The view after a pass: what the daemon is `doing`, and when the `next` pass and the next `attempt` come.
    pub(in crate::nodeletd) fn of(
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
            doing: if now.paused.is_some() {
                "paused"
            } else {
                doing
            }
            .to_owned(),
            last_pass: Some(now.status.status_check_timestamp),
            next_pass: Some(now.after(next)),
            next_attempt: attempt.map(|time| now.after(time)),
            paused_until: now.paused_until(),
            paused_because: now.paused_because.to_owned(),
            keeps_last_good: pass.uses_last_good(),
            refused: pass.refused.clone(),
            prevents_changes: pass.prevents_changes(),
            is_unassigned: pass.desired.is_unassigned(pass.installed),
            failed_in_a_row: 0,
            conditions: now.conditions(Some(pass)),
            phases: pass.health.clone(),
            failed: pass.failed.clone(),
            lacks_backup: pass.lacks_backup,
            triggers: now.triggers.to_vec(),
            counters: now.counters,
        }
    }

    /// Updates the pause, which may have begun or ended since the pass.
    pub(in crate::nodeletd) fn show_pause(&mut self, now: &Now<'_>) {
        self.paused_until = now.paused_until();
        now.paused_because.clone_into(&mut self.paused_because);
        if self.paused_until.is_some() {
            "paused".clone_into(&mut self.doing);
        }
    }

    /// The view after a failed pass: the results from `before`, what the daemon knows itself, and the failure.
    pub(in crate::nodeletd) fn after_failed_pass(
        before: Option<&Self>,
        now: &Now<'_>,
        next: Duration,
        error: &str,
    ) -> Self {
        let mut conditions = now.conditions(None);
        conditions.push(DaemonCondition::new("StatusPassWorks", error.to_owned()));
        let blank = Self {
            desired: "ignore".to_owned(),
            role: "none".to_owned(),
            ..Self::default()
        };
        Self {
            node_state: now.status.pf9_kube_node_state,
            attempts: now.status.pf9_kube_start_attempt,
            doing: "a status pass failed".to_owned(),
            next_pass: Some(now.after(next)),
            next_attempt: None,
            paused_until: now.paused_until(),
            paused_because: now.paused_because.to_owned(),
            failed_in_a_row: now.failed_in_a_row,
            conditions,
            triggers: now.triggers.to_vec(),
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
            "conditions": [{"name": "SettingsValid", "status": "True", "reason": ""}],
            "phases": [{"phase": "etcd-backup", "skipped": null, "conditions": []}],
            "failed": [], "triggers": [],
            "counters": {"passes": 1, "failed_passes": 0, "repairs": 0, "failed_attempts": 0, "full_cleans": 0},
        });
        serde_json::from_value(view).expect("a view")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unwritten_file_has_a_next_step() {
        assert_eq!(with_next_step(""), "");
        for (cause, next) in [
            ("Is a directory (os error 21)", "move it away"),
            ("No space left on device (os error 28)", "`df -i`"),
            ("Read-only file system (os error 30)", "`findmnt "),
        ] {
            let problem = format!("could not write /var/opt/pf9/kube_status: {cause}");
            let shown = with_next_step(&problem);
            assert!(shown.starts_with(&problem), "{shown}");
            assert!(shown.contains(next), "{shown}");
            let again = "then nodeletd writes the file again";
            assert!(shown.ends_with(again), "{shown}");
        }
        let unknown = "could not write /var/opt/pf9/kube_status: Input/output error (os error 5)";
        assert_eq!(with_next_step(unknown), unknown);
    }

    /// After a failed pass the API and the timers still use the view: its settings and its pause stay in force.
    #[test]
    fn the_settings_in_force_are_reported_after_a_failed_pass() {
        let mut before = View::at_rest();
        before.keeps_last_good = true;
        before.prevents_changes = Some("the cluster is another".to_owned());
        before.next_attempt = Some(3);
        let (status, renewals) = (KubeStatus::default(), RenewalQueue::default());
        let attempts = Attempts::default();
        let mut now = Now {
            at: 1000,
            status: &status,
            paused: Some(Duration::from_secs(60)),
            paused_because: "we move",
            api_problem: "no room".to_owned(),
            unwritten: String::new(),
            cluster: ClusterProblems::default(),
            group_problem: "",
            interrupted_runs: "",
            renewals: &renewals,
            precondition_error: "",
            attempts: &attempts,
            stop_error: "",
            triggers: &[],
            counters: Counters {
                failed_passes: 7,
                ..Counters::default()
            },
            failed_in_a_row: 4,
        };
        let minute = Duration::from_secs(60);
        let view = View::after_failed_pass(Some(&before), &now, minute, "make it: no memory");
        assert!(view.keeps_last_good);
        assert_eq!(view.touches_nothing().as_deref(), Some("paused: we move"));
        assert_eq!(view.paused_until, Some(1060));
        assert_eq!((view.next_pass, view.next_attempt), (Some(1060), None));
        assert_eq!((view.counters.failed_passes, view.failed_in_a_row), (7, 4));
        assert_eq!(view.phases, before.phases, "no pass has seen other phases");
        let status = |name: &str| {
            let mut conditions = view.conditions.iter();
            conditions
                .find(|one| one.name == name)
                .map(|one| one.status)
        };
        assert_eq!(status("SettingsValid"), Some(Status::Unknown));
        assert_eq!(status("LocalApi"), Some(Status::False));
        assert_eq!(status("StatusPassWorks"), Some(Status::False));
        // A pause that has ended is not shown.
        now.paused = None;
        let view = View::after_failed_pass(Some(&view), &now, minute, "make it: no memory");
        let why = view.touches_nothing();
        assert_eq!(why.as_deref(), Some("the cluster is another"));
    }
}
