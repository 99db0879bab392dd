//! What the rules of Kubernetes on a fake host go by, and what its API server remembers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::SystemTime;

use ipnet::IpNet;

use crate::host::{CertificateRequest, ClusterNode, RemainingPod, SubnetClaim};

/// Names, ports and paths the rules go by. The defaults are the role's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubernetesRules {
    /// Port of the API server.
    pub api_port: u16,
    /// Version of the API server.
    pub api_version: String,
    /// Directory that kubelet reads static pods from.
    pub manifests: PathBuf,
    /// File name of the control plane's static pod.
    pub control_plane: String,
    /// Directory of CNI configurations; a file in it makes the node ready.
    pub cni: PathBuf,
    /// Unit that runs kubelet.
    pub kubelet_unit: String,
    /// Container that runs etcd.
    pub etcd_container: String,
    /// Container that runs kube-proxy.
    pub proxy_container: String,
    /// Container that runs the webhook.
    pub bouncer_container: String,
    /// Subnet that this host's node registers with, as if the controller-manager had given it one; empty for none.
    pub pod_cidr: String,
    /// Whether a new node starts cordoned.
    pub cordoned: bool,
    /// Pods that an eviction does not remove.
    pub unevictable: Vec<RemainingPod>,
    /// Pods that are being deleted and whose end no kubelet reports, by uid.
    pub deleted_pods: BTreeMap<String, RemainingPod>,
    /// A node that becomes Ready while its pods are evicted.
    pub ready_after_eviction: Option<String>,
    /// Name under which kubelet registers; the host name if `None`.
    pub node_name: Option<String>,
    /// An API server elsewhere that is up: a worker's masters.
    pub remote_api: bool,
    /// Whether it refuses this host, as it does a client whose certificate it does not accept.
    pub api_refuses: bool,
    /// Whether kube-proxy writes the rules of Services; it does not before it has read them from an API server.
    pub writes_services: bool,
    /// Whether running components leave traces on the host that only a clean removes.
    pub leaves_traces: bool,
}

impl Default for KubernetesRules {
    fn default() -> Self {
        Self {
            api_port: 443,
            api_version: "v1.20.2".to_owned(),
            manifests: "/etc/pf9/kube.d/manifests".into(),
            control_plane: "k8s-master.yaml".to_owned(),
            cni: "/etc/cni/net.d".into(),
            kubelet_unit: "pf9-kubelet.service".to_owned(),
            etcd_container: "etcd".to_owned(),
            proxy_container: "proxy".to_owned(),
            bouncer_container: "bouncer".to_owned(),
            pod_cidr: "10.20.0.0/24".to_owned(),
            cordoned: false,
            unevictable: Vec::new(),
            deleted_pods: BTreeMap::new(),
            ready_after_eviction: None,
            node_name: None,
            remote_api: false,
            api_refuses: false,
            writes_services: true,
            leaves_traces: false,
        }
    }
}

/// What the API server remembers.
#[derive(Debug, Clone, Default)]
pub(crate) struct ClusterState {
    pub(crate) nodes: BTreeMap<String, ClusterNode>,
    /// Claims of pod subnets, at most one of each.
    pub(crate) subnet_claims: BTreeMap<IpNet, SubnetClaim>,
    /// Requests for certificates by name.
    pub(crate) requests: BTreeMap<String, CertificateRequest>,
    /// Whether there are more requests than a list of them has.
    pub(in crate::host::fake) has_more_requests: bool,
    /// Users whose identity the API server refuses when they ask for certificates.
    pub(in crate::host::fake) refused: BTreeSet<String>,
    /// The invocation of kubelet's unit that has registered the node.
    pub(in crate::host::fake) registered_by: String,
    /// Nodes registered so far: each has an uid of its own.
    pub(in crate::host::fake) registered: u64,
    /// Objects by `apiVersion/kind/namespace/name`.
    pub(crate) objects: BTreeMap<String, serde_json::Value>,
    /// Where etcd was last seen to keep its data.
    pub(in crate::host::fake) data: Option<PathBuf>,
    /// The public key for the service-account tokens that the cluster has issued.
    pub(in crate::host::fake) tokens: Option<Vec<u8>>,
    /// The public key that the API server verifies tokens with, and when the server started: it reads the key only then.
    pub(in crate::host::fake) verifies: Option<(Vec<u8>, Option<SystemTime>)>,
    /// The certificates that the parts of the control plane have read, by port, and when.
    pub(in crate::host::fake) served: BTreeMap<u16, (Vec<u8>, SystemTime)>,
}

impl ClusterState {
    /// The uid of the next node.
    pub(crate) fn next_uid(&mut self) -> String {
        self.registered += 1;
        format!("node-{}", self.registered)
    }
}
