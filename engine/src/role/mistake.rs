//! Mistakes in `role.yaml` that the YAML library finds: its message in the words of this project, and what to write instead.

use crate::model::{Diagnostic, Span, closest};

/// The finding for an error of the YAML library.
pub(super) fn mistake(error: &serde_yaml::Error) -> Diagnostic {
    let (line, column) = error
        .location()
        .map_or((1, 0), |at| (at.line(), at.column()));
    let text = error.to_string();
    // The span has the position.
    let text = text.split(" at line ").next().unwrap_or(&text);
    let (message, help) = explained(text);
    let finding = Diagnostic::new("P0601", Span::new("role.yaml", line, column), message);
    match help {
        Some(help) => finding.help(help),
        None => finding,
    }
}

/// A message of the library in our words, and help. The message may begin with the path to the key.
fn explained(text: &str) -> (String, Option<String>) {
    let parts = |phrase: &str| {
        let (path, rest) = text.split_once(phrase)?;
        let (name, rest) = rest.split_once('`').unwrap_or((rest, ""));
        (path.is_empty() || path.ends_with(": ")).then_some((path, name, rest))
    };
    if let Some((path, key, _)) = parts("missing field `") {
        let message = format!("{path}the key `{key}` is missing");
        return (message, Some(addition(key)));
    }
    if let Some((path, key, _)) = parts("duplicate field `") {
        let message = format!("{path}the key `{key}` is there twice");
        return (message, Some("remove one of the two".to_owned()));
    }
    if let Some((path, key, known)) = parts("unknown field `") {
        return (
            format!("{path}there is no key `{key}`"),
            Some(one_of(key, known)),
        );
    }
    if let Some((path, value, known)) = parts("unknown variant `") {
        let message = format!("{path}the value `{value}` is not possible here");
        return (message, Some(one_of(value, known)));
    }
    let lost = "if the end of the file is lost, install the role's package again";
    let help = if let Some((path, _)) = text.split_once("invalid type: ") {
        let key = path.trim_end_matches(": ");
        example(key).map(|example| format!("write it as in `{example}`"))
    } else if text.contains("could not find expected ':'") {
        Some(format!("write a key as `KEY: VALUE`; {lost}"))
    } else if text.contains("unexpected end of stream") {
        Some(format!("close the bracket or the quote; {lost}"))
    } else {
        None
    };
    (text.to_owned(), help)
}

/// How a key is written.
fn example(key: &str) -> Option<&'static str> {
    Some(match key {
        "version" => "version: 1",
        "name" => "name: chrony",
        "release" => "release: 1.0.0",
        "about" => "about: What the role makes of a host.",
        "nodes" => "nodes: {master: [my-phase]}",
        "payload" => "payload: []",
        "type" => "type: text",
        "doc" => "doc: What the parameter decides.",
        _ => return None,
    })
}

/// How a missing key is written.
fn addition(key: &str) -> String {
    let Some(example) = example(key) else {
        return format!("add `{key}: …`");
    };
    // `payload` is the last key, so a file that has lost its end has lost it.
    let lost = if key == "payload" {
        "; if the end of the file is lost, install the role's package again"
    } else {
        ""
    };
    format!("add it, for example `{example}`{lost}")
}

/// A suggestion from the names in a text such as ", expected one of `a`, `b`".
fn one_of(written: &str, known: &str) -> String {
    let names: Vec<&str> = known.split('`').skip(1).step_by(2).collect();
    match closest(written, names.iter().copied()) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("write one of these: {}", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_the_library_are_explained() {
        for (text, message, help) in [
            (
                "missing field `release`",
                "the key `release` is missing",
                "add it, for example `release: 1.0.0`",
            ),
            (
                "parameters.size: missing field `doc`",
                "parameters.size: the key `doc` is missing",
                "add it, for example `doc: What the parameter decides.`",
            ),
            (
                "duplicate field `name`",
                "the key `name` is there twice",
                "remove one of the two",
            ),
            (
                "unknown field `paylod`, expected one of `version`, `payload`",
                "there is no key `paylod`",
                "did you mean `payload`?",
            ),
            (
                "parameters.size.type: unknown variant `number`, expected one of `text`, `bool`",
                "parameters.size.type: the value `number` is not possible here",
                "write one of these: text, bool",
            ),
        ] {
            let expected = (message.to_owned(), Some(help.to_owned()));
            assert_eq!(explained(text), expected);
        }
        let list = "nodes: invalid type: sequence, expected a map";
        let help = "write it as in `nodes: {master: [my-phase]}`";
        assert_eq!(explained(list), (list.to_owned(), Some(help.to_owned())));
        let other = "nodes.master: invalid type: string \"a\", expected a sequence";
        assert_eq!(explained(other), (other.to_owned(), None));
    }
}
