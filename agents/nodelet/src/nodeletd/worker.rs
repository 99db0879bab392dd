//! Everything that is done to or asked of the host, by `nodelet` in a process of its own: it may crash, hang or be limited
//! without taking the daemon with it, and what the daemon does a person can do by hand.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use daemon::child::Child;
use engine::exec::Event;
use tokio_util::sync::CancellationToken;

use super::cgroup::Leaf;
use super::kube_status::StatusFile;
use super::wake::{self, Interests, Wake};
use crate::pass::Pass;
use crate::settled;

/// A status pass ends by itself long before: each of its looks has a bound.
const PASS: Duration = Duration::from_secs(120);
/// Bound on anything that changes the host. The phases have their own, which add up to less.
const CHANGE: Duration = Duration::from_secs(3600);
/// Bound on what would change, in bytes.
const DIFF: usize = 32 << 20;
/// What a change is given to reach its next safe point.
const GRACE: Duration = Duration::from_secs(90);

/// Bound on a backup, which has one of its own that is shorter.
const BACKUP: Duration = Duration::from_secs(2400);
/// What a backup is given to take its container away.
const BACKUP_GRACE: Duration = Duration::from_secs(30);

/// How `nodelet` is called.
#[derive(Debug, Clone)]
pub(super) struct Worker {
    /// The program.
    pub(super) nodelet: PathBuf,
    pub(super) role: String,
    pub(super) config: PathBuf,
    pub(super) shutdown: CancellationToken,
}

/// How a change ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Done,
    Failed,
    /// The host does not fit what it is to become; nothing was touched.
    Refused,
    /// It was asked to end, at a safe point.
    Interrupted,
    /// Somebody else works on the host.
    Busy,
}

/// What the daemon has done for it. One implementation runs `nodelet`; that of the tests plays on a clock of its own.
pub(super) trait Hands {
    /// Makes a status pass, in `cgroup` or with lowered priority.
    ///
    /// # Errors
    /// It did not come to its end, which says nothing about the host.
    async fn pass(&self, cgroup: Option<&Leaf>) -> Result<Pass>;

    /// Changes the host by `nodelet VERB --json`, with the settings in use or the last good ones; each event goes to
    /// `event` as it comes.
    ///
    /// # Errors
    /// `nodelet` could not be run.
    async fn change(
        &self,
        words: &[&str],
        last_good: bool,
        event: impl FnMut(String),
    ) -> Result<Change>;

    /// Why an apply would not be allowed to begin after a full clean, with the settings in use or the last good ones;
    /// `None` if it would.
    ///
    /// # Errors
    /// That cannot be told.
    async fn refusal(&self, last_good: bool) -> Result<Option<String>>;

    /// Listens to what is on the host, and to what others do to the status file, until `end` is cancelled.
    fn listen(
        &self,
        interests: &Interests,
        status: &StatusFile,
        wake: &Wake,
        end: &CancellationToken,
    );
}

impl Hands for Worker {
    async fn pass(&self, cgroup: Option<&Leaf>) -> Result<Pass> {
        let argv = limited(self.nodelet(&["pass"], &self.config, false), cgroup);
        let child = Child {
            argv,
            limit: PASS,
            grace: Duration::from_secs(2),
            cancel: self.shutdown.clone(),
        };
        let mut last = String::new();
        let ended = child.run(|line| last = line).await?;
        if ended.code != Some(0) {
            bail!("make a status pass: {}", ended.errors.trim());
        }
        serde_json::from_str(&last).context("understand what a status pass says")
    }

    async fn change(
        &self,
        words: &[&str],
        last_good: bool,
        event: impl FnMut(String),
    ) -> Result<Change> {
        let config = if last_good {
            settled::path()
        } else {
            self.config.clone()
        };
        let mut argv = self.nodelet(words, &config, last_good);
        argv.push("--json".to_owned());
        let child = Child {
            argv,
            limit: CHANGE,
            grace: GRACE,
            cancel: self.shutdown.clone(),
        };
        let ended = child.run(event).await?;
        match ended.code {
            Some(0) => Ok(Change::Done),
            Some(2) => Ok(Change::Interrupted),
            Some(1) if ended.errors.contains(crate::lock::BUSY) => Ok(Change::Busy),
            _ => {
                if !ended.errors.trim().is_empty() {
                    tracing::warn!("{}: {}", words.join(" "), ended.errors.trim());
                }
                Ok(Change::Failed)
            }
        }
    }

    async fn refusal(&self, last_good: bool) -> Result<Option<String>> {
        let lines = self.predicted(&["--afresh"], last_good).await?;
        let mut events = lines
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        Ok(events.find_map(|event| match event {
            Event::PreflightFailed { problems } => {
                let told = problems
                    .iter()
                    .map(|one| format!("{}: {}", one.problem, one.remedy));
                Some(told.collect::<Vec<_>>().join("; "))
            }
            _ => None,
        }))
    }

    fn listen(
        &self,
        interests: &Interests,
        status: &StatusFile,
        wake: &Wake,
        end: &CancellationToken,
    ) {
        wake::listen(interests, status, wake, end);
    }
}

impl Worker {
    /// What an apply would change, or a repair: events, a JSON value a line.
    ///
    /// # Errors
    /// It cannot be told; the reason is `nodelet`'s.
    pub(super) async fn diff(&self, repair: bool) -> Result<String> {
        let words: &[&str] = if repair { &["--repair"] } else { &[] };
        self.predicted(words, false).await
    }

    async fn predicted(&self, words: &[&str], last_good: bool) -> Result<String> {
        let config = if last_good {
            settled::path()
        } else {
            self.config.clone()
        };
        let mut argv: Vec<String> = ["nice", "-n", "10"].map(str::to_owned).into();
        argv.extend(self.nodelet(&["diff", "--json"], &config, last_good));
        argv.extend(words.iter().map(|word| (*word).to_owned()));
        let child = Child {
            argv,
            limit: PASS,
            grace: Duration::from_secs(2),
            cancel: self.shutdown.clone(),
        };
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
            bail!("tell what would change: {}", ended.errors.trim());
        }
        Ok(lines)
    }

    /// Takes a backup of etcd, in a control group of its own or with lowered priority. Also gives why it failed.
    pub(super) async fn backup(&self, last_good: bool) -> (Change, String) {
        let leaf = Leaf::for_backups().inspect_err(|error| {
            tracing::warn!(
                "the backup runs with lowered priority instead of in a control group: {error:#}"
            );
        });
        let config = if last_good {
            settled::path()
        } else {
            self.config.clone()
        };
        let argv = self.nodelet(&["etcd", "backup"], &config, last_good);
        let child = Child {
            argv: limited(argv, leaf.ok().as_ref()),
            limit: BACKUP,
            grace: BACKUP_GRACE,
            cancel: self.shutdown.clone(),
        };
        let ended = match child.run(|line| tracing::info!("{line}")).await {
            Ok(ended) => ended,
            Err(error) => return (Change::Failed, format!("{error:#}")),
        };
        let change = match ended.code {
            Some(0) => Change::Done,
            Some(2) => Change::Interrupted,
            Some(1) if ended.errors.contains(crate::lock::BUSY) => Change::Busy,
            // It was asked to end before it could listen.
            None if self.shutdown.is_cancelled() => Change::Interrupted,
            _ => Change::Failed,
        };
        (change, ended.errors.trim().to_owned())
    }

    fn nodelet(&self, words: &[&str], config: &std::path::Path, settled: bool) -> Vec<String> {
        let mut argv = vec![self.nodelet.display().to_string()];
        argv.extend(words.iter().map(|word| (*word).to_owned()));
        argv.extend(["--role".to_owned(), self.role.clone()]);
        argv.extend(["--config".to_owned(), config.display().to_string()]);
        argv.extend(settled.then(|| "--settled".to_owned()));
        argv
    }
}

/// The same in a control group that it joins by itself, or with lowered priority.
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
