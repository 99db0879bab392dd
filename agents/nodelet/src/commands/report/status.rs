//! `nodelet status`, `pause` and `resume`: talking with nodeletd.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Result;
use engine::exec::{PhaseHealth, Status};

use crate::cli::{PauseArgs, StatusArgs};
use crate::nodeletd::api::client;
use crate::nodeletd::{View, unix_now};
use crate::output::exit::Exit;
use crate::output::say;
use crate::output::try_print;

/// Interval of `--watch`.
const AGAIN: Duration = Duration::from_secs(1);

pub(crate) async fn status(args: &StatusArgs) -> Result<Exit> {
    let mut shown = String::new();
    loop {
        let view = client::status().await?;
        let mut written = true;
        if args.json {
            written = try_print(&format!("{:#}\n", serde_json::to_value(&view)?));
        } else {
            let text = screen(&view, unix_now());
            if text != shown {
                // Moves the cursor to the top and clears the screen.
                let above = if args.watch { "\x1b[H\x1b[2J" } else { "" };
                written = try_print(&format!("{above}{text}"));
                shown = text;
            }
        }
        if !args.watch || !written {
            let well = view.failed_in_a_row == 0
                && view.phases.iter().all(PhaseHealth::all_conditions_hold)
                && view.conditions.iter().all(|c| c.status == Status::True);
            return Ok(if well { Exit::Ok } else { Exit::Pending });
        }
        tokio::time::sleep(AGAIN).await;
    }
}

pub(crate) async fn pause(args: &PauseArgs) -> Result<Exit> {
    // The answer says whether the pause holds already, or what has to end first.
    say(&ask_to_pause(args.time, &args.because).await?);
    Ok(Exit::Ok)
}

/// Asks nodeletd to touch nothing for this time. A change that runs holds the lock until it ends, so the next owner of the lock is the
/// only one that changes the host. A pause that nodeletd could not save is in force, so it is a warning.
pub(in crate::commands) async fn pause_for(time: Duration, because: &str) -> Result<()> {
    match ask_to_pause(time, because).await {
        Err(error) if error.is::<client::NotSaved>() => {
            tracing::warn!("could not {error:#}");
            Ok(())
        }
        asked => asked.map(drop),
    }
}

async fn ask_to_pause(time: Duration, because: &str) -> Result<String> {
    let because: String = because.bytes().fold(String::new(), |mut text, byte| {
        if byte.is_ascii_alphanumeric() {
            text.push(byte.into());
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
        text
    });
    let seconds = time.as_secs();
    client::post(&format!("/v1/pause?seconds={seconds}&because={because}")).await
}

pub(crate) async fn resume() -> Result<Exit> {
    client::post("/v1/resume").await?;
    Ok(Exit::Ok)
}

/// One screen: what matters first.
fn screen(view: &View, now: i64) -> String {
    let mut text = String::new();
    let state = serde_json::to_value(view.node_state).unwrap_or_default();
    let _ = writeln!(
        text,
        "{} {}, desired {}; {}",
        view.role,
        match view.failed_in_a_row {
            // The node is as the last good settings and role say, and not as the files say now.
            0 if view.keeps_last_good => format!(
                "{} by its last good settings and role",
                state.as_str().unwrap_or_default()
            ),
            0 => state.as_str().unwrap_or_default().to_owned(),
            _ => format!(
                "unknown ({} at the last check)",
                state.as_str().unwrap_or_default()
            ),
        },
        view.desired,
        view.doing
    );
    if let Some(until) = view.paused_until {
        let because = if view.paused_because.is_empty() {
            String::new()
        } else {
            format!(": {}", view.paused_because)
        };
        let _ = writeln!(
            text,
            "paused for {} more{because}; `nodelet resume` ends it",
            span(until - now)
        );
    }
    if view.attempts > 0 {
        let _ = writeln!(text, "attempts: {}", view.attempts);
    }
    if let Some(next) = view.next_attempt {
        let _ = writeln!(text, "next attempt in {}", span(next - now));
    }
    let when = |time: Option<i64>| {
        time.map_or_else(|| "never".to_owned(), |time| span(now - time) + " ago")
    };
    let _ = write!(text, "last check {}", when(view.last_pass));
    match view.next_pass {
        Some(next) if next > now => {
            let _ = write!(text, ", next in {}", span(next - now));
        }
        // The pass is running, or a change of the host takes longer than the interval between two passes.
        Some(_) => text.push_str(", all below as it was then; the next is due"),
        None => {}
    }
    text.push_str("\n\n");
    for condition in view.conditions.iter().filter(|c| c.status != Status::True) {
        let sign = match condition.status {
            Status::Unknown => '?',
            _ => '✗',
        };
        // A problem of the settings quotes their lines.
        let reason = condition.reason.trim_end().replace('\n', "\n    ");
        let _ = writeln!(text, "{sign} {}: {reason}", condition.name);
    }
    text.push_str(&engine::report::conditions(&known_now(view)));
    if !view.failed.is_empty() {
        let names: Vec<&str> = view.failed.iter().map(|name| name.as_str()).collect();
        let _ = writeln!(text, "\nfailed phases: {}", names.join(", "));
    }
    text
}

/// The phases as far as they are known: after a failed status pass, what an earlier pass saw may have changed.
fn known_now(view: &View) -> Vec<PhaseHealth> {
    let mut phases = view.phases.clone();
    if view.failed_in_a_row > 0 {
        for condition in phases.iter_mut().flat_map(|phase| &mut phase.conditions) {
            let before = match condition.status {
                Status::True => "the condition held",
                Status::Unknown => "the condition was unknown",
                Status::False => "the condition did not hold",
            };
            let why = std::mem::take(&mut condition.reason);
            let why = match why.is_empty() {
                true => String::new(),
                false => format!(": {why}"),
            };
            condition.reason = format!(
                "the last status pass failed; the result of the last complete pass: {before}{why}"
            );
            condition.status = Status::Unknown;
        }
    }
    phases
}

fn span(seconds: i64) -> String {
    humantime::format_duration(Duration::from_secs(u64::try_from(seconds).unwrap_or(0))).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_screen_says_what_is_done_now_and_how_old_its_facts_are() {
        let mut view = View::at_rest();
        let second = |text: &str| text.lines().nth(1).unwrap_or_default().to_owned();
        let text = screen(&view, 1);
        assert!(
            text.starts_with("master ok, desired true; watching\n"),
            "{text}"
        );
        assert_eq!(second(&text), "last check 0s ago, next in 1s");
        view.keeps_last_good = true;
        let by_last_good = screen(&view, 1);
        assert!(
            by_last_good.starts_with("master ok by its last good settings and role, desired true;"),
            "{by_last_good}"
        );
        view.keeps_last_good = false;
        assert!(text.contains("✓ etcd-backup"), "{text}");
        view.doing = "attempt 1".to_owned();
        view.attempts = 1;
        view.node_state = serde_json::from_str("\"converging\"").expect("a state");
        view.failed = vec!["etcd-backup".parse().expect("a name")];
        let text = screen(&view, 203);
        assert!(
            text.starts_with("master converging, desired true; attempt 1\nattempts: 1\n"),
            "{text}"
        );
        let expected = "last check 3m 22s ago, all below as it was then; the next is due\n";
        assert!(text.contains(expected), "{text}");
        assert!(text.ends_with("failed phases: etcd-backup\n"), "{text}");
    }

    #[test]
    fn a_reason_of_several_lines_is_indented() {
        let mut view = View::at_rest();
        view.conditions[0].status = Status::False;
        "P0620 × no such role\n  --> a.yaml:1\n".clone_into(&mut view.conditions[0].reason);
        let text = screen(&view, 1);
        let wanted = "✗ SettingsValid: P0620 × no such role\n      --> a.yaml:1\n✓";
        assert!(text.contains(wanted), "{text}");
    }

    /// For example with a broken role.yaml and no last good role.
    #[test]
    fn unchecked_phases_of_a_failed_pass_are_unknown() {
        let mut view = View::at_rest();
        view.failed_in_a_row = 1;
        view.phases[0].conditions.push(engine::exec::Condition {
            kind: engine::exec::ConditionKind::Check,
            check: "a backup is there".to_owned(),
            span: engine::model::Span::file("phases/etcd-backup.rhai"),
            status: Status::True,
            reason: String::new(),
            advisory: false,
            failed_in_a_row: 0,
            deferred: false,
        });
        view.conditions[0].status = Status::Unknown;
        "the last status pass failed".clone_into(&mut view.conditions[0].reason);
        let text = screen(&view, 1);
        assert!(
            text.starts_with("master unknown (ok at the last check), desired true;"),
            "{text}"
        );
        for wanted in [
            "? SettingsValid: the last",
            "? etcd-backup",
            "the condition held\n",
        ] {
            assert!(text.contains(wanted), "`{wanted}`: {text}");
        }
        assert!(!text.contains('✗') && !text.contains('✓'), "{text}");
    }
}
