//! This host's node object: registered, labelled, tainted, schedulable; and drained when the host stops.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::change::Differences;
use super::{Action, Change, Context, Receipt, Resource, ResourceError, ResourceResult, Undo};
use crate::host::{ClusterAccess, ClusterNode, Taint};

/// Annotation on a node that somebody cordoned on purpose: it stays cordoned.
const USER_CORDON: &str = "UserNodeCordon";
/// Annotation on a node that we drained.
const SHUT_DOWN: &str = "KubeStackShutDown";

/// A node object with these labels and taints. Its output `pod_cidr` is the pods' subnet of the node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// The pods' subnet to give it where it has none yet; otherwise the controller-manager chooses.
    pub pod_cidr: Option<String>,
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

    fn diff(&self, observed: &Self::Observed) -> Option<Change> {
        let Some(node) = observed else {
            return Some(Change::new(Action::Create).with("registered", "no", "yes"));
        };
        let mut differences = Differences::default();
        if node.pod_cidr.is_none() {
            let after = self.pod_cidr.as_deref().unwrap_or("known after apply");
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
        if self.schedulable && node.unschedulable && !held(node) {
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
        _change: &Change,
        cx: &Context<'_>,
        receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        // The kubelet registers it and the controller-manager gives it a subnet: the runner's retries wait for
        // both, so that a deadline stands in one place.
        let node = observed
            .as_ref()
            .ok_or_else(|| ResourceError::NotConverged {
                what: format!(
                    "find node {}: kubelet has not registered it; see `journalctl -u pf9-kubelet`",
                    self.name
                ),
            })?;
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
        let mut patch = json!({
            "metadata": { "labels": labels },
            "spec": { "taints": taints(&self.wanted_taints(node)) },
        });
        let mut back = json!({
            "metadata": { "labels": before },
            "spec": { "taints": taints(&node.taints) },
        });
        if self.schedulable {
            patch["metadata"]["annotations"] = json!({ SHUT_DOWN: null });
            if !held(node) {
                patch["spec"]["unschedulable"] = json!(false);
                back["spec"]["unschedulable"] = json!(node.unschedulable);
            }
        }
        if let (None, Some(cidr)) = (&node.pod_cidr, &self.pod_cidr) {
            // No way back: a node's subnet cannot be changed once it is set.
            patch["spec"]["podCIDR"] = json!(cidr);
            patch["spec"]["podCIDRs"] = json!([cidr]);
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
        if node.pod_cidr.is_none() && self.pod_cidr.is_none() {
            return Err(ResourceError::NotConverged {
                what: format!(
                    "find the pods' subnet of node {}: the controller-manager has not given it one; see its log",
                    self.name
                ),
            });
        }
        Ok(())
    }

    fn outputs(&self, observed: &Self::Observed) -> BTreeMap<String, Json> {
        let cidr = observed.as_ref().and_then(|node| node.pod_cidr.clone());
        cidr.map(|cidr| ("pod_cidr".to_owned(), Json::from(cidr)))
            .into_iter()
            .collect()
    }
}

impl NodeSpec {
    fn access(&self) -> ClusterAccess {
        ClusterAccess {
            kubeconfig: self.kubeconfig.clone(),
        }
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

/// Somebody cordoned it on purpose.
fn held(node: &ClusterNode) -> bool {
    node.annotations
        .get(USER_CORDON)
        .is_some_and(|value| value == "true")
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

/// Cordons a node and evicts its pods. For the stop lane: best effort and bounded, it never blocks the rest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DrainSpec {
    /// The node's name.
    pub node: String,
    /// Kubeconfig to ask with.
    pub kubeconfig: PathBuf,
    /// How long pods may take to go, in seconds.
    pub seconds: u64,
}

#[async_trait]
impl Resource for DrainSpec {
    /// The node, if the API server answers and has it.
    type Observed = Option<ClusterNode>;

    fn label(&self) -> String {
        self.node.clone()
    }

    async fn observe(&self, cx: &Context<'_>) -> ResourceResult<Self::Observed> {
        let access = ClusterAccess {
            kubeconfig: self.kubeconfig.clone(),
        };
        if cx.host.entry(&self.kubeconfig).await?.is_none() {
            return Ok(None);
        }
        // An API server that does not answer has no pods to hand over: that is no reason to stop the stop.
        Ok(cx.host.node(&access, &self.node).await.ok().flatten())
    }

    fn diff(&self, observed: &Self::Observed) -> Option<Change> {
        let node = observed.as_ref()?;
        (!node.annotations.contains_key(SHUT_DOWN))
            .then(|| Change::new(Action::Run).with("pods", "running", "evicted"))
    }

    async fn converge(
        &self,
        _observed: &Self::Observed,
        _change: &Change,
        cx: &Context<'_>,
        _receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        let access = ClusterAccess {
            kubeconfig: self.kubeconfig.clone(),
        };
        let cordon = json!({ "spec": { "unschedulable": true } });
        cx.host.patch_node(&access, &self.node, &cordon).await?;
        let left = cx
            .host
            .evict_pods(&access, &self.node, Duration::from_secs(self.seconds))
            .await?;
        if !left.is_empty() {
            return Err(ResourceError::NotConverged {
                what: format!("evict all pods in time; still there: {}", left.join(", ")),
            });
        }
        // Only now is it done: a drain that was cut or left pods is to be tried again.
        let done = json!({ "metadata": { "annotations": { SHUT_DOWN: "true" } } });
        cx.host.patch_node(&access, &self.node, &done).await?;
        Ok(())
    }
}
