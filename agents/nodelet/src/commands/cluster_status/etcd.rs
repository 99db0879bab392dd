//! The members of etcd: their list from one of them, and the status of each.

use std::future::Future;
use std::net::IpAddr;

use anyhow::Result;
use engine::kubernetes::etcd_members::client_url;
use futures::future::join_all;

use super::observed::{EtcdState, LATER, MemberRow, MemberState, Part, shown, within};
use crate::etcd::{Etcd, EtcdMember, EtcdStatus};

/// Most members that are asked, and most masters that are asked for them.
const MEMBERS: usize = 9;
/// Most entries that a member may be behind. A busy cluster writes so much in about a second.
pub(super) const LAG: u64 = 1000;

/// Questions to etcd, each to the member at a URL. The caller gives them a deadline.
pub(super) trait AskEtcd {
    /// The members that it knows.
    async fn members(&self, url: &str) -> Result<Vec<EtcdMember>>;
    /// Its own status.
    async fn status(&self, url: &str) -> Result<EtcdStatus>;
    /// The alarms that are on.
    async fn alarms(&self, url: &str) -> Result<Vec<String>>;
    /// The identity of the cluster, by a read that needs a quorum.
    async fn cluster(&self, url: &str) -> Result<Option<String>>;
}

/// The etcd of this cluster.
pub(super) struct LiveEtcd;

impl AskEtcd for LiveEtcd {
    async fn members(&self, url: &str) -> Result<Vec<EtcdMember>> {
        Etcd::at(url).await?.members().await
    }

    async fn status(&self, url: &str) -> Result<EtcdStatus> {
        Etcd::at(url).await?.status().await
    }

    async fn alarms(&self, url: &str) -> Result<Vec<String>> {
        let alarms = Etcd::at(url).await?.alarms().await?;
        Ok(alarms.iter().map(ToString::to_string).collect())
    }

    async fn cluster(&self, url: &str) -> Result<Option<String>> {
        Etcd::at(url).await?.cluster().await
    }
}

/// The members, as one of them names them.
#[derive(Debug)]
pub(super) struct Named {
    by: String,
    members: Vec<EtcdMember>,
}

/// The members that the one at `url` knows.
pub(super) async fn named_by<E: AskEtcd>(etcd: &E, url: &str) -> Part<Named> {
    let members = within(LATER, etcd.members(url)).await;
    members.map(|members| Named {
        by: url.to_owned(),
        members,
    })
}

/// The state of etcd. If this host's member does not answer, those of the other masters are asked.
pub(super) async fn state<E: AskEtcd>(
    etcd: &E,
    here: Part<Named>,
    others: impl Future<Output = Vec<IpAddr>>,
) -> Part<EtcdState> {
    let named = match here {
        Part::Known(named) => named,
        Part::Unknown { unknown } => match elsewhere(etcd, others.await).await {
            Some(named) => named,
            None => return Part::Unknown { unknown },
        },
    };
    Part::Known(ask(etcd, named).await)
}

async fn elsewhere<E: AskEtcd>(etcd: &E, others: Vec<IpAddr>) -> Option<Named> {
    let urls = others.into_iter().take(MEMBERS);
    let urls: Vec<String> = urls.map(client_url).collect();
    let answers = join_all(urls.iter().map(|url| named_by(etcd, url))).await;
    answers.into_iter().find_map(|answer| match answer {
        Part::Known(named) => Some(named),
        Part::Unknown { .. } => None,
    })
}

async fn ask<E: AskEtcd>(etcd: &E, named: Named) -> EtcdState {
    let more = named.members.len().saturating_sub(MEMBERS);
    let members: Vec<EtcdMember> = named.members.into_iter().take(MEMBERS).collect();
    let states = join_all(members.iter().map(|member| status_of(etcd, member)));
    let (states, alarms, cluster) = tokio::join!(
        states,
        within(LATER, etcd.alarms(&named.by)),
        within(LATER, etcd.cluster(&named.by)),
    );
    EtcdState {
        asked: named.by,
        members: rows(members, states),
        more,
        alarms,
        cluster,
    }
}

async fn status_of<E: AskEtcd>(etcd: &E, member: &EtcdMember) -> Part<EtcdStatus> {
    let Some(url) = &member.url else {
        return Part::unknown("it has never started");
    };
    match within(LATER, etcd.status(url)).await {
        // For example after a backup was restored there: it is another cluster then.
        Part::Known(status) if status.member_id != member.id => Part::unknown(&format!(
            "another member answers at its address ({:x})",
            status.member_id
        )),
        state => state,
    }
}

/// The rows of members. The leader is the one that the members in the highest term follow.
fn rows(members: Vec<EtcdMember>, states: Vec<Part<EtcdStatus>>) -> Vec<MemberRow> {
    let known = || states.iter().filter_map(Part::known);
    let newest = known()
        .filter(|status| status.leader != 0)
        .max_by_key(|status| status.raft_term);
    let leader = newest.map_or(0, |status| status.leader);
    let furthest = known().map(|status| status.raft_index).max().unwrap_or(0);
    let of_leader = members
        .iter()
        .zip(&states)
        .find(|(member, _)| member.id == leader);
    let of_leader = of_leader.and_then(|(_, state)| state.known());
    let ahead = of_leader.map_or(furthest, |status| status.raft_index);
    let row = |(member, state): (EtcdMember, Part<EtcdStatus>)| {
        let state = state.map(|status| MemberState {
            version: shown(&status.version),
            size: status.size,
            raft_index: status.raft_index,
            lag: ahead.saturating_sub(status.raft_index),
            has_leader: status.leader != 0,
            errors: status
                .errors
                .iter()
                .take(MEMBERS)
                .map(|one| shown(one))
                .collect(),
        });
        let is_well = |it: &MemberState| it.has_leader && it.errors.is_empty() && it.lag <= LAG;
        MemberRow {
            id: format!("{:x}", member.id),
            name: shown(&member.name),
            url: member.url.as_deref().map(shown),
            leader: leader != 0 && member.id == leader,
            learner: member.is_learner,
            healthy: state.known().is_some_and(is_well),
            state,
        }
    };
    members.into_iter().zip(states).map(row).collect()
}
