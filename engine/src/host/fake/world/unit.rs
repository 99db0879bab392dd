//! A unit of a fake host.

use std::time::{Duration, SystemTime};

/// A unit the manager knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Unit {
    /// What the manager loaded: the unit file and its drop-ins. `None` if there is no file any more.
    pub(crate) text: Option<String>,
    pub(crate) active: String,
    pub(crate) sub: String,
    pub(crate) enabled: bool,
    pub(crate) invocation: String,
    pub(crate) active_since: Option<SystemTime>,
    /// A time since the world began, and how long the unit had been active then.
    pub(crate) active_for: Option<(Duration, Duration)>,
    /// The manager has a job for it.
    pub(crate) job: bool,
}

impl Unit {
    /// An inactive unit with this text.
    pub(crate) fn loaded(text: String) -> Self {
        Self {
            text: Some(text),
            active: "inactive".to_owned(),
            sub: "dead".to_owned(),
            ..Self::default()
        }
    }

    pub(in crate::host::fake) fn is_active(&self) -> bool {
        self.active == "active"
    }
}
