//! One phase of a prediction.

use std::fmt::Write as _;

use super::text::{Detail, changing, failed, render};
use super::totals::Totals;
use crate::exec::Event;
use crate::model::{Failure, PhaseName, StepId, count};
use crate::plan::SkippedWord;
use crate::resource::{Action, Change};

/// Of a file only the differences are shown.
pub(super) const DETAIL: Detail = Detail {
    unchanged: false,
    diffs: true,
    times: false,
};

/// What a prediction says of one phase.
#[derive(Debug)]
pub(super) struct Page<'a> {
    phase: &'a PhaseName,
    about: &'a str,
    /// Why the phase does nothing on this host, if so.
    skipped: Option<&'a str>,
    /// Its changes and failures as text.
    body: String,
    checks: Vec<&'a str>,
    totals: Totals,
    /// What the script has and the plan leaves out.
    skipped_words: &'a [SkippedWord],
    /// Whether an apply would fail in it.
    fails: bool,
}

impl<'a> Page<'a> {
    pub(super) fn new(
        phase: &'a PhaseName,
        about: &'a str,
        skipped_words: &'a [SkippedWord],
    ) -> Self {
        Self {
            phase,
            about,
            skipped: None,
            body: String::new(),
            checks: Vec::new(),
            totals: Totals::default(),
            skipped_words,
            fails: false,
        }
    }

    /// A phase that does nothing on this host.
    pub(super) fn skipped(phase: &'a PhaseName, reason: &'a str) -> Self {
        Self {
            skipped: Some(reason),
            ..Self::new(phase, "", &[])
        }
    }

    /// Adds what an event says.
    pub(super) fn add(&mut self, event: &'a Event) {
        match event {
            Event::StepUnchanged { .. } => self.totals.unchanged += 1,
            Event::StepChanging {
                step, span, change, ..
            } => {
                self.totals.count(change);
                self.body.push_str(&one(step, &span.to_string(), change));
            }
            Event::StepStopped { .. } | Event::StopFailed { .. } => {
                self.body.push_str(&render(event, DETAIL));
            }
            Event::CheckPlanned { check, .. } => self.checks.push(check),
            Event::PhaseFailed { phase, failure } => {
                self.fails = true;
                self.body.push_str(&would_fail(phase.as_str(), failure));
            }
            Event::CleanFailed {
                resource, error, ..
            } => {
                self.fails = true;
                let _ = writeln!(
                    self.body,
                    "  ✗ {resource} would not be reverted: could not {error}"
                );
            }
            _ => {}
        }
    }

    /// The name of the phase, if an apply would fail in it.
    pub(super) fn failing(&self) -> Option<&'a str> {
        self.fails.then(|| self.phase.as_str())
    }

    /// The phase in one line.
    pub(super) fn line(&self) -> String {
        if let Some(reason) = self.skipped {
            return format!("{:<18} skipped: {reason}\n", self.phase);
        }
        let mut parts = self.totals.short();
        if self.fails {
            parts.insert(0, "would fail".to_owned());
        }
        if !self.checks.is_empty() {
            parts.push(count(self.checks.len(), "check"));
        }
        if !self.skipped_words.is_empty() {
            parts.push(format!("{} skipped", self.skipped_words.len()));
        }
        format!("{:<18} {}\n", self.phase, parts.join(", "))
    }

    /// Each change of it; empty if there is none.
    pub(super) fn changes(&self) -> String {
        if self.body.is_empty() {
            return String::new();
        }
        format!("{}: {}\n{}", self.phase, self.about, self.body)
    }

    /// Each change of it, what would be checked, and what is skipped; empty if its line says everything.
    pub(super) fn full(&self) -> String {
        let mut text = self.changes();
        if !text.is_empty() {
            for check in &self.checks {
                let _ = writeln!(text, "  ✓ will be checked: {check}");
            }
            if self.totals.unchanged > 0 {
                let _ = writeln!(text, "    {} more unchanged", self.totals.unchanged);
            }
        } else if !self.skipped_words.is_empty() {
            let _ = writeln!(text, "{}: {}", self.phase, self.about);
        }
        text.push_str(&left_out(self.skipped_words));
        text
    }
}

/// What a plan leaves out, a line each.
pub(super) fn left_out(words: &[SkippedWord]) -> String {
    let mut text = String::new();
    for word in words {
        let _ = writeln!(text, "  · skipped: {word} ({})", word.reason);
    }
    text
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
fn one(step: &StepId, span: &str, change: &Change) -> String {
    let mut shown = change.clone();
    if change.action == Action::Create
        && let Some(new) = shown.text.take()
    {
        let lines = count(new.after.lines().count(), "line");
        shown = shown.with("content", "", lines);
    }
    changing(step, span, &shown, DETAIL)
}
