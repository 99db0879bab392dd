//! Names of phases, packages and kernel modules, ids of steps, and positions in scripts.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Longest name of a kernel module in bytes. The kernel has less room for it, and it is a part of the name of a file.
const LONGEST_MODULE: usize = 63;

/// Name of a phase: lower-case letters, digits and dashes, as its script's file stem.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PhaseName(Arc<str>);

impl PhaseName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The text is no phase name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a phase name: use lower-case letters, digits and dashes, at most 63")]
pub struct InvalidPhaseName(String);

impl FromStr for PhaseName {
    type Err = InvalidPhaseName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = !text.is_empty()
            && text.len() <= 63
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !text.starts_with('-')
            && !text.ends_with('-');
        if fits {
            Ok(Self(text.into()))
        } else {
            Err(InvalidPhaseName(text.to_owned()))
        }
    }
}

impl TryFrom<String> for PhaseName {
    type Error = InvalidPhaseName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<PhaseName> for String {
    fn from(name: PhaseName) -> Self {
        name.0.as_ref().to_owned()
    }
}

impl fmt::Display for PhaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Whether dpkg reads a text as the name of one package, and not as an option or a pattern.
pub(crate) fn is_package_name(text: &str) -> bool {
    let fits = |one: char| one.is_ascii_alphanumeric() || "+-.:".contains(one);
    text.starts_with(|first: char| first.is_ascii_alphanumeric()) && text.chars().all(fits)
}

/// Whether a text can be the name of a kernel module.
pub(crate) fn is_module_name(text: &str) -> bool {
    let fits = |one: char| one.is_ascii_alphanumeric() || matches!(one, '_' | '-');
    text.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '_')
        && text.len() <= LONGEST_MODULE
        && text.chars().all(fits)
}

/// Identity of a step within its plan: `phase/kind:label`, for example `etcd/container:etcd`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StepId(Arc<str>);

impl StepId {
    /// The id of a step of `phase`, of this kind of resource, with this label.
    #[must_use]
    pub fn new(phase: &PhaseName, kind: &str, label: &str) -> Self {
        Self(format!("{phase}/{kind}:{label}").into())
    }

    /// The phase's part of the id.
    #[must_use]
    pub fn phase(&self) -> Option<&str> {
        self.0.split_once('/').map(|(phase, _)| phase)
    }

    /// The kind of resource in the id.
    #[must_use]
    pub fn kind(&self) -> Option<&str> {
        let (_, rest) = self.0.split_once('/')?;
        rest.split_once(':').map(|(kind, _)| kind)
    }

    /// A placeholder for the `index`th recorded word of a script, until its step has an id.
    pub(crate) fn placeholder(index: usize) -> Self {
        Self(format!("?{index}").into())
    }

    /// The index that a placeholder stands for.
    pub(crate) fn placeholder_index(&self) -> Option<usize> {
        self.0.strip_prefix('?')?.parse().ok()
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StepId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A position in a script: file relative to the role package, line and column from 1.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// For example `phases/etcd.rhai`.
    pub file: Arc<str>,
    /// Line, from 1; 0 when only the file is known.
    pub line: usize,
    /// Column, from 1; 0 when only the line is known.
    pub column: usize,
}

impl Span {
    /// The place `line:column` of `file`.
    pub fn new(file: impl Into<Arc<str>>, line: usize, column: usize) -> Self {
        Self {
            file: file.into(),
            line,
            column,
        }
    }

    /// A file as a whole.
    pub fn file(file: impl Into<Arc<str>>) -> Self {
        Self::new(file, 0, 0)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.line, self.column) {
            (0, _) => write!(f, "{}", self.file),
            (line, 0) => write!(f, "{}:{line}", self.file),
            (line, column) => write!(f, "{}:{line}:{column}", self.file),
        }
    }
}

impl Serialize for Span {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut parts = text.rsplitn(3, ':');
        let (last, middle, first) = (parts.next(), parts.next(), parts.next());
        Ok(
            match (
                first,
                middle.and_then(|m| m.parse().ok()),
                last.and_then(|l| l.parse().ok()),
            ) {
                (Some(file), Some(line), Some(column)) => Self::new(file, line, column),
                _ => Self::file(text.as_str()),
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phase_names_are_lower_case_words() {
        assert!("etcd-backup".parse::<PhaseName>().is_ok());
        for wrong in ["", "Etcd", "-etcd", "etcd-", "et cd", "../etcd"] {
            assert!(wrong.parse::<PhaseName>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn package_names_are_neither_options_nor_patterns() {
        for right in ["chrony", "libc6:amd64", "g++", "0ad", "python3.11"] {
            assert!(is_package_name(right), "{right}");
        }
        for wrong in [
            "",
            "--purge",
            "chrony; rm -rf /",
            "chrony*",
            "chrony\n",
            "a=1",
            "é",
        ] {
            assert!(!is_package_name(wrong), "{wrong}");
        }
    }

    #[test]
    fn module_names_are_words() {
        for right in ["overlay", "br_netfilter", "dm-mod", "8021q"] {
            assert!(is_module_name(right), "{right}");
        }
        for wrong in [
            "",
            "--help",
            "br netfilter",
            "net/bridge",
            "../x",
            "a.ko",
            "é",
        ] {
            assert!(!is_module_name(wrong), "{wrong}");
        }
    }

    #[test]
    fn a_span_survives_its_text_form() {
        let span = Span::new("phases/etcd.rhai", 22, 5);
        let text = serde_json::to_string(&span).expect("a span is a string");
        assert_eq!(text, "\"phases/etcd.rhai:22:5\"");
        assert_eq!(
            serde_json::from_str::<Span>(&text).expect("it parses"),
            span
        );
    }
}
