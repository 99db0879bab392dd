//! The ledger's answers as text.

use std::fmt::Write as _;

use super::text::{short, verb_name};
use crate::exec::Planned;
use crate::ledger::{History, Run, RunPhase, Why};
use crate::model::{Failure, Outcome, StepId, Verb, count};
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
                .map(|f| format!("{}: {}{}", f.span, f.what, reason(f)))
                .unwrap_or_default();
            let after = after_failure(run.verb, done);
            let _ = writeln!(text, "       {phase} failed at {failure}; {after}");
        }
    }
    text
}

/// How much of a reason the list of runs shows, in characters.
const REASON: usize = 160;

/// The reason of a failure, on the same line; `nodelet history --run N` shows all of it.
fn reason(failure: &Failure) -> String {
    let all = failure.chain.join(": ");
    let line = all.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.is_empty() {
        return line;
    }
    match line.char_indices().nth(REASON) {
        Some((end, _)) => format!(": {}…", &line[..end]),
        None => format!(": {line}"),
    }
}

/// What the run did after a failure in a phase. Only a run that applies its plan reverts something.
fn after_failure(verb: Verb, done: &RunPhase) -> &'static str {
    let what = done
        .failure
        .as_ref()
        .map_or("", |failure| failure.what.as_str());
    match verb {
        Verb::Stop => "not ended; the stop continued with the rest",
        Verb::Restart if what.starts_with(Failure::STOP) => "not ended; the repair continued",
        Verb::Apply
        | Verb::DryRun
        | Verb::Clean
        | Verb::Restart
        | Verb::Renew
        | Verb::Rotate
        | Verb::Recover => {
            if what.starts_with(Failure::UNDO) {
                "not taken back; the run continued with the rest"
            } else if done.reverted {
                "reverted"
            } else {
                "only partly reverted"
            }
        }
    }
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
        None if left => "`nodelet clean` takes it back; an apply does not check or change it".to_owned(),
        None => "the next `nodelet apply` checks it again and changes it only if it differs from the plan".to_owned(),
    };
    let _ = writeln!(text, "next: {next}");
    text
}

/// The question which of several paths of the plan an operator means by the name of a file.
#[must_use]
pub fn several_paths(name: &str, paths: &[String]) -> String {
    let mut text = format!(
        "{name} is the last part of {} of the plan; ask again with a full path:\n",
        count(paths.len(), "path")
    );
    for path in paths {
        let _ = writeln!(text, "  {path}");
    }
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
    let verb = verb_name(run.verb);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Span;

    fn failed(what: &str, chain: &[&str]) -> RunPhase {
        RunPhase {
            failure: Some(Failure {
                what: what.to_owned(),
                span: Span::file("phases/etcd.rhai"),
                chain: chain.iter().map(|cause| (*cause).to_owned()).collect(),
                found: Vec::new(),
                next: "look".to_owned(),
            }),
            ..RunPhase::default()
        }
    }

    #[test]
    fn each_verb_says_what_it_did_about_a_failure() {
        let stop = failed("stop container etcd", &[]);
        let kept = failed("taking back file /etc/a", &[]);
        let apply = failed("container etcd", &[]);
        let reverted = RunPhase {
            reverted: true,
            ..apply.clone()
        };
        for (verb, done, wanted) in [
            (
                Verb::Stop,
                &stop,
                "not ended; the stop continued with the rest",
            ),
            (Verb::Restart, &stop, "not ended; the repair continued"),
            (
                Verb::Clean,
                &kept,
                "not taken back; the run continued with the rest",
            ),
            (
                Verb::Apply,
                &kept,
                "not taken back; the run continued with the rest",
            ),
            (Verb::Apply, &apply, "only partly reverted"),
            (Verb::Restart, &apply, "only partly reverted"),
            (Verb::Apply, &reverted, "reverted"),
            (Verb::Renew, &reverted, "reverted"),
        ] {
            assert_eq!(after_failure(verb, done), wanted, "{verb:?}");
        }
    }

    #[test]
    fn a_long_reason_is_cut_and_stays_on_one_line() {
        let of = |chain: &[&str]| {
            let done = failed("container etcd", chain);
            reason(&done.failure.expect("it failed"))
        };
        assert_eq!(of(&[]), "");
        assert_eq!(of(&["start it", "it says\n  no"]), ": start it: it says no");
        let long = "é".repeat(REASON);
        assert_eq!(of(&[long.as_str()]), format!(": {long}"));
        assert_eq!(of(&[format!("{long}x").as_str()]), format!(": {long}…"));
    }
}
