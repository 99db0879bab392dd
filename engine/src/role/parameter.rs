//! A typed parameter of a role: what `role.yaml` says of it, its default, and the value that the text of a setting stands for. Pure; the
//! callers add positions.

use serde::{Deserialize, Serialize};

use crate::env::Refusal;
use crate::model::{Value, closest};

/// Longest name, in bytes.
const NAME_BYTES: usize = 64;

/// A typed parameter of a role.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameter {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: ParameterKind,
    /// Its value where no setting gives one. A parameter with `required` may have none.
    #[serde(default)]
    pub default: serde_json::Value,
    /// Least value of a number.
    #[serde(default)]
    pub least: Option<i64>,
    /// Greatest value of a number.
    #[serde(default)]
    pub most: Option<i64>,
    /// The texts that it accepts; empty for any text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<String>,
    /// Whether the text or list must not be empty.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
    /// Whether its value must never be shown: scripts get a reference to it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub secret: bool,
    /// What it decides.
    pub doc: String,
}

/// Type of a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ParameterKind {
    /// Text.
    Text,
    /// A whole number.
    Integer,
    /// True or false.
    Bool,
    /// A list of texts.
    Texts,
}

/// Whether a parameter can have this name: its setting is `ROLE_` and the name in upper case, and scripts read `role.NAME`.
pub(super) fn is_parameter_name(name: &str) -> bool {
    let fits = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_');
    name.len() <= NAME_BYTES
        && name.bytes().all(fits)
        && name.starts_with(|first: char| first.is_ascii_lowercase())
}

/// Whether a value is the empty text or list.
pub(super) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Text(text) => text.is_empty(),
        Value::List(items) => items.is_empty(),
        _ => false,
    }
}

impl Parameter {
    /// What does not fit together in the declaration.
    pub(super) fn contradiction(&self) -> Option<&'static str> {
        let is_text = matches!(self.kind, ParameterKind::Text | ParameterKind::Texts);
        let has_bounds = self.least.is_some() || self.most.is_some();
        if has_bounds && self.kind != ParameterKind::Integer {
            Some("`least` and `most` are for the type integer")
        } else if self.least.zip(self.most).is_some_and(|(a, b)| a > b) {
            Some("`least` is greater than `most`")
        } else if !self.choices.is_empty() && !is_text {
            Some("`choices` is for the types text and texts")
        } else if self.required && !is_text {
            Some("`required` is for the types text and texts; a number always has a value")
        } else if self.secret && self.kind != ParameterKind::Text {
            Some("`secret` is for the type text")
        } else if self.secret && !self.choices.is_empty() {
            Some("a secret has no `choices`: role.yaml would show them")
        } else if self.secret && !matches!(self.default.as_str(), None | Some("")) {
            Some("a secret has no default but `\"\"`: role.yaml would show it")
        } else {
            None
        }
    }

    /// The default as a value, if it has the parameter's type.
    pub(super) fn default_value(&self) -> Result<Value, String> {
        use serde_json::Value as Json;
        let value = match (self.kind, &self.default) {
            (ParameterKind::Text, Json::Null) if self.required => Value::from(""),
            (ParameterKind::Texts, Json::Null) if self.required => Value::List(Vec::new()),
            (_, Json::Null) => {
                return Err(
                    "`default` is missing, and only a `text` or `texts` with `required: true` may be without it"
                        .to_owned(),
                );
            }
            (ParameterKind::Text, Json::String(text)) => Value::Text(text.clone()),
            (ParameterKind::Bool, Json::Bool(b)) => Value::Bool(*b),
            (ParameterKind::Integer, Json::Number(number)) => {
                let n = number.as_i64().ok_or("`default` is not a whole number")?;
                if !self.holds(n) {
                    return Err(format!(
                        "`default` is {n}, which `least` and `most` exclude"
                    ));
                }
                Value::Integer(n)
            }
            (ParameterKind::Texts, Json::Array(items)) => items
                .iter()
                .map(|item| {
                    item.as_str()
                        .map(Value::from)
                        .ok_or_else(|| format!("`default` has the item {item}, which is not text"))
                })
                .collect::<Result<_, _>>()
                .map(Value::List)?,
            (kind, other) => {
                let kind = format!("{kind:?}").to_lowercase();
                return Err(format!(
                    "`default` is {other}, which is not of the type `{kind}`"
                ));
            }
        };
        match self.stranger(&value) {
            Some(text) => Err(format!(
                "`default` has `{text}`, which `choices` does not list"
            )),
            None => Ok(value),
        }
    }

    /// The value that the text of a setting stands for.
    pub(super) fn parse(&self, text: &str) -> Result<Value, Refusal> {
        let value = match self.kind {
            ParameterKind::Text => Some(Value::from(text)),
            ParameterKind::Bool => text.parse::<bool>().ok().map(Value::Bool),
            ParameterKind::Integer => number(text).filter(|n| self.holds(*n)).map(Value::Integer),
            ParameterKind::Texts => {
                let items = text.split(|c: char| c == ',' || c.is_whitespace());
                let items = items.filter(|item| !item.is_empty());
                Some(Value::List(items.map(Value::from).collect()))
            }
        };
        let refusal = |help| Refusal {
            expected: self.expected(),
            help,
        };
        let value = value.ok_or_else(|| refusal(None))?;
        match self.stranger(&value) {
            Some(text) => {
                let meant = closest(text, self.choices.iter().map(String::as_str));
                Err(refusal(meant.map(|it| format!("did you mean `{it}`?"))))
            }
            None => Ok(value),
        }
    }

    /// What a setting of it may be; completes "expected …".
    fn expected(&self) -> String {
        let choices: Vec<String> = self.choices.iter().map(|one| format!("`{one}`")).collect();
        let choices = choices.join(", ");
        match (self.kind, self.least, self.most) {
            (ParameterKind::Integer, Some(least), Some(most)) => {
                format!("a whole number ({least}-{most})")
            }
            (ParameterKind::Integer, Some(least), None) => {
                format!("a whole number of at least {least}")
            }
            (ParameterKind::Integer, None, Some(most)) => {
                format!("a whole number of at most {most}")
            }
            (ParameterKind::Integer, None, None) => "a whole number".to_owned(),
            (ParameterKind::Bool, ..) => "`true` or `false`".to_owned(),
            (ParameterKind::Text, ..) if choices.is_empty() => "text".to_owned(),
            (ParameterKind::Text, ..) => format!("one of {choices}"),
            (ParameterKind::Texts, ..) if choices.is_empty() => {
                "texts with commas between them".to_owned()
            }
            (ParameterKind::Texts, ..) => format!("some of {choices}, with commas between them"),
        }
    }

    fn holds(&self, number: i64) -> bool {
        self.least.is_none_or(|least| number >= least)
            && self.most.is_none_or(|most| number <= most)
    }

    /// The first text that is none of the choices. An empty required text is reported as empty instead.
    fn stranger<'a>(&self, value: &'a Value) -> Option<&'a str> {
        if self.choices.is_empty() {
            return None;
        }
        let is_stranger = |text: &str| {
            let is_empty = self.required && text.is_empty();
            !is_empty && !self.choices.iter().any(|one| one == text)
        };
        match value {
            Value::Text(text) => Some(text.as_str()).filter(|text| is_stranger(text)),
            Value::List(items) => items.iter().find_map(|item| match item {
                Value::Text(text) => Some(text.as_str()).filter(|text| is_stranger(text)),
                _ => None,
            }),
            _ => None,
        }
    }
}

/// A decimal whole number, written in the one way in which a program prints it.
fn number(text: &str) -> Option<i64> {
    let number: i64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameter(yaml: &str) -> Parameter {
        serde_yaml::from_str(&format!("doc: A parameter.\n{yaml}")).expect("a parameter")
    }

    /// The value of a text, or what was expected.
    fn parsed(parameter: &Parameter, text: &str) -> String {
        match parameter.parse(text) {
            Ok(value) => value.to_string(),
            Err(refusal) => match refusal.help {
                Some(help) => format!("expected {}; {help}", refusal.expected),
                None => format!("expected {}", refusal.expected),
            },
        }
    }

    #[test]
    fn texts_of_settings_become_typed_values() {
        let integer = parameter("type: integer\ndefault: 2\nleast: 1\nmost: 64");
        for (text, value) in [
            ("64", "64"),
            ("65", "expected a whole number (1-64)"),
            ("+5", "expected a whole number (1-64)"),
            ("05", "expected a whole number (1-64)"),
            ("", "expected a whole number (1-64)"),
        ] {
            assert_eq!(parsed(&integer, text), value, "{text}");
        }
        let signed = parameter("type: integer\ndefault: 0");
        assert_eq!(parsed(&signed, "-7"), "-7");
        let switch = parameter("type: bool\ndefault: false");
        assert_eq!(parsed(&switch, "true"), "true");
        assert_eq!(parsed(&switch, "yes"), "expected `true` or `false`");
        let texts = parameter("type: texts\ndefault: []");
        assert_eq!(parsed(&texts, "a, b c,,d"), "[a, b, c, d]");
        assert_eq!(parsed(&texts, ""), "[]");
        let choice = parameter("type: text\ndefault: fast\nchoices: [fast, slow]");
        assert_eq!(parsed(&choice, "slow"), "slow");
        assert_eq!(
            parsed(&choice, "slwo"),
            "expected one of `fast`, `slow`; did you mean `slow`?"
        );
    }

    #[test]
    fn only_a_required_parameter_may_have_no_default() {
        let default = |yaml: &str| parameter(yaml).default_value();
        assert_eq!(
            default("type: texts\nrequired: true"),
            Ok(Value::List(Vec::new()))
        );
        assert_eq!(
            default("type: text\nrequired: true\nchoices: [a]"),
            Ok(Value::from(""))
        );
        assert!(default("type: texts").is_err());
        assert!(default("type: integer").is_err());
        assert!(default("type: text\ndefault: c\nchoices: [a, b]").is_err());
    }

    #[test]
    fn declarations_that_contradict_themselves_are_refused() {
        for yaml in [
            "type: text\ndefault: a\nleast: 1",
            "type: integer\ndefault: 1\nleast: 2\nmost: 1",
            "type: integer\ndefault: 1\nchoices: [a]",
            "type: bool\ndefault: true\nrequired: true",
            "type: texts\ndefault: []\nsecret: true",
            "type: text\nrequired: true\nsecret: true\nchoices: [a]",
            "type: text\ndefault: hunter2\nsecret: true",
        ] {
            assert!(parameter(yaml).contradiction().is_some(), "{yaml}");
        }
        for yaml in [
            "type: integer\ndefault: 1\nleast: 1\nmost: 1",
            "type: text\ndefault: ''\nsecret: true",
            "type: text\nrequired: true\nsecret: true",
            "type: texts\ndefault: [a]\nrequired: true\nchoices: [a, b]",
        ] {
            assert_eq!(parameter(yaml).contradiction(), None, "{yaml}");
        }
    }

    #[test]
    fn names_are_those_of_settings_in_lower_case() {
        assert!(is_parameter_name("least_memory"));
        for wrong in ["", "1st", "_a", "Least", "least-memory", "é"] {
            assert!(!is_parameter_name(wrong), "{wrong}");
        }
    }
}
