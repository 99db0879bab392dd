//! Whose silence has taken the quorum from a member that answers.

use super::quorum::quorum;
use super::seen::{Me, Seen};

/// The names of the other voters that do not answer, if etcd has no quorum because of them. The member of `me` has answered that it knows
/// no leader. `None` if the reason is another one: a member knows a leader, enough voters answer, or this member is not listed.
///
/// The list is the file of masters, and may be older than a promotion. So a listed learner that does not answer counts as a voter: if it had
/// no vote, the voters would have a leader.
#[must_use]
pub fn silent_voters(me: Me<'_>, members: &[Seen]) -> Option<Vec<String>> {
    if !members.iter().any(|seen| me.is(&seen.member)) {
        return None;
    }
    let others = || members.iter().filter(|seen| !me.is(&seen.member));
    let mut states = others().filter_map(|seen| seen.state.as_ref().ok());
    if states.any(|state| state.leader.is_some()) {
        return None;
    }
    let is_silent = |seen: &Seen| !me.is(&seen.member) && seen.state.is_err();
    let may_vote = |seen: &&Seen| !seen.member.learner || is_silent(seen);
    let voters = members.iter().filter(may_vote).count();
    let silent: Vec<String> = others()
        .filter(|seen| is_silent(seen))
        .map(Seen::shown)
        .collect();
    (voters - silent.len() < quorum(voters)).then_some(silent)
}

#[cfg(test)]
mod tests {
    use super::super::seen::tests::{is_down, learns, works};
    use super::*;

    const ME: Me<'_> = Me {
        name: "m-1",
        peer: "https://172.30.0.11:2380",
    };

    /// The same member, but it knows no leader.
    fn lonely(seen: Seen) -> Seen {
        let mut seen = seen;
        if let Ok(state) = &mut seen.state {
            state.leader = None;
        }
        seen
    }

    fn silent(members: &[Seen]) -> Option<String> {
        silent_voters(ME, members).map(|names| names.join(" "))
    }

    #[test]
    fn members_that_do_not_answer_take_the_quorum() {
        let own = || lonely(works("m-1", 11));
        let second = || lonely(works("m-2", 12));
        let dead = |name, number| is_down(name, number);
        let named = |text: &str| Some(text.to_owned());
        let two_dead = [own(), dead("m-2", 12), dead("m-3", 13)];
        assert_eq!(silent(&two_dead), named("m-2 m-3"));
        assert_eq!(silent(&[own(), dead("m-2", 12)]), named("m-2"));
        let three_of_five = [
            own(),
            second(),
            dead("m-3", 13),
            dead("m-4", 14),
            dead("m-5", 15),
        ];
        assert_eq!(silent(&three_of_five), named("m-3 m-4 m-5"));
        // Its own address is not asked for: the caller has asked it on the loopback.
        let unreachable = [dead("m-1", 11), dead("m-2", 12), dead("m-3", 13)];
        assert_eq!(silent(&unreachable), named("m-2 m-3"));
        // A learner that waits for the voters.
        let learner = [learns(own()), dead("m-2", 12)];
        assert_eq!(silent(&learner), named("m-2"));
        // The list may be older than a promotion.
        let promoted = [own(), learns(dead("m-2", 12))];
        assert_eq!(silent(&promoted), named("m-2"));
    }

    #[test]
    fn another_reason_is_not_the_silence_of_others() {
        let own = || lonely(works("m-1", 11));
        let second = || lonely(works("m-2", 12));
        // Enough voters answer: they may be electing a leader, or this member cannot reach the others.
        assert_eq!(silent(&[own(), second(), is_down("m-3", 13)]), None);
        assert_eq!(silent(&[own(), works("m-2", 12), is_down("m-3", 13)]), None);
        // One that does not answer is listed without a vote, and may have one: two of three work.
        let listed = [own(), second(), learns(is_down("m-3", 13))];
        assert_eq!(silent(&listed), None);
        // A single member, one beside a learner that answers, and one that is not listed.
        assert_eq!(silent(&[own()]), None);
        assert_eq!(silent(&[own(), learns(second())]), None);
        assert_eq!(silent(&[is_down("m-2", 12), is_down("m-3", 13)]), None);
        assert_eq!(silent(&[]), None);
    }
}
