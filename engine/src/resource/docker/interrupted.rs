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
use crate::resource::docker::ending;
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
/// at `before`, or this is now. Returns the names of those that were started. One that docker cannot start is reported by this error only: its
/// owner has to look at it.
///
/// # Errors
/// A container cannot be started. If the cause is that docker does not answer, all of them are tried again later.
pub(super) async fn start(
    host: &dyn Host,
    up_since: Option<SystemTime>,
    before: SystemTime,
) -> (Vec<String>, ResourceResult<()>) {
    let mut started = Vec::new();
    let result = start_into(host, up_since, before, &mut started).await;
    (started, result)
}

async fn start_into(
    host: &dyn Host,
    up_since: Option<SystemTime>,
    before: SystemTime,
    started: &mut Vec<String>,
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
    let ended = start_ended(host, &listed, &ids(&all)).await;
    let failed = ended.as_ref().err().map_or(&[][..], |(names, _)| names);
    *started = ended_of(&listed, &ids(&all))
        .filter(|name| !failed.contains(name))
        .map(str::to_owned)
        .collect();
    let Err((names, error)) = ended else {
        return Ok(host.remove(&path()).await?);
    };
    let stays = !works(host).await;
    if !stays {
        host.remove(&path()).await?;
    }
    Err(not_started(&names, error, stays))
}

/// The names of those that [`start`] would start now. None, if docker does not tell. Changes nothing.
pub(super) async fn names_to_start(host: &dyn Host, up_since: Option<SystemTime>) -> Vec<String> {
    let (Ok(all), Some(listed)) = (read(host).await, ending::listed_in_time(host).await) else {
        return Vec::new();
    };
    let all = still_to_start(host, all, &listed, up_since, host.now()).await;
    ended_of(&listed, &ids(&all)).map(str::to_owned).collect()
}

fn ids(all: &[Interrupted]) -> BTreeSet<&str> {
    all.iter().map(|one| one.id.as_str()).collect()
}

/// Starts the containers with these ids that do not run, those of the role and those of others. They are not known by name: another container may
/// have the name by now. A container with `--rm` was removed when it ended, and is not `listed`.
///
/// # Errors
/// The names of those that do not start, and why the first of them does not.
pub(super) async fn start_ended<'a>(
    host: &dyn Host,
    listed: &'a [ListedContainer],
    ids: &BTreeSet<&str>,
) -> Result<(), (Vec<&'a str>, HostError)> {
    start_each(host, ended_of(listed, ids).collect()).await
}

/// The names of those with these ids that docker lists, and that do not run.
fn ended_of<'a>(
    listed: &'a [ListedContainer],
    ids: &BTreeSet<&str>,
) -> impl Iterator<Item = &'a str> {
    let ended = listed.iter();
    let ended = ended.filter(|one| !one.running && ids.contains(one.id.as_str()));
    ended.map(|one| one.name.as_str())
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
mod tests;
