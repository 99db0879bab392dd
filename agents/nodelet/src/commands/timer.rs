//! `nodelet timer status|run`.
//!
//! nodeletd decides when a timer runs (`nodeletd/timers`), and calls `timer run` for a program of the role. Backups of etcd have a command
//! of their own (`etcd`).

use std::fmt::Write as _;

use anyhow::Result;
use engine::host::live::LiveHost;

use super::run::only_root;
use crate::cli::{TimerRunArgs, TimerStatusArgs, TimerVerb};
use crate::nodeletd::timers::{self, Listed};
use crate::output::exit::Exit;
use crate::output::{error_report, say};
use crate::process::lock::Lock;
use crate::process::signals;

/// Most lines of a program's output that are shown: the last ones.
const LINES: usize = 100;
/// Most characters of such a line.
const WIDTH: usize = 500;
/// What only root can do.
const LOOK: &str = "look at the timers of this host";

pub(crate) async fn timer(verb: &TimerVerb) -> Result<Exit> {
    match verb {
        TimerVerb::Status(args) => status(args),
        TimerVerb::Run(args) => run(args).await,
    }
}

async fn run(args: &TimerRunArgs) -> Result<Exit> {
    only_root(LOOK)?;
    let name = &args.name;
    // Before the lock is taken: a command that wants the lock sends a signal to its owner.
    let cancel = signals::cancel_on_signal()?;
    let _lock = Lock::take(&format!("timer run {name}"))?;
    // Read under the lock, so that no apply replaces the timer in the meantime.
    let command = timers::command(name)?;
    let host = LiveHost::new();
    let ended = tokio::select! {
        ended = command.run(&host) => ended,
        () = cancel.cancelled() => {
            let message = format!("nodelet: timer {name} was asked to end; its program was killed");
            error_report::say(&message);
            return Ok(Exit::Pending);
        }
    };
    say(&tail(&ended?.stdout));
    Ok(Exit::Ok)
}

/// The last lines of an output, shortened.
fn tail(output: &str) -> String {
    let lines: Vec<&str> = output.lines().collect();
    let mut text = String::new();
    for line in &lines[lines.len().saturating_sub(LINES)..] {
        text.extend(line.chars().take(WIDTH));
        text.push('\n');
    }
    text
}

fn status(args: &TimerStatusArgs) -> Result<Exit> {
    only_root(LOOK)?;
    let all = timers::listed();
    if args.json {
        say(&format!("{:#}\n", serde_json::json!(all)));
    } else if all.is_empty() {
        say("no timers on this host\n");
    } else {
        say(&all.iter().map(lines_of).collect::<String>());
    }
    let failed = all.iter().any(|one| one.failures > 0);
    Ok(if failed { Exit::Pending } else { Exit::Ok })
}

fn lines_of(one: &Listed) -> String {
    let good = one.last_good.as_deref().unwrap_or("never");
    let mut text = format!(
        "{}  runs {}  last good run {good}  next at {}\n",
        one.name, one.runs, one.next
    );
    if one.failures > 0 {
        let _ = writeln!(
            text,
            "✗ {}: the last run failed ({} in a row): {}",
            one.name, one.failures, one.reason
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_output_is_cut_at_the_start() {
        let numbers: Vec<String> = (0..=LINES).map(|number| number.to_string()).collect();
        let shown = tail(&numbers.join("\n"));
        assert_eq!(shown, format!("{}\n", numbers[1..].join("\n")));
        let wide = tail(&"é".repeat(WIDTH + 1));
        assert_eq!(wide, format!("{}\n", "é".repeat(WIDTH)));
        assert_eq!(tail(""), "");
    }

    #[test]
    fn a_failed_run_is_shown_with_its_reason() {
        let mut one = Listed {
            name: "prune".to_owned(),
            runs: "`/opt/prune`".to_owned(),
            last_good: None,
            next: "2026-03-10T03:00:00Z".to_owned(),
            failures: 0,
            reason: String::new(),
        };
        assert_eq!(
            lines_of(&one),
            "prune  runs `/opt/prune`  last good run never  next at 2026-03-10T03:00:00Z\n"
        );
        one.failures = 2;
        one.reason = "no room".to_owned();
        let last = "✗ prune: the last run failed (2 in a row): no room\n";
        assert!(lines_of(&one).ends_with(last));
    }
}
