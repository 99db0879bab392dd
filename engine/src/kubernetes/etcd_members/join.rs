//! How a host without data joins a cluster that runs.

use std::collections::BTreeSet;

use super::quorum::quorum;
use super::seen::{Me, Seen, broken_first};
use crate::facts::MOST_MASTERS;
use crate::host::EtcdMember;

/// What a host without data has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Join {
    /// To wait: this has to change first.
    Wait(String),
    /// To remove this member of its own, whose data is gone, and then to add itself.
    Replace(u64),
    /// To add itself.
    Add,
    /// Nothing: it is added, and has not started yet.
    Added,
    /// It must not join: why, and what to do.
    Refuse {
        /// Why.
        why: String,
        /// What to do, in the imperative.
        next: String,
    },
}

/// Decides from all members of the cluster and their states.
///
/// One member is added at a time, and only while all others work: each addition is a risk for the quorum, and etcd has one learner at
/// most. The host has no data, so a member of its own name has lost it; its vote goes before the new member gets one.
#[must_use]
pub fn join(me: Me<'_>, members: &[Seen]) -> Join {
    let others: Vec<&Seen> = members.iter().filter(|seen| !me.is(&seen.member)).collect();
    let mut ours = members.iter().filter(|seen| me.is(&seen.member));
    let own = ours.next();
    if let Some(second) = ours.next() {
        return Join::Refuse {
            why: format!(
                "two members have the name {} or the address {}: one of them is {}",
                me.name,
                me.peer,
                second.shown()
            ),
            next: "look at them on a master (`nodelet etcd members`), and remove the wrong one by its id (`nodelet cluster remove ID`)".to_owned(),
        };
    }
    if let Some(refusal) = own.and_then(|own| refused_by_own(me, own)) {
        return refusal;
    }
    if let Some(learner) = others.iter().find(|seen| seen.member.learner) {
        return Join::Wait(format!(
            "member {} is joining; one member joins at a time; if its host does not come up, run `nodelet cluster remove {:x}` on a master",
            learner.shown(),
            learner.member.id
        ));
    }
    if let Some(why) = broken_first(others.iter().copied()) {
        return Join::Wait(format!(
            "{why}; if the host of one is lost, or waits for the same, run `nodelet cluster remove NAME` on a master, and let it join again later"
        ));
    }
    match own {
        Some(own) if own.member.learner && own.member.name.is_empty() => Join::Added,
        // All others work, so they are a majority without it, unless there are none.
        Some(own) if others.len() >= quorum(others.len()) && !others.is_empty() => {
            Join::Replace(own.member.id)
        }
        Some(_) => Join::Refuse {
            why: format!(
                "{} is the only member, and its data is on this host no more",
                me.name
            ),
            next: "put its data back, or restore a backup".to_owned(),
        },
        None if others.len() >= MOST_MASTERS => Join::Refuse {
            why: format!(
                "the cluster has {} members; more are not useful",
                others.len()
            ),
            next:
                "remove a master first (`nodelet cluster remove NAME`), or make this host a worker"
                    .to_owned(),
        },
        None => Join::Add,
    }
}

/// Why the member that is listed as this host's must not be replaced; `None` if its disk was emptied, or if it has not started yet.
fn refused_by_own(me: Me<'_>, own: &Seen) -> Option<Join> {
    let urls = own.member.peer_urls.join(", ");
    if !me.is_at(&own.member) {
        return Some(Join::Refuse {
            why: format!(
                "a member at another address has the name {} in this cluster: {urls}",
                me.name
            ),
            next: format!(
                "give this host another name; if it takes the place of that member, remove that one on another master first (`nodelet cluster remove {}`)",
                me.name
            ),
        });
    }
    own.problem().is_none().then(|| Join::Refuse {
        why: format!(
            "its member works ({urls}), and this host does not have its data"
        ),
        next: format!(
            "look at what answers there (`nodelet etcd members`) and put its data back; or remove it on another master first (`nodelet cluster remove {}`), and let this host join as a new one",
            me.name
        ),
    })
}

/// The value of `ETCD_INITIAL_CLUSTER`: each URL of each member with the member's name. This host's own member has no name yet.
#[must_use]
pub fn initial_cluster(me: Me<'_>, members: &[EtcdMember]) -> String {
    let pairs = members.iter().flat_map(|member| {
        let name = match member.name.as_str() {
            _ if me.is(member) => me.name.to_owned(),
            "" => format!("{:x}", member.id),
            name => name.to_owned(),
        };
        let urls = member.peer_urls.iter();
        urls.map(move |url| format!("{name}={url}"))
    });
    pairs.collect::<Vec<_>>().join(",")
}

/// Whether a value of `ETCD_INITIAL_CLUSTER` names the URLs of these members and no others. etcd refuses to join otherwise.
#[must_use]
pub fn same_members(initial_cluster: &str, members: &[EtcdMember]) -> bool {
    let written: BTreeSet<&str> = initial_cluster
        .split(',')
        .filter_map(|pair| Some(pair.split_once('=')?.1))
        .collect();
    let listed: BTreeSet<&str> = members
        .iter()
        .flat_map(|member| member.peer_urls.iter().map(String::as_str))
        .collect();
    written == listed
}

#[cfg(test)]
mod tests {
    use super::super::seen::tests::{is_down, learns, works};
    use super::*;

    const ME: Me<'_> = Me {
        name: "m-3",
        peer: "https://172.30.0.13:2380",
    };

    fn added() -> Seen {
        let mut seen = learns(is_down("", 13));
        seen.member.client_urls.clear();
        seen
    }

    #[test]
    fn a_host_joins_only_while_all_others_work_and_no_other_one_joins() {
        let cluster = [works("m-1", 11), works("m-2", 12)];
        assert_eq!(join(ME, &cluster), Join::Add);
        let broken = [works("m-1", 11), is_down("m-2", 12)];
        assert!(matches!(join(ME, &broken), Join::Wait(why) if why.contains("m-2: connection")));
        let joining = [works("m-1", 11), learns(works("m-2", 12))];
        assert!(
            matches!(join(ME, &joining), Join::Wait(why) if why.contains("m-2 is joining") && why.contains("`nodelet cluster remove c`"))
        );
    }

    #[test]
    fn a_host_that_is_added_is_not_added_again() {
        assert_eq!(join(ME, &[works("m-1", 11), added()]), Join::Added);
    }

    #[test]
    fn a_member_whose_disk_was_emptied_is_replaced_if_the_others_are_a_majority() {
        let cluster = [works("m-1", 11), works("m-2", 12), is_down("m-3", 13)];
        assert_eq!(join(ME, &cluster), Join::Replace(13));
        // A learner that has started once had data.
        let learner = [works("m-1", 11), learns(is_down("m-3", 13))];
        assert_eq!(join(ME, &learner), Join::Replace(13));
        let two_down = [works("m-1", 11), is_down("m-2", 12), is_down("m-3", 13)];
        assert!(matches!(join(ME, &two_down), Join::Wait(_)));
        let alone = [is_down("m-3", 13)];
        assert!(matches!(join(ME, &alone), Join::Refuse { .. }));
    }

    #[test]
    fn a_name_that_another_host_has_is_refused() {
        let taken = [works("m-1", 11), works("m-3", 14)];
        assert!(
            matches!(join(ME, &taken), Join::Refuse { why, .. } if why.contains("172.30.0.14"))
        );
        // Whether the host has a new address or takes the name of another one is not known.
        let moved = [works("m-1", 11), is_down("m-3", 14)];
        assert!(
            matches!(join(ME, &moved), Join::Refuse { next, .. } if next.contains("nodelet cluster remove m-3"))
        );
        let twice = [works("m-1", 11), is_down("m-3", 14), is_down("m-4", 13)];
        assert!(matches!(join(ME, &twice), Join::Refuse { .. }));
    }

    #[test]
    fn a_member_that_works_is_never_replaced() {
        let own = [works("m-1", 11), works("m-2", 12), works("m-3", 13)];
        assert!(matches!(join(ME, &own), Join::Refuse { why, .. } if why.contains("works")));
        let learner = [works("m-1", 11), learns(works("m-3", 13))];
        assert!(matches!(join(ME, &learner), Join::Refuse { .. }));
    }

    #[test]
    fn a_sixth_member_is_refused() {
        let cluster: Vec<Seen> = (21..26).map(|id| works(&format!("m-{id}"), id)).collect();
        assert!(matches!(join(ME, &cluster), Join::Refuse { .. }));
        assert_eq!(join(ME, &cluster[..4]), Join::Add);
    }

    #[test]
    fn the_initial_cluster_names_all_members_and_this_host() {
        let members = [works("m-1", 11).member, added().member];
        let text = initial_cluster(ME, &members);
        assert_eq!(
            text,
            "m-1=https://172.30.0.11:2380,m-3=https://172.30.0.13:2380"
        );
        assert!(same_members(&text, &members));
        assert!(!same_members(&text, &members[..1]));
        assert!(!same_members("", &members));
        let more = [
            works("m-1", 11).member,
            works("m-2", 12).member,
            added().member,
        ];
        assert!(!same_members(&text, &more));
    }
}
