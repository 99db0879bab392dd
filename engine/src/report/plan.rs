//! A plan as text, for a review.

use std::fmt::Write as _;

use humantime::format_duration;
use serde_json::Value as Json;

use super::page::left_out;
use crate::plan::{Plan, PlannedCheck, PlannedPhase, PlannedStep, StepPolicy};

/// The phases in order, one line each.
#[must_use]
pub fn phases(plan: &Plan) -> String {
    let mut text = String::new();
    for (number, phase) in plan.phases.iter().enumerate() {
        let skipped = phase
            .skipped
            .as_ref()
            .map(|_| " (skipped on this host)")
            .unwrap_or_default();
        let _ = writeln!(
            text,
            "{:>3}  {:<18} {}{skipped}",
            number + 1,
            phase.name,
            phase.about
        );
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
    let list = |names: &[crate::model::PhaseName]| {
        names
            .iter()
            .map(|name| name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    if !phase.requires.is_empty() {
        let _ = writeln!(text, "  requires {}", list(&phase.requires));
    }
    if !phase.after.is_empty() {
        let _ = writeln!(text, "  after {}", list(&phase.after));
    }
    if phase.timeout != PlannedPhase::TIMEOUT {
        let _ = writeln!(text, "  timeout {}", format_duration(phase.timeout));
    }
    if let Some(from) = &phase.restart_from {
        let _ = writeln!(text, "  restart from {from}");
    }
    for requirement in &phase.requirements {
        let _ = writeln!(
            text,
            "  require {}  ({})",
            requirement.name, requirement.span
        );
    }
    for (lane, steps) in [
        ("", &phase.steps),
        ("on stop: ", &phase.on_stop),
        ("on rollback: ", &phase.on_rollback),
        ("on clean: ", &phase.on_clean),
    ] {
        for step in steps {
            text.push_str(&one(lane, step));
        }
    }
    text.push_str(&left_out(&phase.skipped_words));
    for check in &phase.checks {
        let probe = serde_json::to_value(&check.probe).expect("a probe is JSON");
        let _ = writeln!(text, "  check {}  ({})", check.name, check.span);
        match &probe {
            Json::Object(fields) => fields
                .iter()
                .for_each(|(name, value)| text.push_str(&field(name, value))),
            name => text.push_str(&format!("      {}\n", inline(name))),
        }
        text.push_str(&pace(check));
    }
    text
}

/// How a check is waited for, if its script says so.
fn pace(check: &PlannedCheck) -> String {
    let mut text = String::new();
    if check.every != PlannedCheck::EVERY {
        let _ = writeln!(text, "      every: {}", format_duration(check.every));
    }
    if check.timeout != PlannedCheck::TIMEOUT {
        let _ = writeln!(text, "      timeout: {}", format_duration(check.timeout));
    }
    if check.failures != PlannedCheck::FAILURES {
        let _ = writeln!(text, "      failures: {}", check.failures);
    }
    if check.advisory {
        text.push_str("      warning only\n");
    }
    if check.needs_api.is_some() {
        text.push_str("      unknown while the API server is away\n");
    }
    if check.needs_quorum {
        text.push_str("      unknown while etcd has no quorum without the other masters\n");
    }
    text
}

/// How a step is carried out, if its script says so.
fn manner(policy: &StepPolicy) -> String {
    let mut text = String::new();
    let usual = StepPolicy::default();
    if policy.timeout != usual.timeout {
        let _ = writeln!(text, "      timeout: {}", format_duration(policy.timeout));
    }
    if policy.tries != usual.tries || policy.backoff != usual.backoff {
        let pause = format_duration(policy.backoff);
        let tries = if policy.tries == 1 { "try" } else { "tries" };
        let _ = writeln!(text, "      retry: {} {tries}, {pause} apart", policy.tries);
    }
    for (what, steps) in [
        ("restart on", &policy.restart_on),
        ("reload on", &policy.reload_on),
    ] {
        for step in steps {
            let _ = writeln!(text, "      {what}: {step}");
        }
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
        if name != "kind" && !is_empty(value) {
            text.push_str(&field(name, value));
        }
    }
    text.push_str(&manner(&step.policy));
    text
}

/// Empty fields are not shown.
fn is_empty(value: &Json) -> bool {
    match value {
        Json::Null | Json::Bool(false) => true,
        Json::Array(items) => items.is_empty(),
        Json::Object(fields) => fields.is_empty(),
        Json::String(text) => text.is_empty(),
        _ => false,
    }
}

/// One field: a file's text as a block, a map as lines, the rest on one line.
fn field(name: &str, value: &Json) -> String {
    if let Some(mode) = value.pointer("/mode").and_then(Json::as_u64) {
        let owner = |id: &str| value[id].as_u64().unwrap_or_default();
        let (uid, gid) = (owner("uid"), owner("gid"));
        let owner = if (uid, gid) == (0, 0) {
            String::new()
        } else {
            format!(", owner {uid}:{gid}")
        };
        return format!("      mode: {mode:04o}{owner}\n");
    }
    if let Some(text) = value.pointer("/text/known").and_then(Json::as_str) {
        return block(name, text);
    }
    if let Some(late) = value.pointer("/text/late") {
        let template = late["template"].as_str().unwrap_or_default();
        let text = late["source"].as_str().unwrap_or_default();
        let mut shown = format!("      rendered when applied, from {template}\n");
        shown.push_str(&field("vars", &late["vars"]));
        shown.push_str(&block(name, text));
        return shown;
    }
    let plain = simplified(value);
    match &plain {
        Json::Object(fields) => {
            let mut text = format!("      {name}:\n");
            for (key, value) in fields {
                let _ = writeln!(
                    text,
                    "        {}",
                    format!("{key}: {}", inline(value)).trim_end()
                );
            }
            text
        }
        other => format!("      {name}: {}\n", inline(other)),
    }
}

fn block(name: &str, content: &str) -> String {
    let mut text = format!("      {name}:\n");
    for line in content.lines() {
        let _ = writeln!(text, "        {}", format!("│ {line}").trim_end());
    }
    text
}

fn inline(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A plan's typed values as plain ones: `{"text": "a"}` is `a`, a secret is its reference.
fn simplified(value: &Json) -> Json {
    match value {
        Json::Array(items) => items.iter().map(simplified).collect(),
        Json::Object(fields) => {
            if let (1, Some((tag, inner))) = (fields.len(), fields.iter().next()) {
                match tag.as_str() {
                    "text" | "integer" | "bool" | "list" | "map" => return simplified(inner),
                    "secret" => return Json::String(format!("secret:{}", inline(inner))),
                    "output" => return Json::String("known after apply".to_owned()),
                    _ => {}
                }
            }
            fields
                .iter()
                .map(|(name, field)| (name.clone(), simplified(field)))
                .collect()
        }
        other => other.clone(),
    }
}
