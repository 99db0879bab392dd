//! Compares a host with its earlier state.

use lab::snapshot::{Comparison, HostSnapshot, KEPT, compare};

use crate::master::Master;

/// A host before a role came to it.
#[derive(Clone, Debug)]
pub struct Slate(HostSnapshot);

/// After which clean the host is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// Kept data may be there.
    Clean,
    /// Nothing may be there.
    Purge,
}

impl Slate {
    /// The host as it is now.
    #[must_use]
    pub fn of(master: &Master) -> Self {
        Self(HostSnapshot::of(master.host()).expect("a snapshot"))
    }

    /// Asserts that the host is as it was, and gives what was compared.
    #[track_caller]
    pub fn assert_same(&self, master: &Master, after: After, what: &str) -> Comparison {
        self.assert_same_but(master, after, what, |_| false)
    }

    /// Like [`Self::assert_same`], except for differences that nodelet has reported.
    #[track_caller]
    pub fn assert_same_but(
        &self,
        master: &Master,
        after: After,
        what: &str,
        is_reported: impl Fn(&str) -> bool,
    ) -> Comparison {
        let kept = match after {
            After::Clean => KEPT,
            After::Purge => &[],
        };
        let now = Self::of(master).0.without(kept);
        let mut compared = compare(&self.0.clone().without(kept), &now);
        compared.differences.retain(|line| !is_reported(line));
        assert!(
            compared.differences.is_empty(),
            "{what}: {} differences:\n{}",
            compared.differences.len(),
            compared.differences.join("\n")
        );
        compared
    }
}
