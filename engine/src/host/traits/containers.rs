//! Containers and images, through the container runtime's API.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::host::HostResult;

/// containerd has a directory here for each running container of docker, even while docker itself is down (containerd 1.4 and later,
/// runtime `io.containerd.runc.v2`).
pub(crate) const LIVE_RESTORE_DIR: &str = "/run/containerd/io.containerd.runtime.v2.task/moby";

/// Everything that decides how a container runs. Equal configurations make equal containers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerConfig {
    /// Container name.
    pub name: String,
    /// Image reference; must be present on the host, nothing is pulled.
    pub image: String,
    /// Entry point and arguments; empty means what the image says.
    pub command: Vec<String>,
    /// Environment, without secrets.
    pub env: BTreeMap<String, String>,
    /// Bind mounts of directories.
    pub mounts: Vec<Mount>,
    /// Shares the host's network.
    pub host_network: bool,
    /// Shares the host's process ids.
    // No script sets this. It stays until the first release: the digest of a container has this form, and another form would restart the
    // containers of a running host.
    pub host_pid: bool,
    /// All capabilities and devices.
    pub privileged: bool,
    /// Capabilities added to the runtime's default set.
    // No script sets this; it stays for the same reason as `host_pid`.
    pub capabilities: Vec<String>,
    /// User the process runs as, `uid[:gid]`; empty means what the image says.
    pub user: String,
    /// What the container runtime does when it ends.
    pub restart: RestartPolicy,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

impl ContainerConfig {
    /// A container with this name and image, and defaults for all else: it shares nothing with its host, runs the image's command, and is
    /// never restarted.
    #[must_use]
    pub fn bare(name: impl Into<String>, image: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            image: image.into(),
            ..Self::default()
        }
    }
}

/// When the container runtime starts a container again by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Never.
    #[default]
    No,
    /// Always, unless it was stopped on purpose.
    UnlessStopped,
    /// Always, also after the runtime's own restart.
    Always,
}

/// A bind mount of a directory. A missing source is an error, never a new directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Directory on the host.
    pub source: PathBuf,
    /// Path in the container.
    pub target: PathBuf,
    /// Whether the container may not write there.
    pub read_only: bool,
    /// Whether mounts made later on the host appear in it (`rslave`).
    // No script sets this; it stays for the same reason as `ContainerConfig::host_pid`.
    pub propagated: bool,
}

/// A container as the runtime reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerState {
    /// Its id.
    pub id: String,
    /// Its name, without the leading slash.
    pub name: String,
    /// Whether a process runs in it.
    pub running: bool,
    /// Whether that process is paused.
    pub paused: bool,
    /// Exit code of the last run.
    pub exit_code: i64,
    /// When the present run started.
    pub started_at: Option<SystemTime>,
    /// The last run, if none is under way, the runtime does not start it again by itself, and the runtime knows it.
    pub ended: Option<EndedRun>,
    /// How often the runtime restarted it.
    pub restarts: u64,
    /// Image reference it was made from.
    pub image: String,
    /// Whether it shares the host's network.
    pub host_network: bool,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// The last run of a container that does not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndedRun {
    /// When it started.
    pub started_at: SystemTime,
    /// When it ended.
    pub ended_at: SystemTime,
}

/// A container as the runtime's list reports it. One request lists all containers, however many there are. Details that need a request for
/// each container are in [`ContainerState`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedContainer {
    /// Its id.
    pub id: String,
    /// Its name, without the leading slash.
    pub name: String,
    /// Image reference it was made from.
    pub image: String,
    /// Whether a process runs in it.
    pub running: bool,
    /// Whether that process is paused.
    pub paused: bool,
    /// Whether it shares the host's network.
    pub host_network: bool,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// An image as the runtime reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageState {
    /// Content id (`sha256:…`); empty for an image that a dry run would load.
    pub id: String,
}

/// An image in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchivedImage {
    /// Its reference.
    pub reference: String,
    /// Content id (`sha256:…`) that the image has once it is loaded; empty if the archive does not tell.
    pub id: String,
}

/// Deadline for the question whether the runtime answers. That question waits for no container, and the caller must go on if the runtime
/// hangs.
pub const PRESENCE: Duration = Duration::from_secs(10);

/// The container runtime. Every call has the implementation's own deadline (30 s; loading an image 5 min), except the question whether the
/// runtime answers.
#[async_trait::async_trait]
pub trait Containers {
    /// Whether the runtime answers within [`PRESENCE`]. Cancel safe.
    async fn container_runtime(&self) -> HostResult<()> {
        self.container_runtime_within(PRESENCE).await
    }

    /// Whether the runtime answers within `timeout`. Cancel safe.
    async fn container_runtime_within(&self, timeout: Duration) -> HostResult<()>;

    /// The runtime's version, within [`PRESENCE`]. The runtime asks other programs for their versions to answer this, so call it rarely.
    /// Cancel safe.
    async fn container_runtime_version(&self) -> HostResult<String>;

    /// The directory in which the runtime keeps its images and containers. Cancel safe.
    async fn container_runtime_root(&self) -> HostResult<PathBuf>;

    /// Whether containers go on while the runtime is down, as it runs now: docker's `live-restore`, which docker reads at its start and when
    /// it is reloaded. As expensive as [`Containers::container_runtime_version`]. Cancel safe.
    async fn containers_outlive_runtime(&self) -> HostResult<bool>;

    /// The image under this reference. Cancel safe.
    async fn image(&self, reference: &str) -> HostResult<Option<ImageState>>;

    /// The references in an archive as `docker save` writes it; `None` if the archive does not tell. Cancel safe.
    async fn archived_images(&self, archive: &Path) -> HostResult<Option<Vec<ArchivedImage>>>;

    /// Gives an image, named by its content id, another reference. An image that had this reference before loses it.
    async fn tag_image(&self, id: &str, reference: &str) -> HostResult<()>;

    /// Loads the images of an archive as `docker save` writes it. When the call is cancelled, the runtime may still load the archive.
    async fn load_image(&self, archive: &Path) -> HostResult<()>;

    /// Removes a reference, and the image when it was the last. Fine if there is none. The error is
    /// [`InUse`](crate::host::HostError::InUse) if a container uses the image.
    async fn remove_image(&self, reference: &str) -> HostResult<()>;

    /// The container of this name. Cancel safe.
    async fn container(&self, name: &str) -> HostResult<Option<ContainerState>>;

    /// Containers, running or not, that carry all these labels (an empty value matches any), by name. One question to the runtime. Cancel
    /// safe.
    async fn containers(
        &self,
        labels: &BTreeMap<String, String>,
    ) -> HostResult<Vec<ListedContainer>>;

    /// Creates, but does not start, a container and returns its id.
    async fn create_container(&self, config: &ContainerConfig) -> HostResult<String>;

    /// The configuration from which nodelet made a container, so that it can be made again. `None` if there is no such container, or if it
    /// does not carry its configuration: another program made it.
    async fn container_config(&self, name: &str) -> HostResult<Option<ContainerConfig>>;

    /// Starts a container. Fine if it runs.
    async fn start_container(&self, name: &str) -> HostResult<()>;

    /// Asks a container to end and kills it after `grace`. Fine if it does not run or there is none.
    async fn stop_container(&self, name: &str, grace: Duration) -> HostResult<()>;

    /// Removes a container by force, with its anonymous volumes. Fine if there is none.
    async fn remove_container(&self, name: &str) -> HostResult<()>;

    /// The last `lines` lines a container wrote. Cancel safe.
    async fn container_log(&self, name: &str, lines: usize) -> HostResult<String>;
}
