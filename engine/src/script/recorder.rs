//! Records the words of a script, before `lower` gives them their meaning.
//!
//! Words and modifiers only record their arguments and positions. A wrong argument is recorded as a finding and its
//! modifier is dropped, so one run of a script finds every mistake in it.

use super::interpolation;
use super::remedy::{command_in_one_item, remedy, split_command};
use super::vocabulary::{Arg, Modifier, Param, TextKind, Word, WordKind};
use crate::model::{Diagnostic, Span, Value};

/// Index of a recorded word.
pub(super) type CallId = usize;

/// Where the steps of a script go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// Converged by an apply, in order.
    Steps,
    /// Run on stop.
    Stop,
    /// Run on rollback.
    Rollback,
    /// Run on clean.
    Clean,
}

/// An argument.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Argument {
    /// A value.
    Value(Value),
    /// Steps.
    Steps(Vec<CallId>),
    /// The value of an expression with a mistake. The mistake is reported, so this fits each type.
    Unknown,
}

impl Argument {
    pub(super) fn value(&self) -> Option<&Value> {
        match self {
            Self::Value(value) => Some(value),
            Self::Steps(_) | Self::Unknown => None,
        }
    }
}

/// A recorded word with its modifiers.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) word: &'static Word,
    pub(super) args: Vec<Argument>,
    pub(super) span: Span,
    pub(super) lane: Lane,
    pub(super) options: Vec<RecordedOption>,
    /// What is wrong with its arguments. Reported only if no `.when(false)` leaves the word out.
    pub(super) findings: Vec<Diagnostic>,
    /// Whether a mistake that is reported elsewhere left out a part of it: what seems to be missing may be in the script.
    pub(super) incomplete: bool,
}

/// A recorded modifier.
#[derive(Debug)]
pub(super) struct RecordedOption {
    pub(super) modifier: &'static Modifier,
    pub(super) args: Vec<Argument>,
    pub(super) span: Span,
}

/// What one script has recorded so far.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    pub(super) file: String,
    pub(super) calls: Vec<Call>,
    pub(super) findings: Vec<Diagnostic>,
    /// Findings that hold even if the phase is skipped. A wrong comparison may be the reason why it is skipped.
    pub(super) in_any_case: Vec<Diagnostic>,
    /// Names of secrets in the script, and where they are.
    pub(super) secrets: Vec<(String, Span)>,
    /// Whether the script has a mistake that gives an unknown value.
    pub(super) has_unknown: bool,
    lane: Option<Lane>,
}

impl Recorder {
    /// Begins a script.
    pub(super) fn new(file: &str) -> Self {
        Self {
            file: file.to_owned(),
            ..Self::default()
        }
    }

    pub(super) fn span(&self, position: rhai::Position) -> Span {
        Span::new(
            self.file.as_str(),
            position.line().unwrap_or(0),
            position.position().unwrap_or(0),
        )
    }

    pub(super) fn find(&mut self, finding: Diagnostic) {
        self.findings.push(finding);
    }

    /// A finding that holds even if the phase is skipped.
    pub(super) fn find_in_any_case(&mut self, finding: Diagnostic) {
        self.in_any_case.push(finding);
    }

    /// Whether the script has named its phase.
    pub(super) fn has_header(&self) -> bool {
        self.calls
            .iter()
            .any(|call| call.word.kind() == WordKind::Header)
    }

    /// Enters a lane and returns the previous one.
    pub(super) fn enter(&mut self, lane: Lane) -> Option<Lane> {
        self.lane.replace(lane)
    }

    /// Goes back to the previous lane.
    pub(super) fn leave(&mut self, before: Option<Lane>) {
        self.lane = before;
    }

    /// Records a word.
    pub(super) fn word(&mut self, word: &'static Word, args: Vec<Argument>, span: Span) -> CallId {
        self.calls.push(Call {
            word,
            findings: problems(word.name, word.params, &args, &span),
            incomplete: args.contains(&Argument::Unknown),
            args,
            span,
            lane: self.lane.unwrap_or(Lane::Steps),
            options: Vec::new(),
        });
        self.calls.len() - 1
    }

    /// Records a modifier.
    pub(super) fn modify(
        &mut self,
        id: CallId,
        modifier: &'static Modifier,
        args: Vec<Argument>,
        span: Span,
    ) {
        let shown = format!(".{}", modifier.name);
        let problems = problems(&shown, modifier.params, &args, &span);
        let call = &mut self.calls[id];
        call.incomplete |= args.contains(&Argument::Unknown);
        if !problems.is_empty() {
            call.findings.extend(problems);
            return;
        }
        let before = call
            .options
            .iter()
            .find(|o| o.modifier.name == modifier.name);
        if let (Some(before), false) = (before, modifier.repeatable) {
            let first = before.span.line;
            call.findings.push(
                Diagnostic::new("P0205", span, format!("`{shown}` appears twice"))
                    .help(format!("line {first} has it, too; remove one of the two")),
            );
            return;
        }
        call.options.push(RecordedOption {
            modifier,
            args,
            span,
        });
    }
}

/// Findings for arguments of the wrong type, and for empty lists. `name` is the word, or the modifier with its dot.
fn problems(name: &str, params: &[Param], args: &[Argument], span: &Span) -> Vec<Diagnostic> {
    let one = |(param, argument): (&Param, &Argument)| {
        let value = argument.value();
        let unprintable = value.and_then(|value| unprintable(param, value));
        if let Some((text, letter)) = unprintable {
            let shown = quote(&Value::Text(text.to_owned()));
            let message = format!("`{name}` gets the control character {letter:?} in {shown}");
            let help = if letter == '\n' {
                "write the text in one line: reports show it as it is"
            } else {
                "remove this character: reports show the text as it is, and a terminal would obey it"
            };
            return Some(Diagnostic::new("P0334", span.clone(), message).help(help));
        }
        let unreplaced =
            value.and_then(|value| interpolation::unreplaced(name, param, value, span));
        if unreplaced.is_some() {
            return unreplaced;
        }
        if let Some(text) = command_in_one_item(param, argument) {
            return Some(
                Diagnostic::new(
                    "P0370",
                    span.clone(),
                    format!(
                        "`{name}` gets a program and its arguments as one text, {text:?}, and no shell splits it"
                    ),
                )
                .help(format!("write {}", split_command(name, text))),
            );
        }
        let which = if params.len() == 1 {
            String::new()
        } else {
            format!(" as its {}", param.name)
        };
        if let Some((kind, none)) = value.and_then(|value| empty(param, value)) {
            let message = format!("`{name}` gets an empty {kind}{which}, which says nothing");
            return Some(Diagnostic::new("P0353", span.clone(), message).help(format!(
                "name at least one item, or remove `{name}`; if a setting gives the {kind}, `if {kind} != {none} {{ … }}` leaves it out"
            )));
        }
        let problem = accepts(param.arg, argument).err()?;
        let message = format!(
            "`{name}` takes {}{which}, not {problem}",
            param.arg.describe()
        );
        let finding = Diagnostic::new("P0301", span.clone(), message);
        Some(match remedy(name, param, argument) {
            Some(remedy) => finding.help(remedy),
            None => finding,
        })
    };
    params.iter().zip(args).filter_map(one).collect()
}

/// For an empty list or map that must not be empty: what it is, and how it is written. An empty list would be taken for a condition that
/// always holds, or for a modifier that is not there.
fn empty(param: &Param, value: &Value) -> Option<(&'static str, &'static str)> {
    // A list that names no program has a finding of its own.
    if param.text == TextKind::Command {
        return None;
    }
    match (param.arg, value) {
        (Arg::Texts | Arg::Paths | Arg::Addresses | Arg::Ports, Value::List(items))
            if items.is_empty() =>
        {
            Some(("list", "[]"))
        }
        (Arg::Map, Value::Map(fields)) if fields.is_empty() => Some(("map", "#{}")),
        _ => None,
    }
}

/// The first text of an argument that has a control character which texts of its kind must not have, and this character. Maps are not
/// judged.
fn unprintable<'v>(param: &Param, value: &'v Value) -> Option<(&'v str, char)> {
    let legal = param.text.control_characters()?;
    let is_wrong = |letter: &char| letter.is_control() && !legal.contains(letter);
    let first = |text: &'v str| Some((text, text.chars().find(is_wrong)?));
    match (param.arg, value) {
        (Arg::Text | Arg::AnyText | Arg::Path, Value::Text(text)) => first(text),
        (Arg::Texts | Arg::AnyTexts | Arg::Paths, Value::List(items)) => {
            items.iter().find_map(|item| match item {
                Value::Text(text) => first(text),
                _ => None,
            })
        }
        _ => None,
    }
}

/// Whether an argument has the type; otherwise the argument as text, for the message.
fn accepts(arg: Arg, argument: &Argument) -> Result<(), String> {
    let value = match (arg, argument) {
        (Arg::Steps, Argument::Steps(_)) | (_, Argument::Unknown) => return Ok(()),
        (_, Argument::Steps(_)) => return Err("a step".to_owned()),
        (_, Argument::Value(value)) => value,
    };
    let fits = match (arg, value) {
        (Arg::Text, Value::Text(text)) => !text.is_empty() && !text.contains('\0'),
        (Arg::AnyText, Value::Text(text)) => !text.contains('\0'),
        (Arg::Path, Value::Text(text)) => is_clean_path(text),
        (Arg::Mode, Value::Text(text)) => parse_mode(text).is_some(),
        // Of zero duration, a timeout fails at once and a pause is none.
        (Arg::Duration, Value::Text(text)) => {
            parse_duration(text).is_some_and(|duration| !duration.is_zero())
        }
        (Arg::Size, Value::Text(text)) => parse_size(text).is_some(),
        (Arg::Address, Value::Text(text)) => text.parse::<std::net::IpAddr>().is_ok(),
        (Arg::Integer(least), Value::Integer(n)) => n >= &least,
        (Arg::Between(least, most), Value::Integer(n)) => (least..=most).contains(n),
        (Arg::Bool, Value::Bool(_))
        | (Arg::Map, Value::Map(_))
        | (Arg::AnyList, Value::List(_)) => true,
        (Arg::Texts | Arg::AnyTexts, Value::List(items)) => {
            items.iter().all(|item| matches!(item, Value::Text(_)))
        }
        (Arg::Paths, Value::List(items)) => items
            .iter()
            .all(|item| matches!(item, Value::Text(text) if is_clean_path(text))),
        (Arg::Addresses, Value::List(items)) => items
            .iter()
            .all(|item| matches!(item, Value::Text(t) if t.parse::<std::net::IpAddr>().is_ok())),
        (Arg::Ports, Value::List(items)) => items
            .iter()
            .all(|item| matches!(item, Value::Integer(1..=65535))),
        (Arg::Steps, Value::List(items)) => items.is_empty(),
        _ => false,
    };
    if fits { Ok(()) } else { Err(quote(value)) }
}

/// A value for a message, shortened.
fn quote(value: &Value) -> String {
    let text = match value {
        Value::Null => return "nothing".to_owned(),
        Value::Text(text) => format!("{text:?}"),
        Value::Secret(secret) => format!("the secret {:?}", secret.0),
        Value::Output(output) => format!("the output {:?} of a step", output.field),
        other => other.to_string(),
    };
    if text.chars().count() > 60 {
        format!("{}…", text.chars().take(57).collect::<String>())
    } else {
        text
    }
}

/// Absolute, without `..`, `.` or doubled slashes. Otherwise two spellings of one path would be two steps.
pub(super) fn is_clean_path(text: &str) -> bool {
    text.starts_with('/')
        && !text.contains('\0')
        && text.len() < 4096
        && (text == "/"
            || text[1..]
                .split('/')
                .all(|part| !part.is_empty() && part != "." && part != ".."))
}

/// Octal permission bits with a leading zero: `"700"` and `"0700"` should not both be possible.
pub(super) fn parse_mode(text: &str) -> Option<u32> {
    let digits = text.strip_prefix('0')?;
    (digits.len() == 3 || digits.len() == 4).then(|| u32::from_str_radix(digits, 8).ok())?
}

/// A duration with units, at most a hundred years.
pub(super) fn parse_duration(text: &str) -> Option<std::time::Duration> {
    let duration = humantime::parse_duration(text).ok()?;
    (duration.as_secs() < 3_200_000_000).then_some(duration)
}

/// Bytes with a unit of K, M, G or T in powers of 1024.
pub(super) fn parse_size(text: &str) -> Option<u64> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let shift = match unit {
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_shl(shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_need_a_leading_zero() {
        assert_eq!(parse_mode("0700"), Some(0o700));
        assert_eq!(parse_mode("04755"), Some(0o4755));
        for wrong in ["700", "0o700", "0789", "", "0", "07"] {
            assert_eq!(parse_mode(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn paths_are_absolute_and_plain() {
        assert!(is_clean_path("/etc/pf9"));
        for wrong in ["etc", "/etc/", "/etc//pf9", "/etc/../root", "/./etc", ""] {
            assert!(!is_clean_path(wrong), "{wrong}");
        }
    }

    #[test]
    fn control_characters_are_refused_in_what_is_shown() {
        use TextKind::{Command, Content, KernelValue, Output, Plain, UnitName};
        let wrong = |arg: Arg, kind: TextKind, text: &str| {
            let param = Param {
                name: "text",
                arg,
                text: kind,
            };
            let value = match arg {
                Arg::Texts | Arg::Paths => Value::List(vec![Value::from("good"), text.into()]),
                _ => Value::from(text),
            };
            let argument = [Argument::Value(value)];
            let found = problems("word", &[param], &argument, &Span::new("a.rhai", 1, 1));
            found.iter().any(|finding| {
                assert!(!finding.message.contains(char::is_control));
                finding.code == "P0334"
            })
        };
        assert!(wrong(Arg::Path, Plain, "/etc/a\nb"));
        assert!(wrong(Arg::Paths, Plain, "/etc/a\tb"));
        assert!(wrong(Arg::Text, Plain, "x\u{1b}[31m"));
        assert!(wrong(Arg::Text, Plain, "x\n  FAKE"));
        assert!(wrong(Arg::AnyText, Plain, "a\tb"));
        assert!(wrong(Arg::Texts, Command, "a\u{9b}31m"));
        assert!(wrong(Arg::Text, Output, "a\u{1b}b"));
        assert!(wrong(Arg::Text, KernelValue, "1\n2"));
        assert!(!wrong(Arg::Text, KernelValue, "1\t2"));
        assert!(!wrong(Arg::Texts, Command, "a\n\tb"));
        assert!(!wrong(Arg::Text, Output, "a\nb"));
        assert!(!wrong(Arg::AnyText, Content, "a\u{1b}b\n"));
        assert!(!wrong(Arg::Text, UnitName, "etcd\n"));
        assert!(!wrong(Arg::Text, Plain, "größer – als 1"));
    }

    #[test]
    fn only_some_lists_and_maps_may_be_empty() {
        let codes = |arg: Arg, text: TextKind, value: Value| -> Vec<&'static str> {
            let param = Param {
                name: "items",
                arg,
                text,
            };
            let argument = [Argument::Value(value)];
            let found = problems("word", &[param], &argument, &Span::new("a.rhai", 1, 1));
            found.iter().map(|finding| finding.code).collect()
        };
        let list = || Value::List(Vec::new());
        let map = || Value::Map(std::collections::BTreeMap::new());
        for arg in [Arg::Texts, Arg::Paths, Arg::Addresses, Arg::Ports] {
            assert_eq!(codes(arg, TextKind::Plain, list()), ["P0353"], "{arg:?}");
            assert_eq!(codes(arg, TextKind::Plain, map()), ["P0301"], "{arg:?}");
        }
        assert_eq!(codes(Arg::Map, TextKind::Plain, map()), ["P0353"]);
        assert_eq!(codes(Arg::Map, TextKind::Plain, list()), ["P0301"]);
        for arg in [Arg::AnyTexts, Arg::AnyList, Arg::Steps] {
            assert!(codes(arg, TextKind::Plain, list()).is_empty(), "{arg:?}");
            let text = Value::from("10.0.0.2");
            assert_eq!(codes(arg, TextKind::Plain, text), ["P0301"], "{arg:?}");
        }
        // `lower` says that such a list names no program.
        assert!(codes(Arg::Texts, TextKind::Command, list()).is_empty());
    }

    #[test]
    fn sizes_are_binary() {
        assert_eq!(parse_size("2G"), Some(2 << 30));
        assert_eq!(parse_size("2"), None);
        assert_eq!(parse_size("2GB"), None);
    }
}
