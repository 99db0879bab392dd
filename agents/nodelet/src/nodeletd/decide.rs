//! What to do after a status pass. Pure: no clock, no files, no host.

use std::time::Duration;

use crate::pass::{Desired, ServiceState};

/// What is known when a decision is made.
#[derive(Debug, Clone)]
pub(super) struct Situation<'a> {
    pub(super) desired: &'a Desired,
    /// Why the host may not be worked on, if so.
    pub(super) refused: bool,
    /// Nobody is to touch the host for now.
    pub(super) paused: bool,
    /// Something failed that a repair would restart.
    pub(super) failing: bool,
    /// A certificate is due for renewal, and what it concerns is well.
    pub(super) due: bool,
    /// Something stands that the plan does not have, and it is time to take it back.
    pub(super) left_over: bool,
    /// Something of ours is on the host.
    pub(super) stands: bool,
    /// A stop has been carried out and nothing was started since.
    pub(super) stopped: bool,
    /// Of the pause before the next attempt.
    pub(super) pause_left: Duration,
    /// Somebody asked for an attempt now.
    pub(super) hurry: bool,
    /// The next attempt is the one that takes everything off.
    pub(super) clean_is_due: bool,
    /// Settings or role are wrong, and the last good ones are in force: what a clean takes off might not come back.
    pub(super) by_last_good: bool,
    /// This daemon has tried in vain since it saw the host well.
    pub(super) tried_here: bool,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// The host is as it should be, or is to be left alone.
    Nothing,
    /// An attempt comes, but not before this time has passed.
    Wait(Duration),
    /// Restart what failed and what needs it.
    Repair,
    /// Take everything off, but for what is kept, and bring it up from the first phase.
    CleanAndApply,
    /// Renew the certificates of one component.
    Renew,
    /// Take back what the plan does not have, and restart nothing.
    TakeBack,
    /// End what runs.
    Stop,
}

impl Action {
    /// Whether it is more than to look and to wait.
    pub(super) fn changes_the_host(self) -> bool {
        !matches!(self, Self::Nothing | Self::Wait(_))
    }
}

pub(super) fn decide(s: &Situation<'_>) -> Action {
    if s.paused || s.refused {
        return Action::Nothing;
    }
    match s.desired.service_state {
        ServiceState::Ignore => Action::Nothing,
        ServiceState::True if is_unassigned(s.desired, s.stands) => Action::Nothing,
        ServiceState::False if s.stands && !s.stopped => Action::Stop,
        ServiceState::False => Action::Nothing,
        // No failure of the node: it is never a reason to clean it.
        ServiceState::True if !s.failing && s.left_over => Action::TakeBack,
        ServiceState::True if !s.failing && s.due => Action::Renew,
        ServiceState::True if !s.failing => Action::Nothing,
        ServiceState::True => {
            if !s.pause_left.is_zero() && !s.hurry {
                // What fails for long must not let certificates run out.
                if s.due {
                    return Action::Renew;
                }
                return Action::Wait(s.pause_left);
            }
            // Nobody's haste takes a host down, and nothing that this daemon has not seen for itself.
            if s.clean_is_due && s.tried_here && !s.hurry && !s.by_last_good {
                Action::CleanAndApply
            } else {
                Action::Repair
            }
        }
    }
}

/// A bare host that belongs to no cluster has nothing to become. One on which a role stands is kept also without an id.
fn is_unassigned(desired: &Desired, stands: bool) -> bool {
    desired.node == "none" || desired.cluster_id.is_empty() && !stands
}

/// Whether a host is what it is to be without being a node: nothing is to run on it and nothing does, or nobody has said whose it is.
pub(super) fn has_become(desired: &Desired, stands: bool, stopped: bool) -> bool {
    match desired.service_state {
        ServiceState::True => is_unassigned(desired, stands),
        ServiceState::False => !stands || stopped,
        ServiceState::Ignore => false,
    }
}

/// Pause after so many failed attempts in a row, before jitter: none before the first, then a twelfth of the interval
/// between passes, doubled each time, at most five intervals. With the usual minute: 5 s, 10 s, 20 s … 5 min.
pub(super) fn backoff(attempts: u32, interval: Duration) -> Duration {
    match attempts.checked_sub(1) {
        None => Duration::ZERO,
        Some(doublings) => (interval / 12)
            .saturating_mul(1_u32 << doublings.min(10))
            .min(interval * 5),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desired(service_state: ServiceState) -> Desired {
        Desired {
            service_state,
            node: "master".to_owned(),
            cluster_id: "c".to_owned(),
            ..Desired::default()
        }
    }

    fn situation(desired: &Desired) -> Situation<'_> {
        Situation {
            desired,
            refused: false,
            paused: false,
            failing: true,
            due: false,
            left_over: false,
            stands: true,
            stopped: false,
            pause_left: Duration::ZERO,
            hurry: false,
            clean_is_due: false,
            by_last_good: false,
            tried_here: true,
        }
    }

    #[test]
    fn the_first_attempt_comes_at_once_and_later_ones_wait() {
        let desired = desired(ServiceState::True);
        let mut s = situation(&desired);
        assert_eq!(decide(&s), Action::Repair);
        s.pause_left = Duration::from_secs(12);
        assert_eq!(decide(&s), Action::Wait(Duration::from_secs(12)));
        s.hurry = true;
        assert_eq!(decide(&s), Action::Repair);
    }

    #[test]
    fn what_fails_is_repaired_before_anything_is_renewed() {
        let held = desired(ServiceState::True);
        let mut s = situation(&held);
        s.due = true;
        assert_eq!(decide(&s), Action::Repair);
        s.pause_left = Duration::from_secs(20);
        assert_eq!(decide(&s), Action::Renew, "in the pause between attempts");
        s.failing = false;
        assert_eq!(decide(&s), Action::Renew);
        s.paused = true;
        assert_eq!(decide(&s), Action::Nothing);
        let watched = desired(ServiceState::Ignore);
        let s = Situation {
            desired: &watched,
            paused: false,
            ..s
        };
        assert_eq!(decide(&s), Action::Nothing);
    }

    #[test]
    fn what_is_left_over_is_taken_back_and_never_a_reason_to_clean() {
        let desired = desired(ServiceState::True);
        let mut s = situation(&desired);
        s.failing = false;
        s.left_over = true;
        for clean_is_due in [false, true] {
            s.clean_is_due = clean_is_due;
            assert_eq!(decide(&s), Action::TakeBack);
        }
    }

    #[test]
    fn a_clean_needs_its_turn_and_a_try_of_our_own_and_nobodys_haste() {
        let desired = desired(ServiceState::True);
        for (clean_is_due, tried_here, hurry, by_last_good, wanted) in [
            (true, true, false, false, Action::CleanAndApply),
            (false, true, false, false, Action::Repair),
            (true, false, false, false, Action::Repair),
            (true, true, true, false, Action::Repair),
            (true, true, false, true, Action::Repair),
        ] {
            let s = Situation {
                clean_is_due,
                by_last_good,
                tried_here,
                hurry,
                ..situation(&desired)
            };
            assert_eq!(decide(&s), wanted, "{s:?}");
        }
    }

    #[test]
    fn who_is_to_be_left_alone_is_left_alone() {
        for state in [ServiceState::True, ServiceState::False] {
            let desired = desired(state);
            let base = situation(&desired);
            let paused = Situation {
                paused: true,
                ..base.clone()
            };
            let refused = Situation {
                refused: true,
                ..base
            };
            assert_eq!(decide(&paused), Action::Nothing);
            assert_eq!(decide(&refused), Action::Nothing);
        }
        let watched = desired(ServiceState::Ignore);
        assert_eq!(decide(&situation(&watched)), Action::Nothing);
        let unassigned = Desired {
            cluster_id: String::new(),
            ..desired(ServiceState::True)
        };
        let mut s = situation(&unassigned);
        assert_eq!(decide(&s), Action::Repair, "what stands is kept");
        s.stands = false;
        assert_eq!(decide(&s), Action::Nothing);
    }

    #[test]
    fn a_stop_comes_once_and_ends_a_half_started_node_too() {
        let desired = desired(ServiceState::False);
        let mut s = situation(&desired);
        assert_eq!(decide(&s), Action::Stop);
        s.stopped = true;
        assert_eq!(decide(&s), Action::Nothing);
        s.stopped = false;
        s.stands = false;
        assert_eq!(decide(&s), Action::Nothing);
    }

    #[test]
    fn a_host_that_is_to_be_no_node_is_as_desired_once_nothing_of_ours_runs() {
        let off = desired(ServiceState::False);
        for (stands, stopped, is) in [
            (false, false, true),
            (true, true, true),
            (true, false, false),
        ] {
            assert_eq!(has_become(&off, stands, stopped), is);
        }
        let nobodys = Desired {
            cluster_id: String::new(),
            ..desired(ServiceState::True)
        };
        assert!(has_become(&nobodys, false, false));
        assert!(!has_become(&nobodys, true, false), "it is kept");
        for state in [ServiceState::True, ServiceState::Ignore] {
            assert!(!has_become(&desired(state), false, false));
        }
    }

    #[test]
    fn pauses_double_up_to_five_intervals() {
        let minute = Duration::from_secs(60);
        let pauses: Vec<u64> = (0..10).map(|n| backoff(n, minute).as_secs()).collect();
        assert_eq!(pauses, [0, 5, 10, 20, 40, 80, 160, 300, 300, 300]);
        assert_eq!(backoff(u32::MAX, minute), Duration::from_secs(300));
    }
}
