//! What a round does to the host once it is decided. Each gives the time until the next round at the latest.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use engine::exec::{Event, Outcome};
use tokio::time::Instant;

use super::{Supervisor, unix_now};
use crate::nodeletd::kube_status::{KubeStatus, NodeState};
use crate::nodeletd::worker::{Change, Hands};
use crate::pass::Pass;

/// Pause between the renewals of two components.
const AFTER_RENEWAL: Duration = Duration::from_secs(2);
/// Pause after somebody else was found working on the host.
const BUSY: Duration = Duration::from_secs(5);

impl<H: Hands> Supervisor<H> {
    /// Restarts what failed, or everything.
    pub(super) async fn attempt(&mut self, pass: &Pass, everything: bool) -> Duration {
        self.hurry = false;
        let wanted = std::mem::take(&mut self.wanted);
        let state_before = self.status.pf9_kube_node_state;
        self.status.pf9_kube_start_attempt += 1;
        let number = self.status.pf9_kube_start_attempt;
        self.status.pf9_kube_node_state = KubeStatus::state_after(number);
        "false".clone_into(&mut self.status.pf9_kube_service_state);
        self.state.stopped = false;
        // On disk before it begins: an attempt that takes the host down with it has been one.
        self.remember();
        self.write_status();
        let names: Vec<&str> = pass.restart_set.iter().map(|name| name.as_str()).collect();
        tracing::info!(
            "attempt {number}: {}",
            if everything {
                "a full clean and a start from the first phase".to_owned()
            } else {
                format!("restarting {}", names.join(", "))
            }
        );
        self.publish(
            pass,
            &format!("attempt {number}"),
            pass.desired.loop_interval,
            None,
        );
        let last_good = !pass.settings_problems.is_empty();
        let change = if everything && !self.fits(last_good).await {
            Change::Refused
        } else if everything {
            self.counters.full_cleans += 1;
            match self.change(&["clean"], last_good).await {
                // What could not be taken off is told; a start is tried all the same.
                Change::Done | Change::Failed | Change::Refused => {
                    self.change(&["apply"], last_good).await
                }
                other => other,
            }
        } else {
            self.counters.repairs += 1;
            // By name, so that nobody has to look a second time.
            let mut words = vec!["repair"];
            words.extend(pass.failed.iter().map(|phase| phase.as_str()));
            words.extend(wanted.iter().map(String::as_str));
            self.change(&words, last_good).await
        };
        self.last_attempt = Some(Instant::now());
        self.state.last_attempt_ended = Some(unix_now());
        self.status.current_task.clear();
        // What we did ourselves is no news.
        self.wake.take();
        match change {
            // Whether it was a success the next pass says.
            Change::Done => Duration::ZERO,
            Change::Interrupted => Duration::ZERO,
            Change::Busy => {
                self.status.pf9_kube_start_attempt -= 1;
                self.last_attempt = None;
                self.wanted = wanted;
                BUSY
            }
            Change::Failed => {
                self.counters.failed_attempts += 1;
                Duration::ZERO
            }
            // Nothing was touched, so it was no attempt: a host must never be cleaned for a wrong setting.
            Change::Refused => {
                self.status.pf9_kube_start_attempt -= 1;
                self.status.pf9_kube_node_state = state_before;
                self.write_status();
                tracing::warn!("touching nothing: {}", self.unfit);
                let doing = "waiting until the host fits";
                let interval = pass.desired.loop_interval;
                self.publish(pass, doing, interval, None);
                interval
            }
        }
    }

    /// Whether an apply would be allowed to begin afterwards: asked before everything is taken off.
    async fn fits(&mut self, last_good: bool) -> bool {
        match self.hands.refusal(last_good).await {
            Ok(None) => true,
            Ok(Some(reason)) => {
                self.unfit = reason;
                false
            }
            Err(error) => {
                self.unfit = format!("{error:#}");
                false
            }
        }
    }

    /// Takes back what the plan does not have. Nothing is restarted for it, and it is no attempt.
    pub(super) async fn take_back(&mut self, pass: &Pass) -> Duration {
        self.hurry = false;
        tracing::info!("taking back what the plan does not have");
        let doing = "taking back what the plan does not have";
        self.publish(pass, doing, pass.desired.loop_interval, None);
        let change = self
            .change(&["repair"], !pass.settings_problems.is_empty())
            .await;
        self.take_backs.ended(change, Instant::now());
        self.wake.take();
        match change {
            Change::Busy => BUSY,
            _ => Duration::ZERO,
        }
    }

    /// Renews the certificates of one component; the next pass says who is next.
    pub(super) async fn renew(&mut self, pass: &Pass, component: &str) -> Duration {
        tracing::info!("renewing the certificates of {component}");
        let doing = format!("renewing the certificates of {component}");
        self.publish(pass, &doing, pass.desired.loop_interval, None);
        let words = ["certs", "renew", component];
        let change = self
            .change(&words, !pass.settings_problems.is_empty())
            .await;
        self.renewals.ended(component, change, Instant::now());
        self.status.current_task.clear();
        self.wake.take();
        self.write_status();
        match change {
            Change::Done | Change::Failed | Change::Refused => AFTER_RENEWAL,
            Change::Interrupted | Change::Busy => BUSY,
        }
    }

    pub(super) async fn stop(&mut self, pass: &Pass) -> Duration {
        tracing::info!("stopping the role: KUBE_SERVICE_STATE is false");
        self.publish(pass, "stopping", pass.desired.loop_interval, None);
        let change = self
            .change(&["stop"], !pass.settings_problems.is_empty())
            .await;
        self.wake.take();
        "false".clone_into(&mut self.status.pf9_kube_service_state);
        self.status.pf9_kube_node_state = NodeState::Ok;
        self.status.pf9_kube_start_attempt = 0;
        if change == Change::Done {
            self.state.has_stopped();
            self.remember();
        }
        self.write_status();
        match change {
            Change::Done | Change::Failed | Change::Refused => pass.desired.loop_interval,
            Change::Interrupted | Change::Busy => BUSY,
        }
    }

    /// Lets `nodelet` change the host; its events go to whoever listens, and into `kube_status`.
    async fn change(&mut self, words: &[&str], last_good: bool) -> Change {
        let events = self.events.clone();
        let beat = Arc::clone(&self.beat);
        let status = &mut self.status;
        let mut refused = None;
        let changed = self
            .hands
            .change(words, last_good, |line| {
                *beat.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
                if let Ok(event) = serde_json::from_str::<Event>(&line) {
                    follow(status, &event);
                    if let Event::PreflightFailed { problems } = &event {
                        let told = problems
                            .iter()
                            .map(|one| format!("{}: {}", one.problem, one.remedy));
                        refused = Some(told.collect::<Vec<_>>().join("; "));
                    }
                }
                // Nobody listening is no error.
                let _ = events.send(line.into());
            })
            .await;
        let changed = changed.unwrap_or_else(|error| {
            tracing::error!("{error:#}");
            Change::Failed
        });
        match refused {
            Some(why) if changed == Change::Failed => {
                self.unfit = why;
                Change::Refused
            }
            _ => changed,
        }
    }
}

/// Takes an event of a change into the status file's fields.
fn follow(status: &mut KubeStatus, event: &Event) {
    match event {
        Event::PhaseStarted { phase, .. } => status.current_task = phase.to_string(),
        Event::PhaseFinished { phase, outcome, .. } => {
            let name = phase.to_string();
            match outcome {
                Outcome::Failed => status.last_failed_task = name,
                Outcome::Converged if !status.completed_tasks.contains(&name) => {
                    status.completed_tasks.push(name);
                }
                _ => {}
            }
        }
        _ => {}
    }
}
