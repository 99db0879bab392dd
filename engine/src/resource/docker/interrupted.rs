//! Containers of other programs that a restart of docker may end.
//!
//! They are written down before the restart, or before a stop of docker by a stop or a repair. So they are started again even if docker does not
//! come up then, or nodelet is ended: by the next restart or start of docker by nodelet, or at the end of an apply or a clean. The role's own
//! containers are brought back by its phases.
//!
//! docker may come up without nodelet, and the list stays then. So a container is not started if it has ended for another reason since.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use humantime::{format_rfc3339_nanos, parse_rfc3339};
use serde::{Deserialize, Serialize};

use crate::host::{Attributes, ContainerState, EndedRun, Host, HostError, ListedContainer};
use crate::model::{STATE, chain};
use crate::resource::{READ_LIMIT, ResourceError, ResourceResult};

/// How long docker may take to tell of one container.
const ANSWER: Duration = Duration::from_secs(5);

/// A container that ran before a restart of docker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Interrupted {
    name: String,
    /// Another container that has the name by now is not started.
    id: String,
    /// When it was last seen running; RFC 3339, UTC. Its start is not asked for: that is a request for each container.
    #[serde(default)]
    seen: String,
}

impl Interrupted {
    /// A container that runs now.
    fn of(container: &ListedContainer, now: SystemTime) -> Self {
        Self {
            name: container.name.clone(),
            id: container.id.clone(),
            seen: format_rfc3339_nanos(now).to_string(),
        }
    }

    /// Whether its last run has ended for another reason than the restart: it has been started since, or has ended although docker was up, which
    /// it has been since `up_since`. docker may end a container only when it comes up: one that has gone on without it (`live-restore`). What has
    /// ended after `before`, when nodelet began to restart docker or now, was ended by that restart, or at a time that the clock had wrong. So was a
    /// run that ended before its start.
    fn has_ended_otherwise(
        &self,
        last: EndedRun,
        up_since: Option<SystemTime>,
        before: SystemTime,
    ) -> bool {
        last.ended_at < before
            && (parse_rfc3339(&self.seen).is_ok_and(|seen| last.started_at > seen)
                && last.started_at <= last.ended_at
                || up_since.is_some_and(|up| last.ended_at > up))
    }
}

/// The file with these containers. It is there from a stop or a restart of docker until they have been started, or have ended otherwise.
fn path() -> PathBuf {
    Path::new(STATE).join("containers-to-start.json")
}

/// Adds these containers, which run now, and returns the ids of all that are to be started. `listed` are all containers, or none if docker does
/// not answer; those that have ended otherwise are taken off the list. Only a dry run restarts docker on a host without the engine's state;
/// nothing is written down there.
pub(super) async fn remember(
    host: &dyn Host,
    listed: &[ListedContainer],
    running: Vec<&ListedContainer>,
    up_since: Option<SystemTime>,
) -> ResourceResult<BTreeSet<String>> {
    if host.entry(Path::new(STATE)).await?.is_none() {
        return Ok(BTreeSet::new());
    }
    let before = read(host).await?;
    let mut all = still_to_start(host, before.clone(), listed, up_since, host.now()).await;
    for one in running {
        if all.iter().all(|its| its.id != one.id) {
            all.push(Interrupted::of(one, host.now()));
        }
    }
    if all.is_empty() && !before.is_empty() {
        forget(host).await?;
    } else if all != before {
        let json = serde_json::to_vec(&all).map_err(|source| ResourceError::NotConverged {
            what: format!("record which containers run: {source}"),
        })?;
        host.write(&path(), &json, Attributes::root(0o600)).await?;
    }
    Ok(all.into_iter().map(|one| one.id).collect())
}

/// Those of these that are still to be started, also those that are not listed. One that runs has been seen now. Those that have ended otherwise
/// are named in a warning.
async fn still_to_start(
    host: &dyn Host,
    all: Vec<Interrupted>,
    listed: &[ListedContainer],
    up_since: Option<SystemTime>,
    before: SystemTime,
) -> Vec<Interrupted> {
    let mut kept = Vec::new();
    let mut left = Vec::new();
    for one in all {
        let Some(its) = listed.iter().find(|its| its.id == one.id) else {
            kept.push(one);
            continue;
        };
        if its.running {
            kept.push(Interrupted::of(its, host.now()));
            continue;
        }
        // If docker does not tell, the container is started.
        let state = state_of(host, &its.name).await;
        match state.and_then(|state| state.ended) {
            Some(last) if one.has_ended_otherwise(last, up_since, before) => {
                left.push(its.name.as_str())
            }
            _ => kept.push(one),
        }
    }
    if !left.is_empty() {
        tracing::warn!(
            "container {} ran before a restart of docker that has failed, and is not started again: it has ended since, for another reason",
            left.join(", ")
        );
    }
    kept
}

/// What docker says of a container; `None` if it does not tell in time.
async fn state_of(host: &dyn Host, name: &str) -> Option<ContainerState> {
    let state = tokio::time::timeout(ANSWER, host.container(name)).await;
    state.ok()?.ok()?
}

/// Whether there are such containers.
pub(super) async fn are_there(host: &dyn Host) -> ResourceResult<bool> {
    Ok(!read(host).await?.is_empty())
}

/// Starts the containers that do not run, except those that have ended otherwise. docker has been up since `up_since`, and was restarted or started
/// at `before`, or this is now. One that docker cannot start is reported by this error only: its owner has to look at it.
///
/// # Errors
/// A container cannot be started. If the cause is that docker does not answer, all of them are tried again later.
pub(super) async fn start(
    host: &dyn Host,
    up_since: Option<SystemTime>,
    before: SystemTime,
) -> ResourceResult<()> {
    let all = read(host).await?;
    if all.is_empty() {
        return Ok(());
    }
    let listed = match host.containers(&BTreeMap::new()).await {
        Ok(listed) => listed,
        Err(error) => {
            let names: Vec<&str> = all.iter().map(|one| one.name.as_str()).collect();
            return Err(not_started(&names, error, true));
        }
    };
    let all = still_to_start(host, all, &listed, up_since, before).await;
    // A container with `--rm` was removed when it ended, and is not among them.
    let ended = listed.iter().filter(|one| !one.running);
    let ended: BTreeMap<&str, &str> = ended
        .map(|one| (one.id.as_str(), one.name.as_str()))
        .collect();
    let ended = all.iter().filter_map(|one| ended.get(one.id.as_str()));
    let Err((names, error)) = start_each(host, ended.copied().collect()).await else {
        return Ok(host.remove(&path()).await?);
    };
    let stays = !works(host).await;
    if !stays {
        host.remove(&path()).await?;
    }
    Err(not_started(&names, error, stays))
}

/// Starts these containers, each that fails once more while others start: it may use the network of one of them. Returns those that do not start,
/// and why the first of them does not. They are not tried any more once docker does not work.
async fn start_each<'a>(
    host: &dyn Host,
    mut names: Vec<&'a str>,
) -> Result<(), (Vec<&'a str>, HostError)> {
    loop {
        let mut failed = Vec::new();
        let mut first = None;
        let mut works_on = true;
        for &name in &names {
            if !works_on {
                failed.push(name);
                continue;
            }
            let Err(error) = host.start_container(name).await else {
                continue;
            };
            failed.push(name);
            works_on = !matches!(error, HostError::Deadline { .. }) || works(host).await;
            first.get_or_insert(error);
        }
        let Some(error) = first else {
            return Ok(());
        };
        if !works_on || failed.len() == names.len() {
            return Err((failed, error));
        }
        names = failed;
    }
}

/// Whether docker can start containers. Pings are answered for a while without containerd, and the version is not.
async fn works(host: &dyn Host) -> bool {
    let version = tokio::time::timeout(ANSWER, host.container_runtime_version()).await;
    matches!(version, Ok(Ok(_)))
}

/// Removes the list if there is one.
pub(super) async fn forget(host: &dyn Host) -> ResourceResult<()> {
    if host.entry(&path()).await?.is_some() {
        host.remove(&path()).await?;
    }
    Ok(())
}

/// The error for containers of which docker could start none or not all. While the list `stays`, each clean tries again, and the error says how
/// that ends.
fn not_started(names: &[&str], error: HostError, stays: bool) -> ResourceError {
    let names = names.join(", ");
    let command = format!("`docker start {}`", names.replace(", ", " "));
    let next = match stays {
        true => format!(
            "start docker first, then {command} or `nodelet clean`; or remove {} if these containers are not needed",
            path().display()
        ),
        false => command,
    };
    ResourceError::Host(HostError::service(
        format!(
            "start container {names} again, which is not the role's and ran before a restart of docker (next: {next})"
        ),
        error,
    ))
}

/// The containers that were written down. A list that cannot be read counts as lost, and is removed.
async fn read(host: &dyn Host) -> ResourceResult<Vec<Interrupted>> {
    let Some(json) = host.read(&path(), READ_LIMIT).await? else {
        return Ok(Vec::new());
    };
    match serde_json::from_slice(&json) {
        Ok(all) => Ok(all),
        Err(error) => {
            let error = chain(&error).join(": ");
            tracing::warn!(
                "{} counts as lost, and is removed: {error}",
                path().display()
            );
            host.remove(&path()).await?;
            Ok(Vec::new())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::{FakeHost, FaultPlan};
    use crate::host::{Clock as _, ContainerConfig, Containers as _, Services as _};
    use crate::resource::docker::container_runtime::tests::{
        FILE, interrupted_host, interrupted_host_of,
    };
    use crate::resource::docker::container_runtime::{self, UNIT};
    use crate::resource::tests::{apply_in, context};
    use crate::resource::{Receipt, Resource as _, ServiceSpec, Undo};

    #[test]
    fn a_restart_ends_what_ran_before_it_until_docker_is_up() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let one = Interrupted {
            name: "theirs".to_owned(),
            id: "1".to_owned(),
            seen: format_rfc3339_nanos(at(100)).to_string(),
        };
        for (started, ended, otherwise) in [
            (50, 101, false),
            (50, 199, false),
            (50, 201, true),
            (120, 150, true),
            // The clock was set back while it ran.
            (160, 150, false),
            // It is 300 now, so the clock was wrong, or the restart that began then has ended it.
            (50, 301, false),
            (120, 301, false),
        ] {
            let last = EndedRun {
                started_at: at(started),
                ended_at: at(ended),
            };
            let said = one.has_ended_otherwise(last, Some(at(200)), at(300));
            assert_eq!(said, otherwise, "{started} to {ended}");
        }
        // Of a version that wrote another time down.
        let one = r#"{"name": "theirs", "id": "1", "started": "1970-01-01T00:00:50Z"}"#;
        let one: Interrupted = serde_json::from_str(one).expect("it is read");
        let last = EndedRun {
            started_at: at(120),
            ended_at: at(150),
        };
        assert!(!one.has_ended_otherwise(last, Some(at(200)), at(300)));
    }

    #[tokio::test]
    async fn a_list_that_cannot_be_read_is_removed() {
        let host = interrupted_host().await;
        host.with_world_mut(|world| world.file(path(), "no JSON"));
        let left = are_there(&host).await;
        assert!(!left.expect("the disk is in order"));
        assert_eq!(host.with_world(|world| world.text(path())), None);
    }

    /// A host on whose list is a container that its owner has started again.
    async fn started_again() -> FakeHost {
        let host = interrupted_host().await;
        host.start_unit(UNIT).await.expect("it starts");
        host.pause(Duration::from_secs(3600)).await;
        let started = host.start_container("theirs").await;
        started.expect("it starts");
        host.pause(Duration::from_secs(3600)).await;
        host
    }

    /// docker was restarted then without nodelet.
    #[tokio::test(start_paused = true)]
    async fn another_run_than_the_one_that_was_seen_is_not_started_again() {
        let host = started_again().await;
        host.restart_unit(UNIT).await.expect("it restarts");
        host.pause(Duration::from_secs(3600)).await;
        let done = container_runtime::start_interrupted(&host).await;
        done.expect("docker answers");
        assert!(!host.with_world(|world| world.container_runs("theirs")));
        assert_eq!(host.with_world(|world| world.text(path())), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_container_runs_again_after_a_restart_of_a_docker_that_does_not_answer() {
        let host = started_again().await;
        let silent = FaultPlan::none().fail("container_runtime", "*");
        host.set_faults(silent.times(1));
        let restarted = container_runtime::restart(&host, UNIT).await;
        restarted.expect("it answers after its restart");
        assert!(host.with_world(|world| world.container_runs("theirs")));
    }

    /// docker has come up without nodelet after a restart that has failed, so the list is still there weeks later.
    #[tokio::test(start_paused = true)]
    async fn a_container_on_the_list_that_its_owner_has_ended_is_not_started() {
        let week = Duration::from_secs(7 * 24 * 3600);
        for live_restore in [false, true] {
            for next in ["restart", "stop", "absent", "undo", "clean"] {
                let names = ["theirs", "stopped", "running"];
                let host = interrupted_host_of(&names, live_restore).await;
                host.start_unit(UNIT).await.expect("it starts");
                // Nothing has started `theirs` again, unless it has gone on without docker.
                for name in ["stopped", "running"] {
                    host.start_container(name).await.expect("it starts");
                }
                host.pause(week).await;
                let stopped = host.stop_container("stopped", Duration::ZERO).await;
                stopped.expect("it ends");
                host.pause(week).await;
                match next {
                    "restart" => container_runtime::restart(&host, UNIT)
                        .await
                        .expect("it restarts"),
                    "stop" | "absent" | "undo" => {
                        stop(&host, next).await;
                        assert!(!host.with_world(|world| world.unit_active(UNIT)));
                        host.start_unit(UNIT).await.expect("it starts");
                        container_runtime::after_start(&host, UNIT, host.now()).await;
                    }
                    _ => container_runtime::start_interrupted(&host)
                        .await
                        .expect("docker answers"),
                }
                let case = format!("{next}, live-restore: {live_restore}");
                let runs = |name: &str| host.with_world(|world| world.container_runs(name));
                assert!(runs("theirs") && runs("running"), "{case}");
                assert!(!runs("stopped"), "{case}");
                let list = host.with_world(|world| world.text(path()));
                assert_eq!(list, None, "{case}");
            }
        }
    }

    /// A repair stops docker and starts it again. What goes on without docker is not started: it may have ended by itself.
    #[tokio::test(start_paused = true)]
    async fn containers_of_others_that_a_stop_has_ended_run_again_after_the_next_start() {
        for live_restore in [false, true] {
            let host = FakeHost::new().with_docker().with_directory(STATE);
            let file = format!(r#"{{"live-restore": {live_restore}}}"#);
            host.with_world_mut(|world| {
                world.container(ContainerConfig::bare("theirs", "app:1"));
                world.file(FILE, &file);
            });
            host.reload_unit(UNIT).await.expect("it is reloaded");
            container_runtime::before_stop(&host, UNIT).await;
            host.stop_unit(UNIT).await.expect("it ends");
            let runs = || host.with_world(|world| world.container_runs("theirs"));
            assert_eq!(runs(), live_restore);
            let list = host.with_world(|world| world.text(path()));
            assert_eq!(list.is_some(), !live_restore);
            host.start_unit(UNIT).await.expect("it starts");
            container_runtime::after_start(&host, UNIT, host.now()).await;
            assert!(runs());
            assert_eq!(host.with_world(|world| world.text(path())), None);
        }
    }

    /// It is a part of the step that stops docker.
    #[tokio::test(start_paused = true)]
    async fn a_stop_does_not_wait_for_a_docker_that_does_not_tell_what_runs() {
        for silent in ["containers", "container"] {
            let host = interrupted_host().await;
            host.start_unit(UNIT).await.expect("it starts");
            host.with_world_mut(|world| world.container(ContainerConfig::bare("new", "app:1")));
            host.set_faults(FaultPlan::none().stall(silent, "*"));
            let bound = container_runtime::LOOK + Duration::from_secs(1);
            let looked =
                tokio::time::timeout(bound, container_runtime::before_stop(&host, UNIT)).await;
            looked.expect(silent);
            let list = host.with_world(|world| world.text(path()));
            let list = list.expect("it stays");
            // What is on the list already is asked for, and what runs is only listed.
            assert_eq!(list.contains("\"new\""), silent == "container", "{silent}");
        }
    }

    /// nodelet was ended between the start of docker and of `theirs`.
    #[tokio::test(start_paused = true)]
    async fn the_next_apply_starts_what_an_ended_run_has_left() {
        let host = interrupted_host().await;
        let runs = || host.with_world(|world| world.container_runs("theirs"));
        let started = container_runtime::start_interrupted_if_up(&host).await;
        started.expect("docker is down, and stays so");
        assert!(host.with_world(|world| world.text(path())).is_some());
        host.start_unit(UNIT).await.expect("it starts");
        assert!(!runs());
        let started = container_runtime::start_interrupted_if_up(&host).await;
        started.expect("it starts");
        assert!(runs());
        assert_eq!(host.with_world(|world| world.text(path())), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_list_stays_while_docker_cannot_start_containers() {
        let host = interrupted_host().await;
        host.start_unit(UNIT).await.expect("it starts");
        let faults = FaultPlan::none().fail("start_container", "*");
        host.set_faults(faults.fail("container_runtime", "*"));
        let error = container_runtime::start_interrupted(&host).await;
        let error = error.expect_err("nothing starts").to_string();
        assert!(error.contains("start docker first"), "{error}");
        assert!(host.with_world(|world| world.text(path())).is_some());
        host.set_faults(FaultPlan::none());
        let started = container_runtime::start_interrupted(&host).await;
        started.expect("it starts");
        assert!(host.with_world(|world| world.container_runs("theirs")));
    }

    /// The first one, in the order of the names, uses the network of the second.
    #[tokio::test(start_paused = true)]
    async fn a_container_that_needs_another_one_is_tried_after_it() {
        let host = interrupted_host_of(&["app", "db"], false).await;
        host.start_unit(UNIT).await.expect("it starts");
        host.set_faults(FaultPlan::none().fail("start_container", "app").times(1));
        let started = container_runtime::start_interrupted(&host).await;
        started.expect("both start");
        let runs = |name: &str| host.with_world(|world| world.container_runs(name));
        assert!(runs("app") && runs("db"));
    }

    /// Stops docker in this way.
    async fn stop(host: &FakeHost, how: &str) {
        let (cx, mut ignored) = (context(host), Receipt::default());
        let mut docker = ServiceSpec::bare(UNIT);
        docker.started = how != "absent";
        let name = UNIT.to_owned();
        let stopped = match how {
            "stop" => docker.quiesce(&cx, &mut ignored).await.map(drop),
            "absent" => apply_in(&cx, &docker, &mut ignored).await.map(drop),
            _ => Undo::StopUnit { name }.carry_out(host).await,
        };
        stopped.expect("it ends");
    }
}
