//! The taints of a worker's node: masters keep those that its record of admission names, because a node may not change its taints.
//!
//! All other taints belong to operators or to Kubernetes, and stay as they are.

use serde_json::json;

use crate::host::{ClusterAccess, ClusterNode, Host, HostError, HostResult, Taint};
use crate::kubernetes::MASTER_LABEL;
use crate::kubernetes::admission::{Admission, admission, is_automatic, line_of, put, read_line};

/// The annotation of a worker's node with the taints of its record, so that masters see in the node alone that one is missing. A worker may
/// change its annotations: what masters do follows from the record.
pub(super) const TAINTS: &str = "nodelet.pf9.io/taints";

/// So often taints are written again if the node has changed meanwhile: kubelet reports often while it starts.
const TRIES: usize = 5;

/// Whether a taint is missing that the annotation of the node names, or has another value. Pure.
pub(super) fn lacks_annotated(node: &ClusterNode) -> bool {
    let Some(line) = node.annotations.get(TAINTS) else {
        return false;
    };
    match read_line(line) {
        Ok(named) => named.iter().any(|its| !node.taints.contains(its)),
        Err(_) => true,
    }
}

/// Whether masters have something to do about the taints of a node or the annotation with them. Pure.
pub(super) fn differ(node: &ClusterNode, record: &Admission) -> bool {
    let mut present = node.taints.clone();
    present.sort();
    let annotated = node.annotations.get(TAINTS).map_or("", String::as_str);
    present != wanted(node, record) || annotated != line_of(&record.taints)
}

/// The taints that the node is to have, sorted: its own ones without those of an earlier record, and those of its record.
fn wanted(node: &ClusterNode, record: &Admission) -> Vec<Taint> {
    let others = node.taints.iter().filter(|taint| !is_named(record, taint));
    let mut wanted: Vec<Taint> = others.chain(&record.taints).cloned().collect();
    wanted.sort();
    wanted
}

/// Whether the record, or an earlier one, names this taint, with any value.
fn is_named(record: &Admission, taint: &Taint) -> bool {
    let mut named = record.taints.iter().chain(&record.untainted);
    named.any(|its| its.is_same(taint))
}

/// A taint that neither Kubernetes nor the record of the node has set. A node may not change its taints, but if masters deleted it on its
/// request, it could register without them. Taints of its record come back.
pub(super) fn operators_taint<'n>(node: &'n ClusterNode, record: &Admission) -> Option<&'n Taint> {
    let mut taints = node.taints.iter();
    taints.find(|taint| !is_automatic(&taint.key) && !is_named(record, taint))
}

/// Gives a node the taints of its present record, and takes those away that only an earlier record named.
pub(super) async fn keep_taints(
    host: &dyn Host,
    access: &ClusterAccess,
    name: &str,
) -> HostResult<()> {
    let mut tries = 0;
    loop {
        let Some(node) = host.node(access, name).await? else {
            return Ok(());
        };
        // After the node: if a later record was carried out in between, the node has another version by now.
        let record = admission(host, access, name).await?;
        let Some(record) = record.filter(|record| record.removed.is_none()) else {
            return Ok(());
        };
        if node.labels.contains_key(MASTER_LABEL) || !differ(&node, &record) {
            return Ok(());
        }
        let line = Some(line_of(&record.taints)).filter(|line| !line.is_empty());
        // The API replaces the whole list: a taint that was added in the meantime would be lost. So the patch names the version that was read.
        let patch = json!({
            "metadata": { "resourceVersion": node.version, "annotations": { TAINTS: line } },
            "spec": { "taints": wanted(&node, &record) },
        });
        tries += 1;
        let Err(error) = host.patch_node(access, name, &patch).await else {
            // A later record may have found the node as it wants it, just before this patch.
            let now = admission(host, access, name).await?;
            if now.is_none_or(|now| now.version == record.version) {
                return Ok(());
            }
            if tries == TRIES {
                return Err(HostError::service(
                    format!("keep the taints of node {name}"),
                    "its record of admission changes all the time; masters look at it again",
                ));
            }
            continue;
        };
        let present = host.node(access, name).await?;
        let has_changed = present.is_some_and(|present| present.version != node.version);
        if tries == TRIES || !has_changed {
            return Err(error);
        }
    }
}

/// Gives a node the taints of its record at once. Masters do the same when they next look at it. Does nothing if there is no such node.
///
/// # Errors
/// The API server does not answer or refuses, or the record is damaged.
pub async fn keep_taints_of(host: &dyn Host, access: &ClusterAccess, name: &str) -> HostResult<()> {
    let record = admission(host, access, name).await?;
    let Some(record) = record.filter(|record| record.removed.is_none()) else {
        return Ok(());
    };
    keep_taints(host, access, name).await?;
    note_untainted(host, access, record).await.map(drop)
}

/// Notes in the record of a node that the taints of an earlier record are gone: an operator may set them again. Returns the record; `None`
/// if another client has changed it, so that masters look again.
pub(super) async fn note_untainted(
    host: &dyn Host,
    access: &ClusterAccess,
    record: Admission,
) -> HostResult<Option<Admission>> {
    if record.untainted.is_empty() {
        return Ok(Some(record));
    }
    let noted = Admission {
        untainted: Vec::new(),
        ..record
    };
    match put(host, access, &noted).await? {
        true => admission(host, access, &noted.node).await,
        false => Ok(None),
    }
}
