//! When a learner gets its vote.

use super::seen::{Me, Seen, broken_first};

/// Most entries of the log that a learner may be behind.
const LAG: u64 = 1;

/// What is to be done about this host's own member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Promotion {
    /// Nothing: it has a vote.
    Voter,
    /// To wait: this has to change first.
    Wait(String),
    /// To promote the learner with this id.
    Promote(u64),
    /// The cluster does not list it.
    Gone,
}

/// Decides from all members with their states, and the raft index that this host's own member has now. The state of the own member has
/// to be read last, so that its index is not older than those of the others.
#[must_use]
pub fn promotion(me: Me<'_>, members: &[Seen], own_index: Option<u64>) -> Promotion {
    let Some(own) = members.iter().find(|seen| me.is(&seen.member)) else {
        return Promotion::Gone;
    };
    if !own.member.learner {
        return Promotion::Voter;
    }
    let voters = members.iter().filter(|seen| !seen.member.learner);
    if let Some(why) = broken_first(voters.clone()) {
        return Promotion::Wait(why);
    }
    let Some(own_index) = own_index else {
        return Promotion::Wait("this host's member does not answer yet".to_owned());
    };
    let newest = voters.filter_map(|seen| seen.state.as_ref().ok());
    let newest = newest.map(|state| state.raft_index).max();
    let behind = newest.unwrap_or_default().saturating_sub(own_index);
    if behind > LAG {
        return Promotion::Wait(format!(
            "this host's member is {behind} entries behind the others"
        ));
    }
    Promotion::Promote(own.member.id)
}

#[cfg(test)]
mod tests {
    use super::super::seen::tests::{is_down, learns, works};
    use super::*;

    const ME: Me<'_> = Me {
        name: "m-2",
        peer: "https://172.30.0.12:2380",
    };

    #[test]
    fn a_learner_is_promoted_once_it_is_in_sync_and_all_voters_work() {
        let cluster = [works("m-1", 11), learns(works("m-2", 12))];
        for (own, expected) in [
            (99, true),
            (100, true),
            (150, true),
            (98, false),
            (0, false),
        ] {
            let decided = promotion(ME, &cluster, Some(own));
            assert_eq!(decided == Promotion::Promote(12), expected, "{own}");
        }
        assert!(matches!(promotion(ME, &cluster, None), Promotion::Wait(_)));
        let broken = [
            works("m-1", 11),
            is_down("m-3", 13),
            learns(works("m-2", 12)),
        ];
        let decided = promotion(ME, &broken, Some(100));
        assert!(matches!(decided, Promotion::Wait(why) if why.contains("m-3")));
    }

    #[test]
    fn a_voter_and_a_member_that_is_gone_are_told_apart() {
        let voter = [works("m-1", 11), works("m-2", 12)];
        assert_eq!(promotion(ME, &voter, None), Promotion::Voter);
        assert_eq!(promotion(ME, &voter[..1], None), Promotion::Gone);
    }
}
