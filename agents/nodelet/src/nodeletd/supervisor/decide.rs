//! What to do after a status pass. Pure: no clock, no files, no host.

use std::time::Duration;

use crate::pass::{Desired, ServiceState};

/// What is known when a decision is made.
#[derive(Debug, Clone)]
pub(in crate::nodeletd) struct Situation<'a> {
    pub(in crate::nodeletd) desired: &'a Desired,
    /// The settings do not allow changes to the host, or the ledger is lost.
    pub(in crate::nodeletd) refused: bool,
    /// The host has a wrong name: what fails is restarted, and nothing else is changed.
    pub(in crate::nodeletd) restarts_only: bool,
    /// A pause is in force.
    pub(in crate::nodeletd) paused: bool,
    /// A phase failed that a repair would restart, or a restart was requested.
    pub(in crate::nodeletd) failing: bool,
    /// A certificate is due for renewal, and its phases are healthy.
    pub(in crate::nodeletd) due: bool,
    /// Something is on the host that the plan does not contain, and it is time to remove it.
    pub(in crate::nodeletd) has_orphans: bool,
    /// Something is on the host that a clean would remove.
    pub(in crate::nodeletd) installed: bool,
    /// A stop has been carried out and nothing was started since.
    pub(in crate::nodeletd) stopped: bool,
    /// Rest of the pause before the next attempt.
    pub(in crate::nodeletd) pause_left: Duration,
    /// The next attempt does not wait: it was requested, or the settings, the plan or the join file changed.
    pub(in crate::nodeletd) skip_backoff: bool,
    /// The next attempt is to be a full clean.
    pub(in crate::nodeletd) clean_is_due: bool,
    /// Settings or role are invalid, and the last good ones are in force: after a clean the host might not come up again.
    pub(in crate::nodeletd) by_last_good: bool,
    /// An attempt has ended since this daemon started and since it last saw no failure.
    pub(in crate::nodeletd) repaired_since_start: bool,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::nodeletd) enum Action {
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
    Prune,
    /// Stop the role.
    Stop,
}

impl Action {
    /// Whether it is more than checking and waiting.
    pub(in crate::nodeletd) fn changes_the_host(self) -> bool {
        !matches!(self, Self::Nothing | Self::Wait(_))
    }
}

pub(in crate::nodeletd) fn decide(s: &Situation<'_>) -> Action {
    if s.paused || s.refused {
        return Action::Nothing;
    }
    match s.desired.service_state {
        ServiceState::Ignore => Action::Nothing,
        ServiceState::True if s.desired.is_unassigned(s.installed) => Action::Nothing,
        ServiceState::False if s.installed && !s.stopped && !s.restarts_only => Action::Stop,
        ServiceState::False => Action::Nothing,
        ServiceState::True if !s.failing && s.restarts_only => Action::Nothing,
        // Orphans are no failure of the node, so they never lead to a clean.
        ServiceState::True if !s.failing && s.has_orphans => Action::Prune,
        ServiceState::True if !s.failing && s.due => Action::Renew,
        ServiceState::True if !s.failing => Action::Nothing,
        ServiceState::True => {
            if !s.pause_left.is_zero() && !s.skip_backoff {
                // Certificates must not expire while a phase fails for a long time.
                if s.due && !s.restarts_only {
                    return Action::Renew;
                }
                return Action::Wait(s.pause_left);
            }
            // No full clean if the attempt was requested, if no attempt has ended since nodeletd started, or while the last good settings
            // or role are in force.
            if s.clean_is_due && s.repaired_since_start && !s.skip_backoff && !s.by_last_good {
                Action::CleanAndApply
            } else {
                Action::Repair
            }
        }
    }
}

/// Whether a host is as desired without being a node: nothing is to run on it and nothing runs, or it is not assigned to a cluster.
pub(in crate::nodeletd) fn at_desired_state(
    desired: &Desired,
    installed: bool,
    stopped: bool,
) -> bool {
    match desired.service_state {
        ServiceState::True => desired.is_unassigned(installed),
        ServiceState::False => !installed || stopped,
        ServiceState::Ignore => false,
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
            restarts_only: false,
            paused: false,
            failing: true,
            due: false,
            has_orphans: false,
            installed: true,
            stopped: false,
            pause_left: Duration::ZERO,
            skip_backoff: false,
            clean_is_due: false,
            by_last_good: false,
            repaired_since_start: true,
        }
    }

    #[test]
    fn the_first_attempt_comes_at_once_and_later_ones_wait() {
        let desired = desired(ServiceState::True);
        let mut s = situation(&desired);
        assert_eq!(decide(&s), Action::Repair);
        s.pause_left = Duration::from_secs(12);
        assert_eq!(decide(&s), Action::Wait(Duration::from_secs(12)));
        s.skip_backoff = true;
        assert_eq!(decide(&s), Action::Repair);
    }

    #[test]
    fn repairs_come_before_renewals() {
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
    fn orphans_are_pruned_and_never_cause_a_full_clean() {
        let desired = desired(ServiceState::True);
        let mut s = situation(&desired);
        s.failing = false;
        s.has_orphans = true;
        for clean_is_due in [false, true] {
            s.clean_is_due = clean_is_due;
            assert_eq!(decide(&s), Action::Prune);
        }
    }

    #[test]
    fn a_clean_comes_every_tenth_attempt_after_a_repair_failed_and_never_on_request() {
        let desired = desired(ServiceState::True);
        for (clean_is_due, repaired_since_start, skip_backoff, by_last_good, wanted) in [
            (true, true, false, false, Action::CleanAndApply),
            (false, true, false, false, Action::Repair),
            (true, false, false, false, Action::Repair),
            (true, true, true, false, Action::Repair),
            (true, true, false, true, Action::Repair),
        ] {
            let s = Situation {
                clean_is_due,
                by_last_good,
                repaired_since_start,
                skip_backoff,
                ..situation(&desired)
            };
            assert_eq!(decide(&s), wanted, "{s:?}");
        }
    }

    #[test]
    fn paused_and_refused_hosts_are_not_changed() {
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
        s.installed = false;
        assert_eq!(decide(&s), Action::Nothing);
    }

    #[test]
    fn with_a_wrong_host_name_only_what_fails_is_restarted() {
        let held = desired(ServiceState::True);
        let mut s = situation(&held);
        s.restarts_only = true;
        s.by_last_good = true;
        s.clean_is_due = true;
        s.due = true;
        s.has_orphans = true;
        assert_eq!(decide(&s), Action::Repair);
        s.pause_left = Duration::from_secs(20);
        assert_eq!(decide(&s), Action::Wait(Duration::from_secs(20)));
        s.failing = false;
        assert_eq!(decide(&s), Action::Nothing, "no renewal and no removal");
        let off = desired(ServiceState::False);
        let s = Situation { desired: &off, ..s };
        assert_eq!(decide(&s), Action::Nothing, "no stop");
    }

    #[test]
    fn a_stop_runs_once_and_also_stops_a_partly_started_node() {
        let desired = desired(ServiceState::False);
        let mut s = situation(&desired);
        assert_eq!(decide(&s), Action::Stop);
        s.stopped = true;
        assert_eq!(decide(&s), Action::Nothing);
        s.stopped = false;
        s.installed = false;
        assert_eq!(decide(&s), Action::Nothing);
    }

    #[test]
    fn an_unassigned_host_is_at_its_desired_state_when_the_role_is_stopped() {
        let off = desired(ServiceState::False);
        for (installed, stopped, is) in [
            (false, false, true),
            (true, true, true),
            (true, false, false),
        ] {
            assert_eq!(at_desired_state(&off, installed, stopped), is);
        }
        let unassigned = Desired {
            cluster_id: String::new(),
            ..desired(ServiceState::True)
        };
        assert!(at_desired_state(&unassigned, false, false));
        assert!(!at_desired_state(&unassigned, true, false), "it is kept");
        for state in [ServiceState::True, ServiceState::Ignore] {
            assert!(!at_desired_state(&desired(state), false, false));
        }
    }
}
