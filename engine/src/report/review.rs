//! A prediction as a review: what would change, phase by phase, with a sum at the end.
//!
//! Phases with nothing to change take one line. Files that change show their differences; new ones show only their
//! length, because `nodelet plan --full` shows their text. Neither shows secrets: a change does not hold them.

use std::fmt::Write as _;

use serde::Serialize;

use super::text::{Detail, changing, failed, render};
use crate::exec::Event;
use crate::model::{Failure, Outcome};
use crate::resource::{Action, Change};

/// Of a file only the differences are shown.
const DETAIL: Detail = Detail {
    unchanged: false,
    diffs: true,
    times: false,
};

/// What a dry run said, ready to be read.
#[derive(Debug)]
pub struct Review<'a> {
    events: &'a [Event],
}

/// How many steps would change, by kind of change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Not there, and will be.
    pub created: usize,
    /// There, and will differ.
    pub changed: usize,
    /// They run, and will be restarted or reloaded.
    pub restarted: usize,
    /// There, and will go.
    pub removed: usize,
    /// Commands that will run.
    pub run: usize,
    /// As they should be.
    pub unchanged: usize,
    /// Cannot be known beforehand.
    pub known_after_apply: usize,
}

impl Totals {
    /// Steps that would change something, or may.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.created
            + self.changed
            + self.restarted
            + self.removed
            + self.run
            + self.known_after_apply
    }

    fn count(&mut self, change: &Change) {
        *match change.action {
            _ if change.unknown => &mut self.known_after_apply,
            Action::Create => &mut self.created,
            Action::Change | Action::Renew => &mut self.changed,
            Action::Restart | Action::Reload => &mut self.restarted,
            Action::Remove => &mut self.removed,
            Action::Run => &mut self.run,
        } += 1;
    }
}

impl std::fmt::Display for Totals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.pending() == 0 {
            return write!(f, "nothing would change: {} unchanged", self.unchanged);
        }
        write!(
            f,
            "would change: {} created, {} changed, {} restarted, {} removed",
            self.created, self.changed, self.restarted, self.removed
        )?;
        if self.run > 0 {
            write!(f, ", {} commands run", self.run)?;
        }
        write!(f, "; {} unchanged", self.unchanged)?;
        if self.known_after_apply > 0 {
            write!(f, "; {} known after apply", self.known_after_apply)?;
        }
        Ok(())
    }
}

impl<'a> Review<'a> {
    /// A review of a dry run's events.
    #[must_use]
    pub fn of(events: &'a [Event]) -> Self {
        Self { events }
    }

    /// Every phase, with what would be checked in it.
    #[must_use]
    pub fn plan(&self) -> String {
        self.text(true)
    }

    /// What would change, and nothing else.
    #[must_use]
    pub fn diff(&self) -> String {
        self.text(false)
    }

    /// The sum over all phases.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for event in self.events {
            match event {
                Event::StepUnchanged { .. } => totals.unchanged += 1,
                Event::StepChanging { change, .. } => totals.count(change),
                _ => {}
            }
        }
        totals
    }

    /// Whether the preconditions hold and no reason is known for which an apply would fail.
    #[must_use]
    pub fn complete(&self) -> bool {
        let refused = |event: &Event| matches!(event, Event::PreflightFailed { .. });
        let ended = |event: &Event| {
            matches!(
                event,
                Event::RunFinished {
                    outcome: Outcome::Predicted,
                    ..
                }
            )
        };
        !self.events.iter().any(refused) && self.events.iter().any(ended)
    }

    fn text(&self, all: bool) -> String {
        let mut text = String::new();
        let mut page = Page::default();
        let mut failing: Vec<&str> = Vec::new();
        let mut refusing: Vec<&str> = Vec::new();
        for event in self.events {
            match event {
                Event::RunStarted {
                    role, host, digest, ..
                } if all => {
                    let _ = writeln!(
                        text,
                        "{role} on {host}, plan {}",
                        &digest[..digest.len().min(12)]
                    );
                }
                Event::PreflightFailed { problems } => {
                    refusing.extend(problems.iter().map(|one| one.problem.as_str()));
                    text.push_str(&render(event, DETAIL));
                }
                Event::PreflightPassed { .. } if all => text.push_str(&render(event, DETAIL)),
                Event::PhaseStarted { about, .. } => {
                    page = Page {
                        about: about.clone(),
                        ..Page::default()
                    };
                }
                Event::PhaseSkipped { phase, reason } if all => {
                    let _ = writeln!(text, "{phase:<18} skipped: {reason}");
                }
                Event::StepUnchanged { .. } => page.unchanged += 1,
                Event::StepChanging {
                    step, span, change, ..
                } => {
                    page.changes += 1;
                    page.body.push_str(&one(step, &span.to_string(), change));
                }
                Event::StepStopped { .. } | Event::StopFailed { .. } => {
                    page.changes += 1;
                    page.body.push_str(&render(event, DETAIL));
                }
                Event::CheckPlanned { check, .. } => page.checks.push(check.clone()),
                Event::PhaseFailed { phase, failure } => {
                    failing.push(phase.as_str());
                    page.body.push_str(&would_fail(phase.as_str(), failure));
                }
                Event::CleanFailed {
                    phase: Some(phase),
                    thing,
                    error,
                } => {
                    failing.push(phase.as_str());
                    let _ = writeln!(
                        page.body,
                        "  ✗ {thing} would not be taken back: could not {error}"
                    );
                }
                Event::PhaseFinished { phase, .. } => {
                    text.push_str(&page.turn(phase.as_str(), all));
                }
                _ => {}
            }
        }
        let _ = writeln!(text, "{}", self.totals());
        if let Some(first) = failing.first() {
            let _ = writeln!(
                text,
                "an apply would fail in {first}; the phases after it are shown all the same"
            );
        }
        // The reason is far above, and the last line is what people read.
        if let [first, others @ ..] = refusing.as_slice() {
            let more = match others.len() {
                0 => String::new(),
                number => format!(" (and {number} more)"),
            };
            let _ = writeln!(
                text,
                "an apply would refuse this host and change nothing: {first}{more}"
            );
        }
        text
    }
}

/// One phase, while it is read.
#[derive(Debug, Default)]
struct Page {
    about: String,
    body: String,
    checks: Vec<String>,
    changes: usize,
    unchanged: usize,
}

impl Page {
    fn turn(&self, phase: &str, all: bool) -> String {
        let mut text = String::new();
        if self.body.is_empty() {
            if all {
                let checks = match self.checks.len() {
                    0 => String::new(),
                    1 => ", 1 check".to_owned(),
                    n => format!(", {n} checks"),
                };
                let _ = writeln!(text, "{phase:<18} {} unchanged{checks}", self.unchanged);
            }
            return text;
        }
        let _ = writeln!(text, "{phase}: {}", self.about);
        text.push_str(&self.body);
        if all {
            for check in &self.checks {
                let _ = writeln!(text, "  ✓ will be checked: {check}");
            }
            if self.unchanged > 0 {
                let _ = writeln!(text, "    {} more unchanged", self.unchanged);
            }
        }
        text
    }
}

/// Why an apply would fail in a phase. What was found near the failure is left out: it is the state of the simulated
/// host.
fn would_fail(phase: &str, failure: &Failure) -> String {
    let failure = Failure {
        found: Vec::new(),
        ..failure.clone()
    };
    failed(phase, "would fail", &failure)
}

/// One change; a new file has its length in place of its text.
fn one(step: &crate::model::StepId, span: &str, change: &Change) -> String {
    let mut shown = change.clone();
    if change.action == Action::Create
        && let Some(new) = shown.text.take()
    {
        let lines = new.after.lines().count();
        let unit = if lines == 1 { "line" } else { "lines" };
        shown = shown.with("content", "", format!("{lines} {unit}"));
    }
    changing(step, span, &shown, DETAIL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Problem;
    use crate::model::{PhaseName, Span, StepId};
    use crate::resource::TextDiff;

    fn events() -> Vec<Event> {
        let phase: PhaseName = "etcd".parse().unwrap();
        let step = |kind: &str| StepId::new(&phase, kind, "/etc/x");
        let changing = |kind: &str, change: Change| Event::StepChanging {
            phase: phase.clone(),
            step: step(kind),
            span: Span::new("phases/etcd.rhai", 3, 1),
            change,
        };
        let file = |action: Action, before: &str| {
            let mut change = Change::new(action).with("mode", "", "0644");
            change.text = Some(TextDiff {
                before: before.to_owned(),
                after: "a\nb\n".to_owned(),
            });
            change
        };
        let finished = |outcome| Event::PhaseFinished {
            phase: phase.clone(),
            outcome,
            changed: 0,
            unchanged: 0,
            milliseconds: 0,
        };
        let started = Event::PhaseStarted {
            phase: phase.clone(),
            about: "Runs etcd.".to_owned(),
        };
        let unchanged = Event::StepUnchanged {
            phase: phase.clone(),
            step: step("directory"),
        };
        let check = Event::CheckPlanned {
            phase: phase.clone(),
            check: "member is healthy".to_owned(),
        };
        vec![
            started.clone(),
            unchanged.clone(),
            changing("file", file(Action::Create, "")),
            changing("file", file(Action::Change, "a\n")),
            changing("node", Change::unknown("no answer")),
            check.clone(),
            finished(Outcome::Predicted),
            started,
            unchanged,
            check,
            finished(Outcome::Predicted),
        ]
    }

    #[test]
    fn a_plan_shows_every_phase_and_a_sum() {
        let expected = "\
etcd: Runs etcd.
  + file /etc/x  (phases/etcd.rhai:3:1)
      mode: 0644
      content: 2 lines
  ~ file /etc/x  (phases/etcd.rhai:3:1)
      mode: 0644
      │ @@ -1 +1,2 @@
      │  a
      │ +b
  ? node /etc/x  (phases/etcd.rhai:3:1)
      state: known after apply (no answer)
  ✓ will be checked: member is healthy
    1 more unchanged
etcd               1 unchanged, 1 check
would change: 1 created, 1 changed, 0 restarted, 0 removed; 2 unchanged; 1 known after apply
";
        assert_eq!(Review::of(&events()).plan(), expected);
    }

    #[test]
    fn a_diff_leaves_out_what_stays() {
        let diff = Review::of(&events()).diff();
        assert!(
            !diff.contains("checked") && !diff.contains("more unchanged"),
            "{diff}"
        );
        assert_eq!(diff.matches("etcd:").count(), 1, "{diff}");
    }

    #[test]
    fn what_would_fail_is_no_good_end() {
        let mut events = events();
        let ended = |outcome| Event::RunFinished {
            outcome,
            changed: 4,
            unchanged: 2,
            milliseconds: 0,
        };
        events.push(ended(Outcome::Predicted));
        assert!(Review::of(&events).complete());
        events.pop();
        let failed = Event::PhaseFailed {
            phase: "etcd".parse().unwrap(),
            failure: Failure {
                what: "file /etc/x".to_owned(),
                span: Span::new("phases/etcd.rhai", 3, 1),
                chain: vec!["make /etc/x a file: a directory stands there".to_owned()],
                found: vec!["container etcd runs".to_owned()],
                next: "move it away".to_owned(),
            },
        };
        events.insert(5, failed);
        events.push(ended(Outcome::Failed));
        let review = Review::of(&events);
        assert!(!review.complete());
        let diff = review.diff();
        assert!(
            diff.contains(
                "  ✗ etcd would fail at phases/etcd.rhai:3:1: file /etc/x\n      could not make /etc/x a file: a directory stands there\n      next: move it away\n"
            ),
            "{diff}"
        );
        assert!(
            diff.ends_with(
                "an apply would fail in etcd; the phases after it are shown all the same\n"
            ),
            "{diff}"
        );
    }

    #[test]
    fn a_refused_plan_ends_with_the_refusal() {
        let problem = |problem: &str| Problem {
            requirement: "the ports are free".to_owned(),
            span: Span::file("role.yaml"),
            problem: problem.to_owned(),
            remedy: "stop what holds it".to_owned(),
        };
        let mut events = events();
        let problems = vec![problem("port 443 is taken"), problem("port 2380 is taken")];
        events.insert(0, Event::PreflightFailed { problems });
        for text in [Review::of(&events).plan(), Review::of(&events).diff()] {
            assert!(
                text.ends_with(
                    "\nan apply would refuse this host and change nothing: port 443 is taken (and 1 more)\n"
                ),
                "{text}"
            );
        }
    }

    #[test]
    fn nothing_to_do_is_said_in_one_line() {
        let events = &events()[7..];
        assert_eq!(
            Review::of(events).diff(),
            "nothing would change: 1 unchanged\n"
        );
        assert_eq!(Review::of(events).totals().pending(), 0);
    }
}
