//! What the container runtime of a fake host does by itself: it answers while `docker.service` is active, its
//! containers end with it, and it starts them again as their policy says. Also builders for hosts with docker and images.

use std::path::Path;

use sha2::{Digest, Sha256};

use crate::host::fake::docker::container::FakeContainer;
use crate::host::fake::fake_host::FakeHost;
use crate::host::fake::world::World;
use crate::host::{ArchivedImage, ContainerConfig, HostError, HostResult, RestartPolicy};
use crate::model::hex;

/// docker's unit.
const UNIT: &str = "docker.service";
/// Its configuration.
const CONFIGURATION: &str = "/etc/docker/daemon.json";
/// Its package.
pub(in crate::host::fake) const PACKAGE: &str = "docker.io";
/// What the package brings, as items of a fake package.
pub(in crate::host::fake) const PACKAGE_ITEMS: &[&str] = &[
    "unit=docker.service",
    "unit=docker.socket",
    "program=/usr/sbin/dockerd",
];

/// The content id of one build of an image.
fn image_id(reference: &str, build: &str) -> String {
    let digest = Sha256::digest(format!("{reference}{build}").as_bytes());
    format!("sha256:{}", hex(&digest))
}

/// The images in a fake archive: a file with `fake-image:REFERENCE,…`, and on further lines the name of the build.
pub(in crate::host::fake) fn images_in(content: &str) -> Option<Vec<ArchivedImage>> {
    let content = content.trim().strip_prefix("fake-image:")?;
    let (references, build) = content.split_once('\n').unwrap_or((content, ""));
    let image = |reference: &str| ArchivedImage {
        reference: reference.to_owned(),
        id: image_id(reference, build),
    };
    Some(references.split(',').map(image).collect())
}

impl FakeHost {
    /// With docker 20.10.24 installed and running, as a lab host has it.
    #[must_use]
    pub fn with_docker(self) -> Self {
        let text = "[Service]\nExecReload=/bin/kill -s HUP $MAINPID\n";
        self.with_package(PACKAGE, "20.10.24+dfsg1-1+deb12u1")
            .with_active_unit(UNIT, text)
    }

    /// With a file that loads as these images.
    #[must_use]
    pub fn with_image_archive(self, path: impl AsRef<Path>, references: &[&str]) -> Self {
        self.having(|world| world.file(path, format!("fake-image:{}", references.join(","))))
    }

    /// With an image already loaded.
    #[must_use]
    pub fn with_image(self, reference: &str) -> Self {
        self.having(|world| world.image(reference))
    }
}

impl World {
    /// Puts an image.
    pub fn image(&mut self, reference: &str) {
        self.images
            .insert(reference.to_owned(), image_id(reference, ""));
    }

    /// Removes an image, even if a container was made from it.
    pub fn forget_image(&mut self, reference: &str) {
        self.images.remove(reference);
    }

    /// Starts docker as it is configured now, as the host's boot would.
    pub fn start_docker(&mut self) {
        if self.unit_active(UNIT) {
            self.stop_unit(UNIT);
        }
        // The error is ignored: the test sees whether docker runs.
        let _ = self.start_unit(UNIT);
    }

    /// Makes the process of a container end at once whenever it starts, or ends that fault.
    pub fn break_container(&mut self, name: &str, broken: bool) {
        if broken {
            self.broken_containers.insert(name.to_owned());
        } else {
            self.broken_containers.remove(name);
        }
        if self.container_runs(name) == broken {
            self.kill_container(name);
        }
    }

    /// Ends a container's process; the runtime starts it again if its policy says so.
    pub fn kill_container(&mut self, name: &str) {
        let now = self.now();
        if let Some(container) = self.containers.get_mut(name) {
            container.end(now);
            container.exit_code = 137;
            if container.config.restart != RestartPolicy::No && !container.stopped {
                container.restarts += 1;
                self.run_container(name);
            }
        }
    }

    /// Adds a running container, as a user of docker's own client would.
    pub fn container(&mut self, config: ContainerConfig) {
        let container = FakeContainer {
            id: self.next_id(),
            running: true,
            exit_code: 0,
            started_at: Some(self.now()),
            ended: None,
            restarts: 0,
            stopped: false,
            config,
        };
        self.image(&container.config.image);
        self.containers
            .insert(container.config.name.clone(), container);
    }

    /// Removes a container, as a user of docker's own client would.
    pub fn remove_container(&mut self, name: &str) {
        self.containers.remove(name);
    }

    /// The names of all containers.
    #[must_use]
    pub fn container_names(&self) -> Vec<String> {
        self.containers.keys().cloned().collect()
    }

    /// Whether a container's process runs.
    #[must_use]
    pub fn container_runs(&self, name: &str) -> bool {
        self.containers
            .get(name)
            .is_some_and(|container| container.running)
    }

    /// Fails unless the runtime answers.
    pub(crate) fn runtime(&self, action: &str) -> HostResult<()> {
        let unit_known = self.units.contains_key(UNIT);
        if self.unit_active(UNIT) || (!unit_known && self.runtime_without_unit) {
            return Ok(());
        }
        Err(HostError::service(
            action,
            "cannot connect to the Docker daemon at /var/run/docker.sock",
        ))
    }

    /// Starts a container's process.
    pub(crate) fn run_container(&mut self, name: &str) {
        let now = self.now();
        let broken = self.broken_containers.contains(name);
        let Some(container) = self.containers.get_mut(name) else {
            return;
        };
        if container.running {
            return;
        }
        container.running = !broken;
        container.exit_code = i64::from(broken);
        container.started_at = (!broken).then_some(now);
        if !broken {
            self.etcd_writes_data(name);
        }
    }

    /// Docker's running containers, as containerd shows them.
    pub(crate) fn running_containers(&self) -> Vec<String> {
        let running = self.containers.iter().filter(|(_, one)| one.running);
        running.map(|(name, _)| name.clone()).collect()
    }

    /// Fails if the unit is docker's and docker cannot read its configuration.
    pub(in crate::host::fake) fn can_configure(&self, unit: &str) -> Result<(), String> {
        let path = Path::new(CONFIGURATION);
        if unit == UNIT
            && let Some(configuration) = self.tree.content(path)
            && self.tree.why_unknown(path).is_none()
            && serde_json::from_slice::<serde_json::Value>(configuration).is_err()
        {
            return Err("unable to configure the Docker daemon: daemon.json is no JSON".to_owned());
        }
        Ok(())
    }

    /// What docker does when its unit starts: it makes its bridge, and starts containers again as their policy says.
    pub(in crate::host::fake) fn unit_started(&mut self, unit: &str) {
        if unit != UNIT {
            return;
        }
        self.unit_reloaded(unit);
        let without = self.runtime_configuration()["bridge"] == "none";
        if !without && !self.links.contains_key("docker0") {
            self.link("docker0", true, &[([172, 17, 0, 1].into(), 16)]);
        }
        let back: Vec<String> = self
            .containers
            .iter()
            .filter(|(_, container)| match container.config.restart {
                RestartPolicy::No => false,
                RestartPolicy::UnlessStopped => !container.stopped,
                RestartPolicy::Always => true,
            })
            .map(|(name, _)| name.clone())
            .collect();
        for name in back {
            self.run_container(&name);
        }
    }

    pub(in crate::host::fake) fn runtime_configuration(&self) -> serde_json::Value {
        let text = self.tree.text(CONFIGURATION);
        serde_json::from_str(&text.unwrap_or_default()).unwrap_or_default()
    }

    /// What docker does when its unit is reloaded: of what matters here, it reads one setting.
    pub(in crate::host::fake) fn unit_reloaded(&mut self, unit: &str) {
        if unit == UNIT {
            self.live_restore = None;
            self.live_restore = Some(self.containers_outlive_runtime());
        }
    }

    /// Whether docker's containers go on when it ends, as it runs now.
    pub(in crate::host::fake) fn containers_outlive_runtime(&self) -> bool {
        let file = || self.runtime_configuration()["live-restore"] == true;
        self.live_restore.unwrap_or_else(file)
    }

    /// What docker does when its unit stops: its containers end with it, unless live-restore is on.
    pub(in crate::host::fake) fn unit_stopped(&mut self, unit: &str) {
        if unit != UNIT || self.containers_outlive_runtime() {
            return;
        }
        let now = self.now();
        for container in self.containers.values_mut() {
            container.end(now);
        }
    }
}
