//! Temporary containers, in which etcd's own programs work on a copy: without a network, within limits, and removed afterwards.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bollard::Docker;
use bollard::models::{ContainerCreateBody, HostConfig, Mount, MountType};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, LogsOptionsBuilder, RemoveContainerOptionsBuilder,
};
use futures::StreamExt as _;
use tokio::sync::Mutex;

const SOCKET: &str = "/var/run/docker.sock";
/// Timeout for one call to docker, in seconds.
const TIMEOUT: u64 = 30;
/// There is one at a time, so its name is enough to find one that a killed run left.
const NAME: &str = "pf9-etcd-proof";
/// The label that marks our containers; the value says what they are for.
const OWNER: (&str, &str) = engine::exec::scratch::LABEL;
/// CPU time, in billionths of a CPU: half of one.
const CPU: i64 = 500_000_000;
/// Memory in bytes. The copy is mapped, so the kernel can drop it from memory; the index of its keys has to fit.
const MEMORY: i64 = 1024 * 1024 * 1024;
/// Processes and threads.
const TASKS: i64 = 256;
/// Lines of the container's log in an error.
const LINES: &str = "5";

/// Held while docker makes the container: docker carries out a request even if its caller is gone, and a removal must come after that.
static MAKING: Mutex<()> = Mutex::const_new(());

/// A connection to docker, for the one temporary container.
#[derive(Debug, Clone)]
pub(in crate::etcd) struct TemporaryContainer {
    docker: Docker,
    image: String,
}

/// The program in the container rejected its input, a damaged snapshot for example. Neither docker nor the host caused the failure.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(in crate::etcd) struct Rejected(String);

/// A directory of the host in the container.
#[derive(Debug, Clone)]
pub(in crate::etcd) struct Mounted {
    pub(in crate::etcd) source: PathBuf,
    pub(in crate::etcd) target: &'static str,
    pub(in crate::etcd) read_only: bool,
}

impl TemporaryContainer {
    pub(in crate::etcd) fn new(image: &str) -> Result<Self> {
        let docker = Docker::connect_with_unix(SOCKET, TIMEOUT, bollard::API_DEFAULT_VERSION)
            .context("connect to docker")?;
        Ok(Self {
            docker,
            image: image.to_owned(),
        })
    }

    /// Removes the container if there is one: after a restore test, and before one, because a killed run may have left it.
    ///
    /// # Errors
    /// Docker cannot remove it, or a foreign container has the name.
    pub(in crate::etcd) async fn remove(&self) -> Result<()> {
        let _made = MAKING.lock().await;
        let found = match self.docker.inspect_container(NAME, None).await {
            Ok(found) => found,
            Err(error) if status(&error) == Some(404) => return Ok(()),
            Err(error) => {
                return Err(error).context("look for a container of an earlier restore test");
            }
        };
        let labels = found.config.and_then(|config| config.labels);
        if labels.and_then(|labels| labels.get(OWNER.0).cloned()) != Some(OWNER.1.to_owned()) {
            bail!(
                "make the container {NAME}: a foreign container has this name; look at it (`docker inspect {NAME}`) and rename it"
            );
        }
        let options = RemoveContainerOptionsBuilder::default()
            .force(true)
            .v(true)
            .build();
        match self.docker.remove_container(NAME, Some(options)).await {
            Ok(()) => Ok(()),
            // Gone, or going.
            Err(error) if matches!(status(&error), Some(404 | 409)) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("remove the container {NAME}")),
        }
    }

    /// Starts the container. Its working directory is the first mount.
    ///
    /// # Cancel safety
    /// When dropped, the container is started all the same; [`TemporaryContainer::remove`] waits for that.
    pub(in crate::etcd) async fn start(&self, command: &[&str], mounts: &[Mounted]) -> Result<()> {
        let body = body(&self.image, command, mounts);
        let making = MAKING.lock().await;
        let this = self.clone();
        // A task of its own, which goes on when this future is dropped.
        let made = tokio::spawn(async move {
            let _making = making;
            this.make(body).await
        });
        made.await.context("make a temporary container")?
    }

    async fn make(&self, body: ContainerCreateBody) -> Result<()> {
        let options = CreateContainerOptionsBuilder::default().name(NAME).build();
        self.docker
            .create_container(Some(options), body)
            .await
            .with_context(|| format!("make a temporary container of {}", self.image))?;
        self.docker
            .start_container(NAME, None)
            .await
            .context("start a temporary container")
    }

    /// Waits until the program in the container has ended; an error if it failed.
    pub(in crate::etcd) async fn finish(&self, what: &str, within: Duration) -> Result<()> {
        let mut wait = self.docker.wait_container(NAME, None);
        let ended = tokio::time::timeout(within, wait.next())
            .await
            .with_context(|| format!("{what} within {} s", within.as_secs()))?;
        match ended {
            Some(Ok(_)) => Ok(()),
            Some(Err(bollard::errors::Error::DockerContainerWaitError { code, .. })) => {
                Err(self.failure(Some(code)).await).with_context(|| what.to_owned())
            }
            Some(Err(error)) => Err(error).with_context(|| what.to_owned()),
            None => bail!("{what}: docker does not say how it ended"),
        }
    }

    /// Why the program does not run any more; `None` while it runs.
    pub(in crate::etcd) async fn ended(&self) -> Result<Option<anyhow::Error>> {
        let found = self
            .docker
            .inspect_container(NAME, None)
            .await
            .context("look at the temporary container")?;
        let state = found.state.unwrap_or_default();
        if state.running == Some(true) {
            return Ok(None);
        }
        Ok(Some(self.failure(state.exit_code).await))
    }

    /// Why a program failed: [`Rejected`] if it rejected its input.
    async fn failure(&self, code: Option<i64>) -> anyhow::Error {
        let text = self.end(code).await;
        if judges(code, &text) {
            Rejected(text).into()
        } else {
            anyhow::Error::msg(text)
        }
    }

    async fn end(&self, code: Option<i64>) -> String {
        let how = match code {
            Some(137) => "it was killed (out of memory?)".to_owned(),
            Some(code) => format!("it ended with {code}"),
            None => "it ended".to_owned(),
        };
        let last_log_lines = self.last_log_lines().await;
        format!(
            "{how}: {}",
            last_log_lines.lines().collect::<Vec<_>>().join(" | ")
        )
    }

    /// The last lines of the container's log.
    pub(in crate::etcd) async fn last_log_lines(&self) -> String {
        let options = LogsOptionsBuilder::default()
            .stdout(true)
            .stderr(true)
            .tail(LINES)
            .build();
        let mut log = self.docker.logs(NAME, Some(options));
        let mut text = String::new();
        while let Some(Ok(output)) = log.next().await {
            text.push_str(&String::from_utf8_lossy(&output.into_bytes()));
        }
        let start = text.len().saturating_sub(1500);
        let start = (start..=text.len())
            .find(|at| text.is_char_boundary(*at))
            .unwrap_or(0);
        text.split_off(start)
    }
}

/// Whether this exit code and log say that the program rejected its input. A program that was killed, or whose disk was full or broken,
/// says nothing about its input.
fn judges(code: Option<i64>, text: &str) -> bool {
    let hindered = [
        "no space left on device",
        "input/output error",
        "cannot allocate memory",
    ];
    let text = text.to_lowercase();
    code.is_some_and(|code| code != 137) && !hindered.iter().any(|words| text.contains(words))
}

/// The container: no network, no privileges on the host, and limited CPU, memory and processes.
fn body(image: &str, command: &[&str], mounts: &[Mounted]) -> ContainerCreateBody {
    let host = HostConfig {
        network_mode: Some("none".to_owned()),
        nano_cpus: Some(CPU),
        memory: Some(MEMORY),
        memory_swap: Some(MEMORY),
        pids_limit: Some(TASKS),
        // If memory is short on the host, the kernel kills this container first.
        oom_score_adj: Some(1000),
        cap_drop: Some(vec!["ALL".to_owned()]),
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        readonly_rootfs: Some(true),
        mounts: Some(mounts.iter().map(mount).collect()),
        ..HostConfig::default()
    };
    ContainerCreateBody {
        image: Some(image.to_owned()),
        user: Some("0:0".to_owned()),
        working_dir: mounts.first().map(|mounted| mounted.target.to_owned()),
        entrypoint: command.first().map(|program| vec![(*program).to_owned()]),
        cmd: command
            .get(1..)
            .map(|rest| rest.iter().map(|word| (*word).to_owned()).collect()),
        env: Some(vec!["ETCDCTL_API=3".to_owned()]),
        labels: Some([(OWNER.0.to_owned(), OWNER.1.to_owned())].into()),
        host_config: Some(host),
        ..ContainerCreateBody::default()
    }
}

fn mount(mounted: &Mounted) -> Mount {
    Mount {
        typ: Some(MountType::BIND),
        source: Some(display(&mounted.source)),
        target: Some(mounted.target.to_owned()),
        read_only: Some(mounted.read_only),
        ..Mount::default()
    }
}

fn display(path: &Path) -> String {
    path.display().to_string()
}

fn status(error: &bollard::errors::Error) -> Option<u16> {
    match error {
        bollard::errors::Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use axum::http::{Method, StatusCode};
    use axum::response::IntoResponse as _;
    use axum::{Json, Router};
    use serde_json::{Value, json};
    use tokio::net::UnixListener;

    use super::*;

    /// The container works on a copy of everything that the cluster holds, secrets included.
    #[test]
    fn it_has_no_network_and_cannot_change_the_host() {
        let mounts = [Mounted {
            source: "/copy".into(),
            target: "/data",
            read_only: true,
        }];
        let made = body("etcd:1", &["etcdctl", "snapshot"], &mounts);
        let host = made.host_config.expect("it has limits");
        assert_eq!(host.network_mode.as_deref(), Some("none"));
        assert_eq!(host.cap_drop, Some(vec!["ALL".to_owned()]));
        assert_eq!(host.cap_add, None);
        assert_ne!(host.privileged, Some(true));
        assert_eq!(
            (host.pid_mode, host.ipc_mode, host.devices),
            (None, None, None)
        );
        assert_eq!(
            host.security_opt,
            Some(vec!["no-new-privileges".to_owned()])
        );
        assert_eq!(host.readonly_rootfs, Some(true));
        for (limit, name) in [
            (host.memory, "memory"),
            (host.memory_swap, "memory and swap"),
            (host.nano_cpus, "processors"),
            (host.pids_limit, "processes"),
        ] {
            assert!(limit.is_some_and(|limit| limit > 0), "{name}");
        }
        // The highest value: the kernel ends this container before anything that the node needs.
        assert_eq!(host.oom_score_adj, Some(1000));
        let [only] = host.mounts.as_deref().unwrap_or_default() else {
            panic!("it sees what it is given, and no more");
        };
        assert_eq!(only.source.as_deref(), Some("/copy"));
        assert_eq!(only.read_only, Some(true));
        assert_eq!(host.binds, None);
    }

    /// A docker with one container, which has these labels and the name that is asked for; and whether it was removed.
    fn docker_with(labels: &Value, listener: UnixListener) -> Arc<AtomicBool> {
        let removed = Arc::new(AtomicBool::new(false));
        let removes = Arc::clone(&removed);
        let found = json!({ "Config": { "Labels": labels } });
        let app: Router = Router::new().fallback(move |method: Method| {
            let (found, removes) = (found.clone(), Arc::clone(&removes));
            async move {
                if method == Method::DELETE {
                    removes.store(true, Ordering::Relaxed);
                    StatusCode::NO_CONTENT.into_response()
                } else {
                    Json(found).into_response()
                }
            }
        });
        tokio::spawn(async move { axum::serve(listener, app).await });
        removed
    }

    #[tokio::test]
    async fn a_foreign_container_with_our_name_is_not_removed() {
        let (label, owner) = OWNER;
        for (labels, is_ours) in [
            (json!({ label: owner }), true),
            (json!({ label: "another" }), false),
            (json!({ "another": owner }), false),
            (Value::Null, false),
        ] {
            let directory = tempfile::tempdir().expect("a directory");
            let socket = directory.path().join("docker.sock");
            let listener = UnixListener::bind(&socket).expect("a socket");
            let removed = docker_with(&labels, listener);
            let socket = socket.display().to_string();
            let docker = Docker::connect_with_unix(&socket, TIMEOUT, bollard::API_DEFAULT_VERSION);
            let container = TemporaryContainer {
                docker: docker.expect("it is there"),
                image: "etcd:1".to_owned(),
            };
            let ended = container.remove().await;
            assert_eq!(ended.is_ok(), is_ours, "{labels}: {ended:?}");
            assert_eq!(removed.load(Ordering::Relaxed), is_ours, "{labels}");
        }
    }

    #[test]
    fn an_environment_error_is_not_a_verdict_on_the_snapshot() {
        assert!(judges(Some(1), "Error: snapshot file is corrupted"));
        assert!(!judges(Some(137), "it was killed"));
        assert!(!judges(None, "it ended"));
        assert!(!judges(
            Some(1),
            "write /restore/db: No space left on device"
        ));
    }
}
