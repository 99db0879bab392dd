//! This host's node object: registered, labelled, tainted, schedulable; and drained when the host stops.
//!
//! A cordon has an owner. The drain cordons the node and marks the cordon as ours in the same patch; an apply removes such a
//! cordon. Every other cordon belongs to an operator and stays until an operator removes it. A drain of a node that an operator
//! has cordoned evicts the pods, and the cordon still belongs to the operator. `kubectl cordon` does not change a node that is
//! already cordoned, so our cordon stays ours; the annotation `UserNodeCordon=true` gives it to the operator. A node that an
//! operator uncordons during a drain is not cordoned again, and the drain fails.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::pods::running_pods;
use crate::host::{ClusterAccess, ClusterNode, FIELD_MANAGER, Host, RemainingPod, Taint};
use crate::kubernetes::{PodSubnetError, SHARED_SETTINGS, SubnetPool, allocate};
use crate::resource::change::Differences;
use crate::resource::{
    Action, Change, Context, Receipt, Resource, ResourceError, ResourceResult, Undo,
};

/// Annotation with which an operator keeps a node cordoned, even if the cordon was ours.
const USER_CORDON: &str = "UserNodeCordon";
/// Annotation on a node that we cordoned. It is set in the same patch as the cordon.
const SHUT_DOWN: &str = "KubeStackShutDown";
/// How long systemd and the container runtime may take to say what runs, before a drain.
const RUNTIME: Duration = Duration::from_secs(5);
/// Maximum number of remaining pods that the error of a drain names.
const NAMED: usize = 10;

/// The settings as a node publishes them; `None` if there are none.
fn published(settings: &BTreeMap<String, String>) -> Option<String> {
    (!settings.is_empty()).then(|| json!(settings).to_string())
}

/// A node object with these labels and taints. Its output `pod_cidr` is the pods' subnet of the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSpec {
    /// Its name.
    pub name: String,
    /// Kubeconfig to ask and patch with.
    pub kubeconfig: PathBuf,
    /// Labels it has.
    pub labels: BTreeMap<String, String>,
    /// Taints it has.
    pub taints: Vec<Taint>,
    /// Keys of taints it does not have.
    pub untainted: Vec<String>,
    /// Whether a cordon of ours is lifted.
    pub schedulable: bool,
    /// The settings that all masters have in common, by name. The node publishes them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub shared_settings: BTreeMap<String, String>,
    /// Pool from which the subnet of the node's pods is allocated; if `None`, another component sets the subnet.
    pub pod_subnets: Option<SubnetPool>,
}

#[async_trait]
impl Resource for NodeSpec {
    type Observed = Option<ClusterNode>;

    fn label(&self) -> String {
        self.name.clone()
    }

    async fn observe(&self, cx: &Context<'_>) -> ResourceResult<Self::Observed> {
        Ok(cx.host.node(&self.access(), &self.name).await?)
    }

    fn diff(&self, observed: &Self::Observed, _absent: bool) -> Option<Change> {
        // kubelet registers the node while this step waits, so the action is `Change` whether or not the node is registered yet.
        let not_yet = ClusterNode::default();
        let mut differences = Differences::default();
        let node = observed.as_ref().unwrap_or_else(|| {
            differences.note("registered", "no", "yes");
            &not_yet
        });
        if node.pod_cidr.is_none() {
            let after = match self.pod_subnets {
                Some(pool) => pool.to_string(),
                None => "known after apply".to_owned(),
            };
            differences.note("pods' subnet", "none yet", after);
        }
        for (label, value) in &self.labels {
            if node.labels.get(label) != Some(value) {
                let is = node.labels.get(label).map_or("not set", String::as_str);
                differences.note(&format!("label {label}"), is, value);
            }
        }
        let wanted = self.wanted_taints(node);
        if wanted != sorted(node.taints.clone()) {
            differences.note("taints", list(&node.taints), list(&wanted));
        }
        if let Some(text) = published(&self.shared_settings)
            && node.annotations.get(SHARED_SETTINGS) != Some(&text)
        {
            let is = node.annotations.get(SHARED_SETTINGS);
            let is = is.map_or("not set", String::as_str);
            differences.note(&format!("annotation {SHARED_SETTINGS}"), is, text);
        }
        if self.schedulable && Cordon::of(node) == Cordon::Ours {
            differences.note("cordoned", "yes", "no");
        }
        if self.schedulable && node.annotations.contains_key(SHUT_DOWN) {
            differences.note(&format!("annotation {SHUT_DOWN}"), "set", "not set");
        }
        differences.into_change(Action::Change)
    }

    async fn converge(
        &self,
        observed: &Self::Observed,
        cx: &Context<'_>,
        receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        // kubelet registers the node. The runner's retries wait for that, so that only the runner has a deadline.
        let node = observed
            .as_ref()
            .ok_or_else(|| ResourceError::NotConverged {
                what: format!(
                    "find node {}: kubelet has not registered it; see `journalctl -u pf9-kubelet`; it does so at its start, and `nodelet repair kubelet` starts it again; if this host was removed from the cluster, masters delete its node, and it needs `nodelet clean --purge`",
                    self.name
                ),
            })?;
        // The subnet comes first: kubelet needs it before the node becomes Ready. There is no undo: the API does not allow a change of a
        // node's subnet.
        let seen_again;
        let mut node = node;
        if let (None, Some(pool)) = (&node.pod_cidr, self.pod_subnets) {
            allocate(cx.host, &self.access(), &self.name, pool).await?;
            // The allocation takes a moment. Taints that were added in the meantime must be kept.
            seen_again = cx.host.node(&self.access(), &self.name).await?;
            node = seen_again.as_ref().unwrap_or(node);
        }
        let without_subnet = || ResourceError::NotConverged {
            what: format!(
                "find the pods' subnet of node {}: no component has set it",
                self.name
            ),
        };
        let waits = node.pod_cidr.is_none() && self.pod_subnets.is_none();
        if waits && !self.patches(node) {
            return Err(without_subnet());
        }
        let labels: serde_json::Map<String, Json> = self
            .labels
            .iter()
            .map(|(k, v)| (k.clone(), json!(v)))
            .collect();
        let before: serde_json::Map<String, Json> = self
            .labels
            .keys()
            .map(|k| (k.clone(), json!(node.labels.get(k))))
            .collect();
        let mut patch = json!({ "metadata": { "labels": labels } });
        let mut back = json!({ "metadata": { "labels": before } });
        // The API replaces the whole list, so a taint that was added in the meantime would be lost. The list is sent only if it differs,
        // and only for the observed version of the node; after a conflict, the next try of the step observes the node again.
        let wanted = self.wanted_taints(node);
        if wanted != sorted(node.taints.clone()) {
            patch["metadata"]["resourceVersion"] = json!(node.version);
            patch["spec"]["taints"] = taints(&wanted);
            back["spec"]["taints"] = taints(&node.taints);
        }
        if let Some(text) = published(&self.shared_settings) {
            let before = node.annotations.get(SHARED_SETTINGS);
            patch["metadata"]["annotations"][SHARED_SETTINGS] = json!(text);
            back["metadata"]["annotations"][SHARED_SETTINGS] = json!(before);
        }
        if self.schedulable {
            // The mark is removed even if an operator has already removed our cordon: otherwise the operator's next cordon would
            // look like ours.
            patch["metadata"]["annotations"][SHUT_DOWN] = json!(null);
            if Cordon::of(node) == Cordon::Ours {
                patch["spec"]["unschedulable"] = json!(false);
                back["spec"]["unschedulable"] = json!(true);
                back["metadata"]["annotations"][SHUT_DOWN] = json!("true");
            }
        }
        receipt
            .push(Undo::PatchNode {
                access: self.access(),
                node: self.name.clone(),
                patch: back,
            })
            .await?;
        cx.host
            .patch_node(&self.access(), &self.name, &patch)
            .await?;
        if waits {
            return Err(without_subnet());
        }
        Ok(())
    }

    fn outputs(&self, observed: &Self::Observed) -> BTreeMap<String, Json> {
        let cidr = observed.as_ref().and_then(|node| node.pod_cidr.clone());
        cidr.map(|cidr| ("pod_cidr".to_owned(), Json::from(cidr)))
            .into_iter()
            .collect()
    }

    /// kubelet registers a node only at its start, so a repair of this step would wait in vain.
    fn is_unknown(&self, observed: &Self::Observed) -> bool {
        observed.is_none()
    }

    fn note(&self, observed: &Self::Observed) -> Option<String> {
        let Some(node) = observed else {
            return Some(format!("kubelet has not registered node {}", self.name));
        };
        (Cordon::of(node) == Cordon::Operators).then(|| {
            let client = match node.cordoned_by.as_str() {
                "" => String::new(),
                client => format!(" with {client}"),
            };
            format!(
                "node {name} is cordoned by an operator{client}; `kubectl uncordon {name}` lets pods be scheduled to it again",
                name = self.name
            )
        })
    }
}

impl From<PodSubnetError> for ResourceError {
    fn from(error: PodSubnetError) -> Self {
        match error {
            PodSubnetError::Api(error) => Self::Host(error),
            PodSubnetError::Exhausted { .. } => Self::Unmet {
                what: error.to_string(),
                next: "remove nodes that are gone (`kubectl delete node`), and workers that are named with a subnet of another length (`nodelet cluster remove`); their claims follow (`kubectl --namespace kube-system get leases`)".to_owned(),
            },
            PodSubnetError::NoNode { .. } | PodSubnetError::Contended { .. } => {
                Self::NotConverged {
                    what: error.to_string(),
                }
            }
        }
    }
}

impl NodeSpec {
    fn access(&self) -> ClusterAccess {
        ClusterAccess::with(&self.kubeconfig)
    }

    /// Annotations that the node has.
    pub(crate) fn annotations(&self) -> BTreeMap<String, String> {
        let published = published(&self.shared_settings);
        let named = published.map(|text| (SHARED_SETTINGS.to_owned(), text));
        named.into_iter().collect()
    }

    /// Whether the step itself has something to change. A worker's step may only have to wait for its pods' subnet.
    fn patches(&self, node: &ClusterNode) -> bool {
        let labelled = |(key, value)| node.labels.get(key) == Some(value);
        !self.labels.iter().all(labelled)
            || self.wanted_taints(node) != sorted(node.taints.clone())
            || published(&self.shared_settings)
                .is_some_and(|text| node.annotations.get(SHARED_SETTINGS) != Some(&text))
            || (self.schedulable
                && (Cordon::of(node) == Cordon::Ours || node.annotations.contains_key(SHUT_DOWN)))
    }

    /// The node's taints with ours added and the unwanted ones left out.
    fn wanted_taints(&self, node: &ClusterNode) -> Vec<Taint> {
        let mut wanted: Vec<Taint> = node
            .taints
            .iter()
            .filter(|taint| !self.untainted.contains(&taint.key))
            .filter(|taint| !self.taints.iter().any(|t| t.key == taint.key))
            .cloned()
            .collect();
        wanted.extend(self.taints.iter().cloned());
        sorted(wanted)
    }
}

/// Who cordoned a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cordon {
    /// It is not cordoned.
    None,
    /// We did, for a drain. The next apply removes the cordon.
    Ours,
    /// An operator did. The cordon stays.
    Operators,
}

impl Cordon {
    fn of(node: &ClusterNode) -> Self {
        let annotated = |key| {
            node.annotations
                .get(key)
                .is_some_and(|value| value == "true")
        };
        // The mark alone is not enough: it stays if an operator removes our cordon, and the next cordon may be the operator's.
        // The API server records the client that set the field; for drains by earlier versions of ours this name is empty.
        let set_by_us = ["", FIELD_MANAGER].contains(&node.cordoned_by.as_str());
        match (node.unschedulable, annotated(USER_CORDON)) {
            (false, _) => Self::None,
            (true, false) if annotated(SHUT_DOWN) && set_by_us => Self::Ours,
            (true, _) => Self::Operators,
        }
    }
}

fn sorted(mut taints: Vec<Taint>) -> Vec<Taint> {
    taints.sort();
    taints
}

fn list(taints: &[Taint]) -> String {
    if taints.is_empty() {
        return "none".to_owned();
    }
    let one = |t: &Taint| format!("{}={}:{}", t.key, t.value, t.effect);
    taints.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn taints(taints: &[Taint]) -> Json {
    let one = |t: &Taint| json!({ "key": t.key, "value": t.value, "effect": t.effect });
    taints.iter().map(one).collect()
}

/// Cordons a node and evicts its pods. For the stop lane: best effort and with a time limit, so it never blocks the other steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DrainSpec {
    /// The node's name.
    pub node: String,
    /// Kubeconfig for the requests.
    pub kubeconfig: PathBuf,
    /// The unit of this host's kubelet. If `None`, the drain waits for all pods, as while this unit runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubelet: Option<String>,
    /// How long the eviction of all pods may take, in seconds.
    pub seconds: u64,
}

#[async_trait]
impl Resource for DrainSpec {
    /// The node, if this host has a kubeconfig and the cluster has the node.
    type Observed = Option<ClusterNode>;

    fn label(&self) -> String {
        self.node.clone()
    }

    async fn observe(&self, cx: &Context<'_>) -> ResourceResult<Self::Observed> {
        let access = ClusterAccess::with(&self.kubeconfig);
        if cx.host.entry(&self.kubeconfig).await?.is_none() {
            return Ok(None);
        }
        // If the API server does not answer, pods may stay on the node: that is an error. A stop continues without the drain.
        Ok(cx.host.node(&access, &self.node).await?)
    }

    fn diff(&self, observed: &Self::Observed, _absent: bool) -> Option<Change> {
        // Also for a node that was drained before: only the list of its pods shows whether a pod is left.
        observed
            .is_some()
            .then(|| Change::new(Action::Run).with("pods", "running", "evicted"))
    }

    async fn converge(
        &self,
        observed: &Self::Observed,
        cx: &Context<'_>,
        _receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        let access = ClusterAccess::with(&self.kubeconfig);
        let cordoned = observed.as_ref().is_some_and(|node| node.unschedulable);
        if !cordoned {
            // One patch, so that a cordon of ours always has its mark.
            let cordon = json!({
                "metadata": { "annotations": { SHUT_DOWN: "true" } },
                "spec": { "unschedulable": true },
            });
            cx.host.patch_node(&access, &self.node, &cordon).await?;
        }
        let running = tokio::time::timeout(RUNTIME, self.running_without_kubelet(cx.host)).await;
        let running = running.ok().flatten();
        let within = Duration::from_secs(self.seconds);
        let left = cx
            .host
            .evict_pods(&access, &self.node, running.as_ref(), within)
            .await?;
        if !left.is_empty() {
            return Err(ResourceError::NotConverged {
                what: format!("evict all pods in time; still there: {}", named(&left)),
            });
        }
        let node = cx.host.node(&access, &self.node).await?;
        if node.is_some_and(|node| !node.unschedulable) {
            return Err(ResourceError::NotConverged {
                what: format!(
                    "keep node {} cordoned: an operator has uncordoned it during the drain",
                    self.node
                ),
            });
        }
        Ok(())
    }
}

impl DrainSpec {
    /// The uids of the pods of which a container runs on this host, if kubelet does not run; `None` if it does, or if that is not known. A kubelet that
    /// runs may start a pod a moment later, or still unmount the volumes of one whose containers have ended. Cancel safe.
    async fn running_without_kubelet(&self, host: &dyn Host) -> Option<BTreeSet<String>> {
        let unit = host.unit(self.kubelet.as_ref()?).await.ok()?;
        let has_ended = matches!(unit.active.as_str(), "inactive" | "failed") && !unit.job;
        if !has_ended {
            return None;
        }
        running_pods(host).await
    }
}

/// The remaining pods, each with its reason.
fn named(left: &[RemainingPod]) -> String {
    let first = left.iter().take(NAMED);
    let mut text = first
        .map(|pod| format!("{} ({})", pod.name, pod.reason))
        .collect::<Vec<_>>()
        .join(", ");
    if left.len() > NAMED {
        text += &format!(" and {} more", left.len() - NAMED);
    }
    text
}

#[cfg(test)]
mod tests;
