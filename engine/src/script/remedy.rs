//! Help for arguments of the wrong type: what to write instead, with the author's own text.

use super::recorder::{Argument, is_clean_path, parse_duration};
use super::vocabulary::{Arg, Param, TextKind};
use crate::model::Value;

/// Help for the most frequent mistakes. `name` is the word, or the modifier with its dot.
pub(super) fn remedy(name: &str, param: &Param, argument: &Argument) -> Option<String> {
    match (param.arg, argument.value()?) {
        (Arg::Mode, Value::Integer(_)) => Some(
            "write it in quotes, with a leading zero: without quotes it is a decimal number"
                .to_owned(),
        ),
        (Arg::Mode, Value::Text(text)) if text.parse::<u16>().is_ok() => Some(mode(text)),
        (Arg::AnyText, Value::Secret(_) | Value::Output(_)) => Some(
            "its value is known only when the plan runs: write the text as a template, and give the value to it with .vars(#{ value: … })"
                .to_owned(),
        ),
        (Arg::Text, Value::Secret(_) | Value::Output(_)) => Some(
            "its value is known only when the plan runs: only `.vars` of a template and `.values` of an `env_file` accept it"
                .to_owned(),
        ),
        (Arg::Text | Arg::AnyText, Value::Integer(number)) if name != "phase" => {
            Some(format!("write it in quotes: \"{number}\""))
        }
        (Arg::Text | Arg::AnyText, Value::Integer(_)) => {
            Some("write the name of the file without `.rhai`, in quotes".to_owned())
        }
        (Arg::Text | Arg::AnyText | Arg::Path, Value::List(items)) => Some(match items.len() {
            1 => "remove the brackets: one text is expected, not a list".to_owned(),
            _ => "write one text; a `for` loop repeats the word for each item of a list".to_owned(),
        }),
        (Arg::AnyList, Value::Text(_) | Value::Integer(_) | Value::Map(_)) => {
            Some("write a list: [] if there is none, or the items in brackets".to_owned())
        }
        (Arg::Texts, Value::Text(text)) if is_command(param, text) => {
            Some(format!("write {}", split_command(name, text)))
        }
        (Arg::Texts | Arg::AnyTexts, Value::Text(text)) => Some(format!(
            "put it in brackets, because a list may have one item: [{text:?}]"
        )),
        (Arg::Integer(least), Value::Integer(_)) => Some(format!("write at least {least}")),
        (Arg::Between(least, most), Value::Integer(_)) => {
            Some(format!("write a number from {least} to {most}"))
        }
        (Arg::Integer(_) | Arg::Between(..), Value::Text(text))
            if text.parse::<i64>().is_ok() =>
        {
            Some(format!("write it without quotes: {text}"))
        }
        (Arg::Bool, Value::Text(text)) if text == "true" || text == "false" => {
            Some(format!("write it without quotes: {text}"))
        }
        (Arg::Bool, Value::Text(_) | Value::Integer(_)) => Some(
            "write true, false or a comparison, for example kube.KUBE_PROXY_MODE == \"ipvs\""
                .to_owned(),
        ),
        (Arg::Duration, Value::Text(text)) if parse_duration(text).is_some() => {
            Some("it must be longer than zero".to_owned())
        }
        (Arg::Duration, Value::Text(text)) if text.parse::<u32>().is_ok() => {
            Some(format!("write it with its unit, for example \"{text}s\""))
        }
        (Arg::Duration, Value::Text(_)) => Some(
            "write a number with one of the units ms, s, m and h, for example \"30s\"".to_owned(),
        ),
        (Arg::Duration, Value::Integer(number)) if *number > 0 => Some(format!(
            "write it in quotes and with its unit, for example \"{number}s\""
        )),
        (Arg::Size, Value::Text(text)) => Some(size(text)),
        (Arg::Path, Value::Text(text)) => Some(path(name, text)),
        (Arg::Paths, Value::Text(text)) => Some(if is_clean_path(text) {
            format!("put it in brackets, because a list may have one item: [{text:?}]")
        } else {
            path(name, text)
        }),
        (Arg::Paths, Value::List(items)) => items.iter().find_map(|item| match item {
            Value::Text(text) if !is_clean_path(text) => Some(path(name, text)),
            _ => None,
        }),
        (Arg::Steps, Value::Text(text)) => Some(steps(name, text)),
        _ => None,
    }
}

/// What to write instead of digits that are no mode.
fn mode(text: &str) -> String {
    match text.chars().find(|c| !c.is_digit(8)) {
        Some(digit) => format!("{digit} is not an octal digit: each digit is from 0 to 7"),
        None if matches!(text.len(), 3 | 4) && !text.starts_with('0') => {
            format!("write it with a leading zero: \"0{text}\"")
        }
        None => "write three or four digits after a leading zero, for example \"0644\"".to_owned(),
    }
}

/// What to write instead of a text that is no size.
fn size(text: &str) -> String {
    let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
    let unit = text[digits.len()..].trim_start().chars().next();
    let unit = unit.map(|unit| unit.to_ascii_uppercase());
    match unit {
        Some(unit @ ('K' | 'M' | 'G' | 'T'))
            if digits.parse::<u64>().is_ok() && format!("{digits}{unit}") != text =>
        {
            format!("write \"{digits}{unit}\"")
        }
        _ => "write a whole number and one of the units K, M, G and T, for example \"1500M\""
            .to_owned(),
    }
}

/// What to write instead of a path that is relative or makes detours.
fn path(name: &str, text: &str) -> String {
    let Some(clean) = cleaned(text) else {
        return "write a path that begins with `/`, for example \"/etc/example\"".to_owned();
    };
    // These name files of the payload.
    if matches!(name, ".payload" | ".archive") && !text.starts_with('/') {
        return format!("write `${{role.payload}}{clean}` in backticks");
    }
    format!("write \"{clean}\"")
}

/// The absolute path that an author probably means.
fn cleaned(text: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    let path = format!("/{}", parts.join("/"));
    let is_likely = !parts.is_empty() && !text.starts_with('~');
    (is_likely && is_clean_path(&path)).then_some(path)
}

/// What to write instead of a text where a step is expected.
fn steps(name: &str, text: &str) -> String {
    let mut help =
        format!("name the step with `let`, and pass that name: let made = …; and {name}(made)");
    if name == ".restart_on" && is_clean_path(text) {
        help.push_str(&format!(
            "; for a file of another phase, write .reads([{text:?}])"
        ));
    }
    help
}

/// Whether a text is a command with arguments, where a list of program and arguments is expected.
fn is_command(param: &Param, text: &str) -> bool {
    param.text == TextKind::Command && text.split_whitespace().nth(1).is_some()
}

/// The text of a list that has a command with its arguments in a single item.
pub(super) fn command_in_one_item<'a>(param: &Param, argument: &'a Argument) -> Option<&'a str> {
    let Value::List(items) = argument.value()? else {
        return None;
    };
    match items.as_slice() {
        [Value::Text(text)] if is_command(param, text) => Some(text.as_str()),
        _ => None,
    }
}

/// A command as a list of its words.
pub(super) fn split_command(name: &str, text: &str) -> String {
    let words: Vec<String> = text
        .split_whitespace()
        .map(|word| format!("{word:?}"))
        .collect();
    format!("{name}([{}])", words.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_suggested_without_detours() {
        for (written, meant) in [
            ("etc/pf9", Some("/etc/pf9")),
            ("/etc/pf9/", Some("/etc/pf9")),
            ("/etc/../root", Some("/root")),
            ("/etc//./pf9", Some("/etc/pf9")),
            ("~/pf9", None),
            ("", None),
            ("..", None),
        ] {
            assert_eq!(cleaned(written).as_deref(), meant, "{written}");
        }
        assert_eq!(
            path(".archive", "images/a.tar"),
            "write `${role.payload}/images/a.tar` in backticks"
        );
    }

    #[test]
    fn modes_and_sizes_are_suggested_in_the_form_that_is_accepted() {
        assert_eq!(mode("755"), "write it with a leading zero: \"0755\"");
        assert!(mode("0888").starts_with("8 is not an octal digit"));
        assert_eq!(size("2GB"), "write \"2G\"");
        assert_eq!(size("512 m"), "write \"512M\"");
        for text in ["2", "G", "1.5G", "99999999999999999999G", ""] {
            assert!(size(text).starts_with("write a whole number"), "{text}");
        }
    }
}
