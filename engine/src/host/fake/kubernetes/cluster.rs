//! The API server of a fake host: calls are refused while it is down, patches merge, objects are kept as applied.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::time::Duration;

use serde_json::Value;

use crate::host::fake::fake_host::FakeHost;
use crate::host::fake::files::file_error;
use crate::host::fake::world::World;
use crate::host::{
    Cluster, ClusterAccess, ClusterNode, ClusterObject, FIELD_MANAGER, HostError, HostResult,
    RemainingPod, Taint,
};

const DEADLINE: Duration = Duration::from_secs(10);

#[async_trait::async_trait]
impl Cluster for FakeHost {
    async fn node(&self, access: &ClusterAccess, name: &str) -> HostResult<Option<ClusterNode>> {
        self.observe("node", name, DEADLINE, |world| {
            world.reach(access, &format!("get node {name}"))?;
            let node = world.node_now(name).map(|node| ClusterNode {
                version: world
                    .cluster
                    .nodes
                    .get(name)
                    .map_or_else(String::new, version),
                ..node
            });
            Ok(node)
        })
        .await
    }

    async fn nodes(&self, access: &ClusterAccess) -> HostResult<BTreeMap<String, ClusterNode>> {
        self.observe("nodes", "all", DEADLINE, |world| {
            world.reach(access, "list the nodes")?;
            let names = world.cluster.nodes.keys();
            let now = names.filter_map(|name| Some((name.clone(), world.node_now(name)?)));
            Ok(now.collect())
        })
        .await
    }

    async fn api_version(&self, access: &ClusterAccess) -> HostResult<String> {
        self.observe("api_version", "all", DEADLINE, |world| {
            world.reach(access, "ask the API server for its version")?;
            Ok(world.kubernetes.api_version.clone())
        })
        .await
    }

    async fn patch_node(
        &self,
        access: &ClusterAccess,
        name: &str,
        patch: &Value,
    ) -> HostResult<()> {
        self.mutate("patch_node", name, DEADLINE, |world| {
            let action = format!("patch node {name}");
            world.reach(access, &action)?;
            let node = world.cluster.nodes.get_mut(name);
            let missing = || HostError::service(action.as_str(), format!("nodes \"{name}\" not found"));
            let node = node.ok_or_else(missing)?;
            let named = patch.pointer("/metadata/resourceVersion");
            if named.is_some_and(|named| *named != version(node)) {
                let problem = format!(
                    "Operation cannot be fulfilled on nodes \"{name}\": the object has been modified"
                );
                return Err(HostError::service(action, problem));
            }
            patch_node(node, patch);
            Ok(())
        })
        .await
    }

    async fn delete_same_node(
        &self,
        access: &ClusterAccess,
        name: &str,
        node: &ClusterNode,
    ) -> HostResult<bool> {
        self.mutate("delete_node", name, DEADLINE, |world| {
            world.reach(access, &format!("delete node {name}"))?;
            let present = world.cluster.nodes.get(name);
            let is_same =
                present.is_none_or(|its| its.uid == node.uid && version(its) == node.version);
            if is_same {
                world.cluster.nodes.remove(name);
            }
            Ok(is_same)
        })
        .await
    }

    async fn object_exists(&self, access: &ClusterAccess, object: &Value) -> HostResult<bool> {
        let key = key(object)?;
        self.observe("object_exists", &key, DEADLINE, |world| {
            world.reach(access, &format!("get {key}"))?;
            // The controller-manager gives every namespace a default service account.
            let given =
                object["kind"] == "ServiceAccount" && object["metadata"]["name"] == "default";
            Ok(given || world.cluster.objects.contains_key(&key))
        })
        .await
    }

    async fn compare_object(
        &self,
        access: &ClusterAccess,
        object: &Value,
    ) -> HostResult<Option<ClusterObject>> {
        let key = key(object)?;
        self.observe("compare_object", &key, DEADLINE, |world| {
            world.reach(access, &format!("get {key}"))?;
            let there = world.cluster.objects.get(&key);
            Ok(there.map(|there| ClusterObject {
                present: there.clone(),
                differs: there != object,
            }))
        })
        .await
    }

    async fn secret(
        &self,
        access: &ClusterAccess,
        namespace: &str,
        name: &str,
    ) -> HostResult<Option<Value>> {
        self.observe("secret", name, DEADLINE, |world| {
            let key = format!("v1/Secret/{namespace}/{name}");
            world.reach(access, &format!("get {key}"))?;
            Ok(world.cluster.objects.get(&key).cloned())
        })
        .await
    }

    async fn apply_object(&self, access: &ClusterAccess, object: &Value) -> HostResult<()> {
        let key = key(object)?;
        self.mutate("apply_object", &key, DEADLINE, |world| {
            let action = format!("apply {key}");
            world.reach(access, &action)?;
            if let Some(namespace) = object
                .pointer("/metadata/namespace")
                .and_then(Value::as_str)
                && !world.has_namespace(namespace)
            {
                let reason = format!("namespaces \"{namespace}\" not found");
                return Err(HostError::service(action, reason));
            }
            world.cluster.objects.insert(key.clone(), object.clone());
            Ok(())
        })
        .await
    }

    async fn delete_object(&self, access: &ClusterAccess, object: &Value) -> HostResult<()> {
        let key = key(object)?;
        self.mutate("delete_object", &key, DEADLINE, |world| {
            world.reach(access, &format!("delete {key}"))?;
            world.cluster.objects.remove(&key);
            Ok(())
        })
        .await
    }

    async fn rewrite_secrets(&self, access: &ClusterAccess) -> HostResult<u64> {
        self.mutate("rewrite_secrets", "all", DEADLINE, |world| {
            world.reach(access, "list Secrets")?;
            let of_secrets = |key: &&String| key.starts_with("v1/Secret/");
            Ok(world.cluster.objects.keys().filter(of_secrets).count() as u64)
        })
        .await
    }

    async fn accepts_token_of(
        &self,
        access: &ClusterAccess,
        namespace: &str,
        account: &str,
    ) -> HostResult<Option<bool>> {
        let whose = format!("{namespace}/{account}");
        self.observe("accepts_token_of", &whose, DEADLINE, |world| {
            world.reach(access, &format!("try the token of {whose}"))?;
            Ok(world.accepts_tokens())
        })
        .await
    }

    async fn evict_pods(
        &self,
        access: &ClusterAccess,
        node: &str,
        running: Option<&BTreeSet<String>>,
        timeout: Duration,
    ) -> HostResult<Vec<RemainingPod>> {
        self.mutate("evict_pods", node, timeout, |world| {
            world.reach(access, &format!("list the pods of node {node}"))?;
            if let Some(address) = world.etcd.fails_during_eviction.take() {
                world.etcd.silence(&address);
            }
            if let Some(name) = world.kubernetes.ready_after_eviction.take()
                && let Some(node) = world.cluster.nodes.get_mut(&name)
            {
                node.ready = Some(true);
            }
            let mut left = world.kubernetes.unevictable.clone();
            let deleted = world.kubernetes.deleted_pods.iter();
            let counts = |uid: &String| running.is_none_or(|running| running.contains(uid));
            left.extend(
                deleted
                    .filter(|(uid, _)| counts(uid))
                    .map(|(_, pod)| pod.clone()),
            );
            Ok(left)
        })
        .await
    }
}

impl World {
    /// Puts an object into the cluster.
    ///
    /// # Panics
    /// It has no apiVersion, kind or name.
    pub fn object(&mut self, object: Value) {
        let key = key(&object).expect("an object says what it is");
        self.cluster.objects.insert(key, object);
    }

    /// Puts a node into the cluster.
    pub fn node(&mut self, name: &str, node: ClusterNode) {
        let mut node = node;
        if node.uid.is_empty() {
            node.uid = self.cluster.next_uid();
        }
        self.cluster.nodes.insert(name.to_owned(), node);
    }

    /// Whether the cluster has a node of this name.
    #[must_use]
    pub fn has_node(&self, name: &str) -> bool {
        self.cluster.nodes.contains_key(name)
    }

    /// Cordons a node as `kubectl cordon` does, which changes nothing on a node that is cordoned already; or uncordons it.
    ///
    /// # Panics
    /// There is no such node.
    pub fn kubectl_cordon(&mut self, name: &str, cordoned: bool) {
        let node = self.cluster.nodes.get_mut(name).expect("the node is there");
        if node.unschedulable != cordoned {
            node.unschedulable = cordoned;
            node.cordoned_by = if cordoned { "kubectl-cordon" } else { "" }.to_owned();
        }
    }

    /// Makes kubelet report a shortage on a node.
    ///
    /// # Panics
    /// There is no such node.
    pub fn node_reports(&mut self, name: &str, pressure: &str) {
        let node = self.cluster.nodes.get_mut(name).expect("the node is there");
        node.pressures.push(pressure.to_owned());
    }

    /// Whether the API server can be reached with this access.
    pub(in crate::host::fake) fn reach(
        &self,
        access: &ClusterAccess,
        action: &str,
    ) -> HostResult<()> {
        if self.tree.content(&access.kubeconfig).is_none() {
            return Err(file_error(
                "read",
                &access.kubeconfig,
                ErrorKind::NotFound.into(),
            ));
        }
        if !self.api_up() {
            let refused = std::io::Error::from(ErrorKind::ConnectionRefused);
            return Err(HostError::service(action, refused));
        }
        if self.kubernetes.api_refuses {
            return Err(HostError::refused(action, "401 Unauthorized"));
        }
        Ok(())
    }

    fn has_namespace(&self, name: &str) -> bool {
        matches!(
            name,
            "default" | "kube-system" | "kube-public" | "kube-node-lease"
        ) || self
            .cluster
            .objects
            .contains_key(&format!("v1/Namespace//{name}"))
    }
}

/// `apiVersion/kind/namespace/name` of an object.
pub(crate) fn key(object: &Value) -> HostResult<String> {
    let field = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let missing = |what: &str| HostError::Missing {
        what: format!("{what} in the object"),
    };
    let version = field("/apiVersion").ok_or_else(|| missing("apiVersion"))?;
    let kind = field("/kind").ok_or_else(|| missing("kind"))?;
    let name = field("/metadata/name").ok_or_else(|| missing("metadata.name"))?;
    let namespace = field("/metadata/namespace").unwrap_or_default();
    Ok(format!("{version}/{kind}/{namespace}/{name}"))
}

/// The version of a node. On a fake host it depends on the node's content only, so a node with its earlier content has its earlier version.
fn version(node: &ClusterNode) -> String {
    let content = ClusterNode {
        version: String::new(),
        reported: None,
        ..node.clone()
    };
    format!("{content:?}")
}

/// Applies a JSON merge patch to the part of a node that we model.
fn patch_node(node: &mut ClusterNode, patch: &Value) {
    for (pointer, map) in [
        ("/metadata/labels", &mut node.labels),
        ("/metadata/annotations", &mut node.annotations),
    ] {
        for (key, value) in patch
            .pointer(pointer)
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            match value.as_str() {
                Some(value) => map.insert(key.clone(), value.to_owned()),
                None => map.remove(key),
            };
        }
    }
    if let Some(value) = patch.pointer("/spec/unschedulable") {
        node.unschedulable = value.as_bool().unwrap_or(false);
        node.cordoned_by = match node.unschedulable {
            true => FIELD_MANAGER.to_owned(),
            false => String::new(),
        };
    }
    if let Some(cidr) = patch.pointer("/spec/podCIDR").and_then(Value::as_str) {
        node.pod_cidr = Some(cidr.to_owned());
    }
    if let Some(value) = patch.pointer("/spec/taints") {
        let text =
            |taint: &Value, field: &str| taint[field].as_str().unwrap_or_default().to_owned();
        let taint = |one: &Value| Taint {
            key: text(one, "key"),
            value: text(one, "value"),
            effect: text(one, "effect"),
        };
        node.taints = value.as_array().into_iter().flatten().map(taint).collect();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn worker() -> (FakeHost, ClusterAccess) {
        let host = FakeHost::new()
            .with_unit("pf9-kubelet.service", "[Service]\n")
            .with_file("/etc/kubeconfig", "")
            .with_kubernetes(|rules| rules.remote_api = true);
        host.with_world_mut(|world| world.start_unit("pf9-kubelet.service"))
            .unwrap();
        (
            host,
            ClusterAccess {
                kubeconfig: "/etc/kubeconfig".into(),
            },
        )
    }

    #[tokio::test]
    async fn a_merge_patch_sets_and_removes() {
        let (host, access) = worker();
        let patch = json!({
            "metadata": {"labels": {"a": "1", "kubernetes.io/hostname": null}},
            "spec": {"unschedulable": true, "taints": [{"key": "k", "effect": "NoSchedule"}]},
        });
        host.patch_node(&access, "cp-1", &patch).await.unwrap();
        let node = host.node(&access, "cp-1").await.unwrap().unwrap();
        assert_eq!(
            node.labels.into_iter().collect::<Vec<_>>(),
            [("a".to_owned(), "1".to_owned())]
        );
        assert!(node.unschedulable);
        assert_eq!(node.taints[0].effect, "NoSchedule");
        host.patch_node(&access, "cp-1", &json!({"spec": {"taints": null}}))
            .await
            .unwrap();
        assert!(
            host.node(&access, "cp-1")
                .await
                .unwrap()
                .unwrap()
                .taints
                .is_empty()
        );
        assert!(host.patch_node(&access, "none", &patch).await.is_err());
    }

    #[tokio::test]
    async fn objects_are_kept_as_applied_in_namespaces_that_exist() {
        let (host, access) = worker();
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "a", "namespace": "own"}, "data": {"x": "1"}});
        assert_eq!(host.compare_object(&access, &object).await.unwrap(), None);
        assert!(host.apply_object(&access, &object).await.is_err());
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "own"}});
        host.apply_object(&access, &namespace).await.unwrap();
        host.apply_object(&access, &object).await.unwrap();
        let there = |differs| {
            Some(ClusterObject {
                present: object.clone(),
                differs,
            })
        };
        assert_eq!(
            host.compare_object(&access, &object).await.unwrap(),
            there(false)
        );
        let mut changed = object.clone();
        changed["data"]["x"] = json!("2");
        assert_eq!(
            host.compare_object(&access, &changed).await.unwrap(),
            there(true)
        );
        host.delete_object(&access, &object).await.unwrap();
        assert_eq!(host.compare_object(&access, &object).await.unwrap(), None);
    }
}
