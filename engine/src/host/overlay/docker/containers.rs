//! Containers and images: those below, while the runtime below answers, and those made above.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::host::fake::{FakeContainer, file_error};
use crate::host::overlay::{LowerRuntime, OverlayHost};
use crate::host::{
    ArchivedImage, ContainerConfig, ContainerState, Containers, HostError, HostResult, ImageState,
    ListedContainer, RestartPolicy,
};

/// Why nothing is known of a docker that does not run. Its private files are not read: their format is docker's own.
const STOPPED: &str =
    "docker does not run: which images and containers it has is known after apply";
/// docker's unit.
const DOCKER: &str = "docker.service";
/// docker's configuration.
const CONFIGURATION: &str = "/etc/docker/daemon.json";

#[async_trait::async_trait]
impl Containers for OverlayHost<'_> {
    async fn container_runtime_within(&self, timeout: Duration) -> HostResult<()> {
        self.fetch_runtime().await?;
        self.upper.container_runtime_within(timeout).await
    }

    async fn container_runtime_version(&self) -> HostResult<String> {
        self.fetch_runtime().await?;
        self.upper.container_runtime_version().await
    }

    async fn container_runtime_root(&self) -> HostResult<PathBuf> {
        self.fetch_runtime().await?;
        self.upper.container_runtime().await?;
        Ok(self.runtime_root().await)
    }

    async fn containers_outlive_runtime(&self) -> HostResult<bool> {
        self.fetch_runtime().await?;
        let predicted = self.upper.with_world(|world| world.live_restore);
        match predicted {
            Some(outlive) => Ok(outlive),
            None => self.lower.containers_outlive_runtime().await,
        }
    }

    async fn image(&self, reference: &str) -> HostResult<Option<ImageState>> {
        self.fetch_image(reference).await?;
        self.upper.image(reference).await
    }

    async fn archived_images(&self, archive: &Path) -> HostResult<Option<Vec<ArchivedImage>>> {
        self.lower.archived_images(archive).await
    }

    async fn tag_image(&self, id: &str, reference: &str) -> HostResult<()> {
        self.changes();
        self.fetch_image(reference).await?;
        self.upper.tag_image(id, reference).await
    }

    async fn load_image(&self, archive: &Path) -> HostResult<()> {
        self.changes();
        self.upper.container_runtime().await?;
        let real = self.fetch(archive, true).await?;
        if self
            .upper
            .with_world(|world| world.tree.get(&real, false).is_none())
        {
            return Err(file_error(
                "read",
                archive,
                std::io::ErrorKind::NotFound.into(),
            ));
        }
        let references = self.archives.get(archive).ok_or_else(|| {
            HostError::service(
                format!("find the images in {}", archive.display()),
                "the plan does not list them",
            )
        })?;
        for reference in references {
            self.fetch_image(reference).await?;
            // The content ids of the archive's images are known after apply.
            self.upper
                .with_world_mut(|world| world.images.insert(reference.clone(), String::new()));
        }
        Ok(())
    }

    async fn remove_image(&self, reference: &str) -> HostResult<()> {
        self.changes();
        self.fetch_image(reference).await?;
        self.upper.remove_image(reference).await
    }

    async fn container(&self, name: &str) -> HostResult<Option<ContainerState>> {
        self.fetch_container(name).await?;
        let state = self.upper.container(name).await?;
        // If a container has not changed above, the host below knows more of it (paused, exit code).
        let below = self.known().containers.get(name).cloned().flatten();
        Ok(match (state, below) {
            (Some(state), Some(below))
                if state.id == below.id
                    && state.running == runs(&below)
                    && state.started_at == below.started_at =>
            {
                Some(below)
            }
            (state, _) => state,
        })
    }

    async fn containers(
        &self,
        labels: &BTreeMap<String, String>,
    ) -> HostResult<Vec<ListedContainer>> {
        self.fetch_runtime().await?;
        if self.runtime_answers()? {
            self.fetch_listed(labels).await?;
        }
        self.upper.containers(labels).await
    }

    async fn create_container(&self, config: &ContainerConfig) -> HostResult<String> {
        self.changes();
        self.fetch_container(&config.name).await?;
        self.fetch_image(&config.image).await?;
        self.fetch_mounts(config).await?;
        self.refuse_missing_mounts(config)?;
        self.upper.create_container(config).await
    }

    async fn container_config(&self, name: &str) -> HostResult<Option<ContainerConfig>> {
        self.fetch_container(name).await?;
        self.upper.container_config(name).await
    }

    async fn start_container(&self, name: &str) -> HostResult<()> {
        self.changes();
        self.fetch_container(name).await?;
        if let Some(config) = self.upper.container_config(name).await? {
            self.fetch_mounts(&config).await?;
        }
        self.known().ran = true;
        self.upper.start_container(name).await
    }

    async fn stop_container(&self, name: &str, grace: Duration) -> HostResult<()> {
        self.changes();
        self.fetch_container(name).await?;
        self.upper.stop_container(name, grace).await
    }

    async fn remove_container(&self, name: &str) -> HostResult<()> {
        self.changes();
        self.fetch_container(name).await?;
        self.upper.remove_container(name).await
    }

    async fn container_log(&self, name: &str, lines: usize) -> HostResult<String> {
        self.upper.container_log(name, lines).await
    }
}

impl OverlayHost<'_> {
    /// Fetches whether the runtime below answers.
    pub(in crate::host::overlay) async fn fetch_runtime(&self) -> HostResult<()> {
        if self.known().runtime.is_some() {
            return Ok(());
        }
        let docker = self.lower.unit(DOCKER).await?;
        self.fetch_unit(DOCKER).await?;
        // Talking to the socket of a docker that does not run would start it.
        let runtime = if docker.loaded && !docker.is_active() {
            let root = self.runtime_root().await;
            if self.has_run(&root).await {
                LowerRuntime::Unreadable(STOPPED.to_owned())
            } else {
                LowerRuntime::Absent
            }
        } else {
            match self.lower.container_runtime_version().await {
                Ok(version) => {
                    self.upper.with_world_mut(|world| {
                        world.runtime_version = version;
                        world.runtime_without_unit = !docker.loaded;
                    });
                    LowerRuntime::Answers
                }
                Err(error) if docker.is_active() => {
                    LowerRuntime::Unreadable(crate::model::chain(&error).join(": "))
                }
                Err(_) => LowerRuntime::Absent,
            }
        };
        self.known().runtime = Some(runtime);
        Ok(())
    }

    /// Where the runtime below keeps its data.
    async fn runtime_root(&self) -> PathBuf {
        let daemon = self.lower.read(Path::new(CONFIGURATION), 1 << 20);
        let daemon = daemon.await.ok().flatten().unwrap_or_default();
        let daemon: serde_json::Value = serde_json::from_slice(&daemon).unwrap_or_default();
        daemon["data-root"]
            .as_str()
            .unwrap_or("/var/lib/docker")
            .into()
    }

    /// Whether the runtime has ever run, judged by its data directory: a runtime that has never run has nothing in it. If we may not read
    /// the directory, the runtime may have run.
    async fn has_run(&self, root: &Path) -> bool {
        let data = self.lower.entry(&root.join("image")).await;
        !matches!(data, Ok(None))
    }

    /// Whether there is anything to fetch from the runtime below.
    ///
    /// # Errors
    /// What the runtime has cannot be known now.
    fn runtime_answers(&self) -> HostResult<bool> {
        match &self.known().runtime {
            Some(LowerRuntime::Answers) => Ok(true),
            Some(LowerRuntime::Unreadable(reason)) => Err(HostError::service(
                "ask the container runtime",
                reason.clone(),
            )),
            Some(LowerRuntime::Absent) | None => Ok(false),
        }
    }

    async fn fetch_image(&self, reference: &str) -> HostResult<()> {
        self.fetch_runtime().await?;
        let known = self.known().images.contains(reference);
        if !known && self.runtime_answers()? {
            let image = self.lower.image(reference).await?;
            if let Some(image) = image {
                self.upper
                    .with_world_mut(|world| world.images.insert(reference.to_owned(), image.id));
            }
        }
        self.known().images.insert(reference.to_owned());
        Ok(())
    }

    pub(in crate::host::overlay) async fn fetch_container(&self, name: &str) -> HostResult<()> {
        self.fetch_runtime().await?;
        if self.known().containers.contains_key(name) {
            return Ok(());
        }
        let mut below = None;
        let listed = self.known().listed.remove(name);
        if self.runtime_answers()? {
            below = self.lower.container(name).await?;
            if let Some(state) = &below {
                let config = self.lower.container_config(name).await?;
                let mut container = FakeContainer {
                    config: config.unwrap_or_else(|| sketch(state)),
                    id: state.id.clone(),
                    running: runs(state),
                    exit_code: state.exit_code,
                    started_at: state.started_at,
                    ended: state.ended,
                    restarts: state.restarts,
                    stopped: !state.running,
                };
                self.upper.with_world_mut(|world| {
                    let above = world.containers.get(name);
                    // What happened to the container above since it was listed counts: its runtime has ended or started.
                    if let (Some(listed), Some(above)) = (listed, above)
                        && (above.running != listed || above.started_at.is_some())
                    {
                        container.running = above.running;
                        container.started_at = above.started_at;
                        container.stopped = above.stopped;
                    }
                    world.containers.insert(name.to_owned(), container);
                });
            }
        }
        self.known().containers.insert(name.to_owned(), below);
        Ok(())
    }

    /// Marks that a unit is started, if it is not docker's: docker makes only its own files.
    pub(in crate::host::overlay) fn begins(&self, unit: &str) {
        if unit != DOCKER {
            self.known().ran = true;
        }
    }

    /// Fetches docker's configuration and every container, before docker ends or starts with its unit.
    pub(in crate::host::overlay) async fn before_runtime_start(
        &self,
        unit: &str,
    ) -> HostResult<()> {
        if unit != DOCKER {
            return Ok(());
        }
        self.fetch_content(Path::new(CONFIGURATION)).await?;
        self.fetch_runtime().await?;
        if matches!(self.known().runtime, Some(LowerRuntime::Answers)) {
            self.fetch_listed(&BTreeMap::new()).await?;
        }
        Ok(())
    }

    /// Fetches the containers in the list of those with these labels. Thousands of them may belong to other software, so a single container
    /// is inspected only when a caller asks for it.
    async fn fetch_listed(&self, labels: &BTreeMap<String, String>) -> HostResult<()> {
        for listed in self.lower.containers(labels).await? {
            let is_new = {
                let mut known = self.known();
                let is_new = !known.containers.contains_key(&listed.name)
                    && !known.listed.contains_key(&listed.name);
                if is_new {
                    let runs = listed.running && !listed.paused;
                    known.listed.insert(listed.name.clone(), runs);
                }
                is_new
            };
            if is_new {
                self.upper.with_world_mut(|world| {
                    world
                        .containers
                        .insert(listed.name.clone(), outlined(&listed))
                });
            }
        }
        Ok(())
    }

    /// The runtime does not make the source of a mount, so a missing source stays missing, unless a program that was started above makes
    /// it. What such a program does is unknown here.
    fn refuse_missing_mounts(&self, config: &ContainerConfig) -> HostResult<()> {
        if self.known().ran {
            return Ok(());
        }
        let missing = config.mounts.iter().find(|mount| {
            // The content of these directories is made by running programs, the runtime itself included.
            let at_run_time = ["/run", "/var/run"]
                .iter()
                .any(|top| mount.source.starts_with(top));
            !at_run_time
                && self
                    .upper
                    .with_world(|world| world.tree.get(&mount.source, true).is_none())
        });
        missing.map_or(Ok(()), |mount| {
            Err(HostError::refused(
                format!("create container {}", config.name),
                format!(
                    "bind source path does not exist: {}",
                    mount.source.display()
                ),
            ))
        })
    }

    /// Fetches the directories that a container is given.
    pub(in crate::host::overlay) async fn fetch_mounts(
        &self,
        config: &ContainerConfig,
    ) -> HostResult<()> {
        for mount in &config.mounts {
            let source = self.fetch(&mount.source, true).await?;
            if !mount.read_only {
                self.fetch_etcd_data(&source).await?;
            }
        }
        Ok(())
    }
}

/// Whether its process makes progress.
fn runs(state: &ContainerState) -> bool {
    state.running && !state.paused
}

/// A container, as far as the list of all containers describes it.
fn outlined(listed: &ListedContainer) -> FakeContainer {
    FakeContainer {
        config: ContainerConfig {
            host_network: listed.host_network,
            restart: RestartPolicy::Always,
            labels: listed.labels.clone(),
            ..ContainerConfig::bare(&listed.name, &listed.image)
        },
        id: listed.id.clone(),
        running: listed.running && !listed.paused,
        exit_code: 0,
        started_at: None,
        ended: None,
        restarts: 0,
        stopped: !listed.running,
    }
}

/// A configuration, as far as the state describes it, for a container that does not carry its own.
fn sketch(state: &ContainerState) -> ContainerConfig {
    ContainerConfig {
        host_network: state.host_network,
        restart: RestartPolicy::Always,
        labels: state.labels.clone(),
        ..ContainerConfig::bare(&state.name, &state.image)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A static pod's sandbox uses the host's network, even if it does not carry its configuration.
    #[test]
    fn a_sketch_keeps_what_the_state_tells() {
        for host_network in [false, true] {
            let state = ContainerState {
                id: "1".to_owned(),
                name: "k8s_POD_a".to_owned(),
                running: true,
                paused: false,
                exit_code: 0,
                started_at: None,
                ended: None,
                restarts: 0,
                image: "pause:1".to_owned(),
                host_network,
                labels: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
            };
            let config = sketch(&state);
            assert_eq!(config.host_network, host_network);
            assert_eq!(
                (config.name, config.image, config.labels),
                (state.name, state.image, state.labels)
            );
        }
    }
}
