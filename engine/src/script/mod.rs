//! The script language: phase scripts in, planned phases out.
//!
//! Evaluation is synchronous, bounded and changes nothing on a host: words record their arguments (`recorder`), `lower` gives
//! the recording its meaning, and only typed, thread-safe values leave this module. Findings of all scripts are
//! returned together.
//!
//! Not here: the order of phases (`plan::order`), the constants that scripts read (`planner::context`), and what a resource does
//! (`resource`). Start with [`ScriptSet::evaluate`], then `recorder`, `words`, `variants` and `lower`.

mod comparison;
mod errors;
mod evaluation;
mod interpolation;
mod interpreter;
mod lower;
mod namespace;
mod recorder;
mod reference;
mod remedy;
mod variants;
mod vocabulary;
mod words;

pub use reference::reference;
pub use vocabulary::{
    Arg, CHECK_POLICY, FUNCTIONS, Modifier, Param, REQUIREMENT_POLICY, STEP_POLICY, TextKind, Word,
    WordKind,
};
pub use words::WORDS;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;

use crate::model::{Diagnostic, Sources, Value};
use crate::plan::PlannedPhase;
use evaluation::{Evaluation, Readable};

/// Largest script or template, in bytes.
pub const SIZE_LIMIT: u64 = 256 * 1024;

/// The scripts and templates of a role, as texts.
#[derive(Debug, Clone, Default)]
pub struct ScriptSet {
    /// Phase scripts by phase name, in the order in which the role names them.
    pub scripts: Vec<(String, String)>,
    /// The node kinds for which `role.yaml` lists each of these phases.
    pub listed_for: BTreeMap<String, Vec<String>>,
    /// Names of the role's phases, those of other node kinds too.
    pub phases: BTreeSet<String>,
    /// Templates by name, for example `etcd/etcd.env.tmpl`.
    pub templates: BTreeMap<String, String>,
}

/// What scripts may read.
#[derive(Debug, Clone)]
pub struct ScriptContext {
    /// `host`.
    pub host: BTreeMap<String, Value>,
    /// `cluster`.
    pub cluster: BTreeMap<String, Value>,
    /// `role`.
    pub role: BTreeMap<String, Value>,
    /// `kube`.
    pub kube: BTreeMap<String, Value>,
    /// Names of the secrets, for `secret`.
    pub secrets: BTreeSet<String>,
    /// The texts that a value can be, by its name in scripts, such as `kube.KUBE_PROXY_MODE`, for values with such a choice.
    pub choices: BTreeMap<String, Vec<String>>,
}

impl ScriptSet {
    /// The texts by file name, for diagnostics that quote them.
    #[must_use]
    pub fn sources(&self) -> Sources {
        let mut sources = Sources::default();
        for (name, text) in &self.scripts {
            sources.insert(file_of(name), text.as_str());
        }
        for (name, text) in &self.templates {
            sources.insert(format!("phases/templates/{name}"), text.as_str());
        }
        sources
    }

    /// Evaluates every script.
    ///
    /// # Errors
    /// Every finding of every script.
    pub fn evaluate(
        &self,
        context: &ScriptContext,
        payload: &Path,
    ) -> Result<Vec<PlannedPhase>, Vec<Diagnostic>> {
        let mut phases = Vec::new();
        let mut findings = Vec::new();
        let readable = Readable {
            constants: [
                ("host", Rc::new(context.host.clone())),
                ("cluster", Rc::new(context.cluster.clone())),
                ("role", Rc::new(context.role.clone())),
                ("kube", Rc::new(context.kube.clone())),
            ],
            secrets: &context.secrets,
            choices: Rc::new(context.choices.clone()),
        };
        for (name, text) in &self.scripts {
            let Evaluation {
                mut recorder,
                is_complete,
            } = evaluation::evaluate(&file_of(name), text, &readable);
            if !is_complete {
                // The evaluation may have ended before the modifiers of the last word.
                recorder.calls.pop();
                if !recorder.has_header() {
                    findings.append(&mut recorder.findings);
                    findings.append(&mut recorder.in_any_case);
                    continue;
                }
            }
            let lowering = lower::context::LoweringContext {
                templates: &self.templates,
                listed_for: &self.listed_for,
                phases: &self.phases,
                payload,
            };
            let (phase, mut more) = lower::phase(recorder, &lowering);
            findings.append(&mut more);
            phases.extend(phase);
        }
        if findings.is_empty() {
            findings = lower::restarts_from_later_phases(&phases);
        }
        if findings.is_empty() {
            Ok(phases)
        } else {
            findings.sort_by(|a, b| a.span.cmp(&b.span));
            Err(without_repetitions(findings))
        }
    }
}

fn file_of(phase: &str) -> String {
    format!("phases/{phase}.rhai")
}

/// Each finding once: a mistake in a loop or in a function is found several times.
fn without_repetitions(findings: Vec<Diagnostic>) -> Vec<Diagnostic> {
    let mut once: Vec<Diagnostic> = Vec::new();
    for finding in findings {
        // The findings are sorted, so equal ones are among those with the same position.
        let last = once.iter().rev();
        let mut same_place = last.take_while(|other| other.span == finding.span);
        if !same_place.any(|other| *other == finding) {
            once.push(finding);
        }
    }
    once
}
