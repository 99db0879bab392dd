//! Containers and images of the machine's docker.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::models::{
    ContainerInspectResponse, ContainerSummary, ContainerSummaryStateEnum, SystemInfo,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, ImportImageOptionsBuilder, ListContainersOptionsBuilder,
    LogsOptionsBuilder, RemoveContainerOptionsBuilder, RemoveImageOptions,
    StopContainerOptionsBuilder, TagImageOptionsBuilder,
};
use bytes::Bytes;
use child_process::Tail;
use futures::{Stream, StreamExt, TryStreamExt};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::fs::File;
use tokio::io::AsyncReadExt;

use super::{container_config, image_archive};
use crate::host::live::LiveHost;
use crate::host::live::backoff::Backoff;
use crate::host::live::blocking::{blocking, file_error, within};
use crate::host::live::docker::client::{USUAL, status};
use crate::host::live::docker::pending_loads;
use crate::host::live::process::age;
use crate::host::{
    ArchivedImage, CommandOutput, ContainerConfig, ContainerState, Containers, EndedRun, HostError,
    HostResult, ImageState, ListedContainer, PRESENCE,
};

/// Deadline for loading an image.
const LOAD: Duration = Duration::from_secs(5 * 60);

/// What a container may take to die beyond the grace it was given.
const KILL: Duration = Duration::from_secs(10);

#[async_trait::async_trait]
impl Containers for LiveHost {
    async fn container_runtime_within(&self, timeout: Duration) -> HostResult<()> {
        let ping = self
            .runtime
            .call("see whether docker answers", timeout, |docker| async move {
                docker.ping().await
            });
        ping.await.map(drop)
    }

    async fn container_runtime_version(&self) -> HostResult<String> {
        let answer = self
            .runtime
            .call(
                "ask docker for its version",
                PRESENCE,
                |docker| async move { docker.version().await },
            )
            .await?;
        Ok(answer.version.unwrap_or_default())
    }

    async fn container_runtime_root(&self) -> HostResult<PathBuf> {
        let information = self.information("ask docker where it keeps images").await?;
        let root = information.docker_root_dir.filter(|root| !root.is_empty());
        Ok(PathBuf::from(root.as_deref().unwrap_or("/var/lib/docker")))
    }

    async fn containers_outlive_runtime(&self) -> HostResult<bool> {
        let information = self
            .information("ask docker whether its containers outlive it")
            .await?;
        Ok(information.live_restore_enabled == Some(true))
    }

    async fn image(&self, reference: &str) -> HostResult<Option<ImageState>> {
        let name = plain(reference, ":@/")?;
        let found = self
            .runtime
            .find(format!("inspect image {name}"), |docker| {
                let name = name.clone();
                async move { docker.inspect_image(&name).await }
            })
            .await?;
        let Some(image) = found else { return Ok(None) };
        let reference = reference.to_owned();
        if blocking(move || Ok(pending_loads::is_half(&reference))).await? {
            return Ok(None);
        }
        Ok(Some(ImageState {
            id: image.id.unwrap_or_default(),
        }))
    }

    async fn archived_images(&self, archive: &Path) -> HostResult<Option<Vec<ArchivedImage>>> {
        let archive = archive.to_owned();
        blocking(move || image_archive::images(&archive)).await
    }

    async fn tag_image(&self, id: &str, reference: &str) -> HostResult<()> {
        let (id, reference) = (plain(id, ":")?, plain(reference, ":@/")?);
        let (name, tag) = match reference.rsplit_once(':') {
            // If a slash follows the colon, the colon begins a port and not a tag.
            Some((name, tag)) if !tag.contains('/') => (name, tag),
            _ => (reference.as_str(), "latest"),
        };
        let options = TagImageOptionsBuilder::default()
            .repo(name)
            .tag(tag)
            .build();
        self.runtime
            .call(
                format!("give image {id} the reference {reference}"),
                USUAL,
                |docker| async move { docker.tag_image(&id, Some(options)).await },
            )
            .await
    }

    async fn load_image(&self, archive: &Path) -> HostResult<()> {
        let file = File::open(archive)
            .await
            .map_err(file_error("open", archive))?;
        let root = self.container_runtime_root().await?;
        let brings = self.archived_images(archive).await?.unwrap_or_default();
        let brings: Vec<String> = brings.into_iter().map(|image| image.reference).collect();
        let begun = archive.to_owned();
        let half = blocking(move || {
            pending_loads::begin(&begun, &brings).map_err(file_error("note the load of", &begun))
        });
        for reference in half.await? {
            match self.drop_image(&reference).await {
                // An image that a container uses is complete: its layers were there before.
                Err(HostError::InUse { .. }) => {}
                dropped => dropped?,
            }
        }
        let options = ImportImageOptionsBuilder::default().quiet(true).build();
        self.runtime
            .call(
                format!("load image {}", archive.display()),
                LOAD,
                |docker| async move {
                    docker
                        .import_image_stream(options, chunks(file), None)
                        .try_for_each(|_| async { Ok(()) })
                        .await
                },
            )
            .await
            .map_err(|error| damaged(archive, error))?;
        let loaded = archive.to_owned();
        blocking(move || {
            pending_loads::end(&loaded, &root)
                .map_err(file_error("sync to disk the images of", &loaded))
        })
        .await
    }

    async fn remove_image(&self, reference: &str) -> HostResult<()> {
        self.drop_image(reference).await?;
        let reference = reference.to_owned();
        blocking(move || {
            let about = Path::new(&reference);
            pending_loads::forget(&reference).map_err(file_error("forget the load of", about))
        })
        .await
    }

    async fn container(&self, name: &str) -> HostResult<Option<ContainerState>> {
        Ok(self.inspect(name).await?.map(state))
    }

    async fn containers(
        &self,
        labels: &BTreeMap<String, String>,
    ) -> HostResult<Vec<ListedContainer>> {
        let wanted = labels
            .iter()
            .map(|(key, value)| match value.as_str() {
                "" => key.clone(),
                value => format!("{key}={value}"),
            })
            .collect();
        let filters = HashMap::from([("label".to_owned(), wanted)]);
        let options = ListContainersOptionsBuilder::default()
            .all(true)
            .filters(&filters)
            .build();
        let listed = self
            .runtime
            .call("list containers", USUAL, |docker| async move {
                docker.list_containers(Some(options)).await
            })
            .await?;
        let mut found: Vec<ListedContainer> = listed.into_iter().map(summary).collect();
        found.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(found)
    }

    async fn create_container(&self, config: &ContainerConfig) -> HostResult<String> {
        let name = plain(&config.name, "")?;
        let body = container_config::body(config)?;
        let options = CreateContainerOptionsBuilder::default().name(&name).build();
        let created = self
            .runtime
            .call(
                format!("create container {name}"),
                USUAL,
                |docker| async move { docker.create_container(Some(options), body).await },
            )
            .await?;
        Ok(created.id)
    }

    async fn container_config(&self, name: &str) -> HostResult<Option<ContainerConfig>> {
        let Some(container) = self.inspect(name).await? else {
            return Ok(None);
        };
        let labels = container
            .config
            .as_ref()
            .and_then(|config| config.labels.as_ref());
        Ok(container_config::carried(labels))
    }

    async fn start_container(&self, name: &str) -> HostResult<()> {
        let name = plain(name, "")?;
        self.runtime
            .call(format!("start container {name}"), USUAL, |docker| {
                let name = name.clone();
                async move { docker.start_container(&name, None).await }
            })
            .await
    }

    async fn stop_container(&self, name: &str, grace: Duration) -> HostResult<()> {
        let name = plain(name, "")?;
        let seconds = grace.as_secs() + u64::from(grace.subsec_nanos() > 0);
        let options = StopContainerOptionsBuilder::default()
            .t(i32::try_from(seconds).unwrap_or(i32::MAX))
            .build();
        self.runtime
            .find_within(format!("stop container {name}"), grace + KILL, |docker| {
                let name = name.clone();
                async move { docker.stop_container(&name, Some(options)).await }
            })
            .await?;
        Ok(())
    }

    async fn remove_container(&self, name: &str) -> HostResult<()> {
        let name = plain(name, "")?;
        let action = || format!("remove container {name}");
        within(USUAL, action, async {
            let mut backoff = Backoff::new(USUAL);
            loop {
                let options = RemoveContainerOptionsBuilder::default()
                    .force(true)
                    .v(true)
                    .build();
                let removed = self
                    .runtime
                    .find(action(), |docker| {
                        let name = name.clone();
                        async move {
                            match docker.remove_container(&name, Some(options)).await {
                                Ok(()) => Ok(true),
                                // Another client, or the runtime itself, is already removing it.
                                Err(error) if status(&error) == Some(409) => Ok(false),
                                Err(error) => Err(error),
                            }
                        }
                    })
                    .await?;
                if removed != Some(false) || !backoff.pause().await {
                    return Ok(());
                }
            }
        })
        .await
    }

    async fn container_log(&self, name: &str, lines: usize) -> HostResult<String> {
        let name = plain(name, "")?;
        let options = LogsOptionsBuilder::default()
            .stdout(true)
            .stderr(true)
            .tail(&lines.to_string())
            .build();
        self.runtime
            .call(
                format!("read the log of container {name}"),
                USUAL,
                |docker| {
                    let name = name.clone();
                    async move {
                        let mut tail = Tail::new(CommandOutput::LIMIT);
                        let mut log = docker.logs(&name, Some(options));
                        while let Some(output) = log.next().await {
                            tail.push(&LogOutput::into_bytes(output?));
                        }
                        Ok(tail.text())
                    }
                },
            )
            .await
    }
}

impl LiveHost {
    /// What docker says of itself. docker asks other programs for some of it.
    async fn information(&self, action: &str) -> HostResult<SystemInfo> {
        let ask = |docker: Docker| async move { docker.info().await };
        self.runtime.call(action, USUAL, ask).await
    }

    /// Removes an image; fine if there is none.
    ///
    /// # Errors
    /// [`HostError::InUse`] if a container uses it.
    async fn drop_image(&self, reference: &str) -> HostResult<()> {
        let name = plain(reference, ":@/")?;
        let action = format!("remove image {name}");
        let refused = self
            .runtime
            .find(action.clone(), |docker| async move {
                let removed = docker.remove_image(&name, None::<RemoveImageOptions>, None);
                match removed.await {
                    Err(error) if status(&error) == Some(409) => Ok(Some(error)),
                    removed => removed.map(|_| None),
                }
            })
            .await?;
        match refused.flatten() {
            Some(error) => Err(HostError::in_use(action, error)),
            None => Ok(()),
        }
    }

    async fn inspect(&self, name: &str) -> HostResult<Option<ContainerInspectResponse>> {
        let name = plain(name, "")?;
        self.runtime
            .find(format!("inspect container {name}"), |docker| {
                let name = name.clone();
                async move { docker.inspect_container(&name, None).await }
            })
            .await
    }
}

/// What docker says of an archive that was truncated or altered. It unpacks an archive to a directory with the last of these names.
const DAMAGE: [&str; 3] = ["invalid tar header", "unexpected EOF", "/docker-import-"];

/// The error, turned into one about the archive if the archive is the cause.
fn damaged(archive: &Path, error: HostError) -> HostError {
    let HostError::Service { source, .. } = &error else {
        return error;
    };
    let text = source.to_string();
    if DAMAGE.iter().any(|sign| text.contains(sign)) && !text.contains("no space left") {
        return HostError::Damaged {
            path: archive.to_owned(),
            source: Box::new(error),
        };
    }
    error
}

/// A name that cannot change the meaning of the URL it becomes part of.
pub(in crate::host::live) fn plain(name: &str, also: &str) -> HostResult<String> {
    let fits = |one: char| one.is_ascii_alphanumeric() || "_.-".contains(one) || also.contains(one);
    let relative = name
        .split('/')
        .any(|part| part.is_empty() || part == "." || part == "..");
    if name.chars().all(fits) && !relative {
        return Ok(name.to_owned());
    }
    Err(HostError::service(
        format!("name {name:?} to docker"),
        "letters, digits and `_.-` are allowed, in an image also `:@/`",
    ))
}

/// The file piece by piece, so that a whole image is never in memory.
fn chunks(file: File) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    futures::stream::try_unfold(file, |mut file| async move {
        let mut chunk = vec![0; 256 * 1024];
        let length = file.read(&mut chunk).await?;
        chunk.truncate(length);
        Ok((length > 0).then(|| (Bytes::from(chunk), file)))
    })
}

fn summary(listed: ContainerSummary) -> ListedContainer {
    // A linked container is also listed under the names that other containers use for it, which have two slashes.
    let names = listed.names.unwrap_or_default();
    let own = |name: &String| name.matches('/').count() == 1;
    let name = names.iter().find(|name| own(name)).or(names.first());
    ListedContainer {
        id: listed.id.unwrap_or_default(),
        name: name.map_or_else(String::new, |name| name.trim_start_matches('/').to_owned()),
        image: listed.image.unwrap_or_default(),
        // Between two attempts nothing runs, and the runtime says `restarting`.
        running: matches!(
            listed.state,
            Some(
                ContainerSummaryStateEnum::RUNNING
                    | ContainerSummaryStateEnum::PAUSED
                    | ContainerSummaryStateEnum::STOPPING
            )
        ),
        paused: listed.state == Some(ContainerSummaryStateEnum::PAUSED),
        host_network: listed
            .host_config
            .and_then(|config| config.network_mode)
            .is_some_and(|mode| mode == "host"),
        labels: container_config::labels(listed.labels.as_ref()),
    }
}

fn state(reported: ContainerInspectResponse) -> ContainerState {
    let run = reported.state.unwrap_or_default();
    let config = reported.config.unwrap_or_default();
    // Between two attempts the runtime says both running and restarting, while nothing runs.
    let restarting = run.restarting.unwrap_or(false);
    let running = run.running.unwrap_or(false) && !restarting;
    let times = (run.started_at.as_deref(), run.finished_at.as_deref());
    let ended = match times {
        (Some(started), Some(ended)) if !running && !restarting => ended_run(started, ended),
        _ => None,
    };
    ContainerState {
        id: reported.id.unwrap_or_default(),
        name: reported
            .name
            .unwrap_or_default()
            .trim_start_matches('/')
            .to_owned(),
        running,
        paused: run.paused.unwrap_or(false),
        exit_code: run.exit_code.unwrap_or(0),
        started_at: run
            .started_at
            .as_deref()
            .filter(|_| running)
            .and_then(instant)
            .map(|said| age::began(said, run.pid.unwrap_or(-1))),
        ended,
        restarts: reported
            .restart_count
            .and_then(|count| u64::try_from(count).ok())
            .unwrap_or(0),
        image: config.image.unwrap_or_default(),
        host_network: reported
            .host_config
            .and_then(|config| config.network_mode)
            .is_some_and(|mode| mode == "host"),
        labels: container_config::labels(config.labels.as_ref()),
    }
}

/// A run with these times; `None` if there was none.
fn ended_run(started: &str, ended: &str) -> Option<EndedRun> {
    Some(EndedRun {
        started_at: instant(started)?,
        ended_at: instant(ended)?,
    })
}

/// A time as the runtime writes it; year 1 means never.
fn instant(text: &str) -> Option<SystemTime> {
    OffsetDateTime::parse(text, &Rfc3339)
        .ok()
        .filter(|time| time.year() > 1)
        .map(SystemTime::from)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::thread;

    use super::*;
    use crate::host::live::docker::client::DockerClient;

    /// Answers one request as a docker in which each container has written these lines.
    fn answer(mut stream: UnixStream, lines: &[String]) -> Option<()> {
        let mut head = BufReader::new(stream.try_clone().ok()?).lines();
        let request = head.next()?.ok()?;
        while !head.next()?.ok()?.is_empty() {}
        let target = request.split_whitespace().nth(1)?;
        let body: Vec<u8> = match target.split_once("tail=") {
            // The log: each line after the number of its stream and its length.
            Some((_, tail)) => {
                let tail = tail.split('&').next()?.parse().unwrap_or(lines.len());
                let kept = &lines[lines.len().saturating_sub(tail)..];
                kept.iter().flat_map(|line| framed(line)).collect()
            }
            None => br#"{"ApiVersion": "1.41"}"#.to_vec(),
        };
        let length = body.len();
        write!(
            stream,
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        )
        .ok()?;
        stream.write_all(&body).ok()
    }

    fn framed(line: &str) -> Vec<u8> {
        let length = u32::try_from(line.len()).expect("it is short");
        [&[1, 0, 0, 0][..], &length.to_be_bytes(), line.as_bytes()].concat()
    }

    /// The runtime starts it again by itself, so no run of it is the last.
    #[test]
    fn a_container_between_two_attempts_has_not_ended() {
        for restarting in [true, false] {
            let run = bollard::models::ContainerState {
                running: Some(restarting),
                restarting: Some(restarting),
                started_at: Some("2024-01-01T00:00:00Z".to_owned()),
                finished_at: Some("2024-01-01T00:00:01Z".to_owned()),
                ..Default::default()
            };
            let state = state(ContainerInspectResponse {
                state: Some(run),
                ..Default::default()
            });
            assert!(!state.running);
            assert_eq!(state.ended.is_none(), restarting);
        }
    }

    /// docker keeps a log of any size, and an error shows the end of it.
    #[tokio::test]
    async fn the_log_of_a_container_is_its_last_lines() {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("docker.sock");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let lines: Vec<String> = (0..100).map(|number| format!("line {number}\n")).collect();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                answer(stream, &lines);
            }
        });
        let host = LiveHost {
            runtime: DockerClient::at(&socket.display().to_string()),
            ..LiveHost::new()
        };
        for (asked, log) in [
            (0, ""),
            (1, "line 99\n"),
            (3, "line 97\nline 98\nline 99\n"),
        ] {
            let said = host.container_log("etcd", asked).await;
            assert_eq!(said.expect("docker answers"), log, "{asked}");
        }
    }

    #[test]
    fn never_is_no_time() {
        assert_eq!(instant("0001-01-01T00:00:00Z"), None);
        let text = "2026-03-04T05:06:07.123456789Z";
        assert_eq!(ended_run("0001-01-01T00:00:00Z", text), None);
        let some = instant(text).expect("a time");
        let since = some
            .duration_since(SystemTime::UNIX_EPOCH)
            .expect("after 1970");
        assert_eq!(since.subsec_nanos(), 123_456_789);
    }

    #[test]
    fn names_stay_names() {
        assert!(plain("pf9-etcd_1.a", "").is_ok());
        for bad in ["", "a/b", "a?x=1", "..", "a b", "a#"] {
            assert!(plain(bad, "").is_err(), "{bad}");
        }
        assert!(plain("registry.local:5000/a/b@sha256:00", ":@/").is_ok());
        assert!(plain("a/../b", ":@/").is_err());
    }
}
