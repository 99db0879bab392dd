//! Containers and images of a fake host.
//!
//! The runtime answers while `docker.service` is active. A fake image archive is a file with the content
//! `fake-image:REFERENCE[,REFERENCE]`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::container::FakeContainer;
use crate::host::fake::docker::daemon::images_in;
use crate::host::fake::fake_host::FakeHost;
use crate::host::fake::files::file_error;
use crate::host::{
    ArchivedImage, ContainerConfig, ContainerState, Containers, HostError, HostResult, ImageState,
    ListedContainer, PRESENCE,
};

const DEADLINE: Duration = Duration::from_secs(30);
const LOAD_DEADLINE: Duration = Duration::from_secs(300);

#[async_trait::async_trait]
impl Containers for FakeHost {
    async fn container_runtime_within(&self, timeout: Duration) -> HostResult<()> {
        self.observe("container_runtime", "", timeout, |world| {
            world.runtime("see whether docker answers")
        })
        .await
    }

    async fn container_runtime_version(&self) -> HostResult<String> {
        self.observe("container_runtime", "", PRESENCE, |world| {
            world.runtime("ask docker for its version")?;
            Ok(world.runtime_version.clone())
        })
        .await
    }

    async fn container_runtime_root(&self) -> HostResult<PathBuf> {
        self.observe("container_runtime_root", "", DEADLINE, |world| {
            world.runtime("ask docker where it keeps images")?;
            let configuration = world.runtime_configuration();
            let root = configuration["data-root"].as_str();
            Ok(root.unwrap_or("/var/lib/docker").into())
        })
        .await
    }

    async fn containers_outlive_runtime(&self) -> HostResult<bool> {
        self.observe("containers_outlive_runtime", "", DEADLINE, |world| {
            world.runtime("ask docker whether its containers outlive it")?;
            Ok(world.containers_outlive_runtime())
        })
        .await
    }

    async fn image(&self, reference: &str) -> HostResult<Option<ImageState>> {
        self.observe("image", reference, DEADLINE, |world| {
            world.runtime("inspect an image")?;
            // An id names an image as a reference does.
            let by_id = || world.images.values().find(|id| *id == reference);
            let id = world.images.get(reference).or_else(by_id);
            Ok(id.map(|id| ImageState { id: id.clone() }))
        })
        .await
    }

    async fn archived_images(&self, archive: &Path) -> HostResult<Option<Vec<ArchivedImage>>> {
        let name = archive.display().to_string();
        self.observe("archived_images", name, DEADLINE, |world| {
            let missing = || file_error("open", archive, std::io::ErrorKind::NotFound.into());
            let content = world.tree.text(archive).ok_or_else(missing)?;
            Ok(images_in(&content))
        })
        .await
    }

    async fn tag_image(&self, id: &str, reference: &str) -> HostResult<()> {
        self.mutate("tag_image", reference, DEADLINE, |world| {
            let action = format!("give image {id} the reference {reference}");
            world.runtime(&action)?;
            if !world.images.values().any(|one| one == id) {
                return Err(HostError::service(action, "no such image"));
            }
            world.images.insert(reference.to_owned(), id.to_owned());
            Ok(())
        })
        .await
    }

    async fn load_image(&self, archive: &Path) -> HostResult<()> {
        self.mutate(
            "load_image",
            archive.display().to_string(),
            LOAD_DEADLINE,
            |world| {
                let action = format!("load image {}", archive.display());
                world.runtime(&action)?;
                let missing = || file_error("read", archive, std::io::ErrorKind::NotFound.into());
                let content = world.tree.text(archive).ok_or_else(missing)?;
                let images = images_in(&content);
                let images =
                    images.ok_or_else(|| HostError::service(action, "invalid tar header"))?;
                for image in images {
                    world.images.insert(image.reference, image.id);
                }
                Ok(())
            },
        )
        .await
    }

    async fn remove_image(&self, reference: &str) -> HostResult<()> {
        self.mutate("remove_image", reference, DEADLINE, |world| {
            let action = format!("remove image {reference}");
            world.runtime(&action)?;
            let user = world
                .containers
                .values()
                .find(|container| container.config.image == reference);
            if let Some(container) = user {
                let reason = format!("container {} uses it", container.config.name);
                return Err(HostError::in_use(action, reason));
            }
            // A removal by id also removes the image's only name.
            let named: Vec<String> = world
                .images
                .iter()
                .filter(|(_, id)| *id == reference)
                .map(|(name, _)| name.clone())
                .collect();
            match &named[..] {
                [] => drop(world.images.remove(reference)),
                [only] => drop(world.images.remove(only)),
                _ => return Err(HostError::service(action, "it has several names")),
            }
            Ok(())
        })
        .await
    }

    async fn container(&self, name: &str) -> HostResult<Option<ContainerState>> {
        self.observe("container", name, DEADLINE, |world| {
            world.runtime("inspect a container")?;
            Ok(world.containers.get(name).map(FakeContainer::state))
        })
        .await
    }

    async fn containers(
        &self,
        labels: &BTreeMap<String, String>,
    ) -> HostResult<Vec<ListedContainer>> {
        self.observe("containers", format!("{labels:?}"), DEADLINE, |world| {
            world.runtime("list containers")?;
            let carries = |container: &&FakeContainer| {
                labels.iter().all(|(key, wanted)| {
                    container
                        .config
                        .labels
                        .get(key)
                        .is_some_and(|value| wanted.is_empty() || value == wanted)
                })
            };
            Ok(world
                .containers
                .values()
                .filter(carries)
                .map(FakeContainer::listed)
                .collect())
        })
        .await
    }

    async fn create_container(&self, config: &ContainerConfig) -> HostResult<String> {
        self.mutate("create_container", &config.name, DEADLINE, |world| {
            let action = format!("create container {}", config.name);
            world.runtime(&action)?;
            let refuse = |reason: String| Err(HostError::service(action, reason));
            if world.containers.contains_key(&config.name) {
                return refuse(format!(
                    "the name {} is in use by another container",
                    config.name
                ));
            }
            if !world.images.contains_key(&config.image) {
                return refuse(format!("no such image: {}", config.image));
            }
            let missing = config
                .mounts
                .iter()
                .find(|mount| world.tree.get(&mount.source, true).is_none());
            if let Some(mount) = missing {
                return refuse(format!(
                    "bind source path does not exist: {}",
                    mount.source.display()
                ));
            }
            let id = world.next_id();
            let container = FakeContainer {
                config: config.clone(),
                id: id.clone(),
                running: false,
                exit_code: 0,
                started_at: None,
                ended: None,
                restarts: 0,
                stopped: true,
            };
            world.containers.insert(config.name.clone(), container);
            Ok(id)
        })
        .await
    }

    async fn container_config(&self, name: &str) -> HostResult<Option<ContainerConfig>> {
        self.observe("container_config", name, DEADLINE, |world| {
            world.runtime("inspect a container")?;
            Ok(world
                .containers
                .get(name)
                .map(|container| container.config.clone()))
        })
        .await
    }

    async fn start_container(&self, name: &str) -> HostResult<()> {
        self.mutate("start_container", name, DEADLINE, |world| {
            world.runtime(&format!("start container {name}"))?;
            let container = world.containers.get_mut(name);
            let missing = || HostError::Missing {
                what: format!("container {name}"),
            };
            container.ok_or_else(missing)?.stopped = false;
            world.run_container(name);
            Ok(())
        })
        .await
    }

    async fn stop_container(&self, name: &str, _grace: Duration) -> HostResult<()> {
        self.mutate("stop_container", name, DEADLINE, |world| {
            world.runtime(&format!("stop container {name}"))?;
            let now = world.now();
            if let Some(container) = world.containers.get_mut(name) {
                container.end(now);
                container.stopped = true;
            }
            Ok(())
        })
        .await
    }

    async fn remove_container(&self, name: &str) -> HostResult<()> {
        self.mutate("remove_container", name, DEADLINE, |world| {
            world.runtime(&format!("remove container {name}"))?;
            world.containers.remove(name);
            Ok(())
        })
        .await
    }

    async fn container_log(&self, name: &str, lines: usize) -> HostResult<String> {
        self.observe("container_log", name, DEADLINE, |world| {
            world.runtime("read a container's log")?;
            let broken = world.broken_containers.contains(name) && lines > 0;
            Ok(if broken {
                format!("{name}: fatal: told to end\n")
            } else {
                String::new()
            })
        })
        .await
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::host::{Mount, RestartPolicy, Services};

    pub(crate) fn config(name: &str) -> ContainerConfig {
        ContainerConfig {
            mounts: vec![Mount {
                source: "/var/opt/data".into(),
                target: "/data".into(),
                read_only: false,
                propagated: false,
            }],
            host_network: true,
            restart: RestartPolicy::UnlessStopped,
            labels: BTreeMap::from([("app".to_owned(), "x".to_owned())]),
            ..ContainerConfig::bare(name, "image:1")
        }
    }

    fn host() -> FakeHost {
        FakeHost::new()
            .with_image_archive("/opt/images.tar", &["image:1"])
            .with_directory("/var/opt/data")
            .with_unit("docker.service", "[Service]\n")
    }

    #[tokio::test]
    async fn a_container_needs_runtime_image_and_mounts() {
        let host = host();
        assert!(
            host.create_container(&config("a")).await.is_err(),
            "docker does not run"
        );
        host.start_unit("docker.service").await.unwrap();
        assert!(
            host.create_container(&config("a")).await.is_err(),
            "the image is missing"
        );
        host.load_image(Path::new("/opt/images.tar")).await.unwrap();
        host.with_world_mut(|world| world.remove("/var/opt/data"));
        assert!(
            host.create_container(&config("a")).await.is_err(),
            "the mount's source is missing"
        );
        host.with_world_mut(|world| world.directory("/var/opt/data"));
        host.create_container(&config("a")).await.unwrap();
        assert!(
            host.create_container(&config("a")).await.is_err(),
            "the name is taken"
        );
        assert!(
            host.remove_image("image:1").await.is_err(),
            "the image is in use"
        );
        host.start_container("a").await.unwrap();
        assert!(host.container("a").await.unwrap().unwrap().running);
        assert!(host.start_container("b").await.is_err(), "there is no b");
    }

    #[tokio::test]
    async fn containers_follow_docker_and_their_policy() {
        let host = host();
        host.start_unit("docker.service").await.unwrap();
        host.load_image(Path::new("/opt/images.tar")).await.unwrap();
        for name in ["stays", "stopped", "once"] {
            let mut config = config(name);
            if name == "once" {
                config.restart = RestartPolicy::No;
            }
            host.create_container(&config).await.unwrap();
            host.start_container(name).await.unwrap();
        }
        host.stop_container("stopped", Duration::ZERO)
            .await
            .unwrap();
        host.restart_unit("docker.service").await.unwrap();
        let running = host.with_world(|world| {
            ["stays", "stopped", "once"].map(|name| world.container_runs(name))
        });
        assert_eq!(running, [true, false, false]);
        host.with_world_mut(|world| world.kill_container("stays"));
        assert_eq!(host.container("stays").await.unwrap().unwrap().restarts, 1);
        host.with_world_mut(|world| world.break_container("stays", true));
        assert!(!host.container("stays").await.unwrap().unwrap().running);
    }

    #[tokio::test]
    async fn labels_select_containers() {
        let host = host();
        host.start_unit("docker.service").await.unwrap();
        host.load_image(Path::new("/opt/images.tar")).await.unwrap();
        host.create_container(&config("a")).await.unwrap();
        for (value, found) in [("x", 1), ("", 1), ("y", 0)] {
            let labels = BTreeMap::from([("app".to_owned(), value.to_owned())]);
            assert_eq!(host.containers(&labels).await.unwrap().len(), found);
        }
    }
}
