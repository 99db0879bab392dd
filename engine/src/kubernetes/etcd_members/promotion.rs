//! When a learner gets its vote.

use super::seen::{Me, Seen, broken_first};

/// Most entries of the log that a member may be behind the leader.
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

/// Decides from all members with their states, which were read twice, one directly after the other, and from the raft index that this host's own
/// member has after that. Indices grow while they are read: a member is in sync if it has now what the leader had at first.
#[must_use]
pub fn promotion(me: Me<'_>, first: &[Seen], second: &[Seen], own_index: Option<u64>) -> Promotion {
    let Some(own) = second.iter().find(|seen| me.is(&seen.member)) else {
        return Promotion::Gone;
    };
    if !own.member.learner {
        return Promotion::Voter;
    }
    for members in [first, second] {
        if let Some(why) = broken_first(voters(members)) {
            return Promotion::Wait(why);
        }
    }
    let Some(own_index) = own_index else {
        return Promotion::Wait("this host's member does not answer yet".to_owned());
    };
    let leader = leader_index(first);
    let others = voters(second).filter_map(|seen| {
        let state = seen.state.as_ref().ok()?;
        Some((seen.shown(), state.raft_index))
    });
    let all = others.chain([("this host's member".to_owned(), own_index)]);
    let behind: Vec<String> = all
        .filter_map(|(name, index)| {
            let behind = leader.saturating_sub(index);
            (behind > LAG).then(|| format!("{name} by {behind} entries"))
        })
        .collect();
    if !behind.is_empty() {
        let names = behind.join(", ");
        return Promotion::Wait(format!("these members are behind the leader: {names}"));
    }
    Promotion::Promote(own.member.id)
}

fn voters(members: &[Seen]) -> impl Iterator<Item = &Seen> {
    members.iter().filter(|seen| !seen.member.learner)
}

/// The raft index of the leader; the highest one if no voter says that it is the leader.
fn leader_index(members: &[Seen]) -> u64 {
    let states = || voters(members).filter_map(|seen| seen.state.as_ref().ok());
    let leader = states().find(|state| state.leader == Some(state.id));
    let index = leader.map(|state| state.raft_index);
    index
        .or_else(|| states().map(|state| state.raft_index).max())
        .unwrap_or_default()
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
            let decided = promotion(ME, &cluster, &cluster, Some(own));
            assert_eq!(decided == Promotion::Promote(12), expected, "{own}");
        }
        let decided = promotion(ME, &cluster, &cluster, None);
        assert!(matches!(decided, Promotion::Wait(_)));
        let broken = [
            works("m-1", 11),
            is_down("m-3", 13),
            learns(works("m-2", 12)),
        ];
        let working = [works("m-1", 11), works("m-3", 13), learns(works("m-2", 12))];
        for (first, second) in [(&broken, &broken), (&broken, &working), (&working, &broken)] {
            let decided = promotion(ME, first, second, Some(100));
            assert!(matches!(decided, Promotion::Wait(why) if why.contains("m-3")));
        }
    }

    /// m-1 is the leader, with this index.
    fn voters_at(leader: u64, follower: u64) -> [Seen; 3] {
        let at = |name, number, index| {
            let mut seen = works(name, number);
            if let Ok(state) = &mut seen.state {
                state.raft_index = index;
            }
            seen
        };
        [
            at("m-1", 11, leader),
            at("m-3", 13, follower),
            learns(works("m-2", 12)),
        ]
    }

    #[test]
    fn a_voter_that_lags_is_waited_for() {
        // The log grows between the two looks.
        for (first, second, expected) in [
            ((1000, 1000), (1000, 1000), true),
            ((1000, 900), (1200, 999), true),
            ((1000, 900), (1200, 998), false),
            ((1000, 1000), (1200, 900), false),
        ] {
            let seen = |(leader, follower)| voters_at(leader, follower);
            let decided = promotion(ME, &seen(first), &seen(second), Some(1000));
            assert_eq!(decided == Promotion::Promote(12), expected, "{second:?}");
            let Promotion::Wait(why) = decided else {
                continue;
            };
            let behind = 1000 - second.1;
            assert!(why.contains(&format!("m-3 by {behind} entries")), "{why}");
        }
        let decided = promotion(ME, &voters_at(1000, 5), &voters_at(1000, 6), Some(7));
        let why = "these members are behind the leader: m-3 by 994 entries, this host's member by 993 entries";
        assert_eq!(decided, Promotion::Wait(why.to_owned()));
    }

    #[test]
    fn a_voter_and_a_member_that_is_gone_are_told_apart() {
        let voter = [works("m-1", 11), works("m-2", 12)];
        assert_eq!(promotion(ME, &voter, &voter, None), Promotion::Voter);
        assert_eq!(promotion(ME, &voter, &voter[..1], None), Promotion::Gone);
    }
}
