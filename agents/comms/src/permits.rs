//! How many connections are open, and how many may be.
//!
//! A counter outlives a reload, so that a changed limit counts the connections that are open already.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts open connections.
#[derive(Debug, Default)]
pub struct Counter(AtomicUsize);

impl Counter {
    /// A permit for one more connection; `None` if there are `limit` already.
    #[must_use]
    pub fn acquire(self: &Arc<Self>, limit: usize) -> Option<Permit> {
        let next = |open: usize| (open < limit).then_some(open + 1);
        let counted = self
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        counted.is_ok().then(|| Permit(Arc::clone(self)))
    }

    /// How many are open.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }
}

/// Counts as an open connection until it is dropped.
#[derive(Debug)]
pub struct Permit(Arc<Counter>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lower_limit_counts_what_is_open() {
        let counter = Arc::new(Counter::default());
        let held: Vec<Permit> = (0..3).filter_map(|_| counter.acquire(3)).collect();
        assert_eq!(held.len(), 3);
        assert!(counter.acquire(3).is_none());
        assert!(counter.acquire(4).is_some());
        drop(held);
        assert!(counter.acquire(1).is_some());
    }
}
