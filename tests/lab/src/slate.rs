//! Compares a host with its earlier state.

use lab::Host;
use lab::snapshot::{Comparison, HostSnapshot, KEPT, KEPT_BY_WORKERS, compare};

use crate::master::Node;

/// A host before a role came to it.
#[derive(Clone, Debug)]
pub struct Slate(HostSnapshot);

/// After which clean the host is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// Kept data of a master may be there.
    Clean,
    /// The identity of a worker may be there.
    CleanOfWorker,
    /// Nothing may be there.
    Purge,
}

impl Slate {
    /// The host as it is now.
    #[must_use]
    pub fn of(master: &Node) -> Self {
        Self::of_host(master.host())
    }

    /// The same of any host.
    #[must_use]
    pub fn of_host(host: &Host) -> Self {
        Self(HostSnapshot::of(host).expect("a snapshot"))
    }

    /// Asserts that a host, a worker for example, is as it was, and gives what was compared.
    #[track_caller]
    pub fn assert_same_host(&self, host: &Host, after: After, what: &str) -> Comparison {
        self.assert_same_host_but(host, after, what, |_| false)
    }

    /// Asserts that the host is as it was, and gives what was compared.
    #[track_caller]
    pub fn assert_same(&self, master: &Node, after: After, what: &str) -> Comparison {
        self.assert_same_but(master, after, what, |_| false)
    }

    /// Like [`Self::assert_same`], except for differences that nodelet has reported.
    #[track_caller]
    pub fn assert_same_but(
        &self,
        master: &Node,
        after: After,
        what: &str,
        is_reported: impl Fn(&str) -> bool,
    ) -> Comparison {
        self.assert_same_host_but(master.host(), after, what, is_reported)
    }

    /// Like [`Self::assert_same_host`], except for differences with a known cause.
    #[track_caller]
    pub fn assert_same_host_but(
        &self,
        host: &Host,
        after: After,
        what: &str,
        is_known: impl Fn(&str) -> bool,
    ) -> Comparison {
        let kept = match after {
            After::Clean => KEPT,
            After::CleanOfWorker => KEPT_BY_WORKERS,
            After::Purge => &[],
        };
        let now = Self::of_host(host).0.without(kept);
        let mut compared = compare(&self.0.clone().without(kept), &now);
        compared.differences.retain(|line| !is_known(line));
        assert!(
            compared.differences.is_empty(),
            "{what}: {} differences:\n{}",
            compared.differences.len(),
            compared.differences.join("\n")
        );
        compared
    }
}
