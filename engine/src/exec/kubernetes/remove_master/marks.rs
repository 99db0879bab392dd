//! The host of a removed master must not join again by itself: its mark in etcd, and the record of the export of keys to it.

use std::time::Duration;

use crate::host::{ClusterAccess, EtcdMember, Host, HostError, HostResult};
use crate::kubernetes::etcd_members::removed;
use crate::kubernetes::masters;

/// How often the record of an export is changed, and the pause after the first attempt that failed. Each further pause is twice as long, which
/// gives 13 s in all. After a member was removed, etcd may have to elect a leader, and the API server answers with an error until then.
const TRIES: u32 = 7;
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// Removes this member, and marks its master as removed. The name of its `node` counts if it has none of its own. `list` has all members.
pub(super) async fn remove_marked(
    host: &dyn Host,
    endpoints: &[String],
    (found, node): (&EtcdMember, Option<&str>),
    list: &[EtcdMember],
) -> HostResult<()> {
    let own = Some(found.name.as_str()).filter(|name| !name.is_empty());
    // Another member may have the name by mistake. A learner that never was a master has no name.
    let is_other = |member: &&EtcdMember| member.id != found.id && own == Some(&member.name);
    let marked = match list.iter().find(is_other) {
        Some(_) => None,
        None => own.or(node),
    };
    // First, so that its host does not add itself again.
    if let Some(marked) = marked {
        removed::mark(host, endpoints, marked).await?;
    }
    let gone = host.member_remove(endpoints, found.id).await;
    if gone.is_err()
        && let Some(marked) = marked
        && let Ok(list) = host.member_list(endpoints).await
        && list.iter().any(|member| member.id == found.id)
    {
        // If this fails, too, the error of the removal says more.
        let _ = removed::lift(host, endpoints, marked).await;
    }
    gone
}

/// Marks the master as removed, whose member `removed` was, and forgets that the keys were exported to it. The host that takes its place may still
/// join. An interrupted call, or an earlier version, may not have marked it.
pub(super) async fn finish(
    host: &dyn Host,
    access: &ClusterAccess,
    endpoints: &[String],
    name: &str,
    removed: Option<u64>,
) -> HostResult<()> {
    let (mut attempt, mut pause) = (1, FIRST_PAUSE);
    let once = async || {
        if removed.is_none() {
            removed::ensure_mark(host, endpoints, name).await?;
        }
        match masters::exported::forget(host, access, name, removed).await? {
            Some(until) => removed::permit(host, endpoints, name, until).await,
            None => Ok(()),
        }
    };
    loop {
        match once().await {
            Err(error) if attempt < TRIES && !matches!(error, HostError::Refused { .. }) => {
                host.pause(pause).await;
                attempt += 1;
                pause *= 2;
            }
            done => return done,
        }
    }
}
