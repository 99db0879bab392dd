//! Containers of other programs that a restart of docker may end.
//!
//! They are written down before the restart. So they are started again even if docker does not come up then, or nodelet is ended: by the next
//! restart or start of docker by nodelet, or at the end of a clean. The role's own containers are brought back by its phases.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::host::{Attributes, Host, HostError, ListedContainer};
use crate::model::{STATE, chain};
use crate::resource::{READ_LIMIT, ResourceError, ResourceResult};

/// A container that ran before a restart of docker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Interrupted {
    name: String,
    /// Another container that has the name by now is not started.
    id: String,
}

impl Interrupted {
    pub(super) fn of(container: &ListedContainer) -> Self {
        Self {
            name: container.name.clone(),
            id: container.id.clone(),
        }
    }
}

/// The file with these containers. It is there from a restart of docker until they have been started.
fn path() -> PathBuf {
    Path::new(STATE).join("containers-to-start.json")
}

/// Adds the containers that run now, and returns the ids of all that are to be started. Only a dry run restarts docker on a host without the
/// engine's state; nothing is written down there.
pub(super) async fn remember(
    host: &dyn Host,
    running: Vec<Interrupted>,
) -> ResourceResult<BTreeSet<String>> {
    if host.entry(Path::new(STATE)).await?.is_none() {
        return Ok(BTreeSet::new());
    }
    let before = read(host).await?;
    let mut all = before.clone();
    all.extend(running.into_iter().filter(|one| !before.contains(one)));
    if all != before {
        let json = serde_json::to_vec(&all).map_err(|source| ResourceError::NotConverged {
            what: format!("record which containers run: {source}"),
        })?;
        host.write(&path(), &json, Attributes::root(0o600)).await?;
    }
    Ok(all.into_iter().map(|one| one.id).collect())
}

/// Whether there are such containers.
pub(super) async fn are_there(host: &dyn Host) -> ResourceResult<bool> {
    Ok(!read(host).await?.is_empty())
}

/// Starts the containers that do not run. One that docker cannot start is reported by this error only: its owner has to look at it.
///
/// # Errors
/// A container cannot be started. If the cause is that docker does not answer, all of them are tried again later.
pub(super) async fn start(host: &dyn Host) -> ResourceResult<()> {
    let all = read(host).await?;
    if all.is_empty() {
        return Ok(());
    }
    let listed = match host.containers(&BTreeMap::new()).await {
        Ok(listed) => listed,
        Err(error) => {
            let names: Vec<&str> = all.iter().map(|one| one.name.as_str()).collect();
            return Err(not_started(&names, error));
        }
    };
    // A container with `--rm` was removed when it ended, and is not among them.
    let ended = listed.iter().filter(|one| !one.running);
    let ended: BTreeMap<&str, &str> = ended
        .map(|one| (one.id.as_str(), one.name.as_str()))
        .collect();
    let mut names = Vec::new();
    let mut first = None;
    for name in all.iter().filter_map(|one| ended.get(one.id.as_str())) {
        if let Err(error) = host.start_container(name).await {
            names.push(*name);
            first.get_or_insert(error);
        }
    }
    if first.is_none() || host.container_runtime().await.is_ok() {
        host.remove(&path()).await?;
    }
    match first {
        None => Ok(()),
        Some(error) => Err(not_started(&names, error)),
    }
}

/// Removes the list.
pub(super) async fn forget(host: &dyn Host) -> ResourceResult<()> {
    Ok(host.remove(&path()).await?)
}

fn not_started(names: &[&str], error: HostError) -> ResourceError {
    let names = names.join(", ");
    ResourceError::Host(HostError::service(
        format!(
            "start container {names} again, which is not the role's and ran before a restart of docker (next: `docker start {}`)",
            names.replace(", ", " ")
        ),
        error,
    ))
}

/// The containers that were written down. A list that cannot be read counts as lost.
async fn read(host: &dyn Host) -> ResourceResult<Vec<Interrupted>> {
    let Some(json) = host.read(&path(), READ_LIMIT).await? else {
        return Ok(Vec::new());
    };
    Ok(serde_json::from_slice(&json).unwrap_or_else(|error| {
        let error = chain(&error).join(": ");
        tracing::warn!("{} counts as lost: {error}", path().display());
        Vec::new()
    }))
}
