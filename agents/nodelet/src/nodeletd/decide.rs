//! What to do after a status pass. Pure: no clock, no files, no host.

use std::time::Duration;

use crate::pass::{Desired, ServiceState};

/// What is known when a decision is made.
#[derive(Debug, Clone)]
pub(super) struct Situation<'a> {
    pub(super) desired: &'a Desired,
    /// The settings do not allow changes to the host, or the ledger is lost.
    pub(super) refused: bool,
    /// A pause is in force.
    pub(super) paused: bool,
    /// A phase failed that a repair would restart, or a restart was requested.
    pub(super) failing: bool,
    /// A certificate is due for renewal, and its phases are healthy.
    pub(super) due: bool,
    /// Something is on the host that the plan does not contain, and it is time to remove it.
    pub(super) left_over: bool,
    /// Something is on the host that a clean would remove.
    pub(super) stands: bool,
    /// A stop has been carried out and nothing was started since.
    pub(super) stopped: bool,
    /// Rest of the pause before the next attempt.
    pub(super) pause_left: Duration,
    /// The next attempt does not wait: it was requested, or the settings or the plan changed.
    pub(super) hurry: bool,
    /// The next attempt is to be a full clean.
    pub(super) clean_is_due: bool,
    /// Settings or role are invalid, and the last good ones are in force: after a clean the host might not come up again.
    pub(super) by_last_good: bool,
    /// An attempt has ended since this daemon started and since it last saw no failure.
    pub(super) tried_here: bool,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// The host is as desired, or must not be changed.
    Nothing,
    /// Wait this long before the next attempt.
    Wait(Duration),
    /// Restart what failed and what needs it.
    Repair,
    /// Make a full clean, which leaves kept data, and start from the first phase.
    CleanAndApply,
    /// Renew the certificates of one component.
    Renew,
    /// Remove what the plan does not contain, and restart nothing.
    TakeBack,
    /// Stop the role.
    Stop,
}

impl Action {
    /// Whether it is more than checking and waiting.
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
        // Leftovers are no failure of the node, so they never lead to a clean.
        ServiceState::True if !s.failing && s.left_over => Action::TakeBack,
        ServiceState::True if !s.failing && s.due => Action::Renew,
        ServiceState::True if !s.failing => Action::Nothing,
        ServiceState::True => {
            if !s.pause_left.is_zero() && !s.hurry {
                // Certificates must not expire while a phase fails for a long time.
                if s.due {
                    return Action::Renew;
                }
                return Action::Wait(s.pause_left);
            }
            // No full clean if the attempt was requested, if no attempt has ended since nodeletd started, or while the last good settings
            // or role are in force.
            if s.clean_is_due && s.tried_here && !s.hurry && !s.by_last_good {
                Action::CleanAndApply
            } else {
                Action::Repair
            }
        }
    }
}

/// Whether the host is not to be a node: its role is `none`, or nothing is installed and it has no cluster id. An installed role is kept
/// up also without an id.
fn is_unassigned(desired: &Desired, stands: bool) -> bool {
    desired.node == "none" || desired.cluster_id.is_empty() && !stands
}

/// Whether a host is as desired without being a node: nothing is to run on it and nothing runs, or it is not assigned to a cluster.
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
        assert_eq!(decide(&s), Action::Repair, "an installed role is kept");
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
