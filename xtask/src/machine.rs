//! The machine and the commit on which published figures were measured.

use std::process::Command;
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context as _, Result, bail};
use lab::command;

use time::OffsetDateTime;
use time::macros::format_description;

use crate::repository::checkout;

/// The load average over a minute below which a machine is quiet.
const QUIET: f64 = 0.5;
/// How long to wait until the machine is quiet: an earlier build keeps the load average high for minutes.
const TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// The share of the processors that is busy on a machine at rest. Hosts with Kubernetes that do nothing else keep a part of them busy.
const AT_REST: f64 = 0.4;
/// So many seconds in a row show that it is at rest.
const SECONDS_AT_REST: usize = 3;
/// How long to wait until it is.
const SETTLES: Duration = Duration::from_secs(90);

/// How long git and uname may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

/// The machine, the commit and the day of a measurement, for the head of a page.
#[derive(Debug)]
pub(crate) struct Machine {
    date: String,
    commit: String,
    processors: usize,
    memory: u64,
    kernel: String,
    system: String,
    load: String,
}

impl Machine {
    /// The machine as it is now. A value that cannot be read is `unknown`; no figure depends on these values.
    pub(crate) fn now() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let day = format_description!("[year]-[month]-[day]");
        Self {
            date: OffsetDateTime::now_utc()
                .format(&day)
                .unwrap_or_else(|_| unknown()),
            commit: commit().unwrap_or_else(unknown),
            processors: thread::available_parallelism().map_or(0, usize::from),
            memory: memory(&read("/proc/meminfo")),
            kernel: uname().unwrap_or_else(unknown),
            system: system(&read("/etc/os-release")).unwrap_or_else(unknown),
            load: load(),
        }
    }

    /// One line per property, with the load average at the beginning and at the end of the command.
    pub(crate) fn describe(&self, command: &str) -> String {
        format!("{}, {} at the end\n", self.describe_begin(command), load())
    }

    /// Like [`Self::describe`], without the load average at the end: for a page that is written before the command ends.
    pub(crate) fn describe_begin(&self, command: &str) -> String {
        format!(
            "- date: {}\n- commit: {}\n- command: `{command}`\n- machine: {} processors, {} GiB of memory, kernel {}, {}\n\
             - load average over a minute: {} at the beginning",
            self.date,
            self.commit,
            self.processors,
            self.memory,
            self.kernel,
            self.system,
            self.load
        )
    }
}

/// Waits until the machine is quiet.
///
/// # Errors
/// It is busy for longer than ten minutes.
pub(crate) fn wait_until_quiet() -> Result<()> {
    let began = Instant::now();
    loop {
        let load = load();
        if load.parse().is_ok_and(|load: f64| load < QUIET) {
            return Ok(());
        }
        if began.elapsed() > TIMEOUT {
            bail!(
                "the machine is busy: its load average is {load} and not below {QUIET}; end what runs beside the measurement"
            );
        }
        println!("waiting until the load average is below {QUIET}: {load}");
        thread::sleep(Duration::from_secs(10));
    }
}

/// Waits until what an earlier step of a measurement has left on the machine is over, for example a first backup. Goes on after 90 s, and says so.
pub(crate) fn wait_until_at_rest() {
    let deadline = Instant::now() + SETTLES;
    let mut before = processor_time();
    let mut in_a_row = 0;
    while in_a_row < SECONDS_AT_REST {
        if Instant::now() > deadline {
            println!("the machine is not at rest after {} s", SETTLES.as_secs());
            return;
        }
        thread::sleep(Duration::from_secs(1));
        let now = processor_time();
        in_a_row = match busy_share(before, now) {
            Some(share) if share < AT_REST => in_a_row + 1,
            Some(_) => 0,
            None => {
                println!("could not tell from /proc/stat whether the machine is at rest");
                return;
            }
        };
        before = now;
    }
}

/// Busy and all time of the processors since the boot.
fn processor_time() -> Option<(u64, u64)> {
    processor_time_in(&fs::read_to_string("/proc/stat").ok()?)
}

/// The first line of `/proc/stat` has the time in user, nice, system, idle, iowait and other states (proc(5)).
fn processor_time_in(stat: &str) -> Option<(u64, u64)> {
    let times = stat.lines().next()?.strip_prefix("cpu ")?;
    let times: Vec<u64> = times
        .split_whitespace()
        .map(str::parse)
        .collect::<std::result::Result<_, _>>()
        .ok()?;
    let all: u64 = times.iter().take(8).sum();
    let idle: u64 = times.get(3..5)?.iter().sum();
    Some((all - idle, all))
}

fn busy_share(before: Option<(u64, u64)>, now: Option<(u64, u64)>) -> Option<f64> {
    let ((busy_before, before), (busy, all)) = before.zip(now)?;
    let passed = all.checked_sub(before).filter(|passed| *passed > 0)?;
    Some(busy.saturating_sub(busy_before) as f64 / passed as f64)
}

/// Refuses to publish figures if the files differ from the commit.
///
/// # Errors
/// Files other than the pages below docs/ differ from the commit that is checked out, or git failed.
pub(crate) fn refuse_changes() -> Result<()> {
    let changed = changed().context("ask git what differs from the commit")?;
    if !changed.is_empty() {
        bail!("--write needs files as they were committed, but these differ:\n{changed}");
    }
    Ok(())
}

/// The commit that is checked out, with `, with changes` if files differ from it.
fn commit() -> Option<String> {
    let commit = git(&["rev-parse", "--short=10", "HEAD"])?;
    Some(if changed()?.is_empty() {
        commit
    } else {
        format!("{commit}, with changes")
    })
}

/// The files that differ from the commit, without the pages below docs/: a measurement writes those.
fn changed() -> Option<String> {
    git(&["status", "--porcelain", "--", ":/", ":(top,exclude)docs"])
}

fn git(words: &[&str]) -> Option<String> {
    let mut git = Command::new("git");
    git.current_dir(checkout()).args(words);
    command::text(&git, COMMAND_TIMEOUT).ok()
}

fn unknown() -> String {
    "unknown".to_owned()
}

fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

fn uname() -> Option<String> {
    command::text(Command::new("uname").arg("-r"), COMMAND_TIMEOUT).ok()
}

fn system(os_release: &str) -> Option<String> {
    let line = os_release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(line.trim_matches('"').to_owned())
}

/// In GiB, rounded.
fn memory(meminfo: &str) -> u64 {
    let kibibytes: u64 = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or_default();
    (kibibytes + (1 << 19)) >> 20
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_processors_is_busy() {
        let at = |text| processor_time_in(text);
        let (before, now) = (
            at("cpu  100 0 100 700 100 0 0 0 5 0\ncpu0 1 2 3 4"),
            at("cpu  130 10 100 750 110 0 0 0 9 0\n"),
        );
        assert_eq!(before, Some((200, 1000)));
        assert_eq!(busy_share(before, now), Some(0.4));
        assert_eq!(busy_share(before, before), None, "no time has passed");
        assert_eq!(at("intr 1"), None);
    }

    #[test]
    fn reads_what_the_system_says() {
        assert_eq!(memory("MemTotal:       24689936 kB\nMemFree: 1 kB\n"), 24);
        assert_eq!(
            system("NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n").as_deref(),
            Some("Debian GNU/Linux 12 (bookworm)")
        );
    }
}
