//! The masters' care for workers: they label and taint them, delete the nodes of workers that have left, and remove a worker for good.
//!
//! The API server lets no node set the label of its role, change its taints, or delete itself. So a master does that, for nodes that the
//! cluster has admitted (`admission`). Nodes that joined in another way belong to an operator. Any number of masters may do this at the same
//! time.
//!
//! The token of a node ends here, when its node is Ready: only then the node is known to use its own certificate. A removed worker has a
//! tombstone, and its certificate stays valid for a while: if its kubelet registers a new node, that node is deleted.
//!
//! A worker that leaves (`nodelet clean`) marks its node with the time. If its kubelet has reported since then, the worker has come back,
//! and only the mark is removed: both times are from the clock of the worker. A node with a taint or a restricted label of an operator is not
//! deleted.
//!
//! `taints` keeps the taints that a record names. `eviction` empties a node before `deletion` deletes it, that of a master, too. `requests`
//! settles the requests of a removed worker.

mod deletion;
mod eviction;
mod requests;
mod taints;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde_json::json;

use self::requests::refuse_requests_of;
use self::taints::{differ, keep_taints, lacks_annotated, note_untainted, operators_taint};
use super::MASTER_LABEL;
use super::admission::{
    Admission, CLOCKS_DIFFER, CertificateKind, JOINED, TokenRecord, admission, admissions,
    end_token, forget, put, revoke, token,
};
use super::masters;
use super::shown;
use crate::host::{ClusterAccess, ClusterNode, Host, HostError, HostResult, RemainingPod};

pub(crate) use deletion::delete_removed;
pub use eviction::{empty_node, hold_up};
pub(crate) use requests::is_still_open;
pub use taints::keep_taints_of;

/// The annotation of a node whose worker has left; its value is the time (RFC 3339).
pub const LEFT: &str = "nodelet.pf9.io/left";
/// The label of a worker's node.
pub const WORKER_LABEL: &str = "node-role.kubernetes.io/worker";

/// No kubelet may change a label whose key has this prefix, or a subdomain of it.
/// Source: <https://v1-20.docs.kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#noderestriction>.
const RESTRICTED_LABELS: &str = "node-restriction.kubernetes.io";

/// If the node of a token was Ready when the token was issued (`--replace`), that node says nothing about the new host. Its token ends this
/// long after its last new key: until then, the new host has fetched its certificates.
const FETCHED: Duration = Duration::from_secs(600);

/// What a master does about a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Care {
    /// Gives it the taints of its record, and takes those of an earlier record away.
    Taint,
    /// Labels it as a worker.
    Label,
    /// Deletes it: its worker has left. Its token ends, too.
    Delete,
    /// Deletes it: it was removed from the cluster, and has registered again.
    DeleteRemoved,
    /// Removes the mark: its worker has come back.
    Unmark,
    /// Removes a mark that is no time.
    UnmarkUnreadable,
    /// Ends its token: it uses its own certificate.
    EndToken,
    /// Deletes its tombstone: all its certificates have ended, and it has no Node.
    Forget,
}

/// Whether a master has something to do about this node, if the cluster has admitted it. Pure: nodeletd asks this about each event.
#[must_use]
pub fn needs_care(node: &ClusterNode) -> bool {
    let has = |label| node.labels.contains_key(label);
    let is_marked = |mark| node.annotations.contains_key(mark);
    let is_new = node.ready == Some(true) && !is_marked(JOINED);
    let lacks = !has(WORKER_LABEL) || lacks_annotated(node);
    !has(MASTER_LABEL) && (is_marked(LEFT) || lacks || is_new)
}

/// As [`needs_care`], or because of the taints of its record: the annotation with them may be wrong.
fn is_due(node: &ClusterNode, record: &Admission) -> bool {
    let is_worker = record.removed.is_none() && !node.labels.contains_key(MASTER_LABEL);
    needs_care(node) || (is_worker && (differ(node, record) || !record.untainted.is_empty()))
}

/// What a master does about the node of this record, apart from its token.
fn care(node: &ClusterNode, record: &Admission) -> Vec<Care> {
    let removed = record.removed.as_ref();
    // Before all marks and taints: its host has chosen them.
    if removed.is_some_and(|removed| removed.uid != node.uid) {
        return vec![Care::DeleteRemoved];
    }
    let mut todo = Vec::new();
    if let Some(mark) = node.annotations.get(LEFT) {
        match humantime::parse_rfc3339(mark) {
            Err(_) => todo.push(Care::UnmarkUnreadable),
            Ok(left) if node.reported.is_some_and(|reported| reported > left) => {
                todo.push(Care::Unmark);
            }
            Ok(_) => return vec![Care::Delete],
        }
    }
    // As long as it is the node of that time, its removal waits for its pods.
    if removed.is_some() {
        return todo;
    }
    // Before the label: a node without it is looked at again if this is interrupted.
    if differ(node, record) {
        todo.push(Care::Taint);
    }
    if !node.labels.contains_key(WORKER_LABEL) {
        todo.push(Care::Label);
    }
    todo
}

/// A label that an operator has set and a node may not change (Kubernetes' admission plugin `NodeRestriction`). If masters deleted the node on its
/// request, it could register without it.
fn operators_label(node: &ClusterNode) -> Option<&str> {
    let mut labels = node.labels.keys().map(String::as_str);
    labels.find(|label| {
        let prefix = label.split_once('/').map_or("", |(prefix, _)| prefix);
        let parent = prefix.strip_suffix(RESTRICTED_LABELS);
        parent.is_some_and(|parent| parent.is_empty() || parent.ends_with('.'))
    })
}

/// Whether the token of a node that is Ready has done its work, or has ended anyway.
fn is_over(record: &Admission, token: Option<&TokenRecord>, now: SystemTime) -> bool {
    let Some(token) = token else {
        return true;
    };
    if token.expires <= now || !token.replaces {
        return true;
    }
    let has_identity = record.keys.contains_key(&CertificateKind::KubeletClient);
    has_identity && record.keys_at.is_some_and(|used| used + FETCHED <= now)
}

/// Whether the tombstone of a removed node has done its work: no certificate is left with which its host could register a Node.
fn is_forgettable(record: &Admission, has_node: bool, now: SystemTime) -> bool {
    let removed = record.removed.as_ref();
    !has_node && removed.is_some_and(|removed| removed.certificates_end() + CLOCKS_DIFFER <= now)
}

/// The time of this host, but not later than the last report of another node: the clock here may be far ahead. One of the nodes is this host's.
fn by_two_clocks(now: SystemTime, nodes: &BTreeMap<String, ClusterNode>) -> SystemTime {
    let reports = nodes.values().filter_map(|node| node.reported);
    let mut reports: Vec<SystemTime> = reports.collect();
    reports.sort_unstable_by(|one, other| other.cmp(one));
    reports.get(1).map_or(now, |second| now.min(*second))
}

/// Does what is to be done about all admitted nodes, and deletes tombstones that are no longer needed. Returns the nodes with what was done, or why it could not be done. A node that cannot
/// be cared for, or whose record is damaged, stops no other one.
///
/// # Errors
/// The nodes or the records cannot be listed, or the list of masters on this host is damaged.
pub async fn care_for_workers(
    host: &dyn Host,
    access: &ClusterAccess,
) -> HostResult<Vec<(String, Result<Care, HostError>)>> {
    let mut results = Vec::new();
    let mut nodes = host.nodes(access).await?;
    let all = admissions(host, access).await?;
    let damaged = all.damaged.iter();
    results.extend(damaged.map(|its| (its.node.clone(), Err(its.error()))));
    let records = all.records;
    let now = by_two_clocks(host.now(), &nodes);
    for record in records.values() {
        if is_forgettable(record, nodes.contains_key(&record.node), now) {
            let forgotten = forget(host, access, record).await;
            // If it has changed, its node was admitted again.
            if !matches!(forgotten, Ok(false)) {
                results.push((record.node.clone(), forgotten.map(|_| Care::Forget)));
            }
        }
    }
    // The node of a master may lack its label: it has just registered, or an operator took the label away.
    let masters = masters::read(host).await?;
    nodes.retain(|name, node| {
        let record = records.get(name);
        record.is_some_and(|record| is_due(node, record))
            && !masters.iter().any(|one| one.name == *name)
    });
    for name in nodes.into_keys() {
        let mut done = Vec::new();
        let cared = care_for(host, access, &name, &mut done).await;
        results.extend(done.into_iter().map(|care| (name.clone(), Ok(care))));
        if let Err(error) = cared {
            results.push((name, Err(error)));
        }
    }
    Ok(results)
}

/// Cares for a node. Node and record are read again: they may have changed since they were listed.
async fn care_for(
    host: &dyn Host,
    access: &ClusterAccess,
    name: &str,
    done: &mut Vec<Care>,
) -> HostResult<()> {
    let Some(record) = admission(host, access, name).await? else {
        return Ok(());
    };
    let present = host.node(access, name).await?;
    let Some(node) = present.filter(|node| is_due(node, &record)) else {
        return Ok(());
    };
    for care in care(&node, &record) {
        let taint = operators_taint(&node, &record).map(|taint| ("taint", taint.key.as_str()));
        let kept = taint.or(operators_label(&node).map(|label| ("label", label)));
        if care == Care::Delete
            && let Some((what, key)) = kept
        {
            return Err(HostError::refused(
                format!("delete node {name}, whose worker has left"),
                format!(
                    "it has the {what} {}, which its node would lose if it came back; `nodelet cluster remove {name}` removes it for good, `kubectl delete node {name}` until it comes back",
                    shown(key)
                ),
            ));
        }
        let patch = match care {
            Care::Taint => {
                keep_taints(host, access, name).await?;
                done.push(care);
                continue;
            }
            Care::Label => json!({ "metadata": { "labels": { WORKER_LABEL: "" } } }),
            Care::Unmark | Care::UnmarkUnreadable => {
                json!({ "metadata": { "annotations": { LEFT: null } } })
            }
            Care::Delete => {
                // Before: without its node, no master looks at the worker again.
                note_leave(host, access, name, Some(host.now())).await?;
                delete_as_seen(host, access, name, &node).await?;
                done.push(care);
                // Not before: a worker that has come back still needs its token.
                if let Some(record) = admission(host, access, name).await? {
                    end_token_of_left(host, access, &node, &record).await?;
                }
                return Ok(());
            }
            Care::DeleteRemoved => {
                delete_as_seen(host, access, name, &node).await?;
                done.push(care);
                return Ok(());
            }
            Care::EndToken | Care::Forget => continue,
        };
        host.patch_node(access, name, &patch).await?;
        let is_back = matches!(care, Care::Label | Care::Unmark | Care::UnmarkUnreadable);
        if is_back && record.left.is_some() {
            note_leave(host, access, name, None).await?;
        }
        done.push(care);
    }
    let Some(record) = note_untainted(host, access, record).await? else {
        return Ok(());
    };
    if record.removed.is_none()
        && node.ready == Some(true)
        && !node.annotations.contains_key(JOINED)
    {
        end_token_of(host, access, name, &record, done).await?;
    }
    Ok(())
}

/// Notes in the record of a node that its worker leaves, or has come back. If the record has changed meanwhile, the node was admitted anew or
/// removed, and nothing is noted.
async fn note_leave(
    host: &dyn Host,
    access: &ClusterAccess,
    name: &str,
    left: Option<SystemTime>,
) -> HostResult<()> {
    let Some(record) = admission(host, access, name).await? else {
        return Ok(());
    };
    let noted = Admission { left, ..record };
    put(host, access, &noted).await.map(drop)
}

/// Ends the token of a node that is Ready, and marks the node, so that masters do not look again.
async fn end_token_of(
    host: &dyn Host,
    access: &ClusterAccess,
    name: &str,
    record: &Admission,
    done: &mut Vec<Care>,
) -> HostResult<()> {
    if let Some(id) = &record.token_id {
        let its = token(host, access, id).await?;
        if !is_over(record, its.as_ref(), host.now()) {
            return Ok(());
        }
        // The node was admitted anew meanwhile: the next look is about its new token.
        if !end_token(host, access, record).await? {
            return Ok(());
        }
        done.push(Care::EndToken);
    }
    let now = humantime::format_rfc3339_seconds(host.now()).to_string();
    let mark = json!({ "metadata": { "annotations": { JOINED: now } } });
    host.patch_node(access, name, &mark).await
}

/// Deletes a node, unless it has changed since it was seen. If the answer is lost and the node is gone, it is deleted: no master would look again.
async fn delete_as_seen(
    host: &dyn Host,
    access: &ClusterAccess,
    name: &str,
    seen: &ClusterNode,
) -> HostResult<()> {
    match host.delete_same_node(access, name, seen).await {
        Ok(true) => Ok(()),
        // It may have come back. The change is an event of the watch, so masters look again.
        Ok(false) => Err(HostError::service(
            format!("delete node {name}"),
            "it has changed meanwhile",
        )),
        Err(error) => match host.node(access, name).await {
            Ok(None) => Ok(()),
            Ok(Some(_)) | Err(_) => Err(error),
        },
    }
}

/// Ends the token of a worker that has left, and whose node is deleted: its kubelet has had its own certificate. A token that was issued
/// since then is for the next join, and one that replaces a node (`--replace`) for another host than the one that has left.
///
/// No master tries this again: without its node, the token looks like one for the next join. So the error says what to do. If the master
/// ends in between, the token ends at its expiry.
async fn end_token_of_left(
    host: &dyn Host,
    access: &ClusterAccess,
    node: &ClusterNode,
    record: &Admission,
) -> HostResult<()> {
    let left = node.annotations.get(LEFT);
    let left = left.and_then(|mark| humantime::parse_rfc3339(mark).ok());
    // The clock of the worker may be ahead.
    let left = left.map_or(host.now(), |left| left.min(host.now()));
    let Some(id) = record.token_id.as_ref() else {
        return Ok(());
    };
    if record.may_be_admitted_since(left) {
        return Ok(());
    }
    let ended = match token(host, access, id).await {
        Ok(Some(token)) if token.replaces => Ok(()),
        Ok(Some(_) | None) => end_token(host, access, record).await.map(drop),
        Err(error) => Err(error),
    };
    ended.map_err(|error| {
        let name = &record.node;
        HostError::service(
            format!(
                "end the token of node {name}, whose worker has left: it is valid until it expires; `nodelet cluster remove {name}` ends it now"
            ),
            error,
        )
    })
}

/// Marks the node of a worker that leaves. Does nothing if the cluster has no such node.
///
/// # Errors
/// The API server does not answer or refuses.
pub async fn mark_as_left(
    host: &dyn Host,
    access: &ClusterAccess,
    name: &str,
    now: SystemTime,
) -> HostResult<()> {
    if host.node(access, name).await?.is_none() {
        return Ok(());
    }
    let now = humantime::format_rfc3339_millis(now).to_string();
    let mark = json!({ "metadata": { "annotations": { LEFT: now } } });
    host.patch_node(access, name, &mark).await
}

/// How the removal of a worker ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removal {
    /// Its node is deleted.
    Removed {
        /// Pods that were still there. They end with the node.
        left: Vec<RemainingPod>,
    },
    /// It was admitted and had no node.
    WithoutNode,
    /// It was removed before.
    Before,
    /// These pods are still on the node, and the node stays, cordoned. The worker gets no certificates any more.
    PodsLeft(Vec<RemainingPod>),
    /// The node is that of a master. Nothing was done.
    Master,
    /// The cluster has not admitted such a node, and it is no worker that it has admitted before. Nothing was done.
    NotAdmitted,
    /// The cluster has no such node, and has not admitted one.
    Unknown,
}

/// Removes a worker: it gets no certificates any more, its pods are evicted within `timeout`, and its node is deleted. `force` deletes the
/// node also if it is Ready and pods are left on it. Pods on a node that is not Ready cannot end, so they hold up nothing. They are
/// waited for about half a minute only if kubelet does not report ([`empty_node`]).
///
/// If this is interrupted, the next call goes on.
///
/// # Errors
/// The API server does not answer or refuses.
pub async fn remove_worker(
    host: &dyn Host,
    access: &ClusterAccess,
    name: &str,
    timeout: Duration,
    force: bool,
) -> HostResult<Removal> {
    let node = host.node(access, name).await?;
    let record = admission(host, access, name).await?;
    let Some(node) = node else {
        let Some(record) = record else {
            return Ok(Removal::Unknown);
        };
        take_admission(host, access, name, "").await?;
        return Ok(match record.removed {
            Some(_) => Removal::Before,
            None => Removal::WithoutNode,
        });
    };
    if node.labels.contains_key(MASTER_LABEL) {
        return Ok(Removal::Master);
    }
    // The label is there if an administrator has deleted the record.
    if record.is_none() && !node.labels.contains_key(WORKER_LABEL) {
        return Ok(Removal::NotAdmitted);
    }
    take_admission(host, access, name, &node.uid).await?;
    let left = empty_node(host, access, (name, &node), timeout).await?;
    // The eviction takes a while: the node may be Ready by now, or gone.
    let present = host.node(access, name).await?;
    if present.is_some_and(|node| hold_up(&left, &node, force)) {
        return Ok(Removal::PodsLeft(left));
    }
    delete_removed(host, access, name, &node.uid).await?;
    Ok(Removal::Removed { left })
}

/// Revokes the admission of a node, and refuses its open requests.
async fn take_admission(
    host: &dyn Host,
    access: &ClusterAccess,
    name: &str,
    uid: &str,
) -> HostResult<()> {
    let before = revoke(host, access, name, uid).await?;
    let token_id = before.and_then(|record| record.token_id);
    refuse_requests_of(host, access, name, token_id.as_deref())
        .await
        .map(drop)
}

#[cfg(test)]
mod tests;
