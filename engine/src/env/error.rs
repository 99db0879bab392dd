//! Every problem that settings can have, one variant for each; the rules between keys (`rules`) share one. Callers print all problems at
//! once.

use std::fmt;
use std::path::PathBuf;

use crate::env::source::place::Place;

/// One problem. Its text starts with `file:line:column: ` if the problem is in a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "the fields are the nouns of the message above them"
)]
pub enum EnvError {
    /// More files than the limit.
    #[error("{count} configuration files, at most {limit} are read")]
    TooManyFiles { count: usize, limit: usize },
    /// A file larger than the limit.
    #[error("{place}: {bytes} bytes, at most {limit} are read")]
    FileTooLarge {
        place: Place,
        bytes: usize,
        limit: usize,
    },
    /// A file with more keys than the table could ever need.
    #[error("{place}: more than {limit} keys")]
    TooManyKeys { place: Place, limit: usize },
    /// Brackets nested deeper than any flat map.
    #[error("{place}: brackets nested more than {limit} deep, expected `KEY: value` lines")]
    TooDeep { place: Place, limit: usize },
    /// A file that is not UTF-8.
    #[error("{place}: not UTF-8 text")]
    NotUtf8 { place: Place },
    /// A file that is not YAML.
    #[error("{place}: invalid YAML: {message}")]
    InvalidYaml { place: Place, message: String },
    /// YAML that is not a map.
    #[error("{place}: expected `KEY: value` lines, found {found}")]
    NotAMap { place: Place, found: &'static str },
    /// A line of an environment file that is not an assignment.
    #[error("{place}: invalid environment file: {message}")]
    InvalidAssignment { place: Place, message: &'static str },
    /// A key that the table does not have.
    #[error("{}unknown key {key}{}", at(.place), hint(.closest))]
    UnknownKey {
        key: Found,
        closest: Option<&'static str>,
        place: Option<Place>,
    },
    /// A key that is given twice in one file.
    #[error("{}{key}: given twice{}", at(.place), first(.first_line))]
    DuplicateKey {
        key: &'static str,
        first_line: Option<u32>,
        place: Option<Place>,
    },
    /// A key without a value, `KEY:` or `KEY: null`.
    #[error("{}{key}: expected {expected}, found no value{}", at(.place), advice(.help))]
    NoValue {
        key: &'static str,
        expected: String,
        help: Option<String>,
        place: Option<Place>,
    },
    /// A list or a map where one value belongs.
    #[error("{}{key}: expected {expected}, found {found}", at(.place))]
    NestedValue {
        key: &'static str,
        expected: String,
        found: &'static str,
        place: Option<Place>,
    },
    /// A value that its key does not take.
    #[error("{}{key}: expected {expected}, found {found}{}", at(.place), advice(.help))]
    InvalidValue {
        key: &'static str,
        expected: String,
        found: Found,
        help: Option<String>,
        place: Option<Place>,
    },
    /// A setting of a role's parameter that is wrong for every role.
    #[error("{}{key}: {problem}", at(.place))]
    RoleSetting {
        key: String,
        problem: String,
        place: Option<Place>,
    },
    /// A required key that no file gives.
    #[error("{key}: required and not given; expected {expected}")]
    MissingRequired { key: &'static str, expected: String },
    /// Settings that contradict each other, or that have a value which a cluster cannot use. The rule writes the text.
    #[error("{}{key}: {problem}", at(.place))]
    BrokenRule {
        key: &'static str,
        problem: String,
        place: Option<Place>,
    },
}

impl EnvError {
    /// The position of the problem, if it is in a file.
    pub fn place(&self) -> Option<&Place> {
        match self {
            Self::TooManyFiles { .. } | Self::MissingRequired { .. } => None,
            Self::FileTooLarge { place, .. }
            | Self::TooManyKeys { place, .. }
            | Self::TooDeep { place, .. }
            | Self::NotUtf8 { place }
            | Self::InvalidYaml { place, .. }
            | Self::NotAMap { place, .. }
            | Self::InvalidAssignment { place, .. } => Some(place),
            Self::UnknownKey { place, .. }
            | Self::DuplicateKey { place, .. }
            | Self::NoValue { place, .. }
            | Self::NestedValue { place, .. }
            | Self::InvalidValue { place, .. }
            | Self::RoleSetting { place, .. }
            | Self::BrokenRule { place, .. } => place.as_ref(),
        }
    }

    /// File and line, from 1; line 1 if the problem is the file as a whole.
    pub fn location(&self) -> Option<(PathBuf, usize)> {
        self.place().map(|place| {
            (
                place.path.clone(),
                usize::try_from(place.line.unwrap_or(1)).unwrap_or(usize::MAX),
            )
        })
    }
}

/// The wrong text, shortened and on one line; a secret's text is never kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found(Box<str>);

/// How much of a wrong text a message shows, in characters.
const EXCERPT: usize = 60;

/// The longest name of an unknown setting that is shown, in characters.
const NAME: usize = 40;

impl Found {
    /// Text to show.
    pub(crate) fn text(text: &str) -> Self {
        let mut shown = String::from("`");
        for (index, character) in text.chars().enumerate() {
            if index == EXCERPT {
                shown.push('…');
                break;
            }
            if character.is_control() || character == '\\' {
                shown.extend(character.escape_default());
            } else {
                shown.push(character);
            }
        }
        shown.push('`');
        Self(shown.into())
    }

    /// A name to show. Text that cannot be the name of a setting is hidden: the file may be of another kind, and the text a password.
    pub(crate) fn name(name: &str) -> Self {
        let is_part = |part: char| part.is_ascii_alphanumeric() || "_-.".contains(part);
        if name.chars().count() <= NAME && name.chars().all(is_part) {
            Self::text(name)
        } else {
            Self("(not shown, because it cannot be a name)".into())
        }
    }

    /// Text that must not be shown.
    pub(crate) fn hidden() -> Self {
        Self("a value that is not shown".into())
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn at(place: &Option<Place>) -> String {
    place
        .as_ref()
        .map(|place| format!("{place}: "))
        .unwrap_or_default()
}

fn hint(closest: &Option<&'static str>) -> String {
    closest
        .map(|name| format!("; did you mean `{name}`?"))
        .unwrap_or_default()
}

fn advice(help: &Option<String>) -> String {
    help.as_ref()
        .map(|help| format!("; {help}"))
        .unwrap_or_default()
}

fn first(line: &Option<u32>) -> String {
    line.map(|line| format!(", first in line {line}"))
        .unwrap_or_default()
}
