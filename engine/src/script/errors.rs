//! Rhai's errors as findings: innermost place, our words, what to do.

use rhai::{EvalAltResult, ParseError, Position};

use super::words::WORDS;
use crate::diagnostic::{Diagnostic, closest};
use crate::plan::Span;

fn span(file: &str, position: Position) -> Span {
    Span::new(
        file,
        position.line().unwrap_or(0),
        position.position().unwrap_or(0),
    )
}

/// A script that does not parse.
pub(super) fn parse(file: &str, error: &ParseError) -> Diagnostic {
    let message = match error.err_type() {
        rhai::ParseErrorType::VariableUndefined(name) => format!("there is no variable `{name}`"),
        rhai::ParseErrorType::ExprTooDeep => "expressions are nested too deep".to_owned(),
        rhai::ParseErrorType::TooManyFunctions => "there are too many functions".to_owned(),
        other => other.to_string(),
    };
    let mut finding = Diagnostic::new("P0101", span(file, error.position()), message);
    if let rhai::ParseErrorType::VariableUndefined(name) = error.err_type()
        && let Some(name) = closest(name, ["host", "cluster", "role", "kube"])
    {
        finding = finding.help(format!("did you mean `{name}`?"));
    }
    finding
}

/// A script that ended with an error.
pub(super) fn evaluation(file: &str, error: &EvalAltResult) -> Diagnostic {
    use EvalAltResult as E;
    // The innermost frame says what happened; the frames around it only how we got there.
    let mut inner = error;
    while let E::ErrorInFunctionCall(_, _, next, _) = inner {
        inner = next;
    }
    let at = |position: &Position| span(file, *position);
    match inner {
        E::ErrorFunctionNotFound(signature, position) => unknown_function(at(position), signature),
        E::ErrorTooManyOperations(position) => Diagnostic::new(
            "P0110",
            at(position),
            "the script does too much: is there a loop without an end?",
        ),
        E::ErrorTerminated(_, position) => Diagnostic::new(
            "P0110",
            at(position),
            "the script takes too long: is there a loop without an end?",
        ),
        E::ErrorStackOverflow(position) => {
            Diagnostic::new("P0111", at(position), "functions call each other too deep")
                .help("is there a recursion without an end?")
        }
        E::ErrorDataTooLarge(what, position) => Diagnostic::new(
            "P0112",
            at(position),
            format!("a value grows too large: {what}"),
        ),
        E::ErrorRuntime(message, position) => {
            let text = message.to_string();
            match text.split_once("; did you mean ") {
                Some((what, name)) => Diagnostic::new("P0204", at(position), what)
                    .help(format!("did you mean {name}")),
                None => Diagnostic::new("P0204", at(position), text),
            }
        }
        E::ErrorNonPureMethodCallOnConstant(name, position)
        | E::ErrorAssignmentToConstant(name, position) => {
            Diagnostic::new("P0303", at(position), format!("`{name}` is constant"))
        }
        other => {
            let position = other.position();
            let text = other.to_string();
            let text = text.split(" (line ").next().unwrap_or(&text).to_owned();
            Diagnostic::new("P0199", at(&position), text)
        }
    }
}

/// `ownr (directory, string)`: which word it was said of, and what was meant.
fn unknown_function(span: Span, signature: &str) -> Diagnostic {
    let (name, types) = signature.split_once(" (").unwrap_or((signature, ""));
    let name = name.trim();
    let types: Vec<&str> = types
        .trim_end_matches(')')
        .split(", ")
        .filter(|t| !t.is_empty())
        .collect();
    let receiver = types
        .first()
        .and_then(|first| WORDS.iter().find(|word| word.name == *first));
    if let Some(word) = receiver {
        if let Some(modifier) = word.modifier(name) {
            return wrong_count(span, name, modifier.params.len(), types.len() - 1);
        }
        let finding = Diagnostic::new("P0202", span, format!("`{}` has no `{name}`", word.name));
        let names: Vec<_> = word.all_modifiers().map(|modifier| modifier.name).collect();
        return match closest(name, names.iter().copied()) {
            Some(meant) => finding.help(format!("did you mean `{meant}`?")),
            None => finding.help(format!("it has {}", names.join(", "))),
        };
    }
    if let Some(word) = WORDS.iter().find(|word| word.name == name) {
        return wrong_count(span, name, word.params.len(), types.len());
    }
    if name == "sleep" || name == "print" {
        return Diagnostic::new("P0201", span, format!("there is no word `{name}`"))
            .help("scripts describe; nothing happens while they are read");
    }
    let finding = Diagnostic::new("P0201", span, format!("there is no word `{name}`"));
    match closest(name, WORDS.iter().map(|word| word.name)) {
        Some(meant) => finding.help(format!("did you mean `{meant}`?")),
        None => finding,
    }
}

fn wrong_count(span: Span, name: &str, takes: usize, given: usize) -> Diagnostic {
    let arguments = if takes == 1 { "argument" } else { "arguments" };
    Diagnostic::new(
        "P0203",
        span,
        format!("`{name}` takes {takes} {arguments}, {given} given"),
    )
}
