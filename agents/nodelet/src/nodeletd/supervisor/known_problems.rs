//! Problems that are reported once while they stay: a pass a minute finds the same ones for days.
//!
//! Not here: which problems there are, and the texts about them (`journal`, `worker`).

use std::collections::BTreeSet;

/// The problems that are reported already.
#[derive(Debug)]
pub(in crate::nodeletd) struct KnownProblems<T>(BTreeSet<T>);

/// What has changed since the last report.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::nodeletd) struct Changes<T> {
    /// Each new problem once, in the order in which they were found.
    pub(in crate::nodeletd) begun: Vec<T>,
    /// The problems that are gone, sorted.
    pub(in crate::nodeletd) ended: Vec<T>,
}

// A derived one would need a default of a problem.
impl<T: Ord> Default for KnownProblems<T> {
    fn default() -> Self {
        Self(BTreeSet::new())
    }
}

impl<T: Clone + Ord> KnownProblems<T> {
    /// Takes all problems that there are `now`, and returns what to report. A problem that was gone is new when it comes again.
    pub(in crate::nodeletd) fn update(&mut self, now: impl IntoIterator<Item = T>) -> Changes<T> {
        let before = std::mem::take(&mut self.0);
        let mut begun = Vec::new();
        for problem in now {
            if self.0.insert(problem.clone()) && !before.contains(&problem) {
                begun.push(problem);
            }
        }
        let ended = before.difference(&self.0).cloned().collect();
        Changes { begun, ended }
    }

    /// The problems of the last update, sorted.
    pub(in crate::nodeletd) fn all(&self) -> impl Iterator<Item = &T> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_reported_when_it_begins_and_when_it_ends() {
        let mut known = KnownProblems::default();
        let changes = |begun: &[&'static str], ended: &[&'static str]| Changes {
            begun: begun.to_vec(),
            ended: ended.to_vec(),
        };
        assert_eq!(known.update(["b", "a", "b"]), changes(&["b", "a"], &[]));
        assert_eq!(known.update(["a", "b"]), changes(&[], &[]));
        assert_eq!(known.update(["c", "a"]), changes(&["c"], &["b"]));
        assert!(known.all().eq(&["a", "c"]));
        assert_eq!(known.update([]), changes(&[], &["a", "c"]));
        assert_eq!(known.update(["a"]), changes(&["a"], &[]));
    }
}
