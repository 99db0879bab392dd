//! The static pod of a fake host: while kubelet runs and docker answers, its containers are there; kubelet takes
//! them away when the manifest goes, and leaves them running when it ends itself.

use std::collections::BTreeMap;

use serde_yaml::Value;

use super::containers::FakeContainer;
use super::world::World;
use crate::host::ContainerConfig;

/// Labels by which kubelet knows its containers.
const POD_UID: &str = "io.kubernetes.pod.uid";
const POD_NAME: &str = "io.kubernetes.pod.name";
const CONTAINER_NAME: &str = "io.kubernetes.container.name";

impl World {
    /// kubelet makes the containers be as the control plane's manifest says.
    pub(crate) fn settle_static_pods(&mut self) {
        if self.pods_below
            || !self.unit_active(&self.kubernetes.kubelet_unit)
            || self.engine("run a pod").is_err()
        {
            return;
        }
        let wanted = self.static_containers();
        self.containers.retain(|name, container| {
            wanted.contains_key(name) || !container.config.labels.contains_key(POD_NAME)
        });
        for (name, config) in wanted {
            if self.containers.contains_key(&name) {
                self.run_container(&name);
            } else if self.images.contains_key(&config.image) {
                let id = self.next_id();
                let container = FakeContainer {
                    config,
                    id,
                    running: false,
                    exit_code: 0,
                    started_at: None,
                    restarts: 0,
                    stopped: false,
                };
                self.containers.insert(name.clone(), container);
                self.run_container(&name);
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
        let containers = manifest["spec"]["containers"].as_sequence();
        containers
            .into_iter()
            .flatten()
            .filter_map(|container| {
                Some((container["name"].as_str()?, container["image"].as_str()?))
            })
            .map(|(name, image)| {
                let labels = [
                    (POD_UID, "of-a-file"),
                    (POD_NAME, pod.as_str()),
                    (CONTAINER_NAME, name),
                ];
                let config = ContainerConfig {
                    host_network: true,
                    labels: labels
                        .map(|(key, value)| (key.to_owned(), value.to_owned()))
                        .into(),
                    ..ContainerConfig::bare(format!("k8s_{name}_{pod}"), image)
                };
                (config.name.clone(), config)
            })
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
        let runs =
            |host: &FakeHost| host.look(|world| world.container_runs("k8s_api_k8s-master-cp-1"));
        assert!(!runs(&host));
        host.start_unit("pf9-kubelet.service").await.unwrap();
        assert!(runs(&host));
        host.stop_unit("pf9-kubelet.service").await.unwrap();
        host.meddle(|world| world.remove(path));
        assert!(runs(&host));
        host.start_unit("pf9-kubelet.service").await.unwrap();
        assert!(!runs(&host));
    }
}
