//! Words that a script has and a plan leaves out.

use serde::{Deserialize, Serialize};

use crate::model::Span;

/// A step, check or precondition whose condition `.when` is false on this host. A plan only shows it: it changes nothing, and the digest
/// does not contain it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkippedWord {
    /// The word, for example `directory`.
    pub word: String,
    /// Its first argument, for example a path; empty if that is no text.
    pub label: String,
    /// Its position in the script.
    pub span: Span,
    /// Why it is left out.
    pub reason: String,
}

impl std::fmt::Display for SkippedWord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.label.as_str(), self.word.as_str()) {
            ("", word) => f.write_str(word),
            // Their names are sentences.
            (name, word @ ("check" | "require")) => write!(f, "{word} \"{name}\""),
            (label, word) => write!(f, "{word} {label}"),
        }
    }
}
