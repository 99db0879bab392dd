//! Plain lines, for logs, pipes and snapshots.

use std::fmt::Write as _;
use std::io::Write;
use std::sync::{Mutex, PoisonError};

use similar::TextDiff;

use super::InOrder;
use crate::exec::{Event, EventSink, PhaseHealth, Status};
use crate::model::{Failure, Outcome, StepId, Verb, count};
use crate::resource::Change;

/// How much is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Detail {
    /// Steps that are as they should be.
    pub unchanged: bool,
    /// Old and new text of files.
    pub diffs: bool,
    /// How long things took.
    pub times: bool,
}

/// Writes events as plain lines, in the plan's order.
pub struct TextReport<W: Write + Send> {
    order: InOrder,
    out: Mutex<W>,
    detail: Detail,
}

impl<W: Write + Send> TextReport<W> {
    /// A report to `out`.
    pub fn new(out: W, detail: Detail) -> Self {
        Self {
            order: InOrder::default(),
            out: Mutex::new(out),
            detail,
        }
    }
}

impl<W: Write + Send> EventSink for TextReport<W> {
    fn emit(&self, event: Event) {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        for event in self.order.take(event) {
            // A reader that went away is no reason to stop bringing up a host.
            let _ = out.write_all(render(&event, self.detail).as_bytes());
        }
        let _ = out.flush();
    }
}

/// An event as lines; empty for one that is not shown at this detail.
#[must_use]
pub fn render(event: &Event, detail: Detail) -> String {
    let mut text = String::new();
    let time = |milliseconds: &u64| {
        if detail.times {
            format!("  {}", seconds(*milliseconds))
        } else {
            String::new()
        }
    };
    let _ = match event {
        Event::RunStarted {
            verb,
            role,
            host,
            digest,
            phases,
        } => {
            let what = match verb {
                Verb::DryRun => "dry run of",
                verb => verb_name(*verb),
            };
            let role = if role.is_empty() {
                String::new()
            } else {
                format!(" {role}")
            };
            // A clean has no plan.
            let plan = digest
                .get(..12)
                .map(|digest| format!(", plan {digest}"))
                .unwrap_or_default();
            writeln!(
                text,
                "{what}{role} on {host}: {}{plan}",
                count(phases.len(), "phase")
            )
        }
        Event::Checking { phase } => writeln!(text, "checking {phase}"),
        Event::PreflightPassed { evaluated: 0 } => Ok(()),
        Event::PreflightPassed { evaluated: 1 } => {
            writeln!(text, "preconditions: the only one holds")
        }
        Event::PreflightPassed { evaluated } => {
            writeln!(text, "preconditions: all {evaluated} hold")
        }
        Event::PreflightFailed { problems } => {
            let _ = writeln!(text, "preconditions that do not hold ({}):", problems.len());
            for problem in problems {
                let _ = writeln!(text, "  ✗ {}: {}", problem.requirement, problem.problem);
                let _ = writeln!(text, "      {}", problem.remedy);
                let _ = writeln!(text, "      required at {}", problem.span);
            }
            Ok(())
        }
        Event::PhaseStarted { phase, about } => writeln!(text, "{phase}: {about}"),
        Event::PhaseSkipped { phase, reason } => writeln!(text, "{phase}: skipped, {reason}"),
        Event::StepUnchanged { step, .. } if detail.unchanged => {
            writeln!(text, "    {}", short(step))
        }
        Event::StepUnchanged { .. } | Event::CheckWaiting { .. } => Ok(()),
        Event::StepChanging {
            step, span, change, ..
        } => {
            text.push_str(&changing(step, &span.to_string(), change, detail));
            Ok(())
        }
        Event::StepChanged {
            step, milliseconds, ..
        } if detail.times && *milliseconds >= 1000 => {
            writeln!(text, "    {} took {}", short(step), seconds(*milliseconds))
        }
        Event::StepChanged { .. } => Ok(()),
        Event::StepRetried {
            step,
            attempt,
            tries,
            error,
            ..
        } => {
            writeln!(
                text,
                "    {} again ({attempt} of {tries} tries): {error}",
                short(step)
            )
        }
        Event::CheckPassed {
            check,
            milliseconds,
            ..
        } => {
            writeln!(text, "  ✓ {check}{}", time(milliseconds))
        }
        Event::CheckPlanned { check, .. } => writeln!(text, "  ? check: {check}"),
        Event::PhaseFailed { phase, failure } => {
            text.push_str(&failed(phase.as_str(), "failed", failure));
            Ok(())
        }
        Event::PhaseRolledBack {
            phase,
            reverted,
            errors,
        } => {
            let effects = count(*reverted, "effect");
            let _ = if errors.is_empty() {
                writeln!(
                    text,
                    "  {phase} was rolled back: {effects} reverted; earlier phases stay applied"
                )
            } else {
                writeln!(
                    text,
                    "  {phase} was only partly rolled back ({} of {effects} reverted); earlier phases stay applied, and the next run or a clean tries the rest again",
                    reverted.saturating_sub(errors.len())
                )
            };
            for error in errors {
                let _ = writeln!(text, "    could not revert: {error}");
            }
            Ok(())
        }
        Event::PhaseInterrupted {
            phase,
            done,
            steps,
            failure,
        } => {
            if let Some(failure) = failure {
                text.push_str(&failed(phase.as_str(), "was interrupted", failure));
            }
            writeln!(
                text,
                "  {phase} was interrupted at a safe point after {done} of {}; `nodelet apply` continues there",
                count(*steps, "step")
            )
        }
        Event::StepStopped { step, .. } => writeln!(text, "  - {} stopped", short(step)),
        Event::StopFailed { step, error, .. } => writeln!(text, "  ✗ {}: {error}", short(step)),
        Event::StepStartedAgain { step, .. } => writeln!(
            text,
            "  ↻ {} started again as it was: the repair did not complete",
            short(step)
        ),
        Event::StartFailed { step, error, .. } => writeln!(
            text,
            "  ✗ {} was stopped and could not be started again: {error}",
            short(step)
        ),
        Event::ResourceRestored { resource, .. } => writeln!(text, "  - {resource}"),
        Event::ResourceRestarted {
            resource, reason, ..
        } => writeln!(text, "  ↻ {resource} restarted: {reason}"),
        Event::ResourceWoken {
            resource,
            reason,
            restarted,
        } => {
            let how = if *restarted { "restarted" } else { "continued" };
            writeln!(text, "  ↻ {resource} {how}: {reason}")
        }
        Event::OthersStarted { containers } => writeln!(
            text,
            "  ↻ container {} started again: not the role's, and ended by an earlier restart of docker",
            containers.join(", ")
        ),
        Event::ResourceLeft {
            resource, reason, ..
        } => writeln!(text, "  . {resource} is left: {reason}"),
        Event::CleanFailed {
            resource, error, ..
        } => writeln!(text, "  ✗ {resource}: could not {error}"),
        Event::ResourcesKept { resources } => {
            let _ = writeln!(text, "kept, until `nodelet clean --purge`:");
            for resource in resources {
                let _ = writeln!(text, "    {resource}");
            }
            Ok(())
        }
        Event::PhaseFinished {
            outcome,
            changed,
            unchanged,
            milliseconds,
            ..
        } => match outcome {
            Outcome::Stopped | Outcome::Cleaned => Ok(()),
            Outcome::Converged
            | Outcome::Failed
            | Outcome::Refused
            | Outcome::Interrupted
            | Outcome::Predicted => writeln!(
                text,
                "  {}: {changed} changed, {unchanged} unchanged{}",
                name(*outcome),
                time(milliseconds)
            ),
        },
        Event::RunFinished {
            outcome,
            changed,
            unchanged,
            milliseconds,
        } => match outcome {
            Outcome::Stopped => writeln!(
                text,
                "stopped: {} ended{}",
                count(*changed, "resource"),
                time(milliseconds)
            ),
            Outcome::Refused => writeln!(
                text,
                "refused: preconditions do not hold, nothing was touched"
            ),
            Outcome::Cleaned if *changed == 0 && *unchanged == 0 => {
                writeln!(text, "clean: nothing of the role is left on this host")
            }
            Outcome::Cleaned if *changed == 0 => writeln!(
                text,
                "clean: nothing of the role is left on this host except what is listed above ({})",
                count(*unchanged, "resource")
            ),
            Outcome::Cleaned => writeln!(
                text,
                "clean: {} reverted{}",
                count(*changed, "resource"),
                time(milliseconds)
            ),
            Outcome::Converged | Outcome::Failed | Outcome::Interrupted | Outcome::Predicted => {
                writeln!(
                    text,
                    "{}: {changed} changed, {unchanged} unchanged{}",
                    name(*outcome),
                    time(milliseconds)
                )
            }
        },
    };
    text
}

fn name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Converged => "converged",
        Outcome::Failed => "failed",
        Outcome::Refused => "refused, nothing was touched",
        Outcome::Interrupted => "interrupted",
        Outcome::Stopped => "stopped",
        Outcome::Cleaned => "clean",
        Outcome::Predicted => "predicted",
    }
}

/// A step id without its phase.
pub(super) fn short(step: &StepId) -> String {
    let id = step.as_str();
    let rest = id.split_once('/').map_or(id, |(_, rest)| rest);
    rest.replacen(':', " ", 1)
}

pub(super) fn changing(step: &StepId, span: &str, change: &Change, detail: Detail) -> String {
    let mut text = String::new();
    let sign = if change.unknown {
        '?'
    } else {
        change.action.sign()
    };
    let _ = writeln!(text, "  {sign} {}  ({span})", short(step));
    for difference in &change.differences {
        let _ = match (difference.before.as_str(), difference.after.as_str()) {
            ("", after) => writeln!(text, "      {}: {after}", difference.field),
            (before, "") => writeln!(text, "      {}: {before} →", difference.field),
            (before, after) => writeln!(text, "      {}: {before} → {after}", difference.field),
        };
    }
    if let (Some(diff), true) = (&change.text, detail.diffs) {
        if diff.before.is_empty() {
            // The whole file is new, so the line numbers of a hunk would say nothing.
            for line in diff.after.lines() {
                let _ = writeln!(text, "      {}", format!("│ +{line}").trim_end());
            }
            return text;
        }
        let lines = TextDiff::from_lines(&diff.before, &diff.after);
        let unified = lines.unified_diff().context_radius(2).to_string();
        for line in unified.lines() {
            let _ = writeln!(text, "      {}", format!("│ {line}").trim_end());
        }
    }
    text
}

pub(super) fn failed(phase: &str, how: &str, failure: &Failure) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "  ✗ {phase} {how} at {}: {}",
        failure.span, failure.what
    );
    for (depth, cause) in failure.chain.iter().enumerate() {
        let lead = if depth == 0 {
            "could not "
        } else {
            "because: "
        };
        let _ = writeln!(text, "      {lead}{cause}");
    }
    for line in &failure.found {
        let _ = writeln!(text, "      {line}");
    }
    let _ = writeln!(text, "      next: {}", failure.next);
    text
}

/// The name of a verb in texts for people.
pub(super) fn verb_name(verb: Verb) -> &'static str {
    match verb {
        Verb::Apply => "apply",
        Verb::DryRun => "dry run",
        Verb::Stop => "stop",
        Verb::Clean => "clean",
        Verb::Restart => "restart",
        Verb::Renew => "renew",
        Verb::Rotate => "rotate",
        Verb::Recover => "recover",
    }
}

/// `1.2 s`.
#[must_use]
pub(super) fn seconds(milliseconds: u64) -> String {
    format!("{}.{} s", milliseconds / 1000, (milliseconds % 1000) / 100)
}

/// Conditions as lines.
#[must_use]
pub fn conditions(health: &[PhaseHealth]) -> String {
    let mut text = String::new();
    for phase in health {
        let sign = match phase.status() {
            Status::True if phase.skipped.is_some() => '-',
            Status::True if !phase.all_conditions_hold() => '!',
            status => sign(status),
        };
        let what = match &phase.skipped {
            Some(reason) => format!("skipped, {reason}"),
            None => count(phase.conditions.len(), "check"),
        };
        let _ = writeln!(text, "{sign} {:<18} {what}", phase.phase);
        for note in phase.conditions.iter().filter(|c| c.status == Status::True) {
            if !note.reason.is_empty() {
                let _ = writeln!(text, "    note: {}", note.reason);
            }
        }
        for condition in phase.conditions.iter().filter(|c| c.status != Status::True) {
            let _ = writeln!(
                text,
                "    {:?}: {} ({})",
                condition.status, condition.check, condition.span
            );
            let _ = writeln!(text, "      {}", condition.reason);
        }
    }
    text
}

fn sign(status: Status) -> char {
    match status {
        Status::True => '✓',
        Status::False => '✗',
        Status::Unknown => '?',
    }
}

/// The message of a repair that has nothing to restart and nothing to remove. It lists the conditions that do not hold and only warn; their
/// reasons say what an operator has to do.
#[must_use]
pub fn nothing_to_repair(health: &[PhaseHealth]) -> String {
    let warnings = health.iter().flat_map(|phase| {
        let each = phase.warnings();
        each.map(move |its| format!("  ✗ {}: {}\n      {}\n", phase.phase, its.check, its.reason))
    });
    let warnings: String = warnings.collect();
    let all = health.iter().flat_map(|phase| &phase.conditions);
    let unknown = all.filter(|its| its.status == Status::Unknown).count();
    let unknown = match unknown {
        0 if warnings.is_empty() => return "nothing to repair: every check holds\n".to_owned(),
        0 => String::new(),
        some => format!(
            "{} could not be made: `nodelet check` shows why\n",
            count(some, "check")
        ),
    };
    if warnings.is_empty() {
        return format!("nothing to repair: no check fails; {unknown}");
    }
    format!(
        "nothing to repair. These conditions do not hold, and a repair cannot fix them:\n{warnings}{unknown}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::{Condition, ConditionKind};
    use crate::model::Span;

    fn condition(check: &str, status: Status, advisory: bool, reason: &str) -> Condition {
        Condition {
            kind: ConditionKind::Check,
            check: check.to_owned(),
            span: Span::file("phases/certs.rhai"),
            status,
            reason: reason.to_owned(),
            advisory,
            failed_in_a_row: 0,
            deferred: false,
        }
    }

    #[test]
    fn conditions_that_a_repair_cannot_fix_are_named_with_their_remedy() {
        let keys = "keys and authorities are those that this host keeps";
        let of = |keys_kept: Status, planned: Status| {
            let reason = "svcacct.key: it is another key; move it away";
            vec![PhaseHealth {
                phase: "certs".parse().expect("a name"),
                skipped: None,
                conditions: vec![
                    condition("certificates are as planned", planned, false, "unclear"),
                    condition(keys, keys_kept, true, reason),
                ],
            }]
        };
        let well = "nothing to repair: every check holds\n";
        assert_eq!(nothing_to_repair(&of(Status::True, Status::True)), well);
        let unclear = "nothing to repair: no check fails; 1 check could not be made: `nodelet check` shows why\n";
        assert_eq!(
            nothing_to_repair(&of(Status::True, Status::Unknown)),
            unclear
        );
        assert_eq!(
            nothing_to_repair(&of(Status::False, Status::Unknown)),
            "nothing to repair. These conditions do not hold, and a repair cannot fix them:\n  \
             ✗ certs: keys and authorities are those that this host keeps\n      \
             svcacct.key: it is another key; move it away\n\
             1 check could not be made: `nodelet check` shows why\n"
        );
    }
}
