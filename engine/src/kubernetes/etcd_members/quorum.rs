//! Whether the cluster keeps its quorum without a member.

use std::fmt;

use super::seen::{Me, Seen};
use crate::model::count;

/// How many of these voters have to work.
#[must_use]
pub fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

/// What happens to a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// It stops for a moment and starts again: a restart or a repair.
    Restart,
    /// It stops for longer.
    Stop,
    /// Its host is cleaned.
    Clean,
    /// It is removed from the cluster, which then has one voter less.
    Removal,
}

/// The cluster would lose its quorum. `Display` is a sentence without a full stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuorumLoss {
    /// The member.
    pub member: String,
    /// How many voters the cluster has afterwards.
    pub voters: usize,
    /// Names of the voters that work without this member.
    pub working: Vec<String>,
    /// The voters that do not work, each with the reason.
    pub broken: Vec<String>,
}

impl fmt::Display for QuorumLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let none = |names: &[String]| match names {
            [] => "none".to_owned(),
            names => names.join("; "),
        };
        write!(
            f,
            "without {} etcd would have no quorum: of its {} voters {} have to work; these would: {}; these do not: {}",
            self.member,
            self.voters,
            quorum(self.voters),
            none(&self.working),
            none(&self.broken)
        )
    }
}

impl std::error::Error for QuorumLoss {}

/// Whether the cluster keeps its quorum if this happens to the member of `me`.
///
/// The loss of the only member is no loss of a quorum: nothing else could take over. A learner and a member that is not listed have no
/// vote. To stop or restart a member that does not work costs nothing, and may be what brings the quorum back. A member that answers but knows
/// no leader works if another voter knows one: it has not heard of the election yet.
///
/// # Errors
/// The quorum would be lost.
pub fn after_loss(me: Me<'_>, members: &[Seen], loss: Loss) -> Result<(), QuorumLoss> {
    let voters = members.iter().filter(|seen| !seen.member.learner);
    let Some(own) = voters.clone().find(|seen| me.is(&seen.member)) else {
        return Ok(());
    };
    let others: Vec<&Seen> = voters.filter(|seen| !me.is(&seen.member)).collect();
    let voters = match loss {
        Loss::Restart | Loss::Stop if others.is_empty() || is_broken(own, &others) => return Ok(()),
        Loss::Clean if others.is_empty() => return Ok(()),
        Loss::Restart | Loss::Stop | Loss::Clean => others.len() + 1,
        Loss::Removal => others.len(),
    };
    let mut working = Vec::new();
    let mut broken = Vec::new();
    for seen in others {
        match seen.broken() {
            None => working.push(seen.shown()),
            Some(its) => broken.push(its),
        }
    }
    if working.len() >= quorum(voters) {
        return Ok(());
    }
    Err(QuorumLoss {
        member: own.shown(),
        voters,
        working,
        broken,
    })
}

/// That etcd has no quorum, as far as these answers tell: a sentence without a full stop, with what is wrong with each voter. `None` if a member
/// knows a leader, or if no voter is known.
#[must_use]
pub fn without_quorum(members: &[Seen]) -> Option<String> {
    let mut states = members.iter().filter_map(|seen| seen.state.as_ref().ok());
    if states.any(|state| state.leader.is_some()) {
        return None;
    }
    let voters = members.iter().filter(|seen| !seen.member.learner);
    let broken: Vec<String> = voters.filter_map(Seen::broken).collect();
    (!broken.is_empty()).then(|| {
        format!(
            "etcd has no quorum as far as this host sees: of its {} {} have to work, and none does: {}",
            count(broken.len(), "voter"),
            quorum(broken.len()),
            broken.join("; ")
        )
    })
}

/// Whether this host's own voter does not work.
fn is_broken(own: &Seen, others: &[&Seen]) -> bool {
    let mut own = own.clone();
    if let Ok(state) = &mut own.state
        && state.leader.is_none()
    {
        let mut known = others.iter().filter_map(|seen| seen.state.as_ref().ok());
        state.leader = known.find_map(|state| state.leader);
    }
    own.problem().is_some()
}

#[cfg(test)]
mod tests {
    use super::super::seen::tests::{is_down, learns, works};
    use super::*;

    const ME: Me<'_> = Me {
        name: "m-1",
        peer: "https://172.30.0.11:2380",
    };
    const ALL: [Loss; 4] = [Loss::Restart, Loss::Stop, Loss::Clean, Loss::Removal];

    fn allowed(members: &[Seen]) -> Vec<Loss> {
        let mut all = ALL.to_vec();
        all.retain(|loss| after_loss(ME, members, *loss).is_ok());
        all
    }

    #[test]
    fn a_quorum_is_more_than_half() {
        let needed: Vec<usize> = (1..=5).map(quorum).collect();
        assert_eq!(needed, [1, 2, 2, 3, 3]);
    }

    #[test]
    fn the_second_of_three_must_not_stop() {
        let three = [works("m-1", 11), works("m-2", 12), works("m-3", 13)];
        assert_eq!(allowed(&three), ALL);
        let two = [works("m-1", 11), works("m-2", 12), is_down("m-3", 13)];
        assert_eq!(allowed(&two), []);
        let lost = after_loss(ME, &two, Loss::Stop).expect_err("it is refused");
        let said = lost.to_string();
        assert!(said.contains("these would: m-2"), "{said}");
        assert!(said.contains("m-3: connection refused"), "{said}");
    }

    #[test]
    fn of_two_members_one_can_only_be_removed() {
        let two = [works("m-1", 11), works("m-2", 12)];
        assert_eq!(allowed(&two), [Loss::Removal]);
    }

    #[test]
    fn a_dead_member_can_be_repaired_and_removed_but_not_cleaned_without_a_quorum() {
        let one_dead = [is_down("m-1", 11), works("m-2", 12), works("m-3", 13)];
        assert_eq!(allowed(&one_dead), ALL);
        // All were killed at once: each has to be able to repair itself.
        let all_dead = [is_down("m-1", 11), is_down("m-2", 12), is_down("m-3", 13)];
        assert_eq!(allowed(&all_dead), [Loss::Restart, Loss::Stop]);
    }

    /// Right after a leader died, a member may not know the next one yet.
    #[test]
    fn a_member_without_a_leader_counts_if_another_knows_one() {
        let mut own = works("m-1", 11);
        if let Ok(state) = &mut own.state {
            state.leader = None;
        }
        let mut other = works("m-2", 12);
        let gone = is_down("m-3", 13);
        assert_eq!(allowed(&[own.clone(), other.clone(), gone.clone()]), []);
        if let Ok(state) = &mut other.state {
            state.leader = None;
        }
        assert_eq!(allowed(&[own, other, gone]), [Loss::Restart, Loss::Stop]);
    }

    #[test]
    fn members_of_which_none_knows_a_leader_have_no_quorum() {
        let (second, third) = (is_down("m-2", 12), is_down("m-3", 13));
        let mut own = works("m-1", 11);
        if let Ok(state) = &mut own.state {
            state.leader = None;
        }
        let three = [own.clone(), second.clone(), third.clone()];
        assert_eq!(
            without_quorum(&three).as_deref(),
            Some(
                "etcd has no quorum as far as this host sees: of its 3 voters 2 have to work, and none does: m-1: it knows no leader; m-2: connection refused; m-3: connection refused"
            )
        );
        // This host reaches no other member, or has not heard of an election yet.
        let reaches_none = [works("m-1", 11), second.clone(), third.clone()];
        assert_eq!(without_quorum(&reaches_none), None);
        assert_eq!(without_quorum(&[own, works("m-2", 12), third]), None);
        // A learner has no vote.
        assert_eq!(without_quorum(&[learns(second)]), None);
        assert_eq!(without_quorum(&[]), None);
    }

    #[test]
    fn a_single_member_can_do_everything_but_leave() {
        let single = [works("m-1", 11)];
        assert_eq!(allowed(&single), [Loss::Restart, Loss::Stop, Loss::Clean]);
        // A learner of its has no vote yet.
        let joining = [works("m-1", 11), learns(works("m-2", 12))];
        assert_eq!(allowed(&joining), [Loss::Restart, Loss::Stop, Loss::Clean]);
    }

    #[test]
    fn a_learner_and_a_stranger_have_no_vote_to_lose() {
        let learner = [learns(works("m-1", 11)), works("m-2", 12)];
        assert_eq!(allowed(&learner), ALL);
        assert_eq!(allowed(&[works("m-2", 12), works("m-3", 13)]), ALL);
        assert_eq!(allowed(&[]), ALL);
    }
}
