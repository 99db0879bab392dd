//! The loop: make a pass, decide, act, wait.
//!
//! `observe` records the results of a pass, `journal` says which conditions began to fail or ended, `decide` chooses the next action (pure),
//! `act` carries it out, `requests` handles the requests of operators, and `worker` runs `nodelet` for all of it, in processes of its own.
//! `masters` keeps the list of masters, `cluster_commands` runs the commands for other nodes, and on a worker `trust` follows a replacement of
//! the cluster's authority.
//! `known_problems` keeps `journal`, `observe` and `worker` from reporting a problem again while it stays.
//! The tests play the loop with another worker and a clock that they turn.
//!
//! Not here: how a pass finds out the state of the host (`pass`), what is remembered over restarts (`state`), and what wakes the loop
//! early (`watch`). Start with `Supervisor::round` in this file, then `decide`.

mod cluster_commands;
pub(in crate::nodeletd) mod decide;
mod journal;
mod known_problems;
mod masters;
mod observe;
mod requests;
mod trust;
pub(in crate::nodeletd) mod worker;

mod act;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use daemon::health::{Beat, Health};
use daemon::systemd;
use engine::exec::{FailureCounts, phases_renewed_with, phases_with_orphans};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::state::State;
use super::watch::Triggers;
use crate::nodeletd::state::disk::{self, Disk, Writes};
use crate::nodeletd::state::interrupted_runs::InterruptedRuns;
use crate::nodeletd::state::pause::Pause;
use crate::nodeletd::state::renewal::RenewalQueue;
use crate::nodeletd::state::retry::Retries;
use crate::nodeletd::status::kube_status::{KubeStatus, StatusFile};
use crate::nodeletd::status::view::{Counters, Now, View, unix_now};
use crate::nodeletd::supervisor::decide::{Action, Situation};
use crate::nodeletd::supervisor::journal::Problems;
use crate::nodeletd::supervisor::known_problems::KnownProblems;
use crate::nodeletd::supervisor::worker::{CHANGE, GRACE, HostOps, PASS};
use crate::pass::{Desired, Pass, WatchList};
use crate::process::cgroup::StatusGroup;

pub(super) use requests::{PendingRequest, Request};

/// How long more events are collected after the first one: one event usually causes several.
const GATHER: Duration = Duration::from_millis(200);
/// Shortest time between passes that events start.
const BETWEEN: Duration = Duration::from_secs(1);

/// A pass leaves its decision to the next one if settings were written meanwhile, but only so many times in a row: the host must also be
/// repaired while settings are written all the time.
const LEFT_TO_NEXT: u32 = 3;
/// After so many failed passes in a row the status file no longer says that the role is up. The same number of passes and intervals
/// applies to a result that stays unknown.
pub(super) const FAILED_PASSES: u32 = 3;
/// Deadline for progress of a round, except during a change; after it the watchdog counts the loop as stuck.
const ROUND: Duration = PASS.saturating_add(Duration::from_secs(60));
/// Deadline for progress of a change: it may run for so long without any output.
const CHANGING: Duration = CHANGE.saturating_add(GRACE).saturating_add(ROUND);
/// How often the loop reports progress to the watchdog while it waits.
const WAITING: Duration = Duration::from_secs(60);

/// What the API and the timers use of the loop while it runs.
#[derive(Debug, Clone)]
pub(super) struct Handles {
    pub(super) view: watch::Receiver<Option<Arc<View>>>,
    /// Events of changes, as JSON lines.
    pub(super) events: broadcast::Sender<Arc<str>>,
    pub(super) requests: mpsc::Sender<PendingRequest>,
    /// `METRICS_PORT`; 0 for none.
    pub(super) metrics_port: watch::Receiver<u16>,
    /// Why the socket accepts no requests; empty if it accepts them.
    pub(super) api_problem: watch::Sender<String>,
}

/// Files that keep the daemon's state over a restart.
#[derive(Debug, Clone)]
pub(super) struct StateFiles {
    /// For people and other agents.
    pub(super) status: StatusFile,
    /// Only for the daemon.
    pub(super) state: PathBuf,
    /// Where both are written.
    pub(super) disk: Disk,
}

/// The daemon.
pub(super) struct Supervisor<H> {
    host_ops: Arc<H>,
    state_files: StateFiles,
    shutdown: CancellationToken,
    reload: watch::Receiver<u64>,
    triggers: Triggers,
    listening: Option<((WatchList, bool), CancellationToken)>,
    requests: mpsc::Receiver<PendingRequest>,
    view: watch::Sender<Option<Arc<View>>>,
    events: broadcast::Sender<Arc<str>>,
    metrics_port: watch::Sender<u16>,
    api_problem: watch::Receiver<String>,
    status: KubeStatus,
    state: State,
    pause: Pause,
    desired: Desired,
    /// Reports the loop's progress to the watchdog.
    beat: Beat,
    /// The next attempt does not wait for the end of its pause: it was requested, or the settings, the plan or the join file changed.
    skip_backoff: bool,
    /// A pass was requested: the next round begins at once.
    again: bool,
    /// A pause ended during the present pass. The operator has worked on the host, so what the pass has checked may be out of date.
    resumed: bool,
    /// Phases whose restart was requested.
    wanted: Vec<String>,
    /// A repair found the phases healthy that a pass had seen failing, and no pass has seen the host healthy since. The next repair
    /// restarts such phases without checking them again.
    flapped: bool,
    interrupted_runs: InterruptedRuns,
    renewals: RenewalQueue,
    /// Removals of what the plan does not contain, since there was last nothing to remove.
    prune_backoff: Retries,
    /// Why the last change was refused, for example a precondition that the host does not meet; empty if none was refused.
    precondition_error: String,
    /// Attempts in a row that were refused while events arrived.
    refused_in_a_row: u32,
    /// Why the role does not stop although it is to be down; empty if it stops.
    stop_error: String,
    /// How many passes in a row have left their decision to the next one.
    left_to_next: u32,
    /// Failures in a row of each check that may fail more than once.
    failure_counts: FailureCounts,
    /// Conditions whose failure is in the journal.
    problems: Problems,
    unwritten: PendingWrites,
    /// Failed passes in a row.
    failed_passes_in_a_row: u32,
    /// While no phase fails but a result is unknown: since when, and in how many passes.
    unsure: Option<(Instant, u32)>,
    settings_in_use: u64,
    group: StatusGroup,
    counters: Counters,
    /// The warnings of the last pass.
    warned: KnownProblems<String>,
    /// What triggered the last pass.
    last_triggers: Vec<String>,
}

impl<H: HostOps> Supervisor<H> {
    pub(super) fn new(
        host_ops: H,
        state_files: StateFiles,
        shutdown: CancellationToken,
        reload: watch::Receiver<u64>,
        health: &Health,
    ) -> (Self, Handles) {
        let (requests, pending) = mpsc::channel(16);
        let (view, seen) = watch::channel(None);
        let (events, _) = broadcast::channel(1024);
        let (metrics_port, port) = watch::channel(0);
        let (api_problem, api_problem_view) = watch::channel(String::new());
        let handles = Handles {
            view: seen,
            events: events.clone(),
            requests,
            metrics_port: port,
            api_problem,
        };
        let mut state = State::read(&state_files.state);
        state.attempts.restore(unix_now(), Instant::now());
        let pause = Pause::restore(&state, unix_now(), Instant::now());
        let mut status = state_files.status.read();
        // Other processes may write that file, so the count comes from the daemon's own state.
        status.pf9_kube_start_attempt = state.attempts.count();
        let writes = |path: &Path| Writes::of(&state_files.disk, path.display().to_string());
        let unwritten = PendingWrites {
            status: writes(state_files.status.path()),
            state: writes(&state_files.state),
        };
        let mut supervisor = Self {
            host_ops: Arc::new(host_ops),
            state_files,
            shutdown,
            reload,
            triggers: Triggers::default(),
            listening: None,
            requests: pending,
            view,
            events,
            metrics_port,
            api_problem: api_problem_view,
            status,
            state,
            pause,
            desired: Desired::default(),
            beat: health.part("the main loop", ROUND),
            skip_backoff: false,
            again: false,
            resumed: false,
            wanted: Vec::new(),
            flapped: false,
            interrupted_runs: InterruptedRuns::default(),
            renewals: RenewalQueue::default(),
            prune_backoff: Retries::default(),
            precondition_error: String::new(),
            refused_in_a_row: 0,
            stop_error: String::new(),
            left_to_next: 0,
            failure_counts: FailureCounts::default(),
            problems: Problems::default(),
            unwritten,
            failed_passes_in_a_row: 0,
            unsure: None,
            settings_in_use: 0,
            group: StatusGroup::default(),
            counters: Counters::default(),
            warned: KnownProblems::default(),
            last_triggers: Vec::new(),
        };
        if supervisor.state.has_booted() {
            // The status from before the boot says nothing about this boot, and the first pass may take a while.
            supervisor.is_not_up();
            supervisor.write_status();
        }
        (supervisor, handles)
    }

    /// Runs until shutdown is requested; with `once`, makes one round.
    pub(super) async fn run(mut self, once: bool) {
        self.rounds(once).await;
        self.beat.finish();
    }

    async fn rounds(&mut self, once: bool) {
        loop {
            let mut next = self.round().await;
            self.wait_for_writes().await;
            if std::mem::take(&mut self.again) {
                next = Duration::ZERO;
            }
            // The next round begins at the end of the pause, not later.
            if let Some(left) = self.pause.left(Instant::now()) {
                next = next.min(left);
            }
            if once || self.shutdown.is_cancelled() {
                return;
            }
            self.wait(next).await;
            if self.shutdown.is_cancelled() {
                return;
            }
        }
    }

    /// Makes a pass and acts on it. Returns the longest time until the next round.
    async fn round(&mut self) -> Duration {
        self.moved();
        let (wanted, limit) = (self.desired.use_cgroups, self.desired.cpu_limit);
        self.group.keep(wanted, limit, Instant::now());
        self.last_triggers = self.triggers.take();
        // This pass answers all requests that came before it.
        self.again = false;
        self.resumed = false;
        let pass = match self.run_pass().await {
            Ok(pass) => pass,
            Err(_) if self.shutdown.is_cancelled() => return Duration::ZERO,
            Err(error) => return self.pass_failed(&format!("{error:#}")),
        };
        self.counters.passes += 1;
        self.failed_passes_in_a_row = 0;
        self.observe(&pass);
        if pass.failed.is_empty() {
            self.healthy(&pass);
        } else if self.state.attempts.see(&pass.failed) {
            self.remember();
        }
        // While it is unknown whether the role runs (`None`), it is neither stopped again nor reported as down.
        let down = self.state.is_stopped() && pass.runs == Some(false);
        if decide::at_desired_state(&pass.desired, pass.installed, down) {
            self.at_desired_state(&pass);
        }
        // Last, because these override an `ok`: they report faults that prevent a repair, or that a repair does not fix.
        self.tell_damage(&pass);
        self.withhold_ok(&pass);
        let stopped = self.state.is_stopped() && pass.runs != Some(true);
        self.keep_pause();
        let failing = !pass.failed.is_empty() || !self.wanted.is_empty();
        let due = renewable(&pass);
        if pass.due.is_empty() {
            // Renewed by nodeletd or by hand: earlier failures are forgotten.
            self.renewals = RenewalQueue::default();
        }
        let next = self
            .renewals
            .next(&due, pass.desired.loop_interval, Instant::now());
        let action = decide::decide(&Situation {
            desired: &pass.desired,
            refused: pass.prevents_changes().is_some(),
            restarts_only: pass.restarts_only,
            paused: self.paused(),
            failing,
            due: next.is_some(),
            has_orphans: self.prune_is_due(&pass),
            installed: pass.installed,
            stopped,
            pause_left: self.state.attempts.pause_left(
                &pass.failed,
                pass.desired.loop_interval,
                Instant::now(),
            ),
            clean_is_due: self
                .state
                .attempts
                .clean_is_due(pass.desired.full_retry_count, &pass.failed),
            by_last_good: pass.uses_last_good(),
            repaired_since_start: self.state.attempts.repaired_since_start(),
            skip_backoff: self.skip_backoff || !self.wanted.is_empty(),
        });
        self.write_status();
        if !self.unwritten.state.problem().is_empty()
            || !self.state.is_content_of(&self.state_files.state)
        {
            // A pause that is in force must survive a restart of nodeletd, and one that has ended must not.
            self.remember();
        }
        self.wait_for_writes().await;
        let interval = pass.desired.loop_interval;
        if action.changes_the_host()
            && self.triggers.settings_changed()
            && self.left_to_next < LEFT_TO_NEXT
        {
            tracing::info!("settings were written during this pass, so the next one decides");
            self.left_to_next += 1;
            self.publish(&pass, "reading new settings", Duration::ZERO, None);
            return Duration::ZERO;
        }
        self.left_to_next = 0;
        if action.changes_the_host() && self.resumed {
            tracing::info!("the pause ended during this pass, so the next one decides");
            self.publish(
                &pass,
                "checking again after the pause",
                Duration::ZERO,
                None,
            );
            return Duration::ZERO;
        }
        match action {
            Action::Nothing => {
                self.skip_backoff = self.again;
                let has_orphans = !phases_with_orphans(&pass.health).is_empty();
                if pass.failed.is_empty() && pass.due.is_empty() && !has_orphans {
                    self.interrupted_runs.forget();
                }
                // A requested restart that is not possible now is dropped; it must not be made hours later.
                self.wanted.clear();
                self.publish(&pass, "watching", interval, None);
                interval
            }
            Action::Wait(left) => {
                self.publish(
                    &pass,
                    "waiting for the next attempt",
                    interval.min(left),
                    Some(left),
                );
                interval.min(left)
            }
            Action::Prune => self.prune(&pass).await,
            Action::Renew => {
                let component = next.unwrap_or_default().to_owned();
                self.renew(&pass, &component).await
            }
            Action::Stop => self.stop(&pass).await,
            Action::Repair => self.attempt(&pass, false).await,
            Action::CleanAndApply => self.attempt(&pass, true).await,
        }
    }

    /// Waits for the next round: until its time, an event, a request or a signal.
    async fn wait(&mut self, longest: Duration) {
        let until = Instant::now() + longest;
        let listening_since = Instant::now();
        tokio::select! {
            () = self.shutdown.cancelled() => {}
            () = tokio::time::sleep_until(until) => {}
            () = self.beat.wait(WAITING) => {}
            Ok(()) = self.reload.changed() => {
                tracing::info!("SIGHUP: making a pass now");
                self.skip_backoff = true;
            }
            Some(pending) = self.requests.recv() => self.take_request(pending).await,
            () = async {
                self.triggers.wait().await;
                // One change causes several events at once, and many events must not cause many passes.
                let earliest = (listening_since + BETWEEN).max(Instant::now() + GATHER);
                tokio::time::sleep_until(earliest.min(until)).await;
            } => {}
        }
        self.take_waiting().await;
    }

    fn publish(&mut self, pass: &Pass, doing: &str, next: Duration, attempt: Option<Duration>) {
        let view = View::of(pass, &self.now(), doing, next, attempt);
        systemd::status(&format!("{}; attempts {}", view.doing, view.attempts));
        self.view.send_replace(Some(Arc::new(view)));
    }

    fn now(&self) -> Now<'_> {
        Now {
            at: unix_now(),
            status: &self.status,
            paused: self.pause.left(Instant::now()),
            paused_because: &self.state.paused_because,
            api_problem: self.api_problem.borrow().clone(),
            unwritten: self.unwritten.problem(),
            cluster: self.host_ops.cluster_problems(),
            group_problem: self.group.problem(),
            interrupted_runs: self.interrupted_runs.problem(),
            renewals: &self.renewals,
            precondition_error: &self.precondition_error,
            attempts: &self.state.attempts,
            stop_error: &self.stop_error,
            triggers: &self.last_triggers,
            counters: self.counters,
            failed_in_a_row: self.failed_passes_in_a_row,
        }
    }

    /// Counts attempts from 0 again.
    fn forget_attempts(&mut self) {
        self.state.attempts.forget();
        self.status.pf9_kube_start_attempt = 0;
    }

    fn paused(&self) -> bool {
        self.pause.left(Instant::now()).is_some()
    }

    fn keep_pause(&mut self) {
        let state = &mut self.state;
        if self.pause.keep(state, unix_now(), Instant::now()) {
            self.remember();
        }
    }

    /// Listens to events of what the plan has on the host.
    fn listen(&mut self, pass: &Pass) {
        let wanted = (pass.watch_list.clone(), pass.uses_last_good());
        let now = self.listening.as_ref().map(|(now, _)| now);
        if now == Some(&wanted) {
            return;
        }
        if let Some((_, end)) = self.listening.take() {
            end.cancel();
        }
        let end = self.shutdown.child_token();
        let status = &self.state_files.status;
        let (targets, last_good) = &wanted;
        self.host_ops
            .listen(targets, *last_good, status, &self.triggers, &end);
        self.listening = Some((wanted, end));
    }

    /// Begins to write the status file; see [`Self::wait_for_writes`].
    fn write_status(&mut self) {
        let (file, status) = (self.state_files.status.clone(), self.status.clone());
        let write = move || file.write(&status);
        self.unwritten.status.put(Box::new(write));
    }

    /// Begins to write the daemon's state file; see [`Self::wait_for_writes`].
    fn remember(&mut self) {
        let (path, state) = (self.state_files.state.clone(), self.state.clone());
        let write = move || state.write(&path);
        self.unwritten.state.put(Box::new(write));
    }

    /// Waits briefly until both files are on disk. A stalled disk is reported, and delays nothing that does not need it.
    async fn wait_for_writes(&mut self) {
        let until = Instant::now() + disk::TIMEOUT;
        self.unwritten.status.wait_for_writes(until).await;
        self.unwritten.state.wait_for_writes(until).await;
    }

    fn moved(&self) {
        self.beat.within(ROUND);
    }
}

/// Pending writes of the two files.
struct PendingWrites {
    status: Writes,
    state: Writes,
}

impl PendingWrites {
    fn problem(&self) -> String {
        let both = [self.status.problem(), self.state.problem()];
        let problems: Vec<&str> = both.into_iter().filter(|why| !why.is_empty()).collect();
        problems.join("; ")
    }
}

/// Components with a certificate that is due and whose own phases are healthy. Failures of other phases do not prevent a renewal.
fn renewable(pass: &Pass) -> Vec<String> {
    let well = |name: &str| {
        let mut phases = pass.health.iter();
        phases.all(|phase| phase.phase.as_str() != name || phase.needs_no_repair())
    };
    let due = pass.due.iter();
    due.filter(|component| phases_renewed_with(component).iter().all(|name| well(name)))
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests;
