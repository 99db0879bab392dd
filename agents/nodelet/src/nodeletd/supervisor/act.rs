//! Carries out what a round has decided. Each function returns the longest time until the next round.

use std::collections::BTreeSet;
use std::time::Duration;

use engine::exec::Event;
use engine::model::{Outcome, Verb, doubled};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{CHANGING, Supervisor, unix_now};
use crate::nodeletd::state::attempts::Attempts;
use crate::nodeletd::state::disk;
use crate::nodeletd::status::kube_status::{KubeStatus, NodeState};
use crate::nodeletd::supervisor::worker::{Change, HostOps};
use crate::pass::Pass;

/// Pause between the renewals of two components.
const AFTER_RENEWAL: Duration = Duration::from_secs(2);
/// Pause after an attempt that was refused while events arrived; it doubles with each such attempt in a row.
const AFTER_REFUSAL: Duration = Duration::from_secs(5);
/// Pause after another process was found changing the host.
const BUSY: Duration = Duration::from_secs(5);

impl<H: HostOps> Supervisor<H> {
    /// Restarts what failed, or makes a full clean and starts from the first phase.
    pub(super) async fn attempt(&mut self, pass: &Pass, everything: bool) -> Duration {
        self.skip_backoff = false;
        let wanted = std::mem::take(&mut self.wanted);
        let before = (self.state.attempts.clone(), self.status.pf9_kube_node_state);
        let every = pass.desired.full_retry_count;
        // A repair in place of a full clean that is due does not count, so the clean stays due.
        let due = before.0.clean_is_due(every, &pass.failed);
        self.begin(pass, everything || !due);
        let number = self.state.attempts.count();
        let last_good = pass.uses_last_good();
        let doing = format!("attempt {number}");
        self.publish(pass, &doing, pass.desired.loop_interval, None);
        let mut carried = ChangeResult::REFUSED;
        let mut clean_precondition_error = None;
        if before.0.is_turn_of_clean(every)
            && let Some(useless_clean) = before.0.useless_clean(&pass.failed)
        {
            tracing::warn!("{doing}: no full clean: {useless_clean}");
        }
        if everything {
            tracing::info!("{doing}: a full clean and a start from the first phase");
            let mut words = vec!["repair", "--rebuild"];
            if !self.flapped {
                words.extend(still_failing(pass));
            }
            carried = self.carry_out(&words, last_good).await;
            if carried.change == Change::Refused {
                // After a clean the host could not come up again, so it is repaired instead.
                tracing::warn!("{doing}: no full clean: {}", self.precondition_error);
                self.state.attempts.clone_from(&before.0);
                self.begin(pass, false);
                clean_precondition_error = Some(self.precondition_error.clone());
            }
        }
        if carried.change == Change::Refused {
            let failed = pass.failed.iter().map(|phase| phase.as_str());
            let names: BTreeSet<&str> = failed.chain(wanted.iter().map(String::as_str)).collect();
            let names: Vec<&str> = names.into_iter().collect();
            tracing::info!("{doing}: failed or requested: {}", names.join(", "));
            let words = self.repair_words(pass, &wanted);
            carried = self.carry_out(&words, last_good).await;
            self.counters.repairs += u64::from(carried.begun);
        }
        let cleaned = everything && clean_precondition_error.is_none();
        if carried.begun && carried.was_accepted {
            self.precondition_error = clean_precondition_error.unwrap_or_default();
        }
        let ChangeResult {
            change, begun, why, ..
        } = carried;
        // Events of our own change are dropped. A refused attempt changes nothing, so events during it come from other processes.
        let heard = self.triggers.forget_our_own();
        self.refused_in_a_row = match change {
            Change::Refused if heard => self.refused_in_a_row.saturating_add(1),
            _ => 0,
        };
        match change {
            Change::Done if !begun => {
                tracing::info!("{doing}: the failed checks hold again; no phase was restarted");
                let again = std::mem::replace(&mut self.flapped, true);
                self.discount_attempt(if again { self.waiting(before) } else { before });
                Duration::ZERO
            }
            // The next pass shows whether it helped.
            Change::Done | Change::Failed => {
                self.counters.failed_attempts += u64::from(change == Change::Failed);
                self.state.attempts.end(unix_now(), Instant::now());
                self.state.attempts.failed_because(&why);
                if cleaned {
                    self.state.attempts.has_cleaned();
                }
                self.remember();
                Duration::ZERO
            }
            // It may be killed again, so the next attempt waits; but this one is not counted.
            Change::Interrupted if !self.shutdown.is_cancelled() => {
                self.discount_attempt(self.waiting(before));
                Duration::ZERO
            }
            // Not an attempt: it did not finish, or changed nothing. Wrong settings and restarts of nodeletd must not lead to a full clean.
            Change::Interrupted | Change::Busy | Change::Refused => {
                self.discount_attempt(before);
                match change {
                    Change::Busy => {
                        self.wanted = wanted;
                        BUSY
                    }
                    Change::Refused => {
                        tracing::warn!("changing nothing: {}", self.precondition_error);
                        let doing = "waiting until the host meets its preconditions";
                        let next = after_refusal(self.refused_in_a_row, pass.desired.loop_interval);
                        self.publish(pass, doing, next, None);
                        next
                    }
                    _ => Duration::ZERO,
                }
            }
        }
    }

    /// The arguments of a repair. It names phases, so that not every phase is checked a second time. A failed phase that is healthy
    /// again once the repair holds the lock is not restarted; a phase whose restart was requested is.
    fn repair_words<'a>(&self, pass: &'a Pass, wanted: &'a [String]) -> Vec<&'a str> {
        let mut words = vec!["repair"];
        words.extend(wanted.iter().map(String::as_str));
        if self.flapped {
            words.extend(pass.failed.iter().map(|phase| phase.as_str()));
        } else {
            words.extend(still_failing(pass));
        }
        words
    }

    /// The counters `before` the current attempt, but with the pause that follows an attempt.
    fn waiting(&self, before: (Attempts, NodeState)) -> (Attempts, NodeState) {
        let mut attempts = self.state.attempts.clone();
        attempts.discard_interrupted(&before.0, unix_now(), Instant::now());
        (attempts, before.1)
    }

    /// Does not count an attempt: restores the counters and the node state from `before` it.
    fn discount_attempt(&mut self, before: (Attempts, NodeState)) {
        (self.state.attempts, self.status.pf9_kube_node_state) = before;
        self.status.pf9_kube_start_attempt = self.state.attempts.count();
        self.remember();
        self.write_status();
    }

    /// Records an attempt before it begins.
    fn begin(&mut self, pass: &Pass, counts: bool) {
        self.state.attempts.begin(&pass.failed, counts);
        let number = self.state.attempts.count();
        self.status.pf9_kube_start_attempt = number;
        self.status.pf9_kube_node_state = KubeStatus::state_after(number);
        "false".clone_into(&mut self.status.pf9_kube_service_state);
        self.state.stopped = false;
        self.remember();
        self.write_status();
    }

    /// Removes what the plan does not contain. Nothing is restarted for this, and it does not count as an attempt.
    pub(super) async fn prune(&mut self, pass: &Pass) -> Duration {
        self.skip_backoff = false;
        tracing::info!("removing what the plan does not contain");
        let doing = "removing what the plan does not contain";
        self.publish(pass, doing, pass.desired.loop_interval, None);
        let words = ["repair", "--prune"];
        let change = self.change(&words, pass.uses_last_good()).await;
        self.triggers.forget_our_own();
        match change {
            Change::Busy => BUSY,
            // The next pass shows whether it helped.
            _ => {
                self.prune_backoff.add(Instant::now());
                Duration::ZERO
            }
        }
    }

    /// Renews the certificates of one component; the next pass finds the next one.
    pub(super) async fn renew(&mut self, pass: &Pass, component: &str) -> Duration {
        tracing::info!("renewing the certificates of {component}");
        let doing = format!("renewing the certificates of {component}");
        self.publish(pass, &doing, pass.desired.loop_interval, None);
        let words = ["certs", "renew", component];
        let change = self.change(&words, pass.uses_last_good()).await;
        self.renewals.ended(component, change, Instant::now());
        self.triggers.forget_our_own();
        self.write_status();
        match change {
            Change::Busy => BUSY,
            _ => AFTER_RENEWAL,
        }
    }

    pub(super) async fn stop(&mut self, pass: &Pass) -> Duration {
        // A role that comes up again and again is stopped again only after an interval.
        let again = self.state.is_stopped();
        tracing::info!("stopping the role: KUBE_SERVICE_STATE is false");
        self.publish(pass, "stopping", pass.desired.loop_interval, None);
        let last_good = pass.uses_last_good();
        let ChangeResult { change, why, .. } = self.carry_out(&["stop"], last_good).await;
        self.triggers.forget_our_own();
        self.status.pf9_kube_start_attempt = 0;
        match change {
            Change::Done => {
                "false".clone_into(&mut self.status.pf9_kube_service_state);
                self.status.pf9_kube_node_state = NodeState::Ok;
                self.stop_error.clear();
                self.state.has_stopped();
                self.remember();
            }
            // The role still runs, although it is to be down.
            Change::Failed | Change::Refused => {
                self.status.pf9_kube_node_state = NodeState::Converging;
                tracing::warn!("the role does not stop: {why}");
                self.stop_error = why;
            }
            Change::Interrupted | Change::Busy => {}
        }
        self.write_status();
        match change {
            Change::Busy => BUSY,
            Change::Done if !again => Duration::ZERO,
            _ => pass.desired.loop_interval,
        }
    }

    async fn change(&mut self, words: &[&str], last_good: bool) -> Change {
        self.carry_out(words, last_good).await.change
    }

    /// Runs `nodelet` to change the host; its events go to the API's clients and into `kube_status`. A failure before the run began
    /// has changed nothing, and counts as refused.
    async fn carry_out(&mut self, words: &[&str], last_good: bool) -> ChangeResult {
        // The counters are on disk before the change begins.
        self.wait_for_writes().await;
        let events = self.events.clone();
        let beat = &self.beat;
        beat.within(CHANGING);
        let (status, file) = (&mut self.status, &self.state_files.status);
        let writes = &mut self.unwritten.status;
        let (tell, mut followed) = mpsc::unbounded_channel::<KubeStatus>();
        let mut heard = Heard::default();
        let changing = self.host_ops.change(words, last_good, |line| {
            beat.within(CHANGING);
            if let Ok(event) = serde_json::from_str::<Event>(&line) {
                if follow(status, &event) {
                    // `beside` reads it below while the change runs.
                    let _ = tell.send(status.clone());
                }
                heard.hear(&event);
            }
            // It is no error if no client listens.
            let _ = events.send(line.into());
        });
        // Readers of the file follow the change, phase by phase.
        let write = |status: KubeStatus| {
            let file = file.clone();
            Box::new(move || file.write(&status)) as disk::Write
        };
        let changed = writes.beside(changing, &mut followed, write).await;
        self.status.current_task.clear();
        self.write_status();
        self.counters.full_cleans += u64::from(heard.cleaned);
        let (mut change, said) =
            changed.unwrap_or_else(|error| (Change::Failed, format!("{error:#}")));
        if change == Change::Failed && self.shutdown.is_cancelled() {
            // At shutdown nodeletd has asked it to end, and services that it needs may be stopping as well: this says nothing about the
            // host.
            tracing::info!("{}: {said}", words.join(" "));
            change = Change::Interrupted;
        }
        self.interrupted_runs
            .ended(&words.join(" "), change, &said, Instant::now());
        if change == Change::Done && !said.is_empty() {
            // It succeeded, but printed warnings.
            tracing::warn!("{}: {said}", words.join(" "));
        }
        let mut was_accepted = true;
        if change == Change::Failed {
            match &heard.refused {
                None if heard.begun => {
                    if !said.is_empty() {
                        tracing::warn!("{}: {said}", words.join(" "));
                    }
                }
                refused => {
                    self.precondition_error = refused.as_ref().unwrap_or(&said).clone();
                    was_accepted = false;
                    // A part was refused and the rest failed: this counts as an attempt. A run that was refused after an earlier run of the
                    // same change (an apply after a clean) counts as a failure.
                    let counts = heard.cleaned || refused.is_some() && heard.ran_in_vain;
                    if !counts {
                        change = Change::Refused;
                    }
                }
            }
        }
        ChangeResult {
            change,
            begun: heard.begun,
            was_accepted,
            why: heard.why(change, said),
        }
    }
}

/// Result of a change.
struct ChangeResult {
    change: Change,
    /// Whether a run has begun.
    begun: bool,
    /// Whether nothing was refused.
    was_accepted: bool,
    /// Why it has failed or was refused, for people; empty if it did neither.
    why: String,
}

impl ChangeResult {
    const REFUSED: Self = Self {
        change: Change::Refused,
        begun: false,
        was_accepted: false,
        why: String::new(),
    };
}

/// What the events of a change have told so far.
#[derive(Debug, Default)]
struct Heard {
    /// A run has begun.
    begun: bool,
    /// One of its runs was a clean.
    cleaned: bool,
    /// Its last run has failed.
    ran_in_vain: bool,
    /// Why a run was refused.
    refused: Option<String>,
    /// The phase that failed last, with its reason and what to do about it.
    failed: Option<String>,
    /// What the last failed step of a stop could not end.
    not_ended: Option<String>,
}

impl Heard {
    /// Takes the next event, and logs what an operator has to know of it.
    fn hear(&mut self, event: &Event) {
        match event {
            Event::PhaseFailed { phase, failure } => {
                let text = format!(
                    "{phase} failed at {}: could not {}; next: {}",
                    failure.span,
                    failure.chain.join(": "),
                    failure.next
                );
                tracing::warn!("{text}");
                self.failed = Some(text);
            }
            Event::StopFailed { phase, error, .. } => {
                self.not_ended = Some(format!("{phase}: {error}"));
            }
            Event::ResourceWoken {
                resource,
                reason,
                restarted,
            } => {
                let how = if *restarted { "restarted" } else { "continued" };
                tracing::info!("{resource} was {how}: {reason}");
            }
            Event::OthersStarted { containers } => {
                let names = containers.join(", ");
                tracing::info!(
                    "container {names} was started again: it is not the role's, and an earlier restart of docker had ended it"
                );
            }
            Event::StepStartedAgain { step, .. } => {
                tracing::info!("{step} was started again as it was");
            }
            Event::StartFailed { step, error, .. } => {
                tracing::warn!("{step} was stopped and not started again: {error}");
            }
            Event::RunFinished { outcome, .. } => {
                self.ran_in_vain = *outcome == Outcome::Failed;
            }
            Event::RunStarted { verb, .. } => {
                self.begun = true;
                self.cleaned |= *verb == Verb::Clean;
            }
            _ => {}
        }
        self.refused = event.refusal().or(self.refused.take());
    }

    /// Why the change has failed or was refused. Of its texts the most specific one is taken: the failed phase says what to do, a failed step
    /// of a stop names what still runs, and `said` is what `nodelet` has printed at its end. After a refusal, `said` is about the refusal.
    fn why(self, change: Change, said: String) -> String {
        let not_ended = self.not_ended.filter(|_| self.refused.is_none());
        match change {
            Change::Failed => self.failed.or(not_ended).unwrap_or(said),
            Change::Refused => said,
            Change::Done | Change::Interrupted | Change::Busy => String::new(),
        }
    }
}

/// Pause after a refused attempt; `in_a_row` attempts were refused while events arrived. The first events are followed up soon, and a source
/// that sends events all the time causes no busy loop.
fn after_refusal(in_a_row: u32, interval: Duration) -> Duration {
    match in_a_row {
        0 => interval,
        _ => doubled(in_a_row, AFTER_REFUSAL, interval),
    }
}

/// Arguments by which `nodelet` checks the failed phases of a pass again before it restarts them.
fn still_failing(pass: &Pass) -> impl Iterator<Item = &str> {
    let phases = pass.failed.iter();
    phases.flat_map(|phase| ["--if-failing", phase.as_str()])
}

/// Updates the status file's fields from an event of a change. Returns whether the file is to be written now.
fn follow(status: &mut KubeStatus, event: &Event) -> bool {
    match event {
        Event::PhaseStarted { phase, .. } => {
            status.current_task = phase.to_string();
            true
        }
        Event::PhaseFinished { phase, outcome, .. } => {
            let name = phase.to_string();
            match outcome {
                Outcome::Failed => status.last_failed_task = name,
                Outcome::Converged if !status.completed_tasks.contains(&name) => {
                    status.completed_tasks.push(name);
                }
                _ => {}
            }
            false
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_text_of_a_failed_change_is_reported() {
        let heard = |refused: bool, failed: bool, not_ended: bool| Heard {
            refused: refused.then(|| "no memory".to_owned()),
            failed: failed.then(|| "etcd failed".to_owned()),
            not_ended: not_ended.then(|| "docker: it runs".to_owned()),
            ..Heard::default()
        };
        for (heard, change, why) in [
            (heard(false, true, true), Change::Failed, "etcd failed"),
            (heard(true, true, true), Change::Failed, "etcd failed"),
            (heard(false, false, true), Change::Failed, "docker: it runs"),
            (heard(true, false, true), Change::Failed, "exit status 1"),
            (heard(false, false, false), Change::Failed, "exit status 1"),
            (heard(true, true, true), Change::Refused, "exit status 1"),
            (heard(false, true, true), Change::Done, ""),
            (heard(false, true, true), Change::Interrupted, ""),
            (heard(false, true, true), Change::Busy, ""),
        ] {
            let case = format!("{heard:?}, {change:?}");
            assert_eq!(heard.why(change, "exit status 1".to_owned()), why, "{case}");
        }
    }
}
