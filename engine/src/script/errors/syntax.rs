//! Scripts that do not parse: frequent mistakes in our words, and what to write instead.
//!
//! The parser of Rhai knows only which token it did not expect. What the author meant is in the text around that token.

use rhai::{LexError, ParseError, ParseErrorType, Position};

use super::{hidden_variable, span};
use crate::model::{Diagnostic, Span, closest};

/// The constants that each script sees.
const CONSTANTS: [&str; 4] = ["host", "cluster", "role", "kube"];

/// Keywords of Rhai that phase scripts cannot use, and the help for each.
const LEFT_OUT: &[(&str, &str)] = &[
    ("while", "use `for … in …` over a list or a range"),
    ("loop", "use `for … in …` over a list or a range"),
    ("do", "use `for … in …` over a list or a range"),
    (
        "switch",
        "write `if … else if …`: `switch` would not find that the compared values have different types",
    ),
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

/// Operators that other languages write as words.
const OPERATORS: &[(&str, &str)] = &[("and", "&&"), ("or", "||"), ("not", "!")];

/// Help for a script whose last statement is incomplete.
const INCOMPLETE: &str = "add what is missing: a quote, a bracket or `;`; if the end of the file is lost, install the role's package again";

/// A script that does not parse.
pub(in crate::script) struct SyntaxError {
    /// What is wrong.
    pub(in crate::script) finding: Diagnostic,
    /// The unknown variable that stopped the parser. If it is defined, the parser may go on.
    pub(in crate::script) undefined: Option<String>,
}

/// The finding for a script that does not parse.
pub(in crate::script) fn parse(file: &str, text: &str, error: &ParseError) -> SyntaxError {
    let place = Place::new(text, error.position());
    let known = left_out(file, error).or_else(|| place.frequent(file, error));
    if let Some(finding) = known {
        return SyntaxError {
            finding,
            undefined: None,
        };
    }
    if let ParseErrorType::VariableUndefined(name) = error.err_type() {
        return undefined(span(file, error.position()), &place, name);
    }
    let message = match error.err_type() {
        ParseErrorType::ExprTooDeep => "expressions are nested too deep".to_owned(),
        ParseErrorType::TooManyFunctions => "there are too many functions".to_owned(),
        ParseErrorType::UnexpectedEOF => "the script ends in the middle of a statement".to_owned(),
        ParseErrorType::BadInput(LexError::UnterminatedString) => {
            "the text that begins here has no closing quote".to_owned()
        }
        other => other.to_string(),
    };
    let mut finding = Diagnostic::new("P0101", span(file, error.position()), message);
    if unit_after_number(text, error.position()) {
        finding = finding.help("put number and unit in quotes, for example \"5m\"");
    } else if matches!(error.err_type(), ParseErrorType::ExprTooDeep) {
        finding = finding.help("give a part of the expression a name: let part = …");
    } else if wants_more(text, error) {
        finding = finding.help(INCOMPLETE);
    } else if matches!(error.err_type(), ParseErrorType::MissingToken(..)) {
        finding =
            finding.help("look for a bracket, a quote or a `,` that is missing before this place");
    }
    SyntaxError {
        finding,
        undefined: None,
    }
}

/// A finding if the file begins with a byte order mark.
pub(in crate::script) fn byte_order_mark(file: &str, text: &str) -> Option<Diagnostic> {
    text.starts_with('\u{feff}').then(|| {
        Diagnostic::new(
            "P0104",
            Span::new(file, 1, 1),
            "the file begins with a byte order mark",
        )
        .help("save it as UTF-8 without a byte order mark")
    })
}

/// A finding if the last statement has no `;`. Rhai accepts such a script, so a script that was truncated between two
/// modifiers would be planned without the rest of them.
pub(in crate::script) fn truncated(file: &str, text: &str) -> Option<Diagnostic> {
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
        .help(
            "add `;` at its end; if the end of the file is lost, install the role's package again",
        ),
    )
}

/// The finding for a variable that is not there.
fn undefined(span: Span, place: &Place<'_>, name: &str) -> SyntaxError {
    let declared = declared(place.text);
    if let Some(function) = place.function()
        && (CONSTANTS.contains(&name) || declared.contains(&name))
    {
        return SyntaxError {
            finding: hidden_variable(span, name, function),
            undefined: None,
        };
    }
    let finding = Diagnostic::new("P0101", span, format!("there is no variable `{name}`"));
    SyntaxError {
        finding: match closest(name, CONSTANTS.into_iter().chain(declared)) {
            Some(meant) if meant != name => finding.help(format!("did you mean `{meant}`?")),
            _ => finding,
        },
        undefined: Some(name.to_owned()),
    }
}

/// Names that the script declares with `let` or `const`.
fn declared(text: &str) -> Vec<&str> {
    let mut names = Vec::new();
    for line in text.lines() {
        let mut words = line
            .split(|c: char| !(c.is_alphanumeric() || c == '_'))
            .filter(|word| !word.is_empty());
        while let Some(word) = words.next() {
            if word == "let" || word == "const" {
                names.extend(words.next());
            }
        }
    }
    names
}

/// Whether the text ends inside an unfinished statement or string.
fn wants_more(text: &str, error: &ParseError) -> bool {
    let text = text.trim_end();
    let line = error.position().line().unwrap_or(usize::MAX);
    let column = error.position().position().unwrap_or(usize::MAX);
    let last = text.lines().last().unwrap_or_default().chars().count();
    let in_the_last_line = line >= text.lines().count();
    match error.err_type() {
        ParseErrorType::BadInput(LexError::UnterminatedString) => in_the_last_line,
        ParseErrorType::UnexpectedEOF | ParseErrorType::MissingToken(..) => {
            in_the_last_line && column > last
        }
        _ => false,
    }
}

/// A finding if the error is about a keyword that phase scripts cannot use.
fn left_out(file: &str, error: &ParseError) -> Option<Diagnostic> {
    let keyword = match error.err_type() {
        ParseErrorType::Reserved(keyword)
        | ParseErrorType::BadInput(LexError::ImproperSymbol(keyword, _)) => keyword,
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

/// A position in the text of a script.
struct Place<'a> {
    text: &'a str,
    /// The text before the position.
    before: &'a str,
    /// The text from the position on.
    after: &'a str,
}

impl<'a> Place<'a> {
    fn new(text: &'a str, position: Position) -> Self {
        let offset = position.line().map_or(text.len(), |line| {
            let column = position.position().unwrap_or(1);
            let lines = text.split_inclusive('\n').take(line - 1);
            let start: usize = lines.map(str::len).sum();
            let skipped = text[start..].chars().take(column - 1).map(char::len_utf8);
            start + skipped.sum::<usize>()
        });
        let (before, after) = text.split_at(offset);
        Self {
            text,
            before,
            after,
        }
    }

    /// A finding if what stands here is a frequent mistake.
    fn frequent(&self, file: &str, error: &ParseError) -> Option<Diagnostic> {
        let here = span(file, error.position());
        self.semicolon_in_chain(&here)
            .or_else(|| self.hash_comment(&here))
            .or_else(|| self.operator_as_word(&here))
            .or_else(|| self.map_without_hash(file))
    }

    /// A modifier after a `;`.
    fn semicolon_in_chain(&self, here: &Span) -> Option<Diagnostic> {
        if !self.after.starts_with('.') || self.after.starts_with("..") {
            return None;
        }
        let chain = code_end(self.before).strip_suffix(';')?;
        let line = chain.matches('\n').count() + 1;
        Some(
            Diagnostic::new(
                "P0101",
                here.clone(),
                format!("this modifier follows no word: a `;` ends the chain in line {line}"),
            )
            .help(format!("remove the `;` in line {line}")),
        )
    }

    /// A comment of a shell.
    fn hash_comment(&self, here: &Span) -> Option<Diagnostic> {
        let rest = self.after.strip_prefix('#')?;
        // These begin a map or a text.
        if rest.starts_with(['{', '"']) || rest.starts_with(" {") {
            return None;
        }
        Some(
            Diagnostic::new("P0101", here.clone(), "`#` does not begin a comment")
                .help("write `//`"),
        )
    }

    /// An operator as other languages write it.
    fn operator_as_word(&self, here: &Span) -> Option<Diagnostic> {
        let word = identifier(self.after);
        let (word, operator) = OPERATORS.iter().find(|(name, _)| *name == word)?;
        Some(
            Diagnostic::new(
                "P0101",
                here.clone(),
                format!("there is no operator `{word}`"),
            )
            .help(format!("write `{operator}`")),
        )
    }

    /// A map that begins with `{`: Rhai reads a block, and stops at its first key or at the `:` after it.
    fn map_without_hash(&self, file: &str) -> Option<Diagnostic> {
        let is_colon = |text: &str| {
            let text = text.trim_start();
            text.starts_with(':') && !text.starts_with("::")
        };
        let key = identifier(self.after);
        let before_key = if is_colon(self.after) {
            let before = self.before.trim_end();
            match before.strip_suffix('"') {
                Some(text) => text.rsplit_once('"')?.0,
                None => before.trim_end_matches(is_word),
            }
        } else if !key.is_empty() && is_colon(&self.after[key.len()..]) {
            self.before
        } else {
            return None;
        };
        let block = code_end(before_key).strip_suffix('{')?;
        if block.ends_with(['#', '$']) {
            return None;
        }
        let line = block.matches('\n').count() + 1;
        let column = block.chars().rev().take_while(|c| *c != '\n').count() + 1;
        Some(
            Diagnostic::new(
                "P0101",
                Span::new(file, line, column),
                "`{` does not begin a map",
            )
            .help("write `#{`"),
        )
    }

    /// The function of the script in which this is.
    fn function(&self) -> Option<&'a str> {
        let mut function = None;
        let mut depth = 0_usize;
        for line in self.before.lines() {
            let code = comment(line).map_or(line, |at| &line[..at]);
            let statement = code.trim_start();
            let statement = statement.strip_prefix("private ").unwrap_or(statement);
            if depth == 0
                && let Some(rest) = statement.strip_prefix("fn ")
            {
                function = Some(identifier(rest.trim_start()));
            }
            for c in code.chars() {
                match c {
                    '{' => depth += 1,
                    '}' => depth = depth.saturating_sub(1),
                    _ => {}
                }
            }
            if depth == 0 && code.contains('}') {
                function = None;
            }
        }
        function
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The name at the beginning of a text.
fn identifier(text: &str) -> &str {
    let end = text.find(|c: char| !is_word(c)).unwrap_or(text.len());
    &text[..end]
}

/// The text without blanks and comments at its end.
fn code_end(text: &str) -> &str {
    let mut code = text.trim_end();
    loop {
        let start = code.rfind('\n').map_or(0, |at| at + 1);
        match comment(&code[start..]) {
            Some(at) => code = code[..start + at].trim_end(),
            None => return code,
        }
    }
}

/// Where a `//` comment begins in a line.
fn comment(line: &str) -> Option<usize> {
    let mut quote = None;
    let mut previous = ' ';
    for (at, c) in line.char_indices() {
        match quote {
            Some(open) if c == open && previous != '\\' => quote = None,
            Some(_) => {}
            None if c == '"' || c == '`' => quote = Some(c),
            None if c == '/' && previous == '/' => return Some(at - 1),
            None => {}
        }
        previous = c;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(line: u16, column: u16) -> Position {
        Position::new(line, column)
    }

    #[test]
    fn comments_are_no_code() {
        assert_eq!(code_end("a(); // b; //\n  // c\n"), "a();");
        assert_eq!(code_end("a(\"https://b\")"), "a(\"https://b\")");
        assert_eq!(code_end("// a"), "");
    }

    #[test]
    fn a_function_ends_with_its_block() {
        let text = "fn f(a) {\n    if a { 1 }\n    kube\n}\nkube\nfn g() { 1 }\nkube\n";
        assert_eq!(Place::new(text, at(3, 5)).function(), Some("f"));
        assert_eq!(Place::new(text, at(5, 1)).function(), None);
        assert_eq!(Place::new(text, at(7, 1)).function(), None);
    }

    #[test]
    fn a_block_is_no_map() {
        let is_found = |text: &str, column| {
            let place = Place::new(text, at(1, column));
            place.map_without_hash("a.rhai").is_some()
        };
        assert!(is_found("x.vars({ name: 1 })", 10));
        assert!(is_found("x.vars({ name: 1 })", 14));
        assert!(is_found("x.vars({ \"name\": 1 })", 16));
        assert!(!is_found("x.vars(#{ name: 1 })", 15));
        assert!(!is_found("if a { b::c }", 8));
    }
}
