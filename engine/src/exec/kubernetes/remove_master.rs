//! The removal of a master: its member leaves etcd, and its node is deleted. Another master does it, also if the host is lost.
//!
//! `selection` finds the member that an operator has named, and `marks` keeps its host from joining again. All is decided twice: before the
//! pods are evicted, and right before the member is removed, because the cluster may have changed meanwhile.

mod marks;
mod selection;

use std::net::IpAddr;
use std::slice;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use self::marks::{Gone, remove_marked};
use self::selection::{is_entry, nameless_at, node_name, selected};
use super::quorum::endpoints;
use super::quorum::lock::{
    DisruptionLock, WAIT, Wait, held_during_removal, not_given_during_removal,
};
use crate::host::{ClusterAccess, EtcdMember, Host, HostResult, RemainingPod};
use crate::kubernetes::MASTER_LABEL;
use crate::kubernetes::etcd_members::{Loss, Me, OWN_ENDPOINT, QuorumLoss, Seen, after_loss, look};
use crate::kubernetes::masters::{self, address_in};
use crate::kubernetes::workers::{WORKER_LABEL, delete_removed, empty_node, hold_up};

/// Life of the lock during the removal of a member: a few questions, each of which waits 10 s for every master that hangs.
const LOCKED: Duration = Duration::from_secs(240);

/// How the removal of a master ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MasterRemoval {
    /// It is no member of etcd any more, and has no node.
    Removed {
        /// How many voters are left.
        voters: usize,
        /// Pods that were still there. They end with the node.
        left: Vec<RemainingPod>,
    },
    /// These pods are still on the node. Node and member stay; the node is cordoned.
    PodsLeft(Vec<RemainingPod>),
    /// etcd would lose its quorum. Node and member stay; the node may be cordoned.
    Refused(QuorumLoss),
    /// It is the host on which this runs. Nothing was done.
    ThisHost,
    /// The host on which this runs was removed from etcd meanwhile, so it does not decide about other members. The node may be cordoned.
    NoMember,
    /// This host's list of masters still names it, but it is no member of etcd and has no node. Nothing was done.
    Before,
    /// Neither a member of etcd nor the node of a master was named. Nothing was done.
    Unknown,
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct MasterToRemove<'a> {
    /// The name of its node and member. A member without a name is named by its hexadecimal id, or by the address of its host.
    pub name: &'a str,
    /// How long its pods may take to end.
    pub within: Duration,
    /// Delete the node even if it is Ready and pods are left.
    pub force: bool,
    /// Remove the member even if etcd loses its quorum.
    pub accepts_quorum_loss: bool,
}

/// Removes a master: its node is cordoned and its pods are evicted, its member leaves etcd, and its node is deleted. If this is interrupted,
/// the next call goes on.
///
/// # Errors
/// The API server or etcd does not answer or refuses, or two members have the name. etcd removes a member only with quorum.
pub async fn remove_master(
    host: &dyn Host,
    access: &ClusterAccess,
    master: &MasterToRemove<'_>,
) -> HostResult<MasterRemoval> {
    let known = masters::read(host).await.unwrap_or_default();
    let endpoints = endpoints(&known);
    let own = own_id(host).await;
    let listed = host.member_list(&endpoints).await;
    let list = listed.as_deref().unwrap_or_default();
    let found = selected(master.name, list)?;
    // A learner that never started has no name. Its host may have a Node from before its disk was emptied.
    let name = match found.filter(|member| member.name.is_empty()) {
        Some(nameless) => master_at(host, access, nameless).await?,
        None => None,
    };
    let name = name.or_else(|| node_name(master.name, found, list).map(str::to_owned));
    let node = match &name {
        Some(name) => host.node(access, name).await?,
        None => None,
    };
    // A master's Node may lack its label. Only a member's own name proves that, or an entry of a member that an interrupted call has removed: an
    // address or an id may also be the name of a worker's Node.
    let is_named = found.is_some_and(|member| !member.name.is_empty());
    let is_known = known.iter().any(|one| name.as_ref() == Some(&one.name));
    let node = node.filter(|node| {
        let has = |label| node.labels.contains_key(label);
        is_named || has(MASTER_LABEL) || (is_known && !has(WORKER_LABEL))
    });
    let addresses = node.as_ref().map(|node| node.addresses.clone());
    let addresses = addresses.unwrap_or_default();
    let found = found.or_else(|| nameless_at(&addresses, list));
    if node.is_none() && found.is_none() {
        let is_entry = known.iter().any(|one| is_entry(master.name, one));
        return match listed {
            Ok(_) if is_entry => Ok(MasterRemoval::Before),
            Err(error) if is_entry => Err(error),
            Ok(_) | Err(_) => Ok(MasterRemoval::Unknown),
        };
    }
    let found = found.cloned();
    // Only a list with quorum says whether a master is still a member.
    let members = look(host, listed?).await;
    if let Some(found) = &found
        && let Some(refusal) = refusal(own, master, found, &members)
    {
        return Ok(refusal);
    }
    let mut left = Vec::new();
    if let Some((name, node)) = name.as_ref().zip(node.as_ref()) {
        left = empty_node(host, access, (name, node), master.within).await?;
        // The eviction takes a while: the node may be Ready by now, or gone.
        let present = host.node(access, name).await?;
        if present.is_some_and(|node| hold_up(&left, &node, master.force)) {
            return Ok(MasterRemoval::PodsLeft(left));
        }
    }
    // Without a node, the name of a member that has none is only what the operator has named.
    let marked = node.as_ref().and(name.as_deref());
    let order = Order {
        master,
        own,
        node: (marked, &addresses),
    };
    let AfterRemoval { voters, removed } = match remove_member(host, &endpoints, &order).await? {
        Ok(after) => after,
        Err(refusal) => return Ok(refusal),
    };
    if let Some(name) = &name {
        let members = found.iter().chain(&removed);
        let urls = members.flat_map(|member| &member.peer_urls);
        let gone = Gone {
            name,
            member: removed.as_ref().map(|member| member.id),
            addresses: urls
                .filter_map(|url| address_in(url))
                .chain(addresses)
                .collect(),
            was_master: is_named || node.is_some(),
            accepts_quorum_loss: master.accepts_quorum_loss,
        };
        // Before the node is deleted: if this is interrupted, the next call finds the node and goes on.
        gone.finish(host, access, &endpoints).await?;
    }
    if let Some((name, node)) = name.zip(node) {
        delete_removed(host, access, &name, &node.uid).await?;
    }
    Ok(MasterRemoval::Removed { voters, left })
}

/// The name of the Node of the master at the address of this member; `None` if there is none.
async fn master_at(
    host: &dyn Host,
    access: &ClusterAccess,
    member: &EtcdMember,
) -> HostResult<Option<String>> {
    let nodes = host.nodes(access).await?;
    let mut masters = nodes
        .into_iter()
        .filter(|(_, node)| node.labels.contains_key(MASTER_LABEL));
    let its =
        masters.find(|(_, node)| nameless_at(&node.addresses, slice::from_ref(member)).is_some());
    Ok(its.map(|(name, _)| name))
}

/// The members after a removal.
struct AfterRemoval {
    /// How many voters are left.
    voters: usize,
    /// The removed member; `None` if it was no member any more.
    removed: Option<EtcdMember>,
}

/// Which member is to be removed, and by whom.
struct Order<'o> {
    master: &'o MasterToRemove<'o>,
    /// The id of this host's own member, if it answered at the begin.
    own: Option<u64>,
    /// The name and the addresses of the master's node. A member without a name is also found by these.
    node: (Option<&'o str>, &'o [IpAddr]),
}

/// Looks at the members again, and removes the one that is asked for, if there is one and it may be removed.
async fn remove_member(
    host: &dyn Host,
    endpoints: &[String],
    order: &Order<'_>,
) -> HostResult<Result<AfterRemoval, MasterRemoval>> {
    let lock = match order.master.accepts_quorum_loss {
        true => DisruptionLock::default(),
        false => locked(host, endpoints, order.master.name).await?,
    };
    let removed = remove_with_lock(host, endpoints, order).await;
    lock.release(host).await;
    removed
}

/// Takes the lock on the members of etcd, so that no master ends its member meanwhile. This host is no exception: another command may run here.
async fn locked(
    host: &dyn Host,
    endpoints: &[String],
    removed: &str,
) -> HostResult<DisruptionLock> {
    let list = host.member_list(endpoints).await?;
    let own = own_id(host).await;
    let own = list.iter().find(|member| own == Some(member.id));
    let own = own.map_or("without a member", |own| own.name.as_str());
    let holder = format!("{own} (cluster remove {removed})");
    let (endpoints, cancel) = (endpoints.to_vec(), CancellationToken::new());
    match DisruptionLock::take(host, endpoints, &holder, LOCKED, WAIT, &cancel).await {
        Wait::Over(lock) => Ok(lock),
        Wait::HeldBy(other) => Err(held_during_removal(&other)),
        Wait::NotGiven(why) => Err(not_given_during_removal(&why)),
        Wait::Interrupted => Ok(DisruptionLock::default()),
    }
}

async fn remove_with_lock(
    host: &dyn Host,
    endpoints: &[String],
    order: &Order<'_>,
) -> HostResult<Result<AfterRemoval, MasterRemoval>> {
    let &Order { master, own, node } = order;
    let (name, addresses) = node;
    let list = host.member_list(endpoints).await?;
    // Another master may have removed this one while it waited for the lock.
    if own.is_some_and(|own| !list.iter().any(|member| member.id == own)) {
        return Ok(Err(MasterRemoval::NoMember));
    }
    let found = selected(master.name, &list)?.or_else(|| nameless_at(addresses, &list));
    if let Some(found) = found {
        let members = look(host, list.clone()).await;
        let own = match own {
            Some(own) => Some(own),
            None => own_id(host).await,
        };
        if let Some(refusal) = refusal(own, master, found, &members) {
            return Ok(Err(refusal));
        }
        remove_marked(host, endpoints, (found, name), &list).await?;
    }
    let left = list.iter().filter(|&member| Some(member) != found);
    let voters = left.filter(|member| !member.learner).count();
    let removed = found.cloned();
    Ok(Ok(AfterRemoval { voters, removed }))
}

/// The id of this host's own member; `None` if it does not answer.
async fn own_id(host: &dyn Host) -> Option<u64> {
    let own = host.member_status(OWN_ENDPOINT).await;
    own.ok().map(|own| own.id)
}

/// Why the member must not be removed; `None` if it may.
fn refusal(
    own: Option<u64>,
    master: &MasterToRemove<'_>,
    member: &EtcdMember,
    members: &[Seen],
) -> Option<MasterRemoval> {
    if own == Some(member.id) {
        return Some(MasterRemoval::ThisHost);
    }
    let me = Me {
        name: master.name,
        peer: member.peer_urls.first().map_or("", String::as_str),
    };
    match after_loss(me, members, Loss::Removal) {
        Err(lost) if !master.accepts_quorum_loss => Some(MasterRemoval::Refused(lost)),
        Ok(()) | Err(_) => None,
    }
}

#[cfg(test)]
mod tests;
