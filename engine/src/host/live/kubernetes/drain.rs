//! Eviction of a node's pods.
//!
//! Each round lists the pods that are left and asks for the eviction of each one that is not being deleted yet. One pod that cannot be
//! evicted keeps no other pod from being asked. Rounds follow each other with growing pauses until no evictable pod is left or the time is
//! up.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use hyper::Request;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{Api, ListParams, ObjectMeta, PartialObjectMeta};
use serde_json::json;
use tokio::time::Instant;

use super::kubeconfig::{if_there, status};
use crate::host::live::LiveHost;
use crate::host::live::backoff::Backoff;
use crate::host::live::blocking::within;
use crate::host::{ClusterAccess, HostError, HostResult, RemainingPod};

/// Marks the mirror pod of a static pod, which the API server cannot remove.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Pods in one page of the list.
const PAGE: u32 = 250;
/// Pods that one round deals with, so that its memory has a bound. The next round takes the rest.
const ROUND: usize = 2000;
/// Bound on reading all pages of the list.
const LISTING: Duration = Duration::from_secs(20);
/// Evictions that are asked for side by side: an admission webhook that hangs delays no other pod.
const PARALLEL: usize = 8;
/// After this many refusals (403) in a row the list counts as forbidden. One is not enough: an API server that starts forbids everything
/// until it has read its roles.
const FORBIDDEN: u32 = 5;
/// Additional time for pods whose grace period ends with the time of the drain: kubelet kills them then, and reports their end afterwards.
const AFTER_GRACE: Duration = Duration::from_secs(10);
/// Characters of an answer that are kept.
const REASON: usize = 300;

/// A pod's metadata: all that is asked for, because whole pods may be large.
type Meta = PartialObjectMeta<Pod>;

/// Why evictions did not happen, by the pods' uid.
type Refusals = HashMap<String, String>;

impl LiveHost {
    /// Evicts the pods of a node and waits for them to go; returns those that are still there when `timeout` passes. If kubelet kills all
    /// pods that are left at that moment, waits [`AFTER_GRACE`] longer, once. Of the pods that are being deleted, those count of which a
    /// container runs, if `running` has the uids of these.
    ///
    /// An eviction that is refused or that fails is asked for again in each round. A list that cannot be read is read
    /// again, too; it is an error if that lasts to the end, because nothing is known of the pods then.
    pub(in crate::host::live) async fn drain(
        &self,
        access: &ClusterAccess,
        node: &str,
        running: Option<&BTreeSet<String>>,
        timeout: Duration,
    ) -> HostResult<Vec<RemainingPod>> {
        let mut backoff = Backoff::new(timeout);
        let mut deadline = Instant::now() + timeout;
        let mut extended = false;
        let mut refusals = Refusals::new();
        let mut forbidden = 0;
        loop {
            let listed = self.evictable(access, node, running).await;
            match &listed {
                Ok(pods) if pods.is_empty() => return Ok(Vec::new()),
                Ok(pods) => {
                    forbidden = 0;
                    refusals = self.evict_all(access, pods, refusals, deadline).await;
                }
                Err(error) => {
                    tracing::warn!(
                        node,
                        error = error as &dyn std::error::Error,
                        "the drain tries again to list the pods"
                    );
                    forbidden = if error.is_permanent() {
                        forbidden + 1
                    } else {
                        0
                    };
                }
            }
            if forbidden >= FORBIDDEN || !backoff.pause().await {
                let all_end = |pods: &Vec<Meta>| pods.iter().all(|pod| ends_within(pod, timeout));
                if !extended && listed.as_ref().is_ok_and(all_end) {
                    extended = true;
                    backoff = Backoff::new(AFTER_GRACE);
                    deadline = Instant::now() + AFTER_GRACE;
                    continue;
                }
                let left = |pod: &Meta| RemainingPod {
                    name: full_name(pod),
                    reason: reason(&pod.metadata, &refusals),
                };
                return listed.map(|pods| pods.iter().map(left).collect());
            }
        }
    }

    /// The pods of a node that are to be evicted or are being deleted, at most [`ROUND`] and one page; without those that have ended, if
    /// `running` has the uids of the pods of which a container runs. A list without any pod is the whole list.
    async fn evictable(
        &self,
        access: &ClusterAccess,
        node: &str,
        running: Option<&BTreeSet<String>>,
    ) -> HostResult<Vec<Meta>> {
        let counts = |pod: &Meta| {
            is_evictable(pod) && running.is_none_or(|running| !has_ended(pod, running))
        };
        let action = || format!("list the pods of node {node}");
        // The API server leaves out finished pods: there may be thousands of them.
        let fields = format!("spec.nodeName={node},status.phase!=Succeeded,status.phase!=Failed");
        within(LISTING, action, async {
            let mut pods: Vec<Meta> = Vec::new();
            let mut params = ListParams::default().fields(&fields).limit(PAGE);
            loop {
                let page = self
                    .clusters
                    .call(access, action(), |client| {
                        let params = params.clone();
                        async move { Api::<Pod>::all(client).list_metadata(&params).await }
                    })
                    .await?;
                pods.extend(page.items.into_iter().filter(counts));
                let next = page.metadata.continue_.unwrap_or_default();
                if next.is_empty() || pods.len() >= ROUND {
                    return Ok(pods);
                }
                params = params.continue_token(&next);
            }
        })
        .await
    }

    /// Asks for the eviction of each pod that is not being deleted yet. Returns why some were not evicted.
    async fn evict_all(
        &self,
        access: &ClusterAccess,
        pods: &[Meta],
        before: Refusals,
        deadline: Instant,
    ) -> Refusals {
        let mut asked = Vec::new();
        for pod in pods {
            if pod.metadata.deletion_timestamp.is_none() {
                asked.push(self.refusal(access, pod, &before, deadline));
            }
        }
        let answers: Vec<_> = stream::iter(asked)
            .buffer_unordered(PARALLEL)
            .collect()
            .await;
        answers.into_iter().flatten().collect()
    }

    /// Asks for the eviction of a pod. Gives the pod's uid and why it was not evicted, if so.
    async fn refusal(
        &self,
        access: &ClusterAccess,
        pod: &Meta,
        before: &Refusals,
        deadline: Instant,
    ) -> Option<(String, String)> {
        let uid = pod.uid().unwrap_or_default();
        let answer = tokio::time::timeout_at(deadline, self.evict(access, pod)).await;
        let refusal = match answer {
            Ok(Ok(refusal)) => refusal,
            Ok(Err(error)) => Some(crate::model::chain(&error).join(": ")),
            // An earlier refusal says more than a timeout.
            Err(_) => before.get(&uid).cloned(),
        };
        refusal.map(|refusal| (uid, refusal))
    }

    /// Asks for the eviction of a pod. `Some` is why the API server refuses.
    async fn evict(&self, access: &ClusterAccess, pod: &Meta) -> HostResult<Option<String>> {
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
                    // Another pod has this name by now, and the next list will have it.
                    Err(error) if status(&error) == Some(409) => Ok(None),
                    // 429: a disruption budget does not allow it yet. 500: for example two budgets select the pod.
                    Err(kube::Error::Api(refused)) if !matches!(refused.code, 401 | 404) => {
                        let said = refused.message.chars().take(REASON).collect::<String>();
                        Ok(Some(format!(
                            "the API server refuses its eviction: {said} (status {})",
                            refused.code
                        )))
                    }
                    answer => if_there(answer).map(|_| None),
                }
            })
            .await
    }
}

/// Whether a pod is neither the mirror pod of a static pod nor a pod of a daemon set.
fn is_evictable(pod: &Meta) -> bool {
    let of_daemon_set = pod
        .owner_references()
        .iter()
        .any(|owner| owner.kind == "DaemonSet" && owner.controller == Some(true));
    !of_daemon_set && !pod.annotations().contains_key(MIRROR)
}

/// Whether a pod is being deleted, so that kubelet starts it no more, and no container of it runs.
fn has_ended(pod: &Meta, running: &BTreeSet<String>) -> bool {
    let runs = pod
        .metadata
        .uid
        .as_ref()
        .is_none_or(|uid| running.contains(uid));
    pod.metadata.deletion_timestamp.is_some() && !runs
}

/// Whether a pod is being deleted, and nothing keeps it beyond a grace period of at most `timeout`.
fn ends_within(pod: &Meta, timeout: Duration) -> bool {
    let pod = &pod.metadata;
    let grace = pod.deletion_grace_period_seconds;
    let grace = grace.and_then(|seconds| u64::try_from(seconds).ok());
    pod.deletion_timestamp.is_some()
        && pod.finalizers.iter().flatten().next().is_none()
        && grace.is_some_and(|seconds| Duration::from_secs(seconds) <= timeout)
}

/// Why a pod is still there.
fn reason(pod: &ObjectMeta, refusals: &Refusals) -> String {
    let Some(deleted) = &pod.deletion_timestamp else {
        let refusal = pod.uid.as_ref().and_then(|uid| refusals.get(uid));
        return refusal
            .cloned()
            .unwrap_or_else(|| "it was still there when the time was up".to_owned());
    };
    let mut reason = match pod.deletion_grace_period_seconds {
        Some(grace) => format!("it has until {} to end (grace period {grace} s)", deleted.0),
        None => format!("its deletion was requested at {}", deleted.0),
    };
    let finalizers = pod.finalizers.iter().flatten().cloned();
    let finalizers = finalizers.collect::<Vec<_>>().join(", ");
    if !finalizers.is_empty() {
        reason += &format!("; finalizers keep it: {finalizers}");
    }
    reason
}

fn full_name(pod: &Meta) -> String {
    format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any())
}
