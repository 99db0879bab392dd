//! The host of a removed master must not join again by itself: its mark in etcd, members that it has added meanwhile, and the record of the
//! export of keys to it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::selection::is_shared;
use crate::host::{ClusterAccess, EtcdMember, Host, HostResult, retried};
use crate::kubernetes::etcd_members::removed::{self, Standing};
use crate::kubernetes::masters::{self, address_in};

/// Removes this member, and marks its master as removed. The name of its `node` counts if it has none of its own. `list` has all members.
pub(super) async fn remove_marked(
    host: &dyn Host,
    endpoints: &[String],
    (found, node): (&EtcdMember, Option<&str>),
    list: &[EtcdMember],
) -> HostResult<()> {
    // A learner that never was a master has no name.
    let own = Some(found.name.as_str()).filter(|name| !name.is_empty());
    // Another member may have the name by mistake.
    let marked = match own {
        Some(name) if is_shared(name, list) => None,
        own => own.or(node),
    };
    let Some(name) = marked else {
        return host.member_remove(endpoints, found.id).await;
    };
    // First, so that its host does not add itself again.
    let revision = match removed::mark(host, endpoints, name).await {
        Ok(revision) => revision,
        Err(error) => {
            // The mark may be there all the same.
            if is_member(host, endpoints, found.id).await {
                let _ = removed::withdraw(host, endpoints, name).await;
            }
            return Err(error);
        }
    };
    let gone = host.member_remove(endpoints, found.id).await;
    if gone.is_err() && is_member(host, endpoints, found.id).await {
        // Later, its disk may be emptied, and it has to join again. If this fails, too, the error before it says more.
        let _ = removed::lift(host, endpoints, name, revision).await;
    }
    gone
}

/// Whether etcd lists this member. False if it does not answer.
async fn is_member(host: &dyn Host, endpoints: &[String], id: u64) -> bool {
    let list = host.member_list(endpoints).await;
    list.is_ok_and(|list| list.iter().any(|member| member.id == id))
}

/// A master whose member is gone.
pub(super) struct Gone<'a> {
    pub(super) name: &'a str,
    /// The id of the member that this call has removed; `None` if it was no member any more.
    pub(super) member: Option<u64>,
    /// The addresses of its node and its member.
    pub(super) addresses: BTreeSet<IpAddr>,
    /// Whether the name is that of a member or of a node. A learner that never was a master has neither.
    pub(super) was_master: bool,
    /// The removal may have taken etcd's quorum.
    pub(super) accepts_quorum_loss: bool,
}

impl Gone<'_> {
    /// Marks the master as removed, if an interrupted call or an earlier version has not, removes what its host has added meanwhile, and forgets
    /// that the keys were exported to it. The host that takes its place may still join.
    pub(super) async fn finish(
        &self,
        host: &dyn Host,
        access: &ClusterAccess,
        endpoints: &[String],
    ) -> HostResult<()> {
        if let Err(error) = self.mark_and_keep_out(host, endpoints).await {
            // Without quorum, no host can join, either.
            let has_quorum = host.member_list(endpoints).await.is_ok();
            if has_quorum || !self.accepts_quorum_loss {
                return Err(error);
            }
        }
        // Tried on its own: after a permit, the new host may have joined.
        retried(host, async || {
            match masters::exported::forget(host, access, self.name, self.member).await? {
                Some(until) => removed::permit(host, endpoints, self.name, until).await,
                None => Ok(()),
            }
        })
        .await
    }

    async fn mark_and_keep_out(&self, host: &dyn Host, endpoints: &[String]) -> HostResult<()> {
        if self.member.is_none() && self.was_master {
            let mark = async || removed::ensure_mark(host, endpoints, self.name).await;
            retried(host, mark).await?;
        }
        retried(host, async || self.keep_out(host, endpoints).await).await
    }

    /// Its host may have looked for the mark before it was written, and may have added its member after the members were listed.
    async fn keep_out(&self, host: &dyn Host, endpoints: &[String]) -> HostResult<()> {
        match removed::standing(host, endpoints, self.name).await? {
            // It has no mark, or the keys were exported to it again.
            Standing::MayJoin { .. } => return Ok(()),
            Standing::Removed | Standing::PermitEnded { .. } => {}
        }
        for member in host.member_list(endpoints).await? {
            if self.has_added(&member) {
                host.member_remove(endpoints, member.id).await?;
            }
        }
        Ok(())
    }

    fn has_added(&self, member: &EtcdMember) -> bool {
        let mut urls = member.peer_urls.iter();
        let is_here =
            urls.any(|url| address_in(url).is_some_and(|its| self.addresses.contains(&its)));
        is_here && (member.name.is_empty() || member.name == self.name)
    }
}
