//! The Kubernetes API, as far as bringing up one node needs it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::host::HostResult;

/// How to reach an API server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterAccess {
    /// The kubeconfig file to use.
    pub kubeconfig: PathBuf,
}

impl ClusterAccess {
    /// With this kubeconfig file.
    #[must_use]
    pub fn with(kubeconfig: &Path) -> Self {
        Self {
            kubeconfig: kubeconfig.to_owned(),
        }
    }
}

/// A node object, as far as we read it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterNode {
    /// Its uid.
    pub uid: String,
    /// Its `metadata.resourceVersion`: the API server refuses a patch that names it if the node has changed since.
    pub version: String,
    /// When it was registered, in whole seconds. The API server sets this time. `None` if it is not known.
    pub created: Option<SystemTime>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Taints.
    pub taints: Vec<Taint>,
    /// Cordoned.
    pub unschedulable: bool,
    /// Name of the client that cordoned it, as the API server keeps it (`metadata.managedFields`); empty if it is not
    /// cordoned, or if the API server does not tell.
    pub cordoned_by: String,
    /// Its addresses in the network of the cluster (`InternalIP` in `status.addresses`).
    pub addresses: Vec<IpAddr>,
    /// The pods' subnet of the node, once it has one.
    pub pod_cidr: Option<String>,
    /// Condition `Ready`: `Some(true)`, `Some(false)`, or `None` for unknown or absent.
    pub ready: Option<bool>,
    /// Reason and message of that condition.
    pub ready_message: String,
    /// The version of its kubelet, as kubelet reports it: `v1.20.2`. Empty if it has reported none.
    pub kubelet_version: String,
    /// When kubelet reported that condition last (`lastHeartbeatTime`, whole seconds). kubelet reports at each of its starts.
    pub reported: Option<SystemTime>,
    /// The conditions `MemoryPressure`, `DiskPressure` and `PIDPressure` that are true, each with its message.
    /// Source: <https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/#node-conditions>.
    pub pressures: Vec<String>,
    /// The pressure conditions whose status is unknown.
    pub unknown_pressures: Vec<String>,
}

/// An object that is in the cluster, compared with the wanted one.
#[derive(Clone, PartialEq)]
pub struct ClusterObject {
    /// The object as its clients set it: without its status and without the fields that the API server maintains.
    pub present: serde_json::Value,
    /// Whether server-side apply as our field manager would change it.
    pub differs: bool,
}

/// Leaves out the content, which may be a secret.
impl fmt::Debug for ClusterObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterObject")
            .field("differs", &self.differs)
            .finish_non_exhaustive()
    }
}

/// A taint of a node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Taint {
    /// Key.
    pub key: String,
    /// Value, possibly empty.
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
}

impl Taint {
    /// The effects that a taint can have.
    pub const EFFECTS: [&'static str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

    /// Whether both have the same key and effect. A node has at most one such taint.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.key == other.key && self.effect == other.effect
    }
}

/// As `kubectl taint` takes it: `KEY[=VALUE]:EFFECT`.
impl fmt::Display for Taint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        if !self.value.is_empty() {
            write!(f, "={}", self.value)?;
        }
        write!(f, ":{}", self.effect)
    }
}

/// The name under which we change objects: the field manager that the API server notes beside each field.
pub const FIELD_MANAGER: &str = "nodelet";

/// A pod that a drain left on its node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemainingPod {
    /// `namespace/name`.
    pub name: String,
    /// Why it is still there.
    pub reason: String,
}

/// Calls on the API server. Each carries the implementation's own deadline (10 s; `evict_pods` its argument;
/// `rewrite_secrets` 10 s for each request).
#[async_trait::async_trait]
pub trait Cluster {
    /// A node object; `None` if there is none. Cancel safe.
    async fn node(&self, access: &ClusterAccess, name: &str) -> HostResult<Option<ClusterNode>>;

    /// All nodes by name. Cancel safe.
    async fn nodes(&self, access: &ClusterAccess) -> HostResult<BTreeMap<String, ClusterNode>>;

    /// The version of the API server: `v1.20.2`. Cancel safe.
    async fn api_version(&self, access: &ClusterAccess) -> HostResult<String>;

    /// Applies a JSON merge patch to a node.
    async fn patch_node(
        &self,
        access: &ClusterAccess,
        name: &str,
        patch: &serde_json::Value,
    ) -> HostResult<()>;

    /// Removes a node object if it is still this one, with this uid and version, as `node` returned it. False if it has changed. Fine if
    /// there is none.
    async fn delete_same_node(
        &self,
        access: &ClusterAccess,
        name: &str,
        node: &ClusterNode,
    ) -> HostResult<bool>;

    /// Whether an object of this apiVersion, kind, namespace and name is there. Cancel safe.
    async fn object_exists(
        &self,
        access: &ClusterAccess,
        object: &serde_json::Value,
    ) -> HostResult<bool>;

    /// The object as it is in the cluster, and whether server-side apply of `object` as our field manager would change it; `None` if it is
    /// not there. Uses the server's dry run. Cancel safe.
    async fn compare_object(
        &self,
        access: &ClusterAccess,
        object: &serde_json::Value,
    ) -> HostResult<Option<ClusterObject>>;

    /// A Secret as the API server has it, with its data; `None` if there is none. Nothing else is asked, so it is cheaper than
    /// [`Cluster::compare_object`]. Cancel safe.
    async fn secret(
        &self,
        access: &ClusterAccess,
        namespace: &str,
        name: &str,
    ) -> HostResult<Option<serde_json::Value>>;

    /// Applies an object server-side as our field manager, forcing conflicts.
    async fn apply_object(
        &self,
        access: &ClusterAccess,
        object: &serde_json::Value,
    ) -> HostResult<()>;

    /// Deletes an object. Fine if there is none.
    async fn delete_object(
        &self,
        access: &ClusterAccess,
        object: &serde_json::Value,
    ) -> HostResult<()>;

    /// Writes every Secret again unchanged, so that the API server encrypts it with the current key. Returns the number of Secrets. When
    /// the call is cancelled or interrupted, only some of them are written.
    async fn rewrite_secrets(&self, access: &ClusterAccess) -> HostResult<u64>;

    /// Whether the API server accepts the token that the cluster gave to a service account; `None` where it has given none.
    /// Changes nothing in the cluster. Cancel safe.
    async fn accepts_token_of(
        &self,
        access: &ClusterAccess,
        namespace: &str,
        account: &str,
    ) -> HostResult<Option<bool>>;

    /// Evicts the pods of a node and waits for them to go. Returns the pods that are still there when `timeout` passes,
    /// or a little later if their grace period ends then. So an empty list means that no evictable pod is left. Static
    /// pods, pods of daemon sets and finished pods are not evicted and do not count.
    ///
    /// `running` has the uids of the pods of which a container runs, if the node is this host, its kubelet does not run, and that is known. A pod that is
    /// being deleted and is not among them has ended: only the report of its kubelet is missing. It does not count either.
    async fn evict_pods(
        &self,
        access: &ClusterAccess,
        node: &str,
        running: Option<&BTreeSet<String>>,
        timeout: Duration,
    ) -> HostResult<Vec<RemainingPod>>;
}
