//! Evaluates one script, so that one run finds as many mistakes as possible.
//!
//! Rhai stops at the first unknown name. After each, this module gives the name an unknown value and evaluates the script again,
//! from its beginning. An unknown value fits each type, so a mistake causes no second finding.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use rhai::{AST, Engine, ParseError, ParseErrorType, Scope};

use super::comparison::{self, Choices};
use super::errors::{self, ScriptFunction};
use super::interpreter::{self, SharedRecorder, Unknown};
use super::namespace::Namespace;
use super::recorder::Recorder;
use crate::model::{Diagnostic, Span, Value, closest};

/// Most unknown functions, and most unknown variables, after which a script is evaluated again.
const TOLERATED: usize = 64;

/// What a script may read.
pub(super) struct Readable<'a> {
    /// The constants by name.
    pub(super) constants: [(&'static str, Rc<BTreeMap<String, Value>>); 4],
    /// Names of the secrets.
    pub(super) secrets: &'a BTreeSet<String>,
    /// The texts that a value can be, by its name, for values with such a choice.
    pub(super) choices: Rc<Choices>,
}

/// An evaluated script.
pub(super) struct Evaluation {
    /// What it has recorded, with its findings.
    pub(super) recorder: Recorder,
    /// Whether it was evaluated to its end. If not, there is a finding, and the last word may lack modifiers.
    pub(super) is_complete: bool,
}

/// Evaluates a script.
pub(super) fn evaluate(file: &str, text: &str, readable: &Readable<'_>) -> Evaluation {
    let shared: SharedRecorder = Rc::new(RefCell::new(Recorder::new(file)));
    // One Rhai engine per script: the time limit starts with it, and no state is carried over.
    let mut engine = interpreter::engine(&shared);
    comparison::register_choices(&mut engine, &shared, &readable.choices);
    let mut faults: Vec<Diagnostic> = errors::byte_order_mark(file, text).into_iter().collect();
    // A blank in place of the byte order mark keeps the columns.
    let text = text.replacen('\u{feff}', " ", faults.len());
    let mut script = Script {
        file,
        text: &text,
        readable,
        recorder: &shared,
        undefined: Vec::new(),
    };
    let ast = script.parse(&engine, &mut faults);
    let is_complete = ast.is_some_and(|ast| script.run(&mut engine, &ast));
    let mut recorder = shared.take();
    faults.extend(unknown_secrets(&recorder, readable));
    recorder.in_any_case.append(&mut faults);
    Evaluation {
        recorder,
        is_complete,
    }
}

/// A script, and what is known about it so far.
struct Script<'a> {
    file: &'a str,
    text: &'a str,
    readable: &'a Readable<'a>,
    recorder: &'a SharedRecorder,
    /// Variables that the script uses and that do not exist.
    undefined: Vec<String>,
}

impl Script<'_> {
    fn scope(&self) -> Scope<'static> {
        let mut scope = Scope::new();
        for &(name, ref values) in &self.readable.constants {
            let choices = Rc::clone(&self.readable.choices);
            let constant = Namespace::new(name, Rc::clone(values), choices, self.recorder);
            scope.push_constant(name, constant);
        }
        for name in &self.undefined {
            scope.push(name.as_str(), Unknown);
        }
        scope
    }

    /// The parsed script, if it can be evaluated.
    fn parse(&mut self, engine: &Engine, faults: &mut Vec<Diagnostic>) -> Option<AST> {
        let ast = loop {
            let error = match engine.compile_with_scope(&self.scope(), self.text) {
                Ok(ast) => break ast,
                Err(error) => error,
            };
            if self.follows(&error) {
                return None;
            }
            let problem = errors::parse(self.file, self.text, &error);
            faults.push(problem.finding);
            match problem.undefined {
                Some(name) if self.undefined.len() < TOLERATED => self.undefined.push(name),
                _ => return None,
            }
        };
        if let Some(finding) = errors::truncated(self.file, self.text) {
            faults.push(finding);
            return None;
        }
        let reserved: Vec<Diagnostic> = ast
            .iter_functions()
            .filter(|function| interpreter::is_reserved(function.name))
            .map(|function| self.reserved(function.name))
            .collect();
        if reserved.is_empty() {
            return Some(ast);
        }
        faults.extend(reserved);
        None
    }

    /// Whether an unknown variable that was reported before is the cause of an error, because a function uses it, or because it is
    /// declared later.
    fn follows(&self, error: &ParseError) -> bool {
        match error.err_type() {
            ParseErrorType::VariableUndefined(name) | ParseErrorType::VariableExists(name) => {
                self.undefined.contains(name)
            }
            _ => false,
        }
    }

    fn reserved(&self, name: &str) -> Diagnostic {
        Diagnostic::new(
            "P0207",
            Span::new(self.file, function_line(self.text, name), 0),
            format!("`{name}` is a word; a function of that name would replace it"),
        )
        .help("give the function another name")
    }

    /// Runs the script. Returns whether it came to its end.
    fn run(&self, engine: &mut Engine, ast: &AST) -> bool {
        let functions = self.functions(ast);
        let mut tolerated = BTreeSet::new();
        loop {
            let mut recorder = Recorder::new(self.file);
            recorder.has_unknown = !self.undefined.is_empty();
            *self.recorder.borrow_mut() = recorder;
            let Err(error) = engine.run_ast_with_scope(&mut self.scope(), ast) else {
                return true;
            };
            if let Some((name, arguments)) = errors::missing_function(&error)
                && tolerated.len() < TOLERATED
                && tolerated.insert((name.clone(), arguments))
            {
                interpreter::tolerate(engine, self.recorder, &functions, &name, arguments);
                continue;
            }
            let mut recorder = self.recorder.borrow_mut();
            let follows = recorder.has_unknown && errors::may_follow(&error, &self.undefined);
            if !follows {
                recorder.find_in_any_case(errors::evaluation(self.file, &error, &functions));
            }
            return false;
        }
    }

    /// The functions that the script defines, in the order of their lines.
    fn functions(&self, ast: &AST) -> Rc<[ScriptFunction]> {
        let mut functions: Vec<ScriptFunction> = ast
            .iter_functions()
            .map(|function| ScriptFunction {
                name: function.name.to_owned(),
                parameters: function.params.len(),
                line: function_line(self.text, function.name),
            })
            .collect();
        functions.sort_by_key(|function| (function.line, function.parameters));
        functions.into()
    }
}

/// The line of a script's function. Rhai tells only its name.
fn function_line(text: &str, name: &str) -> usize {
    let is_it = |line: &str| {
        let mut words = line
            .split(|c: char| !(c.is_alphanumeric() || c == '_'))
            .filter(|word| !word.is_empty());
        words.any(|word| word == "fn") && words.next() == Some(name)
    };
    text.lines().position(is_it).map_or(0, |index| index + 1)
}

/// Findings for secrets that do not exist.
fn unknown_secrets(recorder: &Recorder, readable: &Readable<'_>) -> Vec<Diagnostic> {
    let names = || readable.secrets.iter().map(String::as_str);
    let mut findings = Vec::new();
    for (name, span) in &recorder.secrets {
        // No name has a zero character; it is part of an unknown value.
        if readable.secrets.contains(name) || (recorder.has_unknown && name.contains('\0')) {
            continue;
        }
        let message = format!("there is no secret `{}`", name.escape_debug());
        let finding = Diagnostic::new("P0371", span.clone(), message);
        findings.push(match closest(name, names()) {
            Some(meant) => finding.help(format!("did you mean `{meant}`?")),
            None => {
                let all: Vec<&str> = names().collect();
                finding.help(format!("the secrets are {}", all.join(", ")))
            }
        });
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(script: &str) -> Vec<String> {
        let values = || Rc::new(BTreeMap::from([("name".to_owned(), Value::from("cp-1"))]));
        let secrets = BTreeSet::new();
        let readable = Readable {
            constants: [
                ("host", values()),
                ("cluster", values()),
                ("role", values()),
                ("kube", values()),
            ],
            secrets: &secrets,
            choices: Rc::default(),
        };
        let recorder = evaluate("phases/example.rhai", script, &readable).recorder;
        let faults = recorder.findings.iter().chain(&recorder.in_any_case);
        faults.map(Diagnostic::short).collect()
    }

    #[test]
    fn a_mistake_has_one_finding() {
        for (script, code) in [
            ("directory(base);\nlet base = \"/etc\";", "P0101"),
            ("fn f() { hots }\nf();", "P0101"),
            (
                "direktory(\"/a\").mode(\"0700\").keep().restart();",
                "P0201",
            ),
            ("if host.nmae == \"a\" { directory(\"/etc\"); }", "P0204"),
            ("for name in host.nmae { directory(name); }", "P0204"),
            ("directory(`/etc/${host.nmae.first}`);", "P0204"),
            (
                "directory(\"/etc/\" + host.nmae).when(!host.nmea);",
                "P0204",
            ),
        ] {
            let faults = faults(script);
            let codes: Vec<&str> = faults
                .iter()
                .filter_map(|fault| fault.split(' ').nth(1))
                .collect();
            let places: BTreeSet<&str> = faults
                .iter()
                .filter_map(|fault| fault.split(' ').next())
                .collect();
            assert!(codes.iter().all(|its| *its == code), "{script}: {faults:?}");
            assert_eq!(places.len(), faults.len(), "{script}: {faults:?}");
            assert!(!faults.is_empty(), "{script}");
        }
    }

    #[test]
    fn each_unknown_name_is_found() {
        let faults = faults(
            "directory(hots.name).frob(1).frob(2);\ndirektory(\"/a\");\nservice(host.nmae).started(1);",
        );
        let codes: BTreeSet<&str> = faults
            .iter()
            .filter_map(|fault| fault.split(' ').nth(1))
            .collect();
        let expected = ["P0101", "P0201", "P0202", "P0203", "P0204"];
        assert_eq!(codes, BTreeSet::from(expected), "{faults:?}");
        assert_eq!(faults.len(), 6, "{faults:?}");
    }

    /// A terminal would obey them.
    #[test]
    fn an_unknown_name_is_shown_without_control_characters() {
        for (script, shown) in [
            (
                "directory(host[\"nmae\\u001b[31m\"]);",
                "P0204 there is no `host.nmae\\u{1b}[31m`",
            ),
            (
                "file(\"/a\").content(secret(\"kube/\\u001b[31m\"));",
                "P0371 there is no secret `kube/\\u{1b}[31m`",
            ),
        ] {
            let faults = faults(script).join(" ");
            assert!(faults.contains(shown), "{script}: {faults:?}");
            assert!(!faults.contains(char::is_control), "{script}: {faults:?}");
        }
    }

    #[test]
    fn a_script_without_mistakes_has_no_finding() {
        let script =
            "fn place(name) { directory(`/etc/${name}`) }\nplace(host.name).mode(\"0700\");";
        assert_eq!(faults(script), Vec::<String>::new());
    }
}
