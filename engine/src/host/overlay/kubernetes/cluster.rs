//! The API server: asked on the host below while it answers there, else taken from our own records.
//!
//! Its answers after changes above follow the rules of the upper world: it is up when kubelet, its manifest and etcd are; a node registers
//! with kubelet; a cluster without data begins empty.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::host::fake::{KubernetesRules, key};
use crate::host::overlay::{LedgerHint, LedgerHints, OverlayHost};
use crate::host::{
    Cluster, ClusterAccess, ClusterNode, ClusterObject, HostError, HostResult, RemainingPod,
};

#[async_trait::async_trait]
impl Cluster for OverlayHost<'_> {
    async fn node(&self, access: &ClusterAccess, name: &str) -> HostResult<Option<ClusterNode>> {
        self.fetch_node(access, name).await?;
        self.upper.node(access, name).await
    }

    async fn nodes(&self, access: &ClusterAccess) -> HostResult<BTreeMap<String, ClusterNode>> {
        self.fetch_nodes(access).await?;
        self.upper.nodes(access).await
    }

    async fn api_version(&self, access: &ClusterAccess) -> HostResult<String> {
        self.unchanged("ask the API server for its version")?;
        self.lower.api_version(access).await
    }

    async fn patch_node(
        &self,
        access: &ClusterAccess,
        name: &str,
        patch: &Value,
    ) -> HostResult<()> {
        self.changes();
        self.fetch_node(access, name).await?;
        self.upper.patch_node(access, name, patch).await
    }

    async fn delete_same_node(
        &self,
        access: &ClusterAccess,
        name: &str,
        node: &ClusterNode,
    ) -> HostResult<bool> {
        self.changes();
        self.fetch_node(access, name).await?;
        self.upper.delete_same_node(access, name, node).await
    }

    async fn object_exists(&self, access: &ClusterAccess, object: &Value) -> HostResult<bool> {
        self.unchanged(&format!("get {}", key(object)?))?;
        self.lower.object_exists(access, object).await
    }

    async fn compare_object(
        &self,
        access: &ClusterAccess,
        object: &Value,
    ) -> HostResult<Option<ClusterObject>> {
        self.fetch_object(access, object).await?;
        self.upper.compare_object(access, object).await
    }

    async fn secret(
        &self,
        access: &ClusterAccess,
        namespace: &str,
        name: &str,
    ) -> HostResult<Option<Value>> {
        self.unchanged(&format!("get the Secret {namespace}/{name}"))?;
        self.lower.secret(access, namespace, name).await
    }

    async fn apply_object(&self, access: &ClusterAccess, object: &Value) -> HostResult<()> {
        self.changes();
        self.fetch_object(access, object).await?;
        // The namespace may be there although this plan has not made it.
        if let Some(name) = object
            .pointer("/metadata/namespace")
            .and_then(Value::as_str)
        {
            let namespace = serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            self.fetch_object(access, &namespace).await?;
        }
        self.upper.apply_object(access, object).await
    }

    async fn delete_object(&self, access: &ClusterAccess, object: &Value) -> HostResult<()> {
        self.changes();
        self.fetch_object(access, object).await?;
        self.upper.delete_object(access, object).await
    }

    async fn rewrite_secrets(&self, access: &ClusterAccess) -> HostResult<u64> {
        self.upper.rewrite_secrets(access).await
    }

    async fn accepts_token_of(
        &self,
        access: &ClusterAccess,
        namespace: &str,
        account: &str,
    ) -> HostResult<Option<bool>> {
        self.unchanged(&format!("try the token of {namespace}/{account}"))?;
        self.lower
            .accepts_token_of(access, namespace, account)
            .await
    }

    async fn evict_pods(
        &self,
        access: &ClusterAccess,
        node: &str,
        running: Option<&BTreeSet<String>>,
        timeout: Duration,
    ) -> HostResult<Vec<RemainingPod>> {
        self.changes();
        self.fetch_node(access, node).await?;
        self.upper.evict_pods(access, node, running, timeout).await
    }
}

impl OverlayHost<'_> {
    /// Sets the rules by which Kubernetes works on this host.
    #[must_use]
    pub fn with_kubernetes(self, set: impl FnOnce(&mut KubernetesRules)) -> Self {
        self.upper
            .with_world_mut(|world| set(&mut world.kubernetes));
        self
    }

    /// Sets our own records of a cluster whose API server does not answer now.
    #[must_use]
    pub fn with_hints(mut self, hints: LedgerHints) -> Self {
        self.hints = hints;
        self
    }

    /// Fetches what decides whether an API server is up, and whether the node is ready.
    async fn fetch_servers(&self, access: &ClusterAccess) -> HostResult<()> {
        let rules = self.upper.with_world(|world| world.kubernetes.clone());
        self.fetch(&access.kubeconfig, true).await?;
        self.fetch(&rules.manifests.join(&rules.control_plane), true)
            .await?;
        self.fetch_unit(&rules.kubelet_unit).await?;
        self.fetch_children(Path::new(&rules.cni)).await?;
        self.fetch_container(&rules.etcd_container).await?;
        let etcd = self.upper.with_world(|world| {
            let container = world.containers.get(&rules.etcd_container);
            container.map(|container| container.config.clone())
        });
        if let Some(config) = etcd {
            self.fetch_mounts(&config).await?;
        }
        // What was fetched may have consequences: kubelet registers its node.
        self.upper.with_world_mut(|_| ());
        Ok(())
    }

    /// Fetches whether a directory holds etcd's data. An unreadable directory says nothing about that; then etcd is taken to have data.
    pub(in crate::host::overlay) async fn fetch_etcd_data(&self, data: &Path) -> HostResult<()> {
        self.fetch(&data.join("member"), true).await.map(drop)
    }

    async fn fetch_node(&self, access: &ClusterAccess, name: &str) -> HostResult<()> {
        self.fetch_servers_or_know(access).await?;
        if self.known().nodes.contains(name) {
            return Ok(());
        }
        let action = format!("get node {name}");
        let asked = match self.silence(&action) {
            Some(silent) => Err(silent),
            None => self.lower.node(access, name).await,
        };
        let node = match asked {
            Ok(node) => {
                self.answered();
                node
            }
            Err(error) => self
                .remembered(&action, error, self.hints.nodes.get(name))?
                .cloned(),
        };
        self.known().nodes.insert(name.to_owned());
        if let Some(node) = node {
            self.upper
                .with_world_mut(|world| world.cluster.nodes.insert(name.to_owned(), node));
        }
        Ok(())
    }

    async fn fetch_nodes(&self, access: &ClusterAccess) -> HostResult<()> {
        self.fetch_servers_or_know(access).await?;
        if self.known().all_nodes {
            return Ok(());
        }
        let nodes = self.listed("list the nodes", self.lower.nodes(access));
        for (name, node) in nodes.await?.into_iter().flatten() {
            // What is already known of a node is kept.
            if self.known().nodes.insert(name.clone()) {
                self.upper
                    .with_world_mut(|world| world.cluster.nodes.insert(name, node));
            }
        }
        self.known().all_nodes = true;
        Ok(())
    }

    /// What the API server below lists; `None` if it does not answer and the cluster begins without data, so it has nothing to list. A server
    /// that did not answer before is not asked.
    pub(super) async fn listed<T>(
        &self,
        action: &str,
        list: impl Future<Output = HostResult<T>> + Send,
    ) -> HostResult<Option<T>> {
        let asked = match self.silence(action) {
            Some(silent) => Err(silent),
            None => list.await,
        };
        match asked {
            Ok(listed) => {
                self.answered();
                Ok(Some(listed))
            }
            Err(_) if self.hints.empty => Ok(None),
            Err(error) => Err(HostError::service(action, error)),
        }
    }

    pub(super) async fn fetch_object(
        &self,
        access: &ClusterAccess,
        object: &Value,
    ) -> HostResult<()> {
        self.fetch_servers_or_know(access).await?;
        let key = key(object)?;
        if self.known().objects.contains(&key) {
            return Ok(());
        }
        let action = format!("get {key}");
        let asked = match self.silence(&action) {
            Some(silent) => Err(silent),
            None => self.lower.compare_object(access, object).await,
        };
        let there = match asked {
            Ok(there) => {
                self.answered();
                // Values that the server has filled in do not count: if the server finds no difference, the object counts as the wanted
                // one.
                there.map(|there| match there.differs {
                    true => there.present,
                    false => object.clone(),
                })
            }
            Err(error) => self
                .remembered(&action, error, self.hints.objects.get(&key))?
                .cloned(),
        };
        self.known().objects.insert(key.clone());
        if let Some(there) = there {
            self.upper
                .with_world_mut(|world| world.cluster.objects.insert(key, there));
        }
        Ok(())
    }

    /// A container runtime that cannot be asked says nothing about an API server that answers.
    pub(in crate::host::overlay) async fn fetch_servers_or_know(
        &self,
        access: &ClusterAccess,
    ) -> HostResult<()> {
        match self.fetch_servers(access).await {
            Err(HostError::Service { .. }) => Ok(()),
            other => other,
        }
    }

    /// The error of an API server that did not answer before: it is not waited for again.
    pub(in crate::host::overlay) fn silence(&self, action: &str) -> Option<HostError> {
        let silent = self.known().silent.clone()?;
        Some(HostError::service(action, silent))
    }

    /// An API server that answers while this host's own is not up is on another host.
    pub(in crate::host::overlay) fn answered(&self) {
        self.upper.with_world_mut(|world| {
            if !world.local_api_up() {
                world.kubernetes.remote_api = true;
            }
        });
    }

    /// What replaces an answer: our own records, or the rule that a cluster without data begins empty.
    fn remembered<'m, T>(
        &self,
        action: &str,
        error: HostError,
        hints: Option<&'m LedgerHint<T>>,
    ) -> HostResult<Option<&'m T>> {
        let reason = crate::model::chain(&error).join(": ");
        self.known().silent.get_or_insert(reason);
        match hints {
            _ if self.hints.empty => Ok(None),
            Some(LedgerHint::Absent) => Ok(None),
            Some(LedgerHint::AsPlanned(resource)) => Ok(Some(resource)),
            None => {
                let silent = self.known().silent.clone().unwrap_or_default();
                Err(HostError::service(action, silent))
            }
        }
    }
}
