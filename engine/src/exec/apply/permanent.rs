//! When to stop trying: it makes no sense to wait for an error that cannot go away by itself.

use std::time::Duration;

/// How often in a row such an error must occur before the wait ends: a server that is being replaced may refuse what
/// its successor accepts.
const TRIES: u32 = 5;
/// For how long, at least, such errors must occur.
const TIME: Duration = Duration::from_secs(3);

/// The permanent errors of one wait.
#[derive(Debug, Default)]
pub(in crate::exec) struct PermanentErrors {
    tries: u32,
    since: Duration,
}

impl PermanentErrors {
    /// Takes the result of one try, made at `now`; says whether to give up.
    pub(in crate::exec) fn give_up(&mut self, permanent: bool, now: Duration) -> bool {
        if !permanent {
            self.tries = 0;
            return false;
        }
        if self.tries == 0 {
            self.since = now;
        }
        self.tries += 1;
        self.tries >= TRIES && now.saturating_sub(self.since) >= TIME
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gives_up_at(tries: &[(bool, u64)]) -> Option<usize> {
        let mut permanent_errors = PermanentErrors::default();
        tries.iter().position(|(permanent, seconds)| {
            permanent_errors.give_up(*permanent, Duration::from_secs(*seconds))
        })
    }

    #[test]
    fn only_permanent_failures_are_given_up() {
        let samples: Vec<(bool, u64)> = (0..10).map(|second| (true, second)).collect();
        assert_eq!(gives_up_at(&samples), Some(4));
        let quick: Vec<(bool, u64)> = (0..10).map(|_| (true, 7)).collect();
        assert_eq!(gives_up_at(&quick), None, "not for long enough");
        let other: Vec<(bool, u64)> = (0..10).map(|second| (second % 4 != 0, second)).collect();
        assert_eq!(gives_up_at(&other), None, "never often enough in a row");
        let transient: Vec<(bool, u64)> = (0..99).map(|second| (false, second)).collect();
        assert_eq!(gives_up_at(&transient), None);
    }
}
