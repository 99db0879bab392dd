//! Runs `nodelet` in a separate process for every check and change of the host: it may crash, hang or be limited without affecting the
//! daemon, and an operator can run the same commands by hand.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use daemon::child::{Child, Ended};
use engine::exec::FailureCounts;
use engine::model::PhaseName;
use engine::resource::TimerCommand;
use serde::Deserialize;
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;

use crate::inputs::last_good_settings;
use crate::nodeletd::cluster_work::{ClusterProblems, ClusterWork};
use crate::nodeletd::status::kube_status::StatusFile;
use crate::nodeletd::supervisor::known_problems::KnownProblems;
use crate::nodeletd::watch::{self, Triggers};
use crate::output::exit::Exit;
use crate::pass::{Pass, Progress, WatchList};
use crate::process::cgroup::Leaf;

/// Deadline of a status pass. It ends by itself long before: each check has its own bound.
pub(in crate::nodeletd) const PASS: Duration = Duration::from_secs(120);
/// Bound on anything that changes the host. The phases have their own, which add up to less.
pub(in crate::nodeletd) const CHANGE: Duration = Duration::from_secs(3600);
/// Bound on a line of progress, in bytes. The line of the pass itself is longer.
const PROGRESS: usize = 256;
/// Bound on the output of a diff, in bytes.
const DIFF: usize = 32 << 20;
/// Time that a change gets to reach its next safe point.
pub(in crate::nodeletd) const GRACE: Duration = Duration::from_secs(90);

/// Bound on a backup, which has one of its own that is shorter.
pub(in crate::nodeletd) const BACKUP: Duration = Duration::from_secs(2400);
/// Additional time for a timer's run beside the timeout of its program: the verification of the program may wait for the disk.
const VERIFYING: Duration = Duration::from_secs(120);
/// Time that a backup gets to remove its container.
const BACKUP_GRACE: Duration = Duration::from_secs(30);

/// How `nodelet` is called.
#[derive(Debug, Clone)]
pub(in crate::nodeletd) struct Worker {
    /// The program.
    pub(in crate::nodeletd) nodelet: PathBuf,
    pub(in crate::nodeletd) role: String,
    pub(in crate::nodeletd) config: PathBuf,
    pub(in crate::nodeletd) shutdown: CancellationToken,
    /// Warnings of the last pass: the next passes repeat them, but each is logged once.
    pub(in crate::nodeletd) warned: Arc<Mutex<KnownProblems<String>>>,
    /// Why work for the cluster is left to do.
    pub(in crate::nodeletd) cluster_problems: Arc<Mutex<ClusterProblems>>,
}

/// How a change ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::nodeletd) enum Change {
    Done,
    Failed,
    /// A precondition is not met; nothing was changed.
    Refused,
    /// It was asked to end and did so at a safe point, or it was killed: it is unknown whether it would have helped.
    Interrupted,
    /// Another process is changing the host.
    Busy,
}

/// The daemon's operations on the host. One implementation runs `nodelet`; the one of the tests simulates a host on a test clock.
pub(in crate::nodeletd) trait HostOps {
    /// Makes a status pass, in `cgroup` or with lowered priority. It continues the counts of failures in a row from `before`. The phase
    /// whose checks it waits for is sent to `progress`.
    ///
    /// # Errors
    /// The pass did not finish, which says nothing about the host.
    async fn pass(
        &self,
        cgroup: Option<&Leaf>,
        before: &FailureCounts,
        progress: UnboundedSender<PhaseName>,
    ) -> Result<Pass>;

    /// Changes the host by `nodelet VERB --json`, with the settings in use or the last good ones; each event goes to
    /// `event` as it comes. Also returns the error text of `nodelet`.
    ///
    /// # Errors
    /// `nodelet` could not be run.
    async fn change(
        &self,
        words: &[&str],
        last_good: bool,
        event: impl FnMut(String),
    ) -> Result<(Change, String)>;

    /// Listens for changes on the host, and of the status file by other processes, until `end` is cancelled. With `last_good`, what it
    /// changes is planned with the last good settings.
    fn listen(
        &self,
        targets: &WatchList,
        last_good: bool,
        status: &StatusFile,
        triggers: &Triggers,
        end: &CancellationToken,
    );

    /// Why work for the cluster is left to do.
    fn cluster_problems(&self) -> ClusterProblems;
}

impl HostOps for Worker {
    async fn pass(
        &self,
        cgroup: Option<&Leaf>,
        before: &FailureCounts,
        progress: UnboundedSender<PhaseName>,
    ) -> Result<Pass> {
        let mut argv = self.nodelet(&["pass"], false);
        if !before.is_empty() {
            argv.extend(["--before".to_owned(), serde_json::to_string(before)?]);
        }
        let argv = limited(argv, cgroup);
        let child = self.short_child(argv, PASS);
        let mut last = String::new();
        let ended = child
            .run(|line| match checking(&line) {
                // It is no error if the receiver is gone.
                Some(phase) => drop(progress.send(phase)),
                None => last = line,
            })
            .await?;
        if ended.code != Some(0) {
            bail!("make a status pass: {}", message_of(&ended));
        }
        self.warned_of(&ended.errors);
        serde_json::from_str(&last).context("parse the result of a status pass")
    }

    async fn change(
        &self,
        words: &[&str],
        last_good: bool,
        event: impl FnMut(String),
    ) -> Result<(Change, String)> {
        let argv = self.change_argv(words, last_good);
        let child = Child {
            argv,
            limit: CHANGE,
            grace: GRACE,
            cancel: self.shutdown.clone(),
        };
        let ended = child.run(event).await?;
        Ok((how(&ended), message_of(&ended)))
    }

    fn listen(
        &self,
        targets: &WatchList,
        last_good: bool,
        status: &StatusFile,
        triggers: &Triggers,
        end: &CancellationToken,
    ) {
        watch::listen(targets, status, triggers, end);
        if let Some(allocation) = &targets.allocation {
            let (words, kubeconfig) = (allocation.words(), allocation.kubeconfig.clone());
            self.keep_up(ClusterWork::PodSubnets, kubeconfig, words, end.clone());
        }
        if let Some(signing) = &targets.signing {
            let (words, kubeconfig) = (signing.words(), signing.kubeconfig.clone());
            self.keep_up(ClusterWork::Certificates, kubeconfig, words, end.clone());
            let (words, kubeconfig) = (signing.workers(), signing.kubeconfig.clone());
            self.keep_up(ClusterWork::Workers, kubeconfig, words, end.clone());
        }
        if let Some(address) = targets.masters {
            self.keep_masters(address, last_good, end.clone());
        } else {
            self.keep_trust(last_good, end.clone());
        }
    }

    fn cluster_problems(&self) -> ClusterProblems {
        let problems = self.cluster_problems.lock();
        problems.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Worker {
    /// A child that the end of the daemon ends soon: it leaves nothing half-done on this host.
    pub(in crate::nodeletd) fn short_child(&self, argv: Vec<String>, limit: Duration) -> Child {
        Child {
            argv,
            limit,
            grace: Duration::from_secs(2),
            cancel: self.shutdown.clone(),
        }
    }

    /// What an apply or a repair would change: events, one JSON value per line.
    ///
    /// # Errors
    /// `nodelet` could not find it out, or its output is too long.
    pub(in crate::nodeletd) async fn diff(&self, repair: bool, last_good: bool) -> Result<String> {
        let mut argv: Vec<String> = ["nice", "-n", "10"].map(str::to_owned).into();
        argv.extend(self.nodelet(&["diff", "--json"], last_good));
        argv.extend(repair.then(|| "--repair".to_owned()));
        let child = self.short_child(argv, PASS);
        let mut lines = String::new();
        let mut fits = true;
        let ended = child
            .run(|line| {
                fits &= lines.len() + line.len() < DIFF;
                if fits {
                    lines.push_str(&line);
                    lines.push('\n');
                }
            })
            .await?;
        if !fits {
            bail!(
                "tell what would change: it takes more than {} MB",
                DIFF >> 20
            );
        }
        if !matches!(ended.code, Some(0 | 2)) && lines.is_empty() {
            bail!("tell what would change: {}", message_of(&ended));
        }
        Ok(lines)
    }

    /// Takes a backup of etcd unless it is another master's turn, in a control group of its own or with lowered priority; `end` interrupts it. Also returns why it failed.
    pub(in crate::nodeletd) async fn backup(
        &self,
        last_good: bool,
        end: &CancellationToken,
    ) -> (Change, String) {
        let argv = self.nodelet(&["etcd", "backup", "--scheduled"], last_good);
        Self::timed("the backup", argv, BACKUP, end).await
    }

    /// Runs the program of a timer, as [`Worker::backup`] runs a backup.
    pub(in crate::nodeletd) async fn timer(
        &self,
        name: &str,
        command: &TimerCommand,
        end: &CancellationToken,
    ) -> (Change, String) {
        let nodelet = self.nodelet.display().to_string();
        let words = ["timer", "run", name].map(str::to_owned);
        let argv = [vec![nodelet], words.to_vec()].concat();
        let limit = command.bound() + VERIFYING;
        Self::timed(&format!("timer {name}"), argv, limit, end).await
    }

    /// Runs a `nodelet` that commands which change the host may end.
    async fn timed(
        what: &str,
        argv: Vec<String>,
        limit: Duration,
        end: &CancellationToken,
    ) -> (Change, String) {
        let leaf = Leaf::for_backups().inspect_err(|error| {
            tracing::warn!(
                "{what} runs with lowered priority instead of in a control group: {error:#}"
            );
        });
        let child = Child {
            argv: limited(argv, leaf.ok().as_ref()),
            limit,
            grace: BACKUP_GRACE,
            cancel: end.clone(),
        };
        let ended = match child.run(|line| tracing::info!("{line}")).await {
            Ok(ended) => ended,
            Err(error) if end.is_cancelled() => {
                return (Change::Interrupted, format!("{error:#}"));
            }
            Err(error) => return (Change::Failed, format!("{error:#}")),
        };
        let change = match how(&ended) {
            // A process that needs the host asks a backup to end and does not kill it. So a killed backup has failed, and is tried again
            // after a pause.
            Change::Interrupted if ended.signal.is_some() && !end.is_cancelled() => Change::Failed,
            change => change,
        };
        (change, message_of(&ended))
    }

    /// Logs the warnings of a successful pass that the last one did not have, each once.
    fn warned_of(&self, errors: &str) {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        for line in warned.update(warnings(errors)).begun {
            tracing::warn!("a status pass: {line}");
        }
    }

    /// How `nodelet` is called for a change.
    fn change_argv(&self, words: &[&str], last_good: bool) -> Vec<String> {
        let mut argv = self.nodelet(words, last_good);
        argv.push("--json".to_owned());
        argv.extend((words == ["stop"]).then(|| "--by-nodeletd".to_owned()));
        argv
    }

    /// How `nodelet` is called, with the settings in use or the last good ones.
    pub(in crate::nodeletd) fn nodelet(&self, words: &[&str], last_good: bool) -> Vec<String> {
        let config = if last_good {
            last_good_settings::path()
        } else {
            self.config.clone()
        };
        let mut argv = vec![self.nodelet.display().to_string()];
        argv.extend(words.iter().map(|word| (*word).to_owned()));
        argv.extend(["--role".to_owned(), self.role.clone()]);
        argv.extend(["--config".to_owned(), config.display().to_string()]);
        argv.extend(last_good.then(|| "--merged-settings".to_owned()));
        argv
    }
}

/// The phase that a pass waits for, if this is a line of progress.
fn checking(line: &str) -> Option<PhaseName> {
    if line.len() > PROGRESS {
        return None;
    }
    let progress: Progress = serde_json::from_str(line).ok()?;
    Some(progress.checking)
}

/// The lines of a log without their times.
fn warnings(errors: &str) -> impl Iterator<Item = String> {
    let lines = errors.lines().map(without_time);
    lines.filter(|line| !line.is_empty()).map(str::to_owned)
}

/// A line of a log without the time at its beginning.
fn without_time(line: &str) -> &str {
    let line = line.trim();
    match line.split_once(char::is_whitespace) {
        Some((time, rest)) if humantime::parse_rfc3339(time).is_ok() => rest.trim_start(),
        _ => line,
    }
}

/// A message for people about how `nodelet` ended; empty if it printed nothing.
pub(super) fn message_of(ended: &Ended) -> String {
    match ended.signal {
        // It could not print the reason itself.
        Some(signal) => format!(
            "it was killed by signal {signal}; `journalctl -k` says whether memory was short"
        ),
        None => error_text(&ended.errors),
    }
}

/// The error text of `nodelet`: with `--json` the last line is an object.
fn error_text(errors: &str) -> String {
    #[derive(Deserialize)]
    struct ErrorObject {
        error: Vec<String>,
        #[serde(default)]
        next: Option<String>,
    }
    let last = errors.trim().lines().last().unwrap_or_default();
    match serde_json::from_str::<ErrorObject>(last) {
        Ok(object) => {
            let next = object
                .next
                .map_or_else(String::new, |next| format!("; {next}"));
            format!("could not {}{next}", object.error.join(": "))
        }
        Err(_) => errors.trim().to_owned(),
    }
}

/// How `nodelet` ended, by its exit code. Without an exit code it was killed, perhaps because memory was short, or was asked to end before
/// it handled signals.
fn how(ended: &Ended) -> Change {
    let exits = |exit: Exit| ended.code == Some(exit.code().into());
    if exits(Exit::Ok) {
        Change::Done
    } else if exits(Exit::Pending) || ended.code.is_none() {
        Change::Interrupted
    } else if exits(Exit::Busy) {
        Change::Busy
    } else {
        Change::Failed
    }
}

/// The same command in a control group, which it joins by itself, or with lowered priority.
fn limited(argv: Vec<String>, cgroup: Option<&Leaf>) -> Vec<String> {
    let mut all = Vec::new();
    if cgroup.is_none() {
        all.extend(["nice", "-n", "10", "ionice", "-c", "3"].map(str::to_owned));
    }
    all.extend(argv);
    for file in cgroup.iter().flat_map(|cgroup| &cgroup.procs) {
        all.extend(["--cgroup".to_owned(), file.display().to_string()]);
    }
    all
}

#[cfg(test)]
pub(in crate::nodeletd) mod test_worker;
#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::Cli;
    use crate::nodeletd::supervisor::worker::test_worker::test_worker;

    #[test]
    fn a_json_error_is_shown_as_a_sentence() {
        let json = r#"{"error":["begin a run","no room"],"next":"make room"}"#;
        assert_eq!(
            error_text(&format!("a warning\n{json}\n")),
            "could not begin a run: no room; make room"
        );
        assert_eq!(error_text(" plain words \n"), "plain words");
        assert_eq!(error_text(""), "");
    }

    /// Without this argument, `nodelet stop` would ask nodeletd, and refuse to run.
    #[test]
    fn a_stop_by_nodeletd_is_called_as_such() {
        let worker = test_worker("nodelet");
        for (words, is_told) in [(&["stop"][..], true), (&["repair", "etcd"], false)] {
            let argv = worker.change_argv(words, true);
            let told = argv.iter().any(|word| word == "--by-nodeletd");
            assert_eq!(told, is_told, "{argv:?}");
            assert!(Cli::try_parse_from(&argv).is_ok(), "{argv:?}");
        }
    }

    #[test]
    fn without_a_control_group_checks_run_at_low_priority() {
        let output = |argv: &[String]| {
            let output = std::process::Command::new(&argv[0])
                .args(&argv[1..])
                .output()
                .expect("nice and ionice are on every Debian host");
            String::from_utf8(output.stdout).expect("it is text")
        };
        let own: i32 = output(&["nice".to_owned()])
            .trim()
            .parse()
            .expect("a number");
        let asked = ["sh", "-c", "nice; ionice"].map(str::to_owned).to_vec();
        let lowered = output(&limited(asked.clone(), None));
        assert_eq!(lowered, format!("{}\nidle\n", (own + 10).min(19)));
        let leaf = Leaf {
            procs: vec!["/cg/cgroup.procs".into()],
        };
        let joins = ["--cgroup", "/cg/cgroup.procs"].map(str::to_owned);
        assert_eq!(
            limited(asked.clone(), Some(&leaf)),
            [asked, joins.to_vec()].concat()
        );
    }

    #[test]
    fn waiting_time_of_a_pass_is_not_its_own_time() {
        let name = |line| checking(line).map(|phase| phase.to_string());
        assert_eq!(name(r#"{"checking":"etcd"}"#).as_deref(), Some("etcd"));
        for other in [
            "",
            "{}",
            r#"{"checking":"etcd","health":[]}"#,
            r#"{"checking":7}"#,
        ] {
            assert_eq!(name(other), None, "{other}");
        }
    }

    #[test]
    fn a_warning_is_the_same_at_any_time() {
        let line = "2026-03-04T05:06:07.123456Z  WARN nodelet::pass: no room";
        assert_eq!(without_time(line), "WARN nodelet::pass: no room");
        assert_eq!(without_time("nodelet: no room"), "nodelet: no room");
    }

    #[test]
    fn a_warning_is_logged_once_and_again_after_a_change() {
        let at = |second: u32, line: &str| format!("2026-03-04T05:06:{second:02}Z  WARN {line}\n");
        let mut warned = KnownProblems::default();
        let mut new = |errors: &str| warned.update(warnings(errors)).begun;
        let errors = [at(1, "ca.crt is foreign"), at(2, "ca.crt is foreign")].concat();
        assert_eq!(new(&errors), ["WARN ca.crt is foreign"]);
        let errors = [at(3, "no room"), at(4, "ca.crt is foreign"), at(5, "")].concat();
        assert_eq!(new(&errors), ["WARN no room", "WARN"]);
    }

    #[test]
    fn a_killed_command_has_not_failed() {
        for (code, signal, change) in [
            (Some(0), None, Change::Done),
            (Some(1), None, Change::Failed),
            (Some(2), None, Change::Interrupted),
            (Some(75), None, Change::Busy),
            (None, Some(9), Change::Interrupted),
        ] {
            let ended = Ended {
                code,
                signal,
                errors: String::new(),
            };
            assert_eq!(how(&ended), change, "{ended:?}");
        }
        let killed = Ended {
            code: None,
            signal: Some(9),
            errors: "a warning\n".to_owned(),
        };
        assert!(message_of(&killed).starts_with("it was killed by signal 9;"));
    }
}
