//! The ledger's answers as text.

use std::fmt::Write as _;

use super::text::short;
use crate::exec::Planned;
use crate::ledger::{History, Run, Why};
use crate::model::{Outcome, StepId, Verb};
use crate::resource::Action;

/// The runs, a line each, the newest last.
#[must_use]
pub fn history(history: &History) -> String {
    if history.runs.is_empty() {
        return "nothing was done to this host yet\n".to_owned();
    }
    let mut text = String::new();
    for run in &history.runs {
        let _ = writeln!(text, "{}", line(run));
        for (phase, done) in run.phases.iter().filter(|(_, done)| done.failure.is_some()) {
            let failure = done
                .failure
                .as_ref()
                .map(|f| format!("{}: {}", f.span, f.what))
                .unwrap_or_default();
            let reverted = if done.reverted {
                "reverted"
            } else {
                "only partly reverted"
            };
            let _ = writeln!(text, "       {phase} failed at {failure}; {reverted}");
        }
    }
    text
}

/// One run with its steps and failures.
#[must_use]
pub fn run_in_full(run: &Run) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{}", line(run));
    let _ = writeln!(
        text,
        "       plan {}",
        &run.digest[..run.digest.len().min(12)]
    );
    for (phase, done) in &run.phases {
        let _ = writeln!(
            text,
            "  {phase}{}",
            if done.reverted { " (reverted)" } else { "" }
        );
        steps(&mut text, &done.steps);
        if let Some(failure) = &done.failure {
            let _ = writeln!(text, "    ✗ failed at {}: {}", failure.span, failure.what);
            for cause in &failure.chain {
                let _ = writeln!(text, "        {cause}");
            }
            let _ = writeln!(text, "        next: {}", failure.next);
        }
    }
    text
}

/// Why a resource is as it is. `planned` are the steps of the plan that are about it; `None` where there is no plan to look at.
#[must_use]
pub fn why(why: &Why, planned: Option<&[Planned]>) -> String {
    let mut text = String::new();
    if !why.is_known() {
        unknown(&mut text, &why.subject, planned);
        return text;
    }
    if why.causes.is_empty() {
        let _ = writeln!(
            text,
            "nothing of {} is on this host: what was done has been reverted",
            why.subject
        );
    }
    for cause in &why.causes {
        let place = cause
            .span
            .as_ref()
            .map(|span| format!(" ({span})"))
            .unwrap_or_default();
        let keep = if cause.keep { ", kept by a clean" } else { "" };
        let _ = writeln!(
            text,
            "{}: by {}{place} in run {}{keep}",
            cause.resource, cause.step, cause.run
        );
    }
    for attempt in &why.attempts {
        let reverted = if attempt.reverted { ", reverted" } else { "" };
        let _ = writeln!(
            text,
            "run {} at {}, phase {}{reverted}",
            attempt.run, attempt.at, attempt.phase
        );
        steps(&mut text, &attempt.steps);
        if let Some(failure) = &attempt.failure {
            let _ = writeln!(text, "    ✗ failed at {}: {}", failure.span, failure.what);
            for cause in &failure.chain {
                let _ = writeln!(text, "        {cause}");
            }
        }
    }
    let failed = why
        .attempts
        .last()
        .and_then(|attempt| attempt.failure.as_ref());
    let left = !why.causes.is_empty() && why.causes.iter().all(|cause| cause.left);
    let next = match failed {
        Some(failure) => failure.next.clone(),
        None if left => "`nodelet clean` takes it back; an apply does not look at it".to_owned(),
        None => "the next `nodelet apply` looks at it again and changes it only if it differs from the plan".to_owned(),
    };
    let _ = writeln!(text, "next: {next}");
    text
}

/// What the plan says of a resource that the ledger does not know.
fn unknown(text: &mut String, resource: &str, planned: Option<&[Planned]>) {
    let _ = write!(text, "the ledger has no change of {resource}: ");
    text.push_str(match planned {
        None => "it is not known whether it is the role's, because the plan could not be read\n",
        Some([]) => "no step of the plan is about it, so it is not the role's\n",
        Some(_) => "",
    });
    for (n, planned) in planned.unwrap_or_default().iter().enumerate() {
        let how = match (&planned.skipped, planned.as_planned) {
            (Some(reason), _) => format!("but it is skipped on this host: {reason}"),
            (None, Some(true)) => "and it was like that before the role".to_owned(),
            (None, Some(false)) => "and was not applied yet: `nodelet apply` makes it".to_owned(),
            (None, None) => {
                "and was not applied yet, as far as the ledger says; its present state is not known"
                    .to_owned()
            }
        };
        let also = if n == 0 { "" } else { "  " };
        let phase = planned.step.phase().unwrap_or_default();
        let _ = writeln!(
            text,
            "{also}it is planned by phase {phase} ({}, {}), {how}",
            short(&planned.step),
            planned.span
        );
    }
}

fn line(run: &Run) -> String {
    let verb = match run.verb {
        Verb::Apply => "apply",
        Verb::DryRun => "dry run",
        Verb::Stop => "stop",
        Verb::Clean => "clean",
        Verb::Restart => "restart",
        Verb::Renew => "renew",
        Verb::Rotate => "rotate",
        Verb::Recover => "recover",
    };
    let outcome = match run.outcome {
        None => "interrupted",
        Some(Outcome::Converged) => "converged",
        Some(Outcome::Failed) => "failed",
        Some(Outcome::Refused) => "refused",
        Some(Outcome::Interrupted) => "interrupted",
        Some(Outcome::Stopped) => "stopped",
        Some(Outcome::Predicted) => "predicted",
        Some(Outcome::Cleaned) => "cleaned",
    };
    format!(
        "{:>5}  {}  {verb} {}: {outcome}, {} changed, {} unchanged",
        run.run, run.at, run.role, run.changed, run.unchanged
    )
}

fn steps(text: &mut String, steps: &[(StepId, Action, Vec<String>)]) {
    for (step, action, fields) in steps {
        let fields = if fields.is_empty() {
            String::new()
        } else {
            format!(": {}", fields.join(", "))
        };
        let _ = writeln!(text, "    {} {}{fields}", action.sign(), short(step));
    }
}
