//! The API server, as the machine's kubeconfig files reach it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use k8s_openapi::api::core::v1::{Node, NodeAddress, Secret, ServiceAccount, Taint as ApiTaint};
use kube::api::{
    Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, Preconditions,
};
use kube::core::{GroupVersionKind, TypeMeta};
use kube::discovery::{Scope, pinned_kind};
use kube::{Client, ResourceExt};
use serde::Deserialize;
use serde_json::Value;

use super::kubeconfig::{if_there, status};
use super::list::all;
use crate::host::live::LiveHost;
use crate::host::{
    Cluster, ClusterAccess, ClusterNode, ClusterObject, FIELD_MANAGER, HostError, HostResult,
    RemainingPod, Taint,
};

/// How many Secrets of a service account are searched for a token.
const SECRETS: usize = 4;
/// What a token review says of a token that was checked and rejected: it was signed with another key, or it was revoked. With any other
/// error there was no verdict. (`pkg/serviceaccount` of Kubernetes 1.20)
const REFUSALS: [&str; 3] = ["go-jose", "invalid", "does not match"];

/// Whether a reviewed token is accepted.
///
/// # Errors
/// The review came to no verdict: an authenticator failed, or there is no status.
fn verdict(status: Option<TokenReviewStatus>) -> Result<bool, String> {
    let status = status.ok_or("its review has no status")?;
    let error = status.error.unwrap_or_default();
    if status.authenticated == Some(true) {
        Ok(true)
    } else if error.is_empty() || REFUSALS.iter().any(|words| error.contains(words)) {
        Ok(false)
    } else {
        Err(format!("it could not be reviewed: {error}"))
    }
}

#[async_trait::async_trait]
impl Cluster for LiveHost {
    async fn node(&self, access: &ClusterAccess, name: &str) -> HostResult<Option<ClusterNode>> {
        let found = self
            .clusters
            .call(access, format!("get node {name}"), |client| async move {
                Api::<Node>::all(client).get_opt(name).await
            })
            .await?;
        Ok(found.map(node))
    }

    async fn nodes(&self, access: &ClusterAccess) -> HostResult<BTreeMap<String, ClusterNode>> {
        let nodes = self
            .clusters
            .call(access, "list the nodes", |client| {
                all(Api::<Node>::all(client), ListParams::default())
            })
            .await?;
        let named = nodes.into_iter().map(|object| {
            let name = object.metadata.name.clone().unwrap_or_default();
            (name, node(object))
        });
        Ok(named.collect())
    }

    async fn api_version(&self, access: &ClusterAccess) -> HostResult<String> {
        let action = "ask the API server for its version";
        let ask = |client: Client| async move { client.apiserver_version().await };
        Ok(self.clusters.call(access, action, ask).await?.git_version)
    }

    async fn patch_node(
        &self,
        access: &ClusterAccess,
        name: &str,
        patch: &Value,
    ) -> HostResult<()> {
        self.clusters
            .call(access, format!("patch node {name}"), |client| async move {
                let patch = Patch::Merge(patch);
                let params = PatchParams {
                    field_manager: Some(FIELD_MANAGER.to_owned()),
                    ..PatchParams::default()
                };
                Api::<Node>::all(client).patch(name, &params, &patch).await
            })
            .await
            .map(drop)
    }

    async fn delete_same_node(
        &self,
        access: &ClusterAccess,
        name: &str,
        node: &ClusterNode,
    ) -> HostResult<bool> {
        let params = DeleteParams::default().preconditions(Preconditions {
            uid: Some(node.uid.clone()),
            resource_version: Some(node.version.clone()),
        });
        self.clusters
            .call(access, format!("delete node {name}"), |client| async move {
                match if_there(Api::<Node>::all(client).delete(name, &params).await) {
                    Ok(_) => Ok(true),
                    Err(error) if status(&error) == Some(409) => Ok(false),
                    Err(error) => Err(error),
                }
            })
            .await
    }

    async fn object_exists(&self, access: &ClusterAccess, object: &Value) -> HostResult<bool> {
        let (typed, kind, name) = typed(object)?;
        let action = format!("look for {} {name} in the cluster", kind.kind);
        self.clusters
            .call(access, action, |client| async move {
                let Some(api) = if_there(api(client, &kind, &typed).await)? else {
                    return Ok(false);
                };
                Ok(api.get_metadata_opt(&name).await?.is_some())
            })
            .await
    }

    async fn compare_object(
        &self,
        access: &ClusterAccess,
        object: &Value,
    ) -> HostResult<Option<ClusterObject>> {
        let (typed, kind, name) = typed(object)?;
        let action = format!("compare {} {name} with the cluster", kind.kind);
        self.clusters
            .call(access, action, |client| async move {
                let Some(api) = if_there(api(client, &kind, &typed).await)? else {
                    return Ok(None);
                };
                let Some(present) = api.get_opt(&name).await? else {
                    return Ok(None);
                };
                let params = PatchParams::apply(FIELD_MANAGER).force().dry_run();
                let would_be = api.patch(&name, &params, &Patch::Apply(object)).await?;
                let present = meaning(&present);
                let differs = present != meaning(&would_be);
                Ok(Some(ClusterObject { present, differs }))
            })
            .await
    }

    async fn secret(
        &self,
        access: &ClusterAccess,
        namespace: &str,
        name: &str,
    ) -> HostResult<Option<Value>> {
        let action = format!("get the Secret {namespace}/{name}");
        let found = self
            .clusters
            .call(access, action.clone(), |client| async move {
                let secrets = Api::<Secret>::namespaced(client, namespace);
                secrets.get_opt(name).await
            })
            .await?;
        let object = found.map(|found| serde_json::to_value(&found)).transpose();
        object.map_err(|error| HostError::service(action, error))
    }

    async fn apply_object(&self, access: &ClusterAccess, object: &Value) -> HostResult<()> {
        let (typed, kind, name) = typed(object)?;
        let action = format!("apply {} {name}", kind.kind);
        self.clusters
            .call(access, action, |client| async move {
                let params = PatchParams::apply(FIELD_MANAGER).force();
                let api = api(client, &kind, &typed).await?;
                api.patch(&name, &params, &Patch::Apply(object)).await
            })
            .await
            .map(drop)
    }

    async fn delete_object(&self, access: &ClusterAccess, object: &Value) -> HostResult<()> {
        let (typed, kind, name) = typed(object)?;
        let action = format!("delete {} {name}", kind.kind);
        self.clusters
            .call(access, action, |client| async move {
                let Some(api) = if_there(api(client, &kind, &typed).await)? else {
                    return Ok(());
                };
                // Its dependents are deleted too, as with `kubectl delete`.
                if_there(api.delete(&name, &DeleteParams::background()).await).map(drop)
            })
            .await
    }

    async fn rewrite_secrets(&self, access: &ClusterAccess) -> HostResult<u64> {
        self.store_secrets_anew(access).await
    }

    async fn accepts_token_of(
        &self,
        access: &ClusterAccess,
        namespace: &str,
        account: &str,
    ) -> HostResult<Option<bool>> {
        let action = format!("try the token of service account {namespace}/{account}");
        let unclear = action.clone();
        let answer = self
            .clusters
            .call(access, action, |client| async move {
                let accounts = Api::<ServiceAccount>::namespaced(client.clone(), namespace);
                let found = accounts.get_opt(account).await?;
                let names = found.and_then(|its| its.secrets).unwrap_or_default();
                let secrets = Api::<Secret>::namespaced(client.clone(), namespace);
                for name in names.into_iter().take(SECRETS).filter_map(|its| its.name) {
                    let secret = secrets.get_opt(&name).await?;
                    let token = secret.and_then(|its| its.data?.remove("token"));
                    let Some(token) = token.and_then(|its| String::from_utf8(its.0).ok()) else {
                        continue;
                    };
                    let review = TokenReview {
                        spec: TokenReviewSpec {
                            token,
                            ..TokenReviewSpec::default()
                        },
                        ..TokenReview::default()
                    };
                    // The server does not store a TokenReview; it only answers.
                    let reviews = Api::<TokenReview>::all(client);
                    let answer = reviews.create(&PostParams::default(), &review).await?;
                    return Ok(Some(verdict(answer.status)));
                }
                Ok(None)
            })
            .await?;
        let verdict = answer.transpose();
        verdict.map_err(|problem| HostError::service(unclear, problem))
    }

    async fn evict_pods(
        &self,
        access: &ClusterAccess,
        node: &str,
        running: Option<&BTreeSet<String>>,
        timeout: Duration,
    ) -> HostResult<Vec<RemainingPod>> {
        self.drain(access, node, running, timeout).await
    }
}

/// An object, its kind and its name.
fn typed(object: &Value) -> HostResult<(DynamicObject, GroupVersionKind, String)> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| {
        HostError::service("read a Kubernetes object", source)
    };
    let typed = DynamicObject::deserialize(object).map_err(|error| failed(error.into()))?;
    let types = typed.types.clone().unwrap_or_else(TypeMeta::default);
    let kind = GroupVersionKind::try_from(types).map_err(|error| failed(error.into()))?;
    match typed.metadata.name.clone() {
        Some(name) if !name.is_empty() && !kind.kind.is_empty() => Ok((typed, kind, name)),
        _ => Err(failed("it needs apiVersion, kind and metadata.name".into())),
    }
}

/// The API for an object. The server is asked for the plural and the scope of its kind; guessing them from the name works for the kinds of
/// Kubernetes itself only.
async fn api(
    client: Client,
    kind: &GroupVersionKind,
    object: &DynamicObject,
) -> Result<Api<DynamicObject>, kube::Error> {
    let (resource, capabilities) = pinned_kind(&client, kind).await?;
    Ok(match capabilities.scope {
        Scope::Cluster => Api::all_with(client, &resource),
        Scope::Namespaced => {
            let namespace = object.namespace().unwrap_or_else(|| "default".to_owned());
            Api::namespaced_with(client, &namespace, &resource)
        }
    })
}

/// The part of an object that its clients set, without the fields that the API server maintains.
fn meaning(object: &DynamicObject) -> Value {
    let mut value = serde_json::to_value(object).unwrap_or_default();
    if let Some(fields) = value.as_object_mut() {
        fields.remove("status");
    }
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        for own in [
            "managedFields",
            "resourceVersion",
            "generation",
            "uid",
            "creationTimestamp",
            "selfLink",
        ] {
            metadata.remove(own);
        }
    }
    value
}

/// The first address of each family that kubelet reports as `InternalIP`.
pub(super) fn internal_addresses(reported: &[NodeAddress]) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in reported.iter().filter(|one| one.type_ == "InternalIP") {
        if let Ok(address) = address.address.parse::<IpAddr>()
            && !addresses
                .iter()
                .any(|one| one.is_ipv4() == address.is_ipv4())
        {
            addresses.push(address);
        }
    }
    addresses
}

/// Conditions with which kubelet reports a shortage on its node. kubelet evicts pods then.
const PRESSURES: [&str; 3] = ["MemoryPressure", "DiskPressure", "PIDPressure"];

pub(in crate::host::live) fn node(object: Node) -> ClusterNode {
    let cordoned_by = manager_of(&object, "/f:spec/f:unschedulable").unwrap_or_default();
    let spec = object.spec.unwrap_or_default();
    let status = object.status.unwrap_or_default();
    let addresses = internal_addresses(status.addresses.as_deref().unwrap_or_default());
    let conditions = status.conditions.unwrap_or_default();
    let pressures = conditions
        .iter()
        .filter(|its| PRESSURES.contains(&its.type_.as_str()) && its.status == "True")
        .map(|its| match its.message.as_deref() {
            None | Some("") => its.type_.clone(),
            Some(message) => format!("{} ({message})", its.type_),
        });
    let pressures = pressures.collect();
    let is_known = |kind: &&str| {
        let mut its = conditions.iter().filter(|its| its.type_ == **kind);
        its.any(|its| its.status == "True" || its.status == "False")
    };
    let unknown = PRESSURES.iter().filter(|kind| !is_known(kind));
    let unknown_pressures = unknown.map(|kind| (*kind).to_owned()).collect();
    let kubelet_version = status.node_info.map(|info| info.kubelet_version);
    let ready = conditions.into_iter().find(|its| its.type_ == "Ready");
    let words = |ready: &k8s_openapi::api::core::v1::NodeCondition| {
        let parts = [ready.reason.as_deref(), ready.message.as_deref()];
        parts.into_iter().flatten().collect::<Vec<_>>().join(": ")
    };
    ClusterNode {
        uid: object.metadata.uid.unwrap_or_default(),
        version: object.metadata.resource_version.unwrap_or_default(),
        created: object.metadata.creation_timestamp.map(|time| time.0.into()),
        labels: object.metadata.labels.unwrap_or_default(),
        annotations: object.metadata.annotations.unwrap_or_default(),
        taints: spec
            .taints
            .unwrap_or_default()
            .into_iter()
            .map(taint)
            .collect(),
        unschedulable: spec.unschedulable.unwrap_or(false),
        cordoned_by,
        addresses,
        pod_cidr: spec.pod_cidr.filter(|cidr| !cidr.is_empty()),
        ready: match ready.as_ref().map(|condition| condition.status.as_str()) {
            Some("True") => Some(true),
            Some("False") => Some(false),
            _ => None,
        },
        ready_message: ready.as_ref().map(words).unwrap_or_default(),
        kubelet_version: kubelet_version.unwrap_or_default(),
        reported: ready
            .and_then(|condition| condition.last_heartbeat_time)
            .map(|time| time.0.into()),
        pressures,
        unknown_pressures,
    }
}

/// The client that set this field of the node last, as the API server notes it.
fn manager_of(object: &Node, field: &str) -> Option<String> {
    let entries = object.metadata.managed_fields.as_ref()?;
    let owner = entries.iter().find(|entry| {
        let fields = entry.fields_v1.as_ref();
        fields.is_some_and(|fields| fields.0.pointer(field).is_some())
    })?;
    owner.manager.clone()
}

fn taint(taint: ApiTaint) -> Taint {
    Taint {
        key: taint.key,
        value: taint.value.unwrap_or_default(),
        effect: taint.effect,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_authentication_error_refuses_a_token() {
        let status = |authenticated: Option<bool>, error: &str| {
            verdict(Some(TokenReviewStatus {
                authenticated,
                error: (!error.is_empty()).then(|| error.to_owned()),
                ..TokenReviewStatus::default()
            }))
        };
        assert_eq!(status(Some(true), ""), Ok(true));
        assert_eq!(status(None, ""), Ok(false));
        let key = "[invalid bearer token, square/go-jose: error in cryptographic primitive]";
        assert_eq!(status(Some(false), key), Ok(false));
        assert_eq!(status(None, "Token has been invalidated"), Ok(false));
        let away =
            "Post \"https://127.0.0.1:9449\": dial tcp 127.0.0.1:9449: connect: connection refused";
        let unclear = status(Some(false), away).expect_err("no verdict");
        assert!(unclear.contains("connection refused"), "{unclear}");
        verdict(None).expect_err("no status");
    }

    #[test]
    fn node_pressure_is_read_with_readiness() {
        let of = |kind: &str, status: &str| {
            let message = format!("kubelet says {kind}");
            serde_json::json!({"type": kind, "status": status, "message": message})
        };
        let reported = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": "cp-1"},
            "status": {"nodeInfo": {"kubeletVersion": "v1.20.2"}, "conditions": [
                of("NetworkUnavailable", "True"),
                of("MemoryPressure", "False"),
                of("DiskPressure", "True"),
                of("PIDPressure", "Unknown"),
                of("Ready", "True"),
            ]},
        });
        let read = node(serde_json::from_value(reported).expect("a node"));
        assert_eq!(read.ready, Some(true));
        assert_eq!(read.pressures, ["DiskPressure (kubelet says DiskPressure)"]);
        assert_eq!(read.unknown_pressures, ["PIDPressure"]);
        assert_eq!(read.kubelet_version, "v1.20.2");
    }
}
