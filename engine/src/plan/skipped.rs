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
        f.write_str(&self.word)?;
        if !self.label.is_empty() {
            write!(f, " {}", self.label)?;
        }
        Ok(())
    }
}
