//! The difference between the current and the desired state.

use serde::{Deserialize, Serialize};

/// The change that a resource needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The kind of change.
    pub action: Action,
    /// What differs, field by field; values of secrets never appear.
    pub differences: Vec<Difference>,
    /// Old and new content of a text file, unless it is secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<TextDiff>,
    /// SHA-256 of a file's future content; `None` if the content is secret, random or not known yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// A dry run could not determine the state: it is known after apply.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unknown: bool,
}

/// The kind of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It is not there and will be.
    Create,
    /// It is there and will differ.
    Change,
    /// It runs and will run again.
    Restart,
    /// It runs and will reload its configuration.
    Reload,
    /// It is still valid, and will be renewed before it expires.
    Renew,
    /// It is there and will be removed.
    Remove,
    /// A command will run.
    Run,
}

impl Action {
    /// In the words of a report: "will be …".
    #[must_use]
    pub fn participle(self) -> &'static str {
        match self {
            Self::Create => "created",
            Self::Change => "changed",
            Self::Restart => "restarted",
            Self::Reload => "reloaded",
            Self::Renew => "renewed",
            Self::Remove => "removed",
            Self::Run => "run",
        }
    }

    /// One character for the margin of a report.
    #[must_use]
    pub fn sign(self) -> char {
        match self {
            Self::Create => '+',
            Self::Change => '~',
            Self::Restart | Self::Reload | Self::Renew => '↻',
            Self::Remove => '-',
            Self::Run => '!',
        }
    }
}

/// One field that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Its name.
    pub field: String,
    /// As it is; empty when it is not there.
    pub before: String,
    /// As it should be; empty when it should not be there.
    pub after: String,
}

/// Old and new text of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextDiff {
    /// As it is.
    pub before: String,
    /// As it should be.
    pub after: String,
}

impl Change {
    /// A change without details.
    #[must_use]
    pub fn new(action: Action) -> Self {
        Self {
            action,
            differences: Vec::new(),
            text: None,
            digest: None,
            unknown: false,
        }
    }

    /// A change of a state that is known only after apply, with the reason.
    #[must_use]
    pub fn unknown(reason: &str) -> Self {
        let mut change =
            Self::new(Action::Change).with("state", "", format!("known after apply ({reason})"));
        change.unknown = true;
        change
    }

    /// Adds a difference.
    #[must_use]
    pub fn with(
        mut self,
        field: impl Into<String>,
        before: impl ToString,
        after: impl ToString,
    ) -> Self {
        self.differences.push(Difference {
            field: field.into(),
            before: before.to_string(),
            after: after.to_string(),
        });
        self
    }
}

/// Collects differences of an existing resource; none means no change.
#[derive(Debug, Default)]
pub(crate) struct Differences(Vec<Difference>);

impl Differences {
    /// Notes a field if it differs.
    pub(crate) fn compare<T: PartialEq + ToString>(&mut self, field: &str, before: &T, after: &T) {
        if before != after {
            self.note(field, before.to_string(), after.to_string());
        }
    }

    /// Notes a field that differs.
    pub(crate) fn note(&mut self, field: &str, before: impl ToString, after: impl ToString) {
        self.0.push(Difference {
            field: field.to_owned(),
            before: before.to_string(),
            after: after.to_string(),
        });
    }

    /// Whether nothing was noted.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The change, if anything was noted.
    pub(crate) fn into_change(self, action: Action) -> Option<Change> {
        (!self.0.is_empty()).then(|| Change {
            differences: self.0,
            ..Change::new(action)
        })
    }
}

/// A mode as `chmod` takes it.
pub(crate) fn octal(mode: u32) -> String {
    format!("{mode:04o}")
}

/// SHA-256 of content, in the form that reports and comparisons use.
pub(crate) fn content_digest(content: &[u8]) -> String {
    use sha2::Digest as _;
    crate::model::hex(&sha2::Sha256::digest(content))
}
