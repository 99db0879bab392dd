//! A plan as text: what a review reads.

use std::fmt::Write as _;

use crate::plan::{Plan, PlannedPhase, PlannedStep};

/// The phases in order, one line each.
#[must_use]
pub fn phases(plan: &Plan) -> String {
    let mut text = String::new();
    for (number, phase) in plan.phases.iter().enumerate() {
        let skipped = phase.skipped.as_ref().map(|_| " (skipped on this host)").unwrap_or_default();
        let _ = writeln!(text, "{:>3}  {:<18} {}{skipped}", number + 1, phase.name, phase.about);
    }
    text
}

/// One phase in full.
#[must_use]
pub fn plan(phase: &PlannedPhase) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{}: {}  ({})", phase.name, phase.about, phase.span);
    if let Some(reason) = &phase.skipped {
        let _ = writeln!(text, "  skipped: {reason}");
        return text;
    }
    let list = |names: &[crate::plan::PhaseName]| {
        names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ")
    };
    if !phase.requires.is_empty() {
        let _ = writeln!(text, "  requires {}", list(&phase.requires));
    }
    if !phase.after.is_empty() {
        let _ = writeln!(text, "  after {}", list(&phase.after));
    }
    for requirement in &phase.requirements {
        let _ = writeln!(text, "  require {}  ({})", requirement.name, requirement.span);
    }
    for (lane, steps) in [("", &phase.steps), ("on stop: ", &phase.on_stop), ("on rollback: ", &phase.on_rollback)] {
        for step in steps {
            text.push_str(&one(lane, step));
        }
    }
    for check in &phase.checks {
        let json = serde_json::to_string(&check.probe).expect("a probe is JSON");
        let _ = writeln!(text, "  check {}  ({})\n      {json}", check.name, check.span);
    }
    text
}

fn one(lane: &str, step: &PlannedStep) -> String {
    let mut text = String::new();
    let absent = if step.policy.absent { " absent" } else { "" };
    let keep = if step.policy.keep { " keep" } else { "" };
    let _ = writeln!(
        text,
        "  {lane}{} {}{absent}{keep}  ({})",
        step.spec.kind(),
        step.spec.label(),
        step.span
    );
    let json = serde_json::to_value(&step.spec).expect("a spec is JSON");
    for (name, value) in json.as_object().into_iter().flatten() {
        let empty = value.is_null()
            || value.as_array().is_some_and(Vec::is_empty)
            || value.as_object().is_some_and(serde_json::Map::is_empty)
            || value.as_str() == Some("")
            || value == &serde_json::Value::Bool(false);
        if empty || name == "kind" {
            continue;
        }
        match value.pointer("/text/known").and_then(|text| text.as_str()) {
            Some(known) => {
                let _ = writeln!(text, "      {name}:");
                for line in known.lines() {
                    let _ = writeln!(text, "        {}", format!("│ {line}").trim_end());
                }
            }
            None => {
                let _ = writeln!(text, "      {name}: {value}");
            }
        }
    }
    text
}
