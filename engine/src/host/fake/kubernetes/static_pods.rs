//! The static pod of a fake host: while kubelet runs and docker answers, its containers are there; kubelet takes
//! them away when the manifest goes, and leaves them running when it ends itself.

use std::collections::BTreeMap;

use serde_yaml::Value;

use crate::host::ContainerConfig;
use crate::host::fake::docker::container::FakeContainer;
use crate::host::fake::world::World;

/// Labels by which kubelet knows its containers.
const POD_UID: &str = "io.kubernetes.pod.uid";
const POD_NAME: &str = "io.kubernetes.pod.name";
const CONTAINER_NAME: &str = "io.kubernetes.container.name";
const TYPE: &str = "io.kubernetes.docker.type";
/// On the sandbox: where kubelet read the pod from. For a pod from a file: the hash of the file.
const SOURCE: &str = "annotation.kubernetes.io/config.source";
const HASH: &str = "annotation.kubernetes.io/config.hash";
/// The image of sandboxes.
const PAUSE: &str = "k8s.gcr.io/pause:3.2";

/// The containers of a static pod with these containers and images, its sandbox first, labelled as kubelet does it.
fn static_pod(pod: &str, containers: &[(&str, &str)]) -> Vec<ContainerConfig> {
    let origin = [(SOURCE, "file"), (HASH, "4f5e6d7c")];
    pod_containers(pod, "4f5e6d7c", &origin, "", containers)
}

/// The containers of any pod. `end` distinguishes the containers of pods that have the same name.
fn pod_containers(
    pod: &str,
    uid: &str,
    origin: &[(&str, &str)],
    end: &str,
    containers: &[(&str, &str)],
) -> Vec<ContainerConfig> {
    let one = |name: &str, image: &str, kind: &str, more: &[(&str, &str)]| {
        let usual = [
            (POD_UID, uid),
            (POD_NAME, pod),
            (CONTAINER_NAME, name),
            (TYPE, kind),
        ];
        let labels = usual.iter().chain(more);
        ContainerConfig {
            host_network: true,
            labels: labels
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            ..ContainerConfig::bare(format!("k8s_{name}_{pod}{end}"), image)
        }
    };
    let sandbox = one("POD", PAUSE, "podsandbox", origin);
    let inside = containers
        .iter()
        .map(|(name, image)| one(name, image, "container", &[]));
    std::iter::once(sandbox).chain(inside).collect()
}

impl World {
    /// Runs a static pod, as kubelet does.
    pub fn static_pod(&mut self, pod: &str, container: &str, image: &str) {
        for config in static_pod(pod, &[(container, image)]) {
            self.run_pod_container(config);
        }
    }

    /// Runs a pod that a tenant has created through the API server: it may have any name and any container.
    pub fn tenants_pod(&mut self, pod: &str, container: &str, image: &str) {
        let origin = [(SOURCE, "api")];
        let uid = format!("0b57a1de-0000-4000-8000-{:012x}", self.containers.len());
        for config in pod_containers(pod, &uid, &origin, "_tenant", &[(container, image)]) {
            self.run_pod_container(config);
        }
    }

    fn run_pod_container(&mut self, config: ContainerConfig) {
        let name = config.name.clone();
        let id = self.next_id();
        let container = FakeContainer {
            config,
            id,
            running: false,
            exit_code: 0,
            started_at: None,
            ended: None,
            restarts: 0,
            stopped: false,
        };
        self.containers.insert(name.clone(), container);
        self.run_container(&name);
    }

    /// kubelet makes the containers match the control plane's manifest.
    pub(crate) fn settle_static_pods(&mut self) {
        if self.pods_below
            || !self.unit_active(&self.kubernetes.kubelet_unit)
            || self.runtime("run a pod").is_err()
        {
            return;
        }
        let wanted = self.static_containers();
        self.containers.retain(|name, container| {
            // Pods from the API server do not depend on a manifest; their uid is a UUID.
            let labels = &container.config.labels;
            wanted.contains_key(name)
                || !labels.contains_key(POD_NAME)
                || labels.get(POD_UID).is_some_and(|uid| uid.contains('-'))
        });
        for (name, config) in wanted {
            if self.containers.contains_key(&name) {
                self.run_container(&name);
            } else if config.image == PAUSE || self.images.contains_key(&config.image) {
                self.run_pod_container(config);
            }
        }
    }

    /// The containers of the manifest, by name. A manifest that kubelet cannot read has none.
    fn static_containers(&self) -> BTreeMap<String, ContainerConfig> {
        let path = self
            .kubernetes
            .manifests
            .join(&self.kubernetes.control_plane);
        let manifest: Value = self
            .text(path)
            .and_then(|text| serde_yaml::from_str(&text).ok())
            .unwrap_or_default();
        let Some(pod) = manifest["metadata"]["name"].as_str() else {
            return BTreeMap::new();
        };
        let pod = format!("{pod}-{}", self.node_name());
        let containers: Vec<(&str, &str)> = manifest["spec"]["containers"]
            .as_sequence()
            .into_iter()
            .flatten()
            .filter_map(|container| {
                Some((container["name"].as_str()?, container["image"].as_str()?))
            })
            .collect();
        static_pod(&pod, &containers)
            .into_iter()
            .map(|config| (config.name.clone(), config))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::host::Services;
    use crate::host::fake::FakeHost;

    const MANIFEST: &str =
        "metadata: {name: k8s-master}\nspec: {containers: [{name: api, image: api:1}]}\n";

    #[tokio::test]
    async fn kubelet_runs_the_manifests_containers_and_leaves_them_when_it_ends() {
        let path = "/etc/pf9/kube.d/manifests/k8s-master.yaml";
        let host = FakeHost::new()
            .with_unit("pf9-kubelet.service", "[Service]\n")
            .with_image("api:1")
            .with_file(path, MANIFEST);
        let runs = |host: &FakeHost| {
            host.with_world(|world| world.container_runs("k8s_api_k8s-master-cp-1"))
        };
        assert!(!runs(&host));
        host.start_unit("pf9-kubelet.service").await.unwrap();
        assert!(runs(&host));
        host.stop_unit("pf9-kubelet.service").await.unwrap();
        host.with_world_mut(|world| world.remove(path));
        assert!(runs(&host));
        host.start_unit("pf9-kubelet.service").await.unwrap();
        assert!(!runs(&host));
    }
}
