//! Eviction of a node's pods.

use std::time::Duration;

use hyper::Request;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use serde_json::json;

use super::LiveHost;
use super::backoff::Backoff;
use super::kubeconfig::{if_there, status};
use crate::host::{ClusterAccess, HostError, HostResult};

/// Marks the shadow of a static pod, which the API server cannot remove.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Pods asked for at once. A node runs about a hundred.
const MOST: u32 = 1000;

impl LiveHost {
    /// Evicts the pods of a node and waits for them to go; returns those still there when `timeout` passes.
    ///
    /// An eviction that a disruption budget refuses for now is asked for again. So is one that failed because the
    /// API server could not be reached for a moment; only a failure that lasts to the end is an error.
    pub(super) async fn drain(
        &self,
        access: &ClusterAccess,
        node: &str,
        timeout: Duration,
    ) -> HostResult<Vec<String>> {
        let mut backoff = Backoff::new(timeout);
        loop {
            let left = self.evict_once(access, node).await;
            if matches!(&left, Ok(names) if names.is_empty()) || !backoff.pause().await {
                return left;
            }
            if let Err(error) = left {
                tracing::warn!(
                    node,
                    error = &error as &dyn std::error::Error,
                    "draining a node goes on after a failure"
                );
            }
        }
    }

    /// Asks for the eviction of those that are not on their way out; returns all that are still there.
    async fn evict_once(&self, access: &ClusterAccess, node: &str) -> HostResult<Vec<String>> {
        let fields = format!("spec.nodeName={node}");
        let listed = self
            .clusters
            .call(
                access,
                format!("list the pods of node {node}"),
                |client| async move {
                    let params = ListParams::default().fields(&fields).limit(MOST);
                    Api::<Pod>::all(client).list(&params).await
                },
            )
            .await?;
        let mut left = Vec::new();
        for pod in listed.items.iter().filter(|pod| is_evictable(pod)) {
            if pod.metadata.deletion_timestamp.is_none() {
                self.evict(access, pod).await?;
            }
            left.push(full_name(pod));
        }
        Ok(left)
    }

    async fn evict(&self, access: &ClusterAccess, pod: &Pod) -> HostResult<()> {
        let action = format!("evict pod {}", full_name(pod));
        let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
        // Kubernetes 1.20 knows this form of Eviction only; the one of `policy/v1` came with 1.22.
        let eviction = json!({
            "apiVersion": "policy/v1beta1",
            "kind": "Eviction",
            "metadata": {"name": name, "namespace": namespace},
            "deleteOptions": {"preconditions": {"uid": pod.uid()}},
        });
        let request = Request::post(format!(
            "/api/v1/namespaces/{namespace}/pods/{name}/eviction"
        ))
        .header(hyper::header::CONTENT_TYPE, "application/json")
        .body(eviction.to_string().into_bytes())
        .map_err(|error| HostError::service(&*action, error))?;
        self.clusters
            .call(access, action, |client| async move {
                match client.request::<serde_json::Value>(request).await {
                    // 429: a disruption budget says not yet. 409: the name stands for another pod by now.
                    Err(error) if matches!(status(&error), Some(409 | 429)) => Ok(()),
                    answer => if_there(answer).map(drop),
                }
            })
            .await
    }
}

/// Not a static pod's shadow, not a daemon set's, not finished.
fn is_evictable(pod: &Pod) -> bool {
    let of_daemon_set = pod
        .owner_references()
        .iter()
        .any(|owner| owner.kind == "DaemonSet" && owner.controller == Some(true));
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    let finished = matches!(phase, Some("Succeeded" | "Failed"));
    !of_daemon_set && !finished && !pod.annotations().contains_key(MIRROR)
}

fn full_name(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any())
}
