//! Turns Rhai's errors into findings: the innermost position, a message in our words, and what to do.

use rhai::{EvalAltResult, ParseError, Position};

use super::vocabulary::FUNCTIONS;
use super::words::WORDS;
use crate::model::{Diagnostic, Span, closest};

fn span(file: &str, position: Position) -> Span {
    Span::new(
        file,
        position.line().unwrap_or(0),
        position.position().unwrap_or(0),
    )
}

/// Keywords of Rhai that phase scripts cannot use, and the help for each.
const LEFT_OUT: &[(&str, &str)] = &[
    ("while", "use `for … in …` over a list or a range"),
    ("loop", "use `for … in …` over a list or a range"),
    ("do", "use `for … in …` over a list or a range"),
    (
        "try",
        "a mistake must be reported, so a script cannot catch errors",
    ),
    (
        "import",
        "one file is one phase; everything it needs is in it",
    ),
    ("export", "one file is one phase; nothing else reads it"),
    ("eval", "write the words directly"),
];

/// A script that does not parse.
pub(super) fn parse(file: &str, text: &str, error: &ParseError) -> Diagnostic {
    if let Some(finding) = left_out(file, error) {
        return finding;
    }
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
    if unit_after_number(text, error.position()) {
        finding = finding.help("put it in quotes, such as \"5m\"");
    } else if wants_more(text, error) {
        finding = finding.help(CUT_SHORT);
    }
    finding
}

const CUT_SHORT: &str = "was the file cut short? then install the role's package again";

/// Whether the text ends inside an unfinished statement or string.
fn wants_more(text: &str, error: &ParseError) -> bool {
    use rhai::{LexError, ParseErrorType as E};
    let text = text.trim_end();
    let line = error.position().line().unwrap_or(usize::MAX);
    let column = error.position().position().unwrap_or(usize::MAX);
    let last = text.lines().last().unwrap_or_default().chars().count();
    let in_the_last_line = line >= text.lines().count();
    match error.err_type() {
        E::BadInput(LexError::UnterminatedString) => in_the_last_line,
        E::UnexpectedEOF | E::MissingToken(..) => in_the_last_line && column > last,
        _ => false,
    }
}

/// A finding if the last statement has no `;`. Rhai accepts such a script, so a script that was truncated between two
/// modifiers would be planned without the rest of them.
pub(super) fn cut_short(file: &str, text: &str) -> Option<Diagnostic> {
    let is_code = |line: &str| {
        let line = line.trim();
        !line.is_empty() && !line.starts_with("//")
    };
    let lines = text.lines().enumerate();
    let (number, line) = lines.filter(|(_, line)| is_code(line)).last()?;
    let code = line.split(" //").next().unwrap_or(line).trim_end();
    if code.ends_with([';', '}', '/']) {
        return None;
    }
    Some(
        Diagnostic::new(
            "P0103",
            Span::new(file, number + 1, code.chars().count().max(1)),
            "the last statement does not end with `;`",
        )
        .help(CUT_SHORT),
    )
}

/// A finding if the error is about a keyword that phase scripts cannot use.
fn left_out(file: &str, error: &ParseError) -> Option<Diagnostic> {
    let keyword = match error.err_type() {
        rhai::ParseErrorType::Reserved(keyword)
        | rhai::ParseErrorType::BadInput(rhai::LexError::ImproperSymbol(keyword, _)) => keyword,
        _ => return None,
    };
    let (keyword, instead) = LEFT_OUT.iter().find(|(name, _)| name == keyword)?;
    let message = format!("there is no `{keyword}` in a phase script");
    Some(Diagnostic::new("P0101", span(file, error.position()), message).help(*instead))
}

/// Whether a name begins right after a digit, as in `5m`.
fn unit_after_number(text: &str, position: Position) -> bool {
    let (Some(line), Some(column)) = (position.line(), position.position()) else {
        return false;
    };
    let mut around = text
        .lines()
        .nth(line - 1)
        .unwrap_or_default()
        .chars()
        .skip(column.saturating_sub(2));
    around.next().is_some_and(|c| c.is_ascii_digit())
        && around.next().is_some_and(char::is_alphabetic)
}

/// A script that ended with an error.
pub(super) fn evaluation(file: &str, error: &EvalAltResult) -> Diagnostic {
    use EvalAltResult as E;
    // The innermost frame says what happened; the frames around it say only how the script got there.
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
            format!("a value grows too large: {}", what.to_lowercase()),
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
        E::ErrorDotExpr(problem, position) if problem.starts_with("No writable property") => {
            let name = problem.split('\'').nth(1).unwrap_or_default();
            Diagnostic::new("P0303", at(position), format!("`{name}` is constant")).help(
                "the values in `host`, `cluster`, `role` and `kube` are set before the script runs",
            )
        }
        other => {
            let position = other.position();
            let text = other.to_string();
            let text = text.split(" (line ").next().unwrap_or(&text).to_owned();
            Diagnostic::new("P0199", at(&position), text)
        }
    }
}

/// A finding for an unknown function. `signature` is Rhai's text, such as `ownr (directory, string)`: the name, and the types
/// of the word before it and of the arguments.
fn unknown_function(span: Span, signature: &str) -> Diagnostic {
    let (name, types) = signature.split_once(" (").unwrap_or((signature, ""));
    let name = name.trim();
    let types: Vec<&str> = types
        .trim_end_matches(')')
        .split(", ")
        .filter(|t| !t.is_empty())
        .collect();
    if let Some((_, params, _)) = FUNCTIONS.iter().find(|(function, ..)| *function == name) {
        if params.len() != types.len() {
            return wrong_count(span, name, params.len(), types.len());
        }
        let takes: Vec<&str> = params.iter().map(|param| param.arg.describe()).collect();
        return Diagnostic::new(
            "P0203",
            span,
            format!("`{name}` takes {}", takes.join(", then ")),
        );
    }
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
