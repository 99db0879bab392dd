//! How many connections are open, and how many may be.
//!
//! A counter outlives a reload, so that a changed limit counts the connections that are open already.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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

/// Counts the open connections of each user.
#[derive(Debug, Default)]
pub struct UserCounters(Mutex<BTreeMap<u32, usize>>);

impl UserCounters {
    /// A permit for one more connection of the user with this id; `None` if it has `limit` already.
    #[must_use]
    pub fn acquire(self: &Arc<Self>, user: u32, limit: usize) -> Option<UserPermit> {
        let mut users = self.users();
        let open = users.get(&user).copied().unwrap_or_default();
        if open >= limit {
            return None;
        }
        users.insert(user, open + 1);
        drop(users);
        let counters = Arc::clone(self);
        Some(UserPermit { counters, user })
    }

    fn users(&self) -> MutexGuard<'_, BTreeMap<u32, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts as an open connection of its user until it is dropped.
#[derive(Debug)]
pub struct UserPermit {
    counters: Arc<UserCounters>,
    user: u32,
}

impl Drop for UserPermit {
    fn drop(&mut self) {
        let mut users = self.counters.users();
        match users.get_mut(&self.user) {
            Some(open) if *open > 1 => *open -= 1,
            // Only users with connections are kept.
            _ => {
                users.remove(&self.user);
            }
        }
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

    #[test]
    fn each_user_has_its_own_limit() {
        let counters = Arc::new(UserCounters::default());
        let held: Vec<UserPermit> = (0..3).filter_map(|_| counters.acquire(7, 2)).collect();
        assert_eq!(held.len(), 2);
        let other = counters.acquire(8, 2);
        assert!(other.is_some(), "another user has its own");
        drop(held);
        assert!(counters.acquire(7, 1).is_some());
        drop(other);
        assert!(counters.users().is_empty(), "users without a connection");
    }
}
