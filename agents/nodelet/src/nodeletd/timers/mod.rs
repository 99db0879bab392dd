//! Timers: commands that nodeletd runs on a schedule, beside holding the host at its role.
//!
//! A phase puts a file into [`TIMERS`]. This module reads it, finds its next time (`calendar`, `due`, `spread`), and runs `nodelet` in a
//! process and a control group of its own: `etcd backup`, or `timer run` for a program of the role. A run waits while the host is being repaired, is
//! paused, stopped or still coming up after a boot. It ends early if another process wants to change the host (see `lock`). Each run is
//! recorded before it begins.
//!
//! Not here: the format of a schedule (`engine::schedule`), and what a run does (`commands`). Start with `run` in this file.

mod calendar;
mod due;
mod spread;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use chrono::{DateTime, Local, SecondsFormat, Utc};
use daemon::health::Beat;
use engine::exec::PhaseHealth;
use engine::model::STATE;
use engine::model::old_records::{self, OldRecord};
use engine::resource::{TIMERS, TimerCommand, TimerFile};
use engine::schedule::Schedule;
use tokio::sync::watch;

use crate::nodeletd::status::view::View;
use crate::nodeletd::supervisor::worker::{BACKUP, Change, Worker};

pub(crate) use due::Runs;
use spread::Place;

/// Longest time between two checks of what is due: the clock may be set, and files may change.
const POLL_INTERVAL: Duration = Duration::from_secs(30);
/// Deadline for progress of the loop, including the run of a timer and its wait.
pub(super) const ROUND: Duration = BACKUP.saturating_add(Duration::from_secs(300));
/// Shortest time between two checks: the view may change often.
const LEAST: Duration = Duration::from_secs(1);
/// A pass may have read the directory of backups so many seconds before its end.
const A_PASS: i64 = 10;
/// Bound on each file.
const LIMIT: u64 = 64 * 1024;
/// Most timers that are read.
const MOST: usize = 64;

/// A timer that can be run.
struct Timer {
    name: String,
    schedule: Schedule,
    /// The program of the role that it runs; `None` for a backup of etcd.
    command: Option<TimerCommand>,
}

impl Timer {
    /// The phase that has it. The timer of backups is named like its phase.
    fn phase(&self) -> &str {
        match &self.command {
            Some(command) => command.phase.as_str(),
            None => &self.name,
        }
    }

    /// The phase that must be healthy, because a run without it would fail.
    fn source(&self) -> &str {
        match &self.command {
            Some(command) => command.phase.as_str(),
            None => SOURCE,
        }
    }

    /// When it is due on this host. Only backups load the other masters.
    fn due(&self, runs: &Runs, now: DateTime<Utc>) -> DateTime<Utc> {
        let place = match &self.command {
            Some(_) => Place::ALONE,
            None => Place::here(),
        };
        due::due(&self.schedule, &Local, runs, place, now)
    }

    /// What it runs, for people.
    fn runs(&self) -> String {
        match &self.command {
            Some(command) => format!("`{}`", command.argv.join(" ")),
            None => "`nodelet etcd backup`".to_owned(),
        }
    }
}

/// Runs timers until the worker's shutdown.
pub(super) async fn run(worker: Worker, mut view: watch::Receiver<Option<Arc<View>>>, beat: Beat) {
    let shutdown = worker.shutdown.clone();
    let mut reported = BTreeMap::new();
    loop {
        beat.within(ROUND);
        let wait = run_due(&worker, &view, &mut reported).await;
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = tokio::time::sleep(wait) => {}
            changed = view.changed() => {
                if changed.is_err() {
                    break;
                }
                tokio::time::sleep(LEAST).await;
            }
        }
    }
    beat.finish();
}

/// Runs a timer that is due. Returns the time until one may be due again.
async fn run_due(
    worker: &Worker,
    view: &watch::Receiver<Option<Arc<View>>>,
    reported: &mut BTreeMap<String, String>,
) -> Duration {
    let mut wait = POLL_INTERVAL;
    for timer in timers(reported) {
        // Before the first pass the state of the host is unknown.
        let Some(seen) = view.borrow().clone() else {
            continue;
        };
        let Some(last_good) = allowed(&seen, timer.phase(), timer.source()) else {
            continue;
        };
        let now = Utc::now();
        let mut runs = recorded(&timer.name);
        if timer.command.is_none() && lost_its_backup(&seen, &runs) {
            runs.last_good = None;
        }
        let due = timer.due(&runs, now);
        if due <= now {
            if let Err(error) = carry_out(worker, view, &timer, runs, last_good).await {
                // A run that cannot be recorded is not made. With a full disk it must not be tried every second.
                tracing::error!("timer {}: could not {error:#}", timer.name);
                return POLL_INTERVAL;
            }
            // Other timers may be due by now, and this one again after a pause.
            return LEAST;
        }
        wait = wait
            .min((due - now).to_std().unwrap_or(POLL_INTERVAL))
            .max(LEAST);
    }
    wait
}

fn is_paused(view: &Option<Arc<View>>) -> bool {
    view.as_ref()
        .is_some_and(|view| view.paused_until.is_some())
}

/// Deadline for writing a small file.
const DISK: Duration = Duration::from_secs(30);

/// The phase whose data is backed up. Failures of other phases, which may last for months, do not stop the backups, even if their repair
/// would restart this phase as well.
const SOURCE: &str = "etcd";

/// Whether a timer may run now, and if so, whether with the last good settings. Its phase must do something on this host: a timer that a
/// setting has turned off does not run, even while its file is still there. The phase `source` must not fail. A resource of it that is not
/// in the plan prevents no run: the phase works, and the removal of the resource may fail for months.
fn allowed(view: &View, phase_of_timer: &str, source: &str) -> Option<bool> {
    let phase = |name: &str| view.phases.iter().find(|one| one.phase.as_str() == name);
    let at_rest = view.desired != "false"
        && view.paused_until.is_none()
        && !is_coming_up(view)
        && phase(source).is_none_or(|phase| !phase.fails());
    let wanted = phase(phase_of_timer).is_some_and(|phase| phase.skipped.is_none());
    (at_rest && wanted).then_some(view.keeps_last_good)
}

/// Whether the host has just booted, and is still busy with it. If later passes failed, the view is old, and does not count.
fn is_coming_up(view: &View) -> bool {
    view.failed_in_a_row == 0 && view.phases.iter().any(PhaseHealth::was_deferred)
}

/// Whether the backup of the last good run is gone: the directory is another one now, or was cleared, or the cluster is new. Only a pass
/// that began after the run shows this.
fn lost_its_backup(view: &View, runs: &Runs) -> bool {
    view.lacks_backup && view.last_pass > runs.last.map(|ended| ended.saturating_add(A_PASS))
}

async fn carry_out(
    worker: &Worker,
    view: &watch::Receiver<Option<Arc<View>>>,
    timer: &Timer,
    mut runs: Runs,
    last_good: bool,
) -> Result<()> {
    let name = timer.name.as_str();
    let began = Utc::now();
    runs.begin(began);
    record(name, &runs).await?;
    tracing::info!("timer {name}: due; {} runs", timer.runs());
    let end = worker.shutdown.child_token();
    let mut view = view.clone();
    let run = async {
        match &timer.command {
            Some(command) => worker.timer(name, command, &end).await,
            None => worker.backup(last_good, &end).await,
        }
    };
    tokio::pin!(run);
    // An operator who pauses the daemon may want to take a backup by hand.
    let ended = tokio::select! {
        ended = &mut run => Some(ended),
        _ = view.wait_for(is_paused) => None,
    };
    let (change, reason) = match ended {
        Some(ended) => ended,
        None => {
            end.cancel();
            run.await
        }
    };
    let now = Utc::now();
    match change {
        Change::Done => {
            tracing::info!("timer {name}: done");
            runs.good(began, now);
        }
        Change::Interrupted | Change::Busy => {
            tracing::info!(
                "timer {name}: interrupted by a change, a pause or a shutdown; it runs again later"
            );
            runs.preempted(now);
        }
        Change::Failed | Change::Refused => {
            tracing::warn!("timer {name}: {reason}");
            runs.failed(now, reason);
        }
    }
    record(name, &runs).await
}

/// The timers on this host. One that cannot be read is logged once.
fn timers(reported: &mut BTreeMap<String, String>) -> Vec<Timer> {
    let Ok(entries) = std::fs::read_dir(TIMERS) else {
        // Without this directory there are no timers.
        return Vec::new();
    };
    let mut timers = Vec::new();
    for entry in entries.flatten().take(MOST) {
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let Some(name) = path.file_stem().and_then(|stem| stem.to_str()) else {
            continue;
        };
        match read(&path) {
            Ok((schedule, command)) => {
                reported.remove(name);
                timers.push(Timer {
                    name: name.to_owned(),
                    schedule,
                    command,
                });
            }
            Err(error) => {
                let text = format!("{error:#}");
                if reported.get(name) != Some(&text) {
                    tracing::warn!("timer {name} does not run: could not {text}");
                    reported.insert(name.to_owned(), text);
                }
            }
        }
    }
    timers
}

fn read(path: &Path) -> Result<(Schedule, Option<TimerCommand>)> {
    let content = daemon::files::read(path, LIMIT)?.context("read it: it went away")?;
    let timer: TimerFile =
        serde_json::from_slice(&content).with_context(|| format!("parse {}", path.display()))?;
    let is_known = match &timer.command {
        Some(command) => timer.run.is_empty() && !command.argv.is_empty(),
        None => engine::resource::RUNNABLE.contains(&timer.run.as_str()),
    };
    if timer.version != 1 || !is_known {
        anyhow::bail!(
            "parse {}: version {} with `{}` is not supported",
            path.display(),
            timer.version,
            timer.run
        );
    }
    let schedule = timer
        .schedule
        .parse()
        .with_context(|| format!("parse the schedule in {}", path.display()))?;
    Ok((schedule, timer.command))
}

/// The program of the timer of this name.
///
/// # Errors
/// There is no such timer, its file cannot be read, or it runs a command of nodelet.
pub(crate) fn command(name: &str) -> Result<TimerCommand> {
    let (_, command) = read(&engine::resource::timer_path(name))?;
    command.with_context(|| {
        format!("run timer {name}: it has no program of the role, but a command of nodelet")
    })
}

/// A timer of this host, for reports.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Listed {
    /// Its name.
    pub(crate) name: String,
    /// What it runs.
    pub(crate) runs: String,
    /// When the last good run began, RFC 3339.
    pub(crate) last_good: Option<String>,
    /// When it runs next at the earliest, RFC 3339.
    pub(crate) next: String,
    /// Runs since the last good one that failed.
    pub(crate) failures: u32,
    /// Why the last one failed; empty if it did not.
    pub(crate) reason: String,
}

/// All timers of this host, by name. One that cannot be read is logged and left out.
pub(crate) fn listed() -> Vec<Listed> {
    let now = Utc::now();
    let shown = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Secs, true);
    let mut all: Vec<Listed> = timers(&mut BTreeMap::new())
        .into_iter()
        .map(|timer| {
            let runs = recorded(&timer.name);
            let began = runs.last_good;
            let began = began.and_then(|seconds| DateTime::from_timestamp(seconds, 0));
            Listed {
                runs: timer.runs(),
                last_good: began.map(shown),
                next: shown(timer.due(&runs, now)),
                failures: runs.failures,
                reason: runs.reason,
                name: timer.name,
            }
        })
        .collect();
    all.sort_by(|one, other| one.name.cmp(&other.name));
    all
}

fn runs_path(name: &str) -> PathBuf {
    Path::new(STATE).join(format!("timer-{name}.json"))
}

/// The record of a timer's runs. If the file is lost or invalid, the timer only runs early.
pub(crate) fn recorded(name: &str) -> Runs {
    daemon::files::read(&runs_path(name), LIMIT)
        .ok()
        .flatten()
        .and_then(|content| old_records::read(OldRecord::TimerRuns, &content).ok())
        .unwrap_or_default()
}

/// Writes the record outside the daemon's thread, because a disk may stall.
async fn record(name: &str, runs: &Runs) -> Result<()> {
    let (path, content) = (runs_path(name), serde_json::to_vec_pretty(runs)?);
    let shown = path.display().to_string();
    let writing =
        tokio::task::spawn_blocking(move || daemon::files::replace(&path, &content, 0o600));
    let written = tokio::time::timeout(DISK, writing).await;
    written.with_context(|| format!("write {shown} within {} s", DISK.as_secs()))??
}

/// When the timer of this name is due next, if it is on this host.
pub(crate) fn next(name: &str) -> Option<DateTime<Utc>> {
    let (schedule, command) = read(&engine::resource::timer_path(name)).ok()?;
    let timer = Timer {
        name: name.to_owned(),
        schedule,
        command,
    };
    Some(timer.due(&recorded(name), Utc::now()))
}

#[cfg(test)]
mod tests {
    use engine::exec::{Condition, ConditionKind, Status};
    use engine::model::Span;

    use super::*;

    fn changed(change: impl FnOnce(&mut View)) -> Option<bool> {
        let mut view = View::at_rest();
        change(&mut view);
        allowed(&view, "etcd-backup", SOURCE)
    }

    #[test]
    fn timers_run_on_an_idle_host_whose_plan_has_their_phase() {
        assert_eq!(changed(|_| {}), Some(false));
        assert_eq!(
            changed(|view| "ignore".clone_into(&mut view.desired)),
            Some(false)
        );
        let last_good = changed(|view| view.keeps_last_good = true);
        assert_eq!(last_good, Some(true));
        assert_eq!(changed(|view| "false".clone_into(&mut view.desired)), None);
        assert_eq!(changed(|view| view.paused_until = Some(9)), None);
        for failed in ["kube-proxy", "docker"] {
            let failed = failed.parse().expect("a name");
            let beside = changed(|view| view.failed.push(failed));
            assert_eq!(beside, Some(false), "it may last for months");
        }
        for (status, advisory, deferred, failed_passes, runs) in [
            (Status::False, false, false, 0, None),
            (Status::False, true, false, 0, Some(false)),
            (Status::Unknown, false, false, 0, Some(false)),
            (Status::Unknown, false, true, 0, None),
            (Status::Unknown, false, true, 1, Some(false)),
            (Status::True, false, false, 0, Some(false)),
        ] {
            let allowed = changed(|view| {
                view.failed_in_a_row = failed_passes;
                let etcd = PhaseHealth {
                    phase: "etcd".parse().expect("a name"),
                    skipped: None,
                    conditions: vec![Condition {
                        kind: ConditionKind::Check,
                        check: "member runs".to_owned(),
                        span: Span::file("phases/etcd.rhai"),
                        status,
                        advisory,
                        failed_in_a_row: 0,
                        deferred,
                        reason: String::new(),
                    }],
                };
                view.phases.push(etcd);
            });
            assert_eq!(allowed, runs, "{status:?}, {advisory}, {deferred}");
        }
        let off = Some("its condition is false".to_owned());
        assert_eq!(changed(|view| view.phases[0].skipped = off), None);
        assert_eq!(changed(|view| view.phases.clear()), None);
    }

    #[test]
    fn what_is_not_in_the_plan_prevents_no_run() {
        for (check, orphans, runs) in [
            (Status::True, Status::True, Some(false)),
            (Status::True, Status::False, Some(false)),
            (Status::Unknown, Status::False, Some(false)),
            (Status::False, Status::True, None),
            (Status::False, Status::False, None),
        ] {
            let condition = |kind, status| Condition {
                kind,
                check: "c".to_owned(),
                span: Span::file("phases/etcd.rhai"),
                status,
                advisory: false,
                failed_in_a_row: 0,
                deferred: false,
                reason: String::new(),
            };
            let etcd = PhaseHealth {
                phase: "etcd".parse().expect("a name"),
                skipped: None,
                conditions: vec![
                    condition(ConditionKind::Check, check),
                    condition(ConditionKind::Orphans, orphans),
                ],
            };
            // As a repair does: it restarts the phase only if the timer does not run.
            assert_eq!(etcd.fails(), runs.is_none());
            let allowed = changed(|view| view.phases.push(etcd));
            assert_eq!(allowed, runs, "{check:?}, {orphans:?}");
        }
    }

    #[test]
    fn a_host_without_a_backup_takes_one_and_not_two() {
        let mut view = View::at_rest();
        let at = |seconds| DateTime::from_timestamp(seconds, 0).expect("a time");
        let mut runs = Runs::default();
        runs.begin(at(100));
        runs.good(at(100), at(145));
        view.last_pass = Some(200);
        assert!(!lost_its_backup(&view, &runs), "there is one");
        view.lacks_backup = true;
        assert!(lost_its_backup(&view, &runs));
        for during in [130, 145, 150] {
            view.last_pass = Some(during);
            assert!(!lost_its_backup(&view, &runs), "no pass has looked since");
        }
        assert!(lost_its_backup(&view, &Runs::default()));
    }
}
