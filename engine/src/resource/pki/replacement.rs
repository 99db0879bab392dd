//! How far this host is with the replacement of an authority or of an encryption key, in ids and without keys.
//!
//! A master shows it to the others (`exec::kubernetes::rotate`), and a successor that it gets has to fit it (`successor`).

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use super::{Authority, Stage};
use crate::resource::change::content_digest;

/// Longest id, in bytes: the SHA-256 of a certificate in hex has 64.
const LONGEST_ID: usize = 100;

/// How far a replacement is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Replacement {
    /// The stage.
    pub stage: Stage,
    /// The id of the authority that signs, or of the key that encrypts. The id of an authority is the SHA-256 of its certificate.
    pub uses: String,
    /// The id of the other one, that is only trusted or read.
    pub beside: Option<String>,
}

impl Replacement {
    /// Of an authority that was read.
    pub(in crate::resource::pki) fn of_authority(authority: &Authority) -> Option<Self> {
        let ids = authority.trusted().map(|its| content_digest(&its.der));
        Self::of_ids(authority.stage(), ids.collect())
    }

    /// Of ids, the one that is used first; `None` without any.
    pub(in crate::resource::pki) fn of_ids(stage: Stage, ids: Vec<String>) -> Option<Self> {
        let mut ids = ids.into_iter();
        let uses = ids.next()?;
        Some(Self {
            stage,
            uses,
            beside: ids.next(),
        })
    }

    /// The ids of both, as a set: it says nothing of which one is used.
    pub(in crate::resource::pki) fn ids(&self) -> BTreeSet<&str> {
        let beside = self.beside.as_deref();
        beside.into_iter().chain([self.uses.as_str()]).collect()
    }

    /// The id of the one that is replaced; at present the only one if nothing is replaced.
    #[must_use]
    pub fn predecessor(&self) -> &str {
        match (self.stage, &self.beside) {
            (Stage::Switched, Some(beside)) => beside,
            (Stage::Settled | Stage::Begun | Stage::Switched, _) => &self.uses,
        }
    }

    /// The id of the successor, if there is one.
    #[must_use]
    pub fn successor(&self) -> Option<&str> {
        match self.stage {
            Stage::Settled => None,
            Stage::Begun => self.beside.as_deref(),
            Stage::Switched => Some(&self.uses),
        }
    }

    /// Whether both replace the same one by the same one, at any stage.
    #[must_use]
    pub fn is_of_same(&self, other: &Self) -> bool {
        self.successor().is_some()
            && self.successor() == other.successor()
            && self.predecessor() == other.predecessor()
    }
}

/// Three words, for example `begun 1-0f 2-9c`: stage, the one that is used, and the other one or `-`.
impl fmt::Display for Replacement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match self.stage {
            Stage::Settled => "settled",
            Stage::Begun => "begun",
            Stage::Switched => "switched",
        };
        let beside = self.beside.as_deref().unwrap_or("-");
        write!(f, "{stage} {} {beside}", self.uses)
    }
}

/// This text does not say how far a replacement is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it does not say how far a replacement is")]
pub struct NoReplacement;

impl FromStr for Replacement {
    type Err = NoReplacement;

    fn from_str(text: &str) -> Result<Self, NoReplacement> {
        let words: Vec<&str> = text.split(' ').take(4).collect();
        let [stage, uses, beside] = words.as_slice() else {
            return Err(NoReplacement);
        };
        let id = |text: &str| {
            let mut bytes = text.bytes();
            let is_id = !matches!(text, "" | "-")
                && text.len() <= LONGEST_ID
                && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
            is_id.then(|| text.to_owned()).ok_or(NoReplacement)
        };
        let (stage, beside) = match (*stage, *beside) {
            ("settled", "-") => (Stage::Settled, None),
            ("begun", beside) => (Stage::Begun, Some(id(beside)?)),
            ("switched", beside) => (Stage::Switched, Some(id(beside)?)),
            _ => return Err(NoReplacement),
        };
        let uses = id(uses)?;
        Ok(Self {
            stage,
            uses,
            beside,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_can_be_read() {
        for text in ["settled 1-0f -", "begun 1-0f 2-9c", "switched 2-9c 1-0f"] {
            let read: Replacement = text.parse().expect("it can be read");
            assert_eq!(read.to_string(), text);
        }
        let begun: Replacement = "begun 1-0f 2-9c".parse().expect("it can be read");
        let switched: Replacement = "switched 2-9c 1-0f".parse().expect("it can be read");
        assert!(begun.is_of_same(&switched));
        let other: Replacement = "begun 1-0f 2-aa".parse().expect("it can be read");
        assert!(!begun.is_of_same(&other));
    }

    #[test]
    fn other_texts_are_refused() {
        let long = format!("settled {} -", "a".repeat(LONGEST_ID + 1));
        for text in [
            "",
            "settled",
            "settled 1-0f",
            "settled 1-0f 2-9c",
            "begun 1-0f -",
            "begun - 2-9c",
            "ended 1-0f 2-9c",
            "begun 1-0f 2-9c 3",
            "begun 1-0f  2-9c",
            "begun 1_0f 2-9c",
            long.as_str(),
        ] {
            assert_eq!(text.parse::<Replacement>(), Err(NoReplacement), "{text}");
        }
    }
}
