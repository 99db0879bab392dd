//! A container that runs with exactly this configuration.
//!
//! When the container is created, a hash of its configuration and of the content of its inputs is stored in a label. So the
//! container itself shows whether it is current.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::host::{
    ContainerConfig, ContainerState, Host, HostError, HostResult, Mount, RestartPolicy,
};
use crate::model::Value;
use crate::resource::docker::{container_runtime, ending};
use crate::resource::{
    Action, Change, Context, READ_LIMIT, Receipt, Resource, ResourceError, ResourceResult, Undo,
    inputs,
};

/// Label that holds the digest of configuration and inputs.
const DIGEST_LABEL: &str = "pf9.io/digest";
/// Content id of the image that it was made from.
const IMAGE_LABEL: &str = "pf9.io/image";
/// The field of a change that is found by this digest.
const INPUTS: &str = "configuration or inputs";
/// How long a container may take to stop before it is killed.
const GRACE: Duration = Duration::from_secs(10);

/// A running container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Container name.
    pub name: String,
    /// Image reference; the image must be on the host when the container is created.
    pub image: String,
    /// Command and arguments.
    pub command: Vec<String>,
    /// Environment.
    pub env: BTreeMap<String, Value>,
    /// Files of `KEY=value` lines that are added to the environment.
    pub env_files: Vec<PathBuf>,
    /// Directories mounted into it.
    pub mounts: Vec<Mount>,
    /// Shares the host's network.
    pub host_network: bool,
    /// All capabilities and devices.
    pub privileged: bool,
    /// User, `uid[:gid]`; empty means what the image says.
    pub user: String,
    /// When the runtime restarts it.
    pub restart: RestartPolicy,
    /// Files whose change causes a new container.
    pub inputs: Vec<PathBuf>,
}

/// The current state of a container, and the configuration it should have.
#[derive(Debug)]
pub struct Observed {
    state: Option<ContainerState>,
    /// `Err` says what is missing for the configuration.
    desired: Result<ContainerConfig, String>,
}

#[async_trait]
impl Resource for ContainerSpec {
    type Observed = Observed;

    fn label(&self) -> String {
        self.name.clone()
    }

    async fn observe(&self, cx: &Context<'_>) -> ResourceResult<Observed> {
        // If the runtime is not installed yet, there is no container. A runtime that does not answer may have it: that is an error.
        let state = if container_runtime::has(cx.host).await? {
            cx.host.container(&self.name).await?
        } else {
            None
        };
        if let Some(state) = state.as_ref().filter(|state| !is_ours(state)) {
            return Err(ResourceError::Unmet {
                what: format!(
                    "use the name {} for a container: a foreign container of image {} has it",
                    self.name, state.image
                ),
                next: format!(
                    "give that container another name (`docker rename {0} {0}-old`) or remove it",
                    self.name
                ),
            });
        }
        let desired = match self.config(cx).await {
            // Without its desired configuration, the existing container cannot be compared, and must not be removed for that.
            Err(error) if state.is_some() && !cx.absent => return Err(error),
            desired => desired.map_err(|error| error.to_string()),
        };
        let observed = Observed { state, desired };
        if self.differs_only_in_inputs(&observed, cx.absent) {
            inputs::wait_until_written(cx.host, &self.inputs).await?;
        }
        if self.differs_only_in_image(cx, &observed).await {
            return Err(ResourceError::Host(HostError::service(
                format!(
                    "tell whether container {} was made from image {}",
                    self.name, self.image
                ),
                "the id of the image in the archive is known only after the archive is loaded",
            )));
        }
        Ok(observed)
    }

    fn diff(&self, observed: &Observed, absent: bool) -> Option<Change> {
        let Some(state) = &observed.state else {
            return (!absent).then(|| Change::new(Action::Create).with("image", "", &self.image));
        };
        if absent {
            return Some(Change::new(Action::Remove));
        }
        let mut change = Change::new(Action::Restart);
        match &observed.desired {
            Err(reason) => return Some(change.with("configuration", "", reason)),
            Ok(desired) => {
                if state.image != desired.image {
                    change = change.with("image", &state.image, &desired.image);
                } else if state.labels.get(DIGEST_LABEL) != desired.labels.get(DIGEST_LABEL) {
                    change = change.with(INPUTS, "other", "as planned");
                } else if other_image(state, desired) {
                    change = change.with("image", "an older one", &desired.image);
                }
            }
        }
        if !state.running || state.paused {
            let is = if state.paused {
                "paused".to_owned()
            } else {
                format!("exited with {}", state.exit_code)
            };
            change = change.with("state", is, "running");
        }
        (!change.differences.is_empty()).then_some(change)
    }

    async fn converge(
        &self,
        observed: &Observed,
        cx: &Context<'_>,
        receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        if let Some(state) = &observed.state {
            let change = self.diff(observed, cx.absent);
            let mut differences = change.iter().flat_map(|change| &change.differences);
            if cx.absent || differences.any(|d| d.field != "state") {
                // Checked before the undo is recorded: the undo itself would stop the container.
                if !cx.absent {
                    self.has_image(cx).await?;
                }
                if let Some(config) = self.previous(cx.host).await? {
                    receipt
                        .push(Undo::RecreateContainer {
                            config: Box::new(config),
                            running: state.running,
                        })
                        .await?;
                }
                ending::end(cx.host, &self.name, GRACE).await?;
            } else {
                // Only its state differs. A paused container cannot be started: stop it first.
                receipt
                    .push(Undo::StopContainer {
                        name: self.name.clone(),
                    })
                    .await?;
                if state.paused {
                    ending::stop(cx.host, &self.name, Duration::ZERO).await?;
                }
                cx.host.start_container(&self.name).await?;
                return Ok(());
            }
        }
        if cx.absent {
            return Ok(());
        }
        let desired = observed
            .desired
            .as_ref()
            .map_err(|reason| ResourceError::Missing {
                what: format!("configure container {}: {reason}", self.name),
            })?;
        receipt
            .push(Undo::RemoveContainer {
                name: self.name.clone(),
            })
            .await?;
        cx.host.create_container(desired).await?;
        cx.host.start_container(&self.name).await?;
        Ok(())
    }

    async fn quiesce(&self, cx: &Context<'_>, _receipt: &mut Receipt<'_>) -> ResourceResult<bool> {
        if !container_runtime::runs(cx.host).await? {
            return Ok(false);
        }
        let state = cx.host.container(&self.name).await;
        let state = ending::explained(cx.host, &self.name, state).await?;
        // A foreign container of the same name must not be stopped.
        let running = state.is_some_and(|state| is_ours(&state));
        if running {
            // Removed, not only stopped: its restart policy must not start it again with the runtime.
            ending::end(cx.host, &self.name, GRACE).await?;
        }
        Ok(running)
    }
}

/// Whether the container was created by nodelet.
fn is_ours(state: &ContainerState) -> bool {
    state.labels.contains_key(container_runtime::OWNER)
}

/// Whether the reference names another image now: then the container has to be replaced. If the image was only deleted, the
/// container is still current.
fn other_image(state: &ContainerState, desired: &ContainerConfig) -> bool {
    let now = desired.labels.get(IMAGE_LABEL);
    now.is_some() && now != state.labels.get(IMAGE_LABEL)
}

impl ContainerSpec {
    /// Checks that docker has the image, so that a running container is not removed if no new one can be created.
    async fn has_image(&self, cx: &Context<'_>) -> ResourceResult<()> {
        match cx.host.image(&self.image).await? {
            Some(_) => Ok(()),
            None => Err(ResourceError::Unmet {
                what: format!(
                    "make another container {}: docker does not have the image {} any more",
                    self.name, self.image
                ),
                next: "load the image first (a whole `nodelet apply` does), or name an image that docker has (`docker images`)".to_owned(),
            }),
        }
    }

    /// The undo that recreates the container as it runs now; `None` if no container of ours runs under its name.
    pub(crate) async fn as_it_runs(&self, host: &dyn Host) -> ResourceResult<Option<Undo>> {
        if !container_runtime::runs(host).await? {
            return Ok(None);
        }
        let state = host.container(&self.name).await?;
        if !state.is_some_and(|state| is_ours(&state) && state.running) {
            return Ok(None);
        }
        let config = self.previous(host).await?;
        Ok(config.map(|config| Undo::RecreateContainer {
            config: Box::new(config),
            running: true,
        }))
    }

    /// The configuration in the label of the existing container of ours. Without it, the container cannot be made again.
    async fn previous(&self, host: &dyn Host) -> HostResult<Option<ContainerConfig>> {
        let config = host.container_config(&self.name).await?;
        if config.is_none() {
            tracing::warn!(
                "container {} has no label with its configuration: a rollback cannot make it again",
                self.name
            );
        }
        Ok(config)
    }

    /// Whether a container of ours has this name.
    pub(crate) async fn exists(&self, host: &dyn Host) -> bool {
        self.id_of_ours(host).await.is_some()
    }

    /// Whether a container of ours has this name and runs.
    pub(crate) async fn runs(&self, host: &dyn Host) -> HostResult<bool> {
        let state = host.container(&self.name).await?;
        Ok(state.is_some_and(|state| is_ours(&state) && state.running))
    }

    /// Names of the control groups that our container of this name may have, one for each driver.
    pub(crate) async fn control_groups(&self, host: &dyn Host) -> Vec<String> {
        let id = self.id_of_ours(host).await;
        id.map(|id| vec![format!("docker-{id}.scope"), id])
            .unwrap_or_default()
    }

    /// The id of our container of this name.
    async fn id_of_ours(&self, host: &dyn Host) -> Option<String> {
        let state = host.container(&self.name).await.ok().flatten()?;
        is_ours(&state).then_some(state.id)
    }

    /// Whether the container differs only in its configuration or inputs.
    fn differs_only_in_inputs(&self, observed: &Observed, absent: bool) -> bool {
        let change = self.diff(observed, absent);
        change.is_some_and(|change| {
            change.action == Action::Restart && change.differences.iter().all(|d| d.field == INPUTS)
        })
    }

    /// Whether the container is current, except that a dry run has loaded the image: such an image has no id yet, and may differ
    /// from the image that the container was created from.
    async fn differs_only_in_image(&self, cx: &Context<'_>, observed: &Observed) -> bool {
        let (Some(state), Ok(desired)) = (&observed.state, &observed.desired) else {
            return false;
        };
        // A container that this dry run has created from that image has no image id either.
        state.labels.contains_key(IMAGE_LABEL)
            && !desired.labels.contains_key(IMAGE_LABEL)
            && self.diff(observed, cx.absent).is_none()
            && matches!(cx.host.image(&self.image).await, Ok(Some(image)) if image.id.is_empty())
    }

    /// The whole configuration, with environment files read and the digest in place.
    async fn config(&self, cx: &Context<'_>) -> ResourceResult<ContainerConfig> {
        let mut env = BTreeMap::new();
        for path in &self.env_files {
            env.extend(read_env_file(cx.host, path).await?);
        }
        for (name, value) in &self.env {
            let json = cx.resolve(value)?;
            env.insert(
                name.clone(),
                json.as_str()
                    .map_or_else(|| json.to_string(), str::to_owned),
            );
        }
        let mut config = ContainerConfig {
            name: self.name.clone(),
            image: self.image.clone(),
            command: self.command.clone(),
            env,
            mounts: self.mounts.clone(),
            host_network: self.host_network,
            host_pid: false,
            privileged: self.privileged,
            capabilities: Vec::new(),
            user: self.user.clone(),
            restart: self.restart,
            labels: BTreeMap::from([(
                container_runtime::OWNER.to_owned(),
                container_runtime::OURS.to_owned(),
            )]),
        };
        let mut hash = Sha256::new();
        hash.update(
            serde_json::to_vec(&config).map_err(|source| ResourceError::Pki {
                action: format!("hash the configuration of container {}", self.name),
                source: source.into(),
                permanent: false,
            })?,
        );
        hash.update(inputs::digest(cx.host, &self.inputs).await?);
        config
            .labels
            .insert(DIGEST_LABEL.to_owned(), crate::model::hex(&hash.finalize()));
        if let Ok(Some(image)) = cx.host.image(&self.image).await
            && !image.id.is_empty()
        {
            config.labels.insert(IMAGE_LABEL.to_owned(), image.id);
        }
        Ok(config)
    }
}

/// `KEY=value` lines; comments and blank lines are skipped, nothing is unquoted (as `docker run --env-file`).
async fn read_env_file(
    host: &dyn Host,
    path: &std::path::Path,
) -> ResourceResult<BTreeMap<String, String>> {
    let content = host
        .read(path, READ_LIMIT)
        .await?
        .ok_or_else(|| ResourceError::Missing {
            what: format!("find the environment file {}", path.display()),
        })?;
    let text = String::from_utf8_lossy(&content);
    Ok(text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.trim().to_owned(), value.to_owned()))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;
    use crate::resource::tests::{apply_in, context};

    #[tokio::test]
    async fn a_container_is_not_removed_if_its_configuration_is_missing() {
        let host = FakeHost::new()
            .with_docker()
            .with_image("app:1")
            .with_file("/etc/app.env", "A=1\n");
        let spec = ContainerSpec {
            name: "app".to_owned(),
            image: "app:1".to_owned(),
            command: Vec::new(),
            env: BTreeMap::new(),
            env_files: vec!["/etc/app.env".into()],
            mounts: Vec::new(),
            host_network: false,
            privileged: false,
            user: String::new(),
            restart: RestartPolicy::Always,
            inputs: Vec::new(),
        };
        let cx = context(&host);
        let made = apply_in(&cx, &spec, &mut Receipt::default()).await;
        made.unwrap().expect("it is not there");
        host.with_world_mut(|world| world.remove("/etc/app.env"));
        let error = spec.observe(&cx).await.unwrap_err();
        assert_eq!(error.to_string(), "find the environment file /etc/app.env");
        // A removal needs no configuration.
        let cx = Context { absent: true, ..cx };
        let observed = spec.observe(&cx).await.unwrap();
        let change = spec.diff(&observed, true).unwrap();
        assert_eq!(change.action, Action::Remove);
    }
}
