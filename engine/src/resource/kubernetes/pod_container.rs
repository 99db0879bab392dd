//! A container of a static pod that has read the current content of its files.
//!
//! kubelet starts the container, and restarts it when it ends. Some files are read only at the start and are not part of the
//! pod's manifest; if one of them was written after the container started, the container is stopped.
//!
//! The name is no proof: a tenant can create a pod with the name and the containers of a static pod. kubelet labels a pod's
//! sandbox with the source of the pod and, for a file, with the hash of the file, which is the pod's uid; see [`StaticPods`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::pods;
use crate::host::ListedContainer;
use crate::resource::docker::container_runtime;
use crate::resource::{Action, Change, Context, Receipt, Resource, ResourceResult, inputs, pki};

/// Label with the pod's name.
const POD_NAME: &str = "io.kubernetes.pod.name";
/// Label with the container's name in its pod.
const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// Label of a sandbox with the source of the pod: `file` for static pods, `api` for pods from the API server. kubelet
/// overwrites the value that the pod itself sets.
const SOURCE: &str = "annotation.kubernetes.io/config.source";
/// Label of a sandbox with the hash of the static pod's manifest, which is its uid.
const HASH: &str = "annotation.kubernetes.io/config.hash";
/// How long it may take to stop before it is killed.
pub(crate) const GRACE: Duration = Duration::from_secs(10);

/// A container of a pod. If it does not run, there is nothing to do: kubelet starts it or reports why it cannot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PodContainerSpec {
    /// The pod's name, without the node's.
    pub pod: String,
    /// Its name in the pod.
    pub container: String,
    /// Files that it reads at its start.
    pub inputs: Vec<PathBuf>,
}

#[async_trait]
impl Resource for PodContainerSpec {
    /// Names of the running containers that started before one of the files was written.
    type Observed = Vec<String>;

    fn label(&self) -> String {
        format!("{}/{}", self.pod, self.container)
    }

    async fn observe(&self, cx: &Context<'_>) -> ResourceResult<Self::Observed> {
        let mut outdated = Vec::new();
        if container_runtime::runs(cx.host).await? {
            let written = inputs::newest(cx.host, &self.inputs).await?;
            let after = |since: Option<SystemTime>| {
                inputs::written_after_start(written, since, cx.host.now())
            };
            let all = cx.host.containers(&of_pods()).await?;
            let pods = StaticPods::among(&all);
            for listed in all {
                if !listed.running || !pods.has(&listed, &self.pod, &self.container) {
                    continue;
                }
                let Some(state) = cx.host.container(&listed.name).await? else {
                    continue;
                };
                if state.running && after(state.started_at) {
                    outdated.push(state.name);
                }
            }
        }
        if !outdated.is_empty() {
            inputs::wait_until_written(cx.host, &self.inputs).await?;
            // A restart would make the container read a foreign key.
            pki::may_be_read(cx.host, &self.inputs).await?;
        }
        Ok(outdated)
    }

    fn diff(&self, outdated: &Self::Observed, _absent: bool) -> Option<Change> {
        (!outdated.is_empty())
            .then(|| Change::new(Action::Restart).with("files", "changed since it started", "read"))
    }

    async fn converge(
        &self,
        outdated: &Self::Observed,
        cx: &Context<'_>,
        _receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        for name in outdated {
            cx.host.stop_container(name, GRACE).await?;
        }
        Ok(())
    }
}

/// The label that every container of a pod has.
pub(crate) fn of_pods() -> BTreeMap<String, String> {
    BTreeMap::from([(POD_NAME.to_owned(), String::new())])
}

/// The static pods of a host, by uid.
#[derive(Debug)]
pub(crate) struct StaticPods(BTreeSet<String>);

impl StaticPods {
    /// The static pods among all containers of pods. A pod from the API server is never one: its uid is chosen by the API server.
    pub(crate) fn among(containers: &[ListedContainer]) -> Self {
        let uids = containers.iter().filter_map(|container| {
            let label = |key: &str| container.labels.get(key).map(String::as_str);
            let uid = label(container_runtime::POD)?;
            let is_sandbox = label(pods::TYPE_LABEL) == Some("podsandbox");
            (is_sandbox && label(SOURCE) == Some("file") && label(HASH) == Some(uid))
                .then(|| uid.to_owned())
        });
        Self(uids.collect())
    }

    /// Whether this is the container `name` of the static pod `pod`. kubelet appends the node's name to the pod's name.
    pub(crate) fn has(&self, container: &ListedContainer, pod: &str, name: &str) -> bool {
        let label = |key: &str| container.labels.get(key).map(String::as_str);
        label(CONTAINER_NAME) == Some(name)
            && label(POD_NAME).is_some_and(|its| its == pod || its.starts_with(&format!("{pod}-")))
            && label(container_runtime::POD).is_some_and(|uid| self.0.contains(uid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;
    use crate::host::{Containers as _, Services as _};
    use crate::resource::tests::{apply_in, context};

    const TRUST: &str = "/etc/pf9/kube.d/certs/apiserver/ca.crt";

    async fn pending(host: &FakeHost) -> Option<Change> {
        let spec = PodContainerSpec {
            pod: "k8s-master".to_owned(),
            container: "kube-apiserver".to_owned(),
            inputs: vec![TRUST.into()],
        };
        let applied = apply_in(&context(host), &spec, &mut Receipt::default()).await;
        applied.unwrap()
    }

    #[tokio::test]
    async fn inputs_newer_than_the_start_cause_a_restart() {
        let pod = "{metadata: {name: k8s-master}, spec: {containers: [{name: kube-apiserver, image: 'a:1'}]}}";
        let host = FakeHost::new()
            .with_docker()
            .with_image("a:1")
            .with_unit("pf9-kubelet.service", "[Service]\n")
            .with_file("/etc/pf9/kube.d/manifests/k8s-master.yaml", pod)
            .with_file(TRUST, "one");
        assert_eq!(pending(&host).await, None, "it does not run yet");
        host.start_unit("pf9-kubelet.service").await.unwrap();
        assert_eq!(pending(&host).await, None, "it has just read it");
        host.with_world_mut(|world| {
            world.advance(Duration::from_secs(60));
            world.file(TRUST, "two");
        });
        host.clear_journal();
        assert_eq!(pending(&host).await.unwrap().action, Action::Restart);
        host.with_world_mut(|world| world.advance(Duration::from_secs(60)));
        assert_eq!(pending(&host).await, None);
        let runs = host.containers(&of_pods()).await.unwrap();
        assert!(runs.iter().any(|one| one.running), "{runs:?}");
        assert_eq!(host.mutations(), 1, "{:?}", host.journal());
    }

    #[tokio::test]
    async fn a_tenants_pod_of_the_same_name_is_left_alone() {
        let host = FakeHost::new()
            .with_docker()
            .with_image("a:1")
            .with_file(TRUST, "one");
        host.with_world_mut(|world| world.tenants_pod("k8s-master-cp-1", "kube-apiserver", "a:1"));
        host.with_world_mut(|world| {
            world.advance(Duration::from_secs(60));
            world.file(TRUST, "two");
            world.advance(Duration::from_secs(60));
        });
        assert_eq!(pending(&host).await, None);
        let all = host.containers(&of_pods()).await.unwrap();
        assert_eq!(all.iter().filter(|one| one.running).count(), 2, "{all:?}");
        let pods = StaticPods::among(&all);
        let is_ours = |one: &ListedContainer| pods.has(one, "k8s-master", "kube-apiserver");
        assert!(!all.iter().any(is_ours), "{all:?}");
    }
}
