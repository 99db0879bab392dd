//! A member with its state, and which one is this host's.

use std::net::{IpAddr, SocketAddr};

use crate::host::{EtcdMember, EtcdStatus, Host};
use crate::model::chain;

/// The ports on which a member answers its clients and the other members.
const CLIENTS: u16 = 4001;
const PEERS: u16 = 2380;
/// The endpoint of this host's own member.
pub const OWN_ENDPOINT: &str = "https://127.0.0.1:4001";

/// The URL of a host's member for clients.
#[must_use]
pub fn client_url(address: IpAddr) -> String {
    format!("https://{}", SocketAddr::new(address, CLIENTS))
}

/// The URL of a host's member for other members.
#[must_use]
pub fn peer_url(address: IpAddr) -> String {
    format!("https://{}", SocketAddr::new(address, PEERS))
}

/// Who this host is in the cluster.
#[derive(Debug, Clone, Copy)]
pub struct Me<'a> {
    /// The name of its member.
    pub name: &'a str,
    /// The URL of its member for other members.
    pub peer: &'a str,
}

impl Me<'_> {
    /// Whether the member is this host's.
    #[must_use]
    pub fn is(&self, member: &EtcdMember) -> bool {
        member.name == self.name || self.is_at(member)
    }

    /// Whether the member is listed at this host's URL.
    #[must_use]
    pub fn is_at(&self, member: &EtcdMember) -> bool {
        member.peer_urls.iter().any(|url| url == self.peer)
    }
}

/// A member and its state; the error says why the state is not known.
#[derive(Debug, Clone)]
pub struct Seen {
    /// As the cluster lists it.
    pub member: EtcdMember,
    /// As it says itself.
    pub state: Result<EtcdStatus, String>,
}

impl Seen {
    /// The name to show: its name, or its URL if it has not started yet.
    #[must_use]
    pub fn shown(&self) -> String {
        let member = &self.member;
        match member.name.as_str() {
            "" => format!("{} (not started yet)", member.peer_urls.join(",")),
            name => name.to_owned(),
        }
    }

    /// The name to show and why the member does not work; `None` if it does.
    pub(super) fn broken(&self) -> Option<String> {
        let why = self.problem()?;
        Some(format!("{}: {why}", self.shown()))
    }

    /// Why the member does not work; `None` if it does.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        match &self.state {
            Err(why) => Some(why.clone()),
            Ok(state) if state.leader.is_none() => Some("it knows no leader".to_owned()),
            Ok(state) if state.errors.iter().any(|error| error.contains("CORRUPT")) => {
                Some("it reports that its data is damaged".to_owned())
            }
            Ok(_) => None,
        }
    }
}

/// What a change of the cluster waits for: those of these members that do not work. `None` if all do.
pub(super) fn broken_first<'s>(members: impl Iterator<Item = &'s Seen>) -> Option<String> {
    let broken: Vec<String> = members.filter_map(Seen::broken).collect();
    (!broken.is_empty()).then(|| format!("these members have to work first: {}", broken.join("; ")))
}

/// The members with their states. All are asked at the same time. An answer of another member than the listed one does not count; a list
/// from the file of masters may lack the id (0). Cancel safe.
pub async fn look(host: &dyn Host, members: Vec<EtcdMember>) -> Vec<Seen> {
    let looks = members.into_iter().map(|member| async move {
        let mut state = Err("it has not started yet".to_owned());
        for url in &member.client_urls {
            state = match host.member_status(url).await {
                Ok(state) if member.id != 0 && state.id != member.id => {
                    Err(format!("another member answers at {url}: {:x}", state.id))
                }
                Ok(state) => Ok(state),
                Err(error) => Err(chain(&error).join(": ")),
            };
            if state.is_ok() {
                break;
            }
        }
        Seen { member, state }
    });
    futures::future::join_all(looks).await
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A member that works: `name` and the last part of its address, which is also its id.
    pub(in crate::kubernetes::etcd_members) fn works(name: &str, number: u64) -> Seen {
        let address = format!("172.30.0.{number}");
        Seen {
            member: EtcdMember {
                id: number,
                name: name.to_owned(),
                peer_urls: vec![format!("https://{address}:2380")],
                client_urls: vec![format!("https://{address}:4001")],
                learner: false,
            },
            state: Ok(EtcdStatus {
                id: number,
                leader: Some(11),
                raft_index: 100,
                ..EtcdStatus::default()
            }),
        }
    }

    /// The same, but it does not answer.
    pub(in crate::kubernetes::etcd_members) fn is_down(name: &str, number: u64) -> Seen {
        Seen {
            state: Err("connection refused".to_owned()),
            ..works(name, number)
        }
    }

    /// The same as a learner.
    pub(in crate::kubernetes::etcd_members) fn learns(seen: Seen) -> Seen {
        let mut seen = seen;
        seen.member.learner = true;
        if let Ok(state) = &mut seen.state {
            state.learner = true;
        }
        seen
    }

    #[test]
    fn a_member_without_a_leader_or_with_damaged_data_does_not_work() {
        assert_eq!(works("m-1", 11).problem(), None);
        let mut lonely = works("m-1", 11);
        lonely.state = Ok(EtcdStatus::default());
        assert!(lonely.problem().is_some());
        let mut full = works("m-1", 11);
        let mut damaged = works("m-1", 11);
        for (seen, alarm) in [(&mut full, "NOSPACE"), (&mut damaged, "CORRUPT")] {
            if let Ok(state) = &mut seen.state {
                state.errors.push(format!("memberID:11 alarm:{alarm}"));
            }
        }
        assert_eq!(full.problem(), None);
        assert!(damaged.problem().is_some());
    }

    #[tokio::test]
    async fn the_answer_of_another_member_does_not_count() {
        let host = crate::host::fake::FakeHost::new();
        host.with_world_mut(|world| world.etcd.voter("m-1", "172.30.0.11", 11));
        let listed = host.with_world(|world| world.etcd.members.clone());
        let problem = async |id| {
            let mut listed = listed.clone();
            listed[0].id = id;
            look(&host, listed).await[0].problem()
        };
        assert_eq!(problem(11).await, None);
        let why = problem(12).await.expect("it is another one");
        assert!(why.starts_with("another member answers"), "{why}");
        // The id is not known.
        assert_eq!(problem(0).await, None);
    }

    #[test]
    fn addresses_of_ipv6_are_in_brackets() {
        let url = |text: &str| client_url(text.parse().expect("an address"));
        assert_eq!(url("172.30.0.11"), "https://172.30.0.11:4001");
        assert_eq!(url("fd00::1"), "https://[fd00::1]:4001");
        // A part of the address may look like the port.
        let peer = peer_url("fd00::4001".parse().expect("an address"));
        assert_eq!(peer, "https://[fd00::4001]:2380");
    }
}
