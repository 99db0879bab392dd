//! A host is compared with what it was.

use std::collections::BTreeMap;

use lab::snapshot::{HostSnapshot, KEPT, difference};

use crate::master::Master;

/// A host before a role came to it.
#[derive(Clone, Debug)]
pub struct Slate(HostSnapshot);

/// Which clean it is compared after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// Data that is marked to be kept may be there.
    Clean,
    /// Nothing may.
    Purge,
}

impl Slate {
    /// As the host is now.
    #[must_use]
    pub fn of(master: &Master) -> Self {
        Self(HostSnapshot::of(master.host()).expect("a snapshot"))
    }

    /// Asserts that the host is as it was.
    #[track_caller]
    pub fn assert_same(&self, master: &Master, after: After, what: &str) {
        let kept = match after {
            After::Clean => KEPT,
            After::Purge => &[],
        };
        let now = Self::of(master).0.without(kept);
        let lines = difference(&self.0.clone().without(kept), &now);
        assert!(
            lines.is_empty(),
            "{what}: {} differences:\n{}",
            lines.len(),
            lines.join("\n")
        );
    }

    /// How many things were compared, by section: what a page says of it.
    #[must_use]
    pub fn things(&self) -> BTreeMap<&str, usize> {
        self.0.counts()
    }
}
