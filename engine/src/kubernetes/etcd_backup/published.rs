//! When a master has taken its last verified backup: published for the other masters as an annotation of its node.
//!
//! A member of etcd that works says nothing about backups: on its host they may be turned off, nodeletd may be stopped, or the disk may be full.
//! So a master leaves its backup to another one only while the backup of that one is known to be young. If each master takes its own, only the
//! state of the cluster shows what is published.

use std::time::{Duration, SystemTime};

use serde_json::json;

use crate::host::{ClusterAccess, ClusterNode, Host, HostResult};
use crate::kubernetes::MASTER_LABEL;

/// The annotation of a master's node; its value is when the master began its last verified backup (RFC 3339, UTC).
pub const BACKUP_TAKEN: &str = "nodelet.pf9.io/etcd-backup-taken";
/// This part of the maximum age is kept in reserve, so that another master takes a backup before the last one is too old.
const RESERVE: u32 = 32;

/// The clocks of two masters may differ by so much.
const MOST_AHEAD: Duration = Duration::from_secs(3600);

/// A master leaves its backup to another one while the last backup of that one is younger than this. `limit` is the maximum age of backups.
#[must_use]
pub fn left_while_younger_than(limit: Duration) -> Duration {
    limit.saturating_sub(limit / RESERVE)
}

/// Whether a backup that was taken then is younger than `limit`. It is not if it is more than an hour in the future: the clock was wrong.
#[must_use]
pub fn is_younger_than(taken: SystemTime, now: SystemTime, limit: Duration) -> bool {
    match now.duration_since(taken) {
        Ok(age) => age < limit,
        Err(ahead) => ahead.duration() <= MOST_AHEAD.min(limit),
    }
}

/// Publishes on this node of a master when it has taken its last verified backup.
///
/// # Errors
/// The API server does not answer or refuses, or has no such node.
///
/// # Cancel safety
/// The earlier time or the new one is published.
pub async fn publish(
    host: &dyn Host,
    access: &ClusterAccess,
    node: &str,
    taken: SystemTime,
) -> HostResult<()> {
    let taken = humantime::format_rfc3339_seconds(taken).to_string();
    let mark = json!({ "metadata": { "annotations": { BACKUP_TAKEN: taken } } });
    host.patch_node(access, node, &mark).await
}

/// Withdraws what [`publish`] has published: the other masters take backups themselves until this one has taken a new one.
///
/// # Errors
/// The API server does not answer or refuses, or has no such node.
///
/// # Cancel safety
/// The time is published or not.
pub async fn withdraw(host: &dyn Host, access: &ClusterAccess, node: &str) -> HostResult<()> {
    let mark = json!({ "metadata": { "annotations": { BACKUP_TAKEN: null } } });
    host.patch_node(access, node, &mark).await
}

/// When the master with this node has taken its last verified backup. `None` if it has published no time, or if the node is no master's. A
/// kubelet can write annotations, but it cannot make its node a master's.
#[must_use]
pub fn published_by(node: &ClusterNode) -> Option<SystemTime> {
    let is_master = node.labels.contains_key(MASTER_LABEL);
    let taken = node.annotations.get(BACKUP_TAKEN).filter(|_| is_master)?;
    humantime::parse_rfc3339(taken).ok()
}

/// When the master with the node of this name has taken its last verified backup ([`published_by`]). `None` also if there is no such node.
/// Cancel safe.
///
/// # Errors
/// The API server does not answer.
pub async fn last_published(
    host: &dyn Host,
    access: &ClusterAccess,
    node: &str,
) -> HostResult<Option<SystemTime>> {
    let node = host.node(access, node).await?;
    Ok(node.as_ref().and_then(published_by))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::admission::tests::master;

    #[tokio::test]
    async fn only_a_master_publishes_its_backup() {
        let (host, access) = master();
        let label = (MASTER_LABEL.to_owned(), String::new());
        let labelled = ClusterNode {
            labels: [label].into(),
            ..ClusterNode::default()
        };
        host.with_world_mut(|world| {
            world.node("m-1", labelled);
            world.node("w-1", ClusterNode::default());
        });
        let taken = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let read = async |name| {
            last_published(&host, &access, name)
                .await
                .expect("it answers")
        };
        assert_eq!(read("m-1").await, None, "it has taken none");
        for name in ["m-1", "w-1"] {
            let done = publish(&host, &access, name, taken).await;
            done.expect("it is published");
        }
        assert_eq!(read("m-1").await, Some(taken));
        assert_eq!(read("w-1").await, None, "it is no master");
        assert_eq!(read("m-2").await, None, "it has no node");
        let damaged = json!({ "metadata": { "annotations": { BACKUP_TAKEN: "today" } } });
        let patched = crate::host::Cluster::patch_node(&host, &access, "m-1", &damaged).await;
        patched.expect("it is patched");
        assert_eq!(read("m-1").await, None, "it is no time");
    }

    #[test]
    fn another_master_takes_a_backup_before_the_last_one_is_too_old() {
        const HOUR: Duration = Duration::from_secs(3600);
        let taken = SystemTime::UNIX_EPOCH + 1000 * HOUR;
        let limit = left_while_younger_than(26 * HOUR);
        // A day and the delays of several masters are within it.
        assert!(is_younger_than(taken, taken + 24 * HOUR + HOUR / 3, limit));
        assert!(!is_younger_than(taken, taken + 25 * HOUR + HOUR / 2, limit));
        assert!(
            is_younger_than(taken, taken - HOUR, limit),
            "a little ahead"
        );
        assert!(!is_younger_than(taken, taken - 2 * HOUR, limit));
    }
}
