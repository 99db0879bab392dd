//! Turns Rhai's errors into findings: the innermost position, a message in our words, and what to do.
//!
//! `syntax` has mistakes that the parser finds. Not here: findings about arguments and modifiers (`recorder`, `lower`), and the layout of
//! a finding (`model::diagnostic`). Start with this file.

mod syntax;

pub(super) use syntax::{byte_order_mark, parse, truncated};

use rhai::{EvalAltResult, Position};

use super::vocabulary::{Arg, FUNCTIONS, Param, Word};
use super::words::WORDS;
use crate::model::{Diagnostic, Span, closest};

/// What a script is told if the first argument of `output` is something else.
pub(super) const OUTPUT_OF_NO_STEP: &str = "the first argument of `output` must be a step";

/// A function that a script defines.
#[derive(Debug)]
pub(super) struct ScriptFunction {
    /// Its name.
    pub(super) name: String,
    /// Number of its parameters.
    pub(super) parameters: usize,
    /// The line of its definition.
    pub(super) line: usize,
}

fn span(file: &str, position: Position) -> Span {
    Span::new(
        file,
        position.line().unwrap_or(0),
        position.position().unwrap_or(0),
    )
}

/// The innermost frame says what happened; the frames around it say only how the script got there.
fn innermost(error: &EvalAltResult) -> &EvalAltResult {
    let mut inner = error;
    while let EvalAltResult::ErrorInFunctionCall(_, _, next, _) = inner {
        inner = next;
    }
    inner
}

/// The name and the number of arguments of an unknown function, if that ended the evaluation. Operators are left out.
pub(super) fn missing_function(error: &EvalAltResult) -> Option<(String, usize)> {
    let EvalAltResult::ErrorFunctionNotFound(signature, _) = innermost(error) else {
        return None;
    };
    let (name, types) = parts(signature);
    let is_name = name.starts_with(|c: char| c.is_alphabetic() || c == '_');
    is_name.then(|| (name.to_owned(), types.len()))
}

/// Whether an unknown value may be the cause of an error. `undefined` are the variables that have such a value.
pub(super) fn may_follow(error: &EvalAltResult, undefined: &[String]) -> bool {
    use EvalAltResult as E;
    match innermost(error) {
        E::ErrorVariableNotFound(name, _) | E::ErrorVariableExists(name, _) => {
            undefined.contains(name)
        }
        E::ErrorFunctionNotFound(..)
        | E::ErrorMismatchDataType(..)
        | E::ErrorMismatchOutputType(..)
        | E::ErrorIndexingType(..)
        | E::ErrorDotExpr(..)
        | E::ErrorFor(..) => true,
        _ => false,
    }
}

/// The function of the script in which an error happened.
fn function_of(error: &EvalAltResult) -> Option<&str> {
    let mut function = None;
    let mut inner = error;
    while let EvalAltResult::ErrorInFunctionCall(name, _, next, _) = inner {
        // Closures see the variables of the script.
        if !name.starts_with("anon$") {
            function = Some(name.as_str());
        }
        inner = next;
    }
    function
}

/// A finding for a variable of the script that a function uses.
fn hidden_variable(span: Span, name: &str, function: &str) -> Diagnostic {
    Diagnostic::new(
        "P0105",
        span,
        format!(
            "there is no `{name}` in `{function}`: a function does not see the variables of the script"
        ),
    )
    .help(format!(
        "add a parameter for it to `{function}`, and pass `{name}` in each call"
    ))
}

/// A script that ended with an error.
pub(super) fn evaluation(
    file: &str,
    error: &EvalAltResult,
    functions: &[ScriptFunction],
) -> Diagnostic {
    use EvalAltResult as E;
    let at = |position: &Position| span(file, *position);
    match innermost(error) {
        E::ErrorFunctionNotFound(signature, position) => {
            let (name, types) = parts(signature);
            let receiver = types
                .first()
                .and_then(|first| WORDS.iter().find(|word| word.name == *first));
            unknown_function(at(position), name, receiver, types.len(), functions)
        }
        E::ErrorVariableNotFound(name, position) => match function_of(error) {
            Some(function) => hidden_variable(at(position), name, function),
            None => Diagnostic::new(
                "P0101",
                at(position),
                format!("there is no variable `{name}`"),
            ),
        },
        E::ErrorTooManyOperations(position) => Diagnostic::new(
            "P0110",
            at(position),
            "the script makes too many operations",
        )
        .help("look for a loop that has no end or has too many rounds"),
        E::ErrorTerminated(_, position) => Diagnostic::new(
            "P0110",
            at(position),
            "the script takes too much time",
        )
        .help("look for a loop that has no end or has too many rounds"),
        E::ErrorStackOverflow(position) => {
            Diagnostic::new("P0111", at(position), "calls of functions are nested too deep")
                .help("look for a function that calls itself without an end")
        }
        E::ErrorDataTooLarge(what, position) => Diagnostic::new(
            "P0112",
            at(position),
            format!(
                "a value is larger than a script can have: {}",
                what.to_lowercase()
            ),
        )
        .help("a text has at most 256 KiB, a list 4096 items, a map 1024 keys; write a long text as a template or as a file of the payload"),
        E::ErrorRuntime(message, position) => {
            let message = message.to_string();
            let is_output = message == OUTPUT_OF_NO_STEP;
            let finding = Diagnostic::new("P0204", at(position), message);
            if is_output {
                finding.help("name the step with `let`, and pass that name: let made = node(…); and output(made, \"pod_cidr\")")
            } else {
                finding
            }
        }
        E::ErrorNonPureMethodCallOnConstant(name, position)
        | E::ErrorAssignmentToConstant(name, position) => {
            let message = format!("the script changes `{name}`, which is a constant");
            Diagnostic::new("P0303", at(position), message)
                .help("use a variable of your own with another name: let other = …")
        }
        E::ErrorDotExpr(problem, position) if problem.starts_with("No writable property") => {
            let name = problem.split('\'').nth(1).unwrap_or_default();
            let message = format!("the script changes `{name}`, which it can only read");
            Diagnostic::new("P0303", at(position), message).help(
                "remove the assignment: facts and settings give the values of `host`, `cluster`, `role` and `kube`; a variable of your own can have another value: let other = …",
            )
        }
        other => {
            let position = other.position();
            let text = other.to_string();
            let text = text.split(" (line ").next().unwrap_or(&text).to_owned();
            Diagnostic::new("P0199", at(&position), text).help(usual_cause(other))
        }
    }
}

/// Help for an error that has only Rhai's message.
fn usual_cause(error: &EvalAltResult) -> &'static str {
    use EvalAltResult as E;
    match error {
        E::ErrorArrayBounds(..) | E::ErrorStringBounds(..) => {
            "the first item has the index 0; `.len()` tells how many items there are"
        }
        E::ErrorPropertyNotFound(..) | E::ErrorIndexNotFound(..) => {
            "write a key that the map has; `\"key\" in map` tells whether it has one"
        }
        E::ErrorFor(..) => "write a list or a range after `in`: for number in 0..3 { … }",
        E::ErrorMismatchDataType(..) | E::ErrorMismatchOutputType(..) => {
            "use a value of the type that is expected; a condition is true, false or a comparison"
        }
        E::ErrorArithmetic(..) => "look for a division by zero, or for a number that is too large",
        _ => {
            "correct the expression at this place; phases/REFERENCE.md lists what a script can contain"
        }
    }
}

/// The name and the types of the arguments in Rhai's text about an unknown function, such as `ownr (directory, string)`. The
/// first type is that of the word before a modifier.
fn parts(signature: &str) -> (&str, Vec<&str>) {
    let (name, types) = signature.split_once(" (").unwrap_or((signature, ""));
    let types = types.trim_end_matches(')').split(", ");
    (name.trim(), types.filter(|t| !t.is_empty()).collect())
}

/// A finding for a function that does not exist with this number and these types of arguments. `receiver` is the word whose step
/// is the first argument, `given` the number of arguments with it.
pub(super) fn unknown_function(
    span: Span,
    name: &str,
    receiver: Option<&Word>,
    given: usize,
    functions: &[ScriptFunction],
) -> Diagnostic {
    let mut own = functions.iter().filter(|function| function.name == name);
    if let Some(function) = own.next() {
        let mut takes = function.parameters.to_string();
        for other in own {
            takes.push_str(&format!(" or {}", other.parameters));
        }
        return wrong_count(span, name, &takes, given).help(format!(
            "line {} defines it; change the call or the definition",
            function.line
        ));
    }
    if let Some((_, params, _)) = FUNCTIONS.iter().find(|(function, ..)| *function == name) {
        if params.len() != given {
            return wrong_count(span, name, &params.len().to_string(), given)
                .help(usage(name, params));
        }
        let takes: Vec<&str> = params.iter().map(|param| param.arg.describe()).collect();
        let message = format!("`{name}` takes {}", takes.join(", then "));
        let is_lane = params.iter().any(|param| param.arg == Arg::Closure);
        return Diagnostic::new("P0203", span, message).help(if is_lane {
            format!("write the steps between braces: {name}(|| {{ … }});")
        } else {
            usage(name, params)
        });
    }
    if let Some(word) = receiver {
        if let Some(modifier) = word.modifier(name) {
            let takes = modifier.params.len().to_string();
            let shown = format!(".{name}");
            return wrong_count(span, &shown, &takes, given.saturating_sub(1))
                .help(usage(&shown, modifier.params));
        }
        let message = format!("`{}` has no modifier `.{name}`", word.name);
        let finding = Diagnostic::new("P0202", span, message);
        let names: Vec<_> = word.all_modifiers().map(|modifier| modifier.name).collect();
        return match closest(name, names.iter().copied()) {
            Some(meant) => finding.help(format!("did you mean `.{meant}`?")),
            None => finding.help(format!("it has .{}", names.join(", ."))),
        };
    }
    if let Some(word) = WORDS.iter().find(|word| word.name == name) {
        return wrong_count(span, name, &word.params.len().to_string(), given)
            .help(usage(name, word.params));
    }
    let finding = Diagnostic::new("P0201", span, format!("there is no word `{name}`"));
    match name {
        "sleep" | "print" => finding.help(
            "remove it: a script only describes the host, and does nothing itself; `command` runs a program when the plan is applied",
        ),
        "not" => finding.help("write `!`"),
        _ => match closest(name, known(functions)) {
            Some(meant) => finding.help(format!("did you mean `{meant}`?")),
            None => finding.help("phases/REFERENCE.md lists the words"),
        },
    }
}

/// How a word or modifier is written, and the types of its arguments.
fn usage(name: &str, params: &[Param]) -> String {
    let names: Vec<&str> = params.iter().map(|param| param.name).collect();
    let mut text = format!("write {name}({})", names.join(", "));
    for param in params {
        text.push_str(&format!("; `{}` is {}", param.name, param.arg.describe()));
    }
    text
}

/// The names that a script may call.
fn known(functions: &[ScriptFunction]) -> impl Iterator<Item = &str> {
    let words = WORDS.iter().map(|word| word.name);
    let own = functions.iter().map(|function| function.name.as_str());
    words.chain(own)
}

fn wrong_count(span: Span, name: &str, takes: &str, given: usize) -> Diagnostic {
    let arguments = if takes == "1" {
        "argument"
    } else {
        "arguments"
    };
    Diagnostic::new(
        "P0203",
        span,
        format!("`{name}` takes {takes} {arguments}, but gets {given}"),
    )
}
