//! The script language: phase scripts in, planned phases out.
//!
//! Evaluation is synchronous, bounded and changes nothing on a host: words record their arguments (`recorder`), `lower` gives
//! the recording its meaning, and only typed, thread-safe values leave this module. Findings of all scripts are
//! returned together.

mod errors;
mod interpreter;
mod lower;
mod namespace;
mod recorder;
mod reference;
mod vocabulary;
mod words;

pub use reference::reference;
pub use vocabulary::{
    Arg, CHECK_POLICY, FUNCTIONS, Modifier, Param, REQUIREMENT_POLICY, Role, STEP_POLICY, Word,
};
pub use words::WORDS;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use rhai::{Engine, Scope};

use crate::model::{Diagnostic, Sources, Span, Value};
use crate::plan::PlannedPhase;
use interpreter::Tape;
use namespace::Namespace;
use recorder::Recorder;

/// Largest script or template, in bytes.
pub const SIZE_LIMIT: u64 = 256 * 1024;

/// The scripts and templates of a role, as texts.
#[derive(Debug, Clone, Default)]
pub struct ScriptSet {
    /// Phase scripts by phase name, in the order in which the role names them.
    pub scripts: Vec<(String, String)>,
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
    /// `master` or `worker`.
    pub node: String,
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
        around: &ScriptContext,
        payload: &Path,
    ) -> Result<Vec<PlannedPhase>, Vec<Diagnostic>> {
        let mut phases = Vec::new();
        let mut findings = Vec::new();
        let tape: Tape = Rc::new(RefCell::new(Recorder::default()));
        for (name, text) in &self.scripts {
            // One Rhai engine per script: the time limit starts with it, and no state is carried over.
            let engine = interpreter::engine(&tape);
            let file = file_of(name);
            *tape.borrow_mut() = Recorder::new(&file);
            let mut failed = false;
            if let Err(finding) = run(&engine, &file, text, around) {
                failed = true;
                findings.push(finding);
            }
            let mut recorder = tape.replace(Recorder::default());
            if failed {
                // The recording is incomplete: only its findings count.
                findings.append(&mut recorder.findings);
                continue;
            }
            let lowering = lower::context::ScriptContext {
                templates: &self.templates,
                node: &around.node,
                payload,
            };
            let (phase, mut more) = lower::phase(recorder, &lowering);
            findings.append(&mut more);
            phases.extend(phase);
        }
        if findings.is_empty() {
            Ok(phases)
        } else {
            findings.sort_by(|a, b| a.span.cmp(&b.span));
            Err(findings)
        }
    }
}

fn file_of(phase: &str) -> String {
    format!("phases/{phase}.rhai")
}

/// The position of a script's function. Rhai tells only its name.
fn function_span(file: &str, text: &str, name: &str) -> Span {
    let is_it = |line: &str| {
        let mut words = line
            .split(|c: char| !(c.is_alphanumeric() || c == '_'))
            .filter(|word| !word.is_empty());
        words.any(|word| word == "fn") && words.next() == Some(name)
    };
    let line = text.lines().position(is_it).map_or(0, |index| index + 1);
    Span::new(file, line, 0)
}

fn run(engine: &Engine, file: &str, text: &str, around: &ScriptContext) -> Result<(), Diagnostic> {
    let mut scope = Scope::new();
    for (name, values) in [
        ("host", &around.host),
        ("cluster", &around.cluster),
        ("role", &around.role),
        ("kube", &around.kube),
    ] {
        scope.push_constant(name, Namespace::new(name, values.clone()));
    }
    let ast = engine
        .compile_with_scope(&scope, text)
        .map_err(|error| errors::parse(file, text, &error))?;
    if let Some(finding) = errors::cut_short(file, text) {
        return Err(finding);
    }
    for function in ast.iter_functions() {
        if interpreter::is_reserved(function.name) {
            let message = format!(
                "`{}` is a word; a function of that name would replace it",
                function.name
            );
            return Err(Diagnostic::new(
                "P0207",
                function_span(file, text, function.name),
                message,
            )
            .help("give the function another name"));
        }
    }
    engine
        .run_ast_with_scope(&mut scope, &ast)
        .map_err(|error| errors::evaluation(file, &error))
}
