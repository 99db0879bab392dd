//! Records the result of a pass, or that it failed, before anything is decided.

use std::sync::Arc;
use std::time::Duration;

use daemon::systemd;
use engine::exec::{FailureCounts, PhaseHealth, Status, phases_with_orphans};
use engine::model::PhaseName;
use tokio::time::Instant;

use super::{FAILED_PASSES, Supervisor, unix_now};
use crate::nodeletd::state::retry::{Retries, backoff};
use crate::nodeletd::status::kube_status::NodeState;
use crate::nodeletd::status::view::View;
use crate::nodeletd::supervisor::journal::{after_attempts, warnings_of};
use crate::nodeletd::supervisor::worker::HostOps;
use crate::pass::{Pass, ServiceState};

impl<H: HostOps> Supervisor<H> {
    /// Records the result of a pass, before anything is decided.
    pub(super) fn observe(&mut self, pass: &Pass) {
        for warning in self.warned.update(warnings_of(pass)).begun {
            tracing::warn!("{warning}");
        }
        if pass.desired != self.desired {
            // New settings may fix the failure, so the next attempt does not wait.
            self.skip_backoff |= self.settings_in_use > 0;
            if self.settings_in_use > 0 && pass.desired.service_state != self.desired.service_state
            {
                self.forget_attempts();
            }
            self.settings_in_use += 1;
            self.desired = pass.desired.clone();
            self.metrics_port.send_replace(self.desired.metrics_port);
            daemon::log::debug(&["nodelet", "daemon"], self.desired.debug);
        }
        if self.desired.service_state != ServiceState::False {
            self.stop_error.clear();
        }
        if self.state.attempts.are_about(&pass.digest) {
            self.skip_backoff = true;
            self.status.pf9_kube_start_attempt = 0;
        }
        if self.triggers.take_join_file() {
            // The failure may be that the cluster refuses the file before.
            self.skip_backoff = true;
        }
        self.listen(pass);
        self.failure_counts = FailureCounts::of(&pass.health);
        for line in self.problems.lines(pass) {
            line.write();
        }
        let now = unix_now();
        if !pass.failed.is_empty() {
            self.unsure = None;
            // Also before an attempt begins, and where none may be made.
            self.is_not_up();
        }
        let status = &mut self.status;
        status.status_check_timestamp = now;
        status.all_tasks = phases(pass, |_| true);
        status.all_status_checks = phases(pass, |phase| !phase.conditions.is_empty());
        status.completed_tasks = phases(pass, |phase| phase.status() == Status::True);
        status.current_status_check.clear();
        if let Some(failed) = pass.health.iter().find(|p| p.status() == Status::False) {
            status.last_failed_status_check = failed.phase.to_string();
            status.last_failed_status_time = now;
        }
        status.forget_old_failure();
    }

    /// A pass waits for the checks of this phase.
    pub(super) fn is_checking(&mut self, phase: &PhaseName) {
        self.status.current_status_check = phase.to_string();
        self.write_status();
    }

    /// Reports the role as not up and, unless it is to be down, the node as not `ok`.
    pub(super) fn is_not_up(&mut self) {
        "false".clone_into(&mut self.status.pf9_kube_service_state);
        if self.status.pf9_kube_node_state == NodeState::Ok
            && self.desired.service_state != ServiceState::False
        {
            self.status.pf9_kube_node_state = NodeState::Converging;
        }
    }

    /// Whether there is something to remove that the plan does not contain, and no pause after a failed removal. A removal that fails again
    /// and again never leads to a restart or a clean, because the node itself is healthy.
    pub(super) fn prune_is_due(&mut self, pass: &Pass) -> bool {
        if phases_with_orphans(&pass.health).is_empty() {
            self.prune_backoff = Retries::default();
            return false;
        }
        let pause = backoff(self.prune_backoff.count, pass.desired.loop_interval);
        self.prune_backoff.left(pause, Instant::now()).is_zero()
    }

    /// No phase fails: ends the row of attempts, and forgets them if every result is known.
    pub(super) fn healthy(&mut self, pass: &Pass) {
        self.flapped = false;
        if pass.desired.service_state == ServiceState::False {
            return;
        }
        let unknown = pass.health.iter().find(|phase| !phase.needs_no_repair());
        let counted = self.state.attempts.clone();
        let up_before = self.state.up_in.clone();
        // An unknown result is no failure, so it ends the row of attempts. Two kinds of results do not end it: a check that has failed, but
        // not often enough yet, and a failure that counts as unknown for now, for example after a boot.
        let mut all = pass.health.iter().flat_map(|phase| &phase.conditions);
        let is_counting = all.any(|its| its.failed_in_a_row > 0 && !its.advisory);
        if !is_counting && !pass.health.iter().any(PhaseHealth::was_deferred) {
            self.state.attempts.reset_streak();
            self.status.pf9_kube_start_attempt = 0;
        }
        if let Some(phase) = unknown {
            self.note_unknown(&phase.phase);
        } else {
            self.unsure = None;
            if counted.count() > 0 {
                after_attempts(counted.count(), pass).write();
            }
            self.state.attempts.forget();
            if pass.installed {
                self.state.is_up();
            }
            // While something is left that the plan does not contain, the reason why it was not removed stays.
            if !pass.health.iter().any(PhaseHealth::has_orphans) {
                self.precondition_error.clear();
            }
            self.status.pf9_kube_node_state = NodeState::Ok;
            "true".clone_into(&mut self.status.pf9_kube_service_state);
            self.status
                .pf9_cluster_id
                .clone_from(&pass.desired.cluster_id);
            self.status.pf9_cluster_role.clone_from(&pass.desired.node);
            self.status.last_failed_task.clear();
        }
        if self.state.attempts != counted || self.state.up_in != up_before {
            self.remember();
        }
    }

    /// A result that stays unknown for long is reported: the node is not `ok`. No repair follows.
    fn note_unknown(&mut self, phase: &PhaseName) {
        let now = Instant::now();
        let (since, passes) = self.unsure.get_or_insert((now, 0));
        *passes = passes.saturating_add(1);
        let is_long = now.duration_since(*since) >= self.desired.loop_interval * FAILED_PASSES;
        if is_long && *passes >= FAILED_PASSES {
            self.is_not_up();
            self.status.last_failed_status_check = phase.to_string();
            self.status.last_failed_status_time = unix_now();
        }
    }

    /// Even if all checks hold, `kube_status` does not say `ok` while the ledger is lost or damaged, the settings or the role on the host
    /// are invalid (older ones are in force), or the settings are refused.
    pub(super) fn withhold_ok(&mut self, pass: &Pass) {
        let doubtful = if !pass.ledger_lost.is_empty() || !pass.ledger_problem.is_empty() {
            "ledger"
        } else if !pass.role_problems.is_empty() {
            "role"
        } else if !pass.settings_problems.is_empty() || pass.refused.is_some() {
            "settings"
        } else {
            return;
        };
        self.is_not_ok(doubtful);
    }

    /// The node is not `ok` if a key, a certificate authority or data that the host keeps was lost or replaced, if the API server refuses
    /// the cluster's tokens, or if the role's package is damaged. A restart of the phase would not fix this, so none is made.
    pub(super) fn tell_damage(&mut self, pass: &Pass) {
        if let Some(phase) = pass.damaged.first().filter(|_| pass.installed) {
            self.is_not_ok(phase.as_str());
        }
    }

    fn is_not_ok(&mut self, failed: &str) {
        if self.status.pf9_kube_node_state == NodeState::Ok {
            self.status.pf9_kube_node_state = NodeState::Converging;
        }
        failed.clone_into(&mut self.status.last_failed_status_check);
        self.status.last_failed_status_time = unix_now();
    }

    /// The host is to be no node, or belongs to no cluster, and is as desired: no attempt follows, even if checks fail.
    pub(super) fn at_desired_state(&mut self, pass: &Pass) {
        self.status.pf9_kube_node_state = NodeState::Ok;
        self.status.pf9_kube_start_attempt = 0;
        self.stop_error.clear();
        self.precondition_error.clear();
        if !self.state.attempts.failure().is_empty() {
            self.forget_attempts();
            self.remember();
        }
        if !pass.installed {
            "false".clone_into(&mut self.status.pf9_kube_service_state);
            if self.state.is_gone() {
                self.remember();
            }
        }
    }

    /// A failed pass says nothing about the host, so nothing is changed, and requested restarts are dropped.
    pub(super) fn pass_failed(&mut self, error: &str) -> Duration {
        self.keep_pause();
        self.status.current_status_check.clear();
        self.wanted.clear();
        self.counters.failed_passes += 1;
        self.failed_passes_in_a_row = self.failed_passes_in_a_row.saturating_add(1);
        tracing::error!("{error}");
        if self.failed_passes_in_a_row >= FAILED_PASSES {
            // Readers of the status file must not take an old `ok` for the present state.
            self.is_not_up();
            "a status pass".clone_into(&mut self.status.last_failed_status_check);
            self.status.last_failed_status_time = unix_now();
            self.write_status();
        }
        let interval = self.desired.loop_interval;
        let before = self.view.borrow().clone();
        let view = View::after_failed_pass(before.as_deref(), &self.now(), interval, error);
        self.view.send_replace(Some(Arc::new(view)));
        systemd::status("a status pass failed; see the journal");
        interval
    }
}

fn phases(pass: &Pass, which: impl Fn(&PhaseHealth) -> bool) -> Vec<String> {
    let phases = pass
        .health
        .iter()
        .filter(|phase| (phase.skipped.is_none() || phase.has_orphans()) && which(phase));
    phases.map(|phase| phase.phase.to_string()).collect()
}
