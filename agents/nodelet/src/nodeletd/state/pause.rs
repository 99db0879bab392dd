//! A pause that an operator requested. While the daemon runs, the pause is measured on the monotonic clock; the time of day of its end
//! is saved only for the next start of the daemon.

use std::time::Duration;

use tokio::time::Instant;

use crate::cli::LONGEST_PAUSE;
use crate::nodeletd::state::State;

/// By how many seconds the end of the pause may differ from the saved one before it is saved again.
const DRIFT: u64 = 60;

/// The pause that is in force, if any.
#[derive(Debug, Default)]
pub(in crate::nodeletd) struct Pause {
    until: Option<Instant>,
}

impl Pause {
    /// Restores the saved pause, at `wall` seconds since 1970. An implausible time is no pause.
    pub(in crate::nodeletd) fn restore(state: &State, wall: i64, now: Instant) -> Self {
        let left = state.paused_until.map(|until| until.saturating_sub(wall));
        let left = left
            .and_then(|left| u64::try_from(left).ok())
            .map(Duration::from_secs)
            // A clock that was set back makes no pause longer.
            .filter(|left| *left <= LONGEST_PAUSE);
        Self {
            until: left.map(|left| now + left),
        }
    }

    /// Begins a pause, which replaces an earlier one.
    pub(in crate::nodeletd) fn begin(
        &mut self,
        state: &mut State,
        time: Duration,
        because: String,
        wall: i64,
        now: Instant,
    ) {
        self.until = Some(now + time.min(LONGEST_PAUSE));
        state.paused_because = because;
        self.keep(state, wall, now);
    }

    /// Ends the pause.
    pub(in crate::nodeletd) fn end(&mut self, state: &mut State) {
        self.until = None;
        state.paused_until = None;
        state.paused_because.clear();
    }

    /// Rest of the pause; `None` if none is in force.
    pub(in crate::nodeletd) fn left(&self, now: Instant) -> Option<Duration> {
        let left = self.until?.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    /// Updates the saved pause if the pause is over or the clock was set. Returns whether it was updated.
    pub(in crate::nodeletd) fn keep(&mut self, state: &mut State, wall: i64, now: Instant) -> bool {
        let Some(left) = self.left(now) else {
            let was = state.paused_until.is_some();
            self.end(state);
            return was;
        };
        let until = wall.saturating_add(i64::try_from(left.as_secs()).unwrap_or(i64::MAX));
        let right = state
            .paused_until
            .is_some_and(|kept| kept.abs_diff(until) <= DRIFT);
        if !right {
            state.paused_until = Some(until);
        }
        !right
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const DAY: i64 = 24 * 3600;

    #[test]
    fn a_clock_that_is_set_makes_no_pause_longer_or_shorter() {
        for set_to in [1000, 1000 + DAY, 1000 - DAY] {
            let began = Instant::now();
            let (mut pause, mut state) = (Pause::default(), State::default());
            pause.begin(&mut state, HOUR, "a look".to_owned(), 1000, began);
            assert_eq!(state.paused_until, Some(4600));
            let later = began + HOUR / 2;
            assert_eq!(pause.keep(&mut state, set_to + 1800, later), set_to != 1000);
            assert_eq!(pause.left(later), Some(HOUR / 2));
            // A start uses the saved time of day, which was updated after the clock was set.
            let next = Pause::restore(&state, set_to + 1800, later);
            assert_eq!(next.left(later), Some(HOUR / 2), "{set_to}");
            assert!(pause.keep(&mut state, set_to + 3600, began + HOUR));
            assert_eq!(pause.left(began + HOUR), None);
            assert_eq!(state, State::default());
        }
    }

    #[test]
    fn a_plausible_pause_is_restored_at_start() {
        let now = Instant::now();
        for (until, left) in [
            (Some(1600), Some(600)),
            (Some(1000), None),
            (Some(-5), None),
            (Some(1000 + 8 * DAY), None),
            (Some(i64::MAX), None),
            (None, None),
        ] {
            let state = State {
                paused_until: until,
                ..State::default()
            };
            let pause = Pause::restore(&state, 1000, now);
            assert_eq!(pause.left(now), left.map(Duration::from_secs), "{until:?}");
        }
    }
}
