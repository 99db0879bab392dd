//! Authority `cluster` on workers: masters publish its certificates, and each worker takes them and shows how far it is.
//!
//! They are in a ConfigMap that only administrators can write and only nodes can read. A worker shows its stage in the annotation that masters
//! use, with the uid of its Node: a node may change only its own one.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::rollout::{Rollout, annotation};
use crate::host::{ClusterAccess, ClusterNode, EtcdMember, Host, HostResult};
use crate::kubernetes::MASTER_LABEL;
use crate::resource::ResourceResult;
use crate::resource::pki::{
    NODE_KUBECONFIG, PublishedAuthorities, Replacement, Stage, kept_node, kubeconfig_path,
};

/// The authority that workers trust, too.
const OF_WORKERS: &str = "cluster";
const NAMESPACE: &str = "kube-system";
const NAME: &str = "nodelet-authorities";
/// The Role and its binding.
const READERS: &str = "pf9:nodelet-authorities";

/// How far the workers of the cluster are, if they trust `of`.
pub(super) fn workers(
    of: &str,
    nodes: &BTreeMap<String, ClusterNode>,
    members: &[EtcdMember],
) -> BTreeMap<String, Option<Replacement>> {
    let is_master = |name: &String, node: &ClusterNode| {
        node.labels.contains_key(MASTER_LABEL) || members.iter().any(|its| its.name == *name)
    };
    let nodes = nodes.iter().filter(|_| of == OF_WORKERS);
    let workers = nodes.filter(|(name, node)| !is_master(name, node));
    workers
        .map(|(name, node)| (name.clone(), shown(node)))
        .collect()
}

/// What a worker shows, if it is of its present Node.
fn shown(node: &ClusterNode) -> Option<Replacement> {
    let text = node.annotations.get(&annotation(OF_WORKERS))?;
    let (shown, uid) = text.rsplit_once(' ')?;
    shown.parse().ok().filter(|_| uid == node.uid)
}

impl Rollout {
    /// Publishes the authorities for workers, if the masters are so far: a successor as soon as it is there, the switch when every master has
    /// switched, and the end when every master has finished. May be repeated.
    ///
    /// # Errors
    /// The API server does not answer or refuses, or this host cannot be read.
    pub async fn publish(
        &self,
        host: &dyn Host,
        access: &ClusterAccess,
        present: &Replacement,
    ) -> ResourceResult<()> {
        if self.of() != OF_WORKERS {
            return Ok(());
        }
        let before = published(host, access).await?;
        let before = before.and_then(|before| before.replacement());
        let is_time = match present.stage {
            // A master that joined late begins when the others have switched.
            Stage::Begun => {
                before.is_none_or(|before| Some(before.uses.as_str()) != present.successor())
            }
            Stage::Switched => self.masters_use_successor(present),
            Stage::Settled => self.is_over(present),
        };
        if !is_time {
            return Ok(());
        }
        let Some(authorities) = PublishedAuthorities::of_master(host).await? else {
            return Ok(());
        };
        for object in objects(&authorities) {
            host.apply_object(access, &object).await?;
        }
        Ok(())
    }

    /// Whether every master has finished, and workers do not know it: the last step was interrupted before that was published.
    ///
    /// # Errors
    /// The API server does not answer or refuses.
    pub async fn has_to_publish_end(
        &self,
        host: &dyn Host,
        access: &ClusterAccess,
        present: &Replacement,
    ) -> ResourceResult<bool> {
        if self.of() != OF_WORKERS || !self.is_over(present) {
            return Ok(false);
        }
        let published = published(host, access).await?;
        let published = published.and_then(|its| its.replacement());
        Ok(published.is_some_and(|its| its != *present))
    }
}

/// The ConfigMap, and what lets nodes read it.
fn objects(authorities: &PublishedAuthorities) -> [Value; 3] {
    let metadata = |name: &str| json!({ "name": name, "namespace": NAMESPACE });
    let group = "rbac.authorization.k8s.io";
    [
        json!({
            "apiVersion": format!("{group}/v1"),
            "kind": "Role",
            "metadata": metadata(READERS),
            "rules": [{
                "apiGroups": [""],
                "resources": ["configmaps"],
                "resourceNames": [NAME],
                "verbs": ["get"],
            }],
        }),
        json!({
            "apiVersion": format!("{group}/v1"),
            "kind": "RoleBinding",
            "metadata": metadata(READERS),
            "roleRef": { "apiGroup": group, "kind": "Role", "name": READERS },
            "subjects": [{ "apiGroup": group, "kind": "Group", "name": "system:nodes" }],
        }),
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata(NAME),
            "data": authorities.data(),
        }),
    ]
}

/// What the masters have published; `None` if nothing that can be used. Cancel safe.
///
/// # Errors
/// The API server does not answer or refuses. It refuses a node before something was published for the first time.
pub async fn published(
    host: &dyn Host,
    access: &ClusterAccess,
) -> HostResult<Option<PublishedAuthorities>> {
    let map = host.config_map(access, NAMESPACE, NAME).await?;
    Ok(map.and_then(|map| PublishedAuthorities::of_data(&map.data)))
}

/// Whether this worker does not have what the masters have published, or does not show it. False on a master. Cancel safe.
///
/// # Errors
/// The API server does not answer or refuses, or the host cannot be read.
pub async fn is_worker_behind(host: &dyn Host) -> ResourceResult<bool> {
    let Some(node) = kept_node(host).await? else {
        return Ok(false);
    };
    let access = ClusterAccess::with(&kubeconfig_path(NODE_KUBECONFIG));
    let Some(published) = published(host, &access).await? else {
        return Ok(false);
    };
    let present = Replacement::read(host, OF_WORKERS).await?;
    if present != published.replacement() && !published.are_older(host).await? {
        return Ok(true);
    }
    // A worker that is further than the masters shows that, too.
    let node = host.node(&access, &node.name).await?;
    Ok(node.is_some_and(|node| shown(&node) != present))
}

/// Shows on the Node of this worker how far it is. Call it only after an apply has converged, and only if no certificate is left that the
/// predecessor has signed.
///
/// # Errors
/// The API server does not answer or refuses, or the host cannot be read. The next call shows it.
pub async fn show_worker(host: &dyn Host) -> ResourceResult<()> {
    let access = ClusterAccess::with(&kubeconfig_path(NODE_KUBECONFIG));
    let Some(kept) = kept_node(host).await? else {
        return Ok(());
    };
    let present = Replacement::read(host, OF_WORKERS).await?;
    let node = host.node(&access, &kept.name).await?;
    let (Some(present), Some(node)) = (present, node) else {
        return Ok(());
    };
    if shown(&node).as_ref() == Some(&present) {
        return Ok(());
    }
    let value = format!("{present} {}", node.uid);
    let patch = json!({ "metadata": { "annotations": { annotation(OF_WORKERS): value } } });
    Ok(host.patch_node(&access, &kept.name, &patch).await?)
}
