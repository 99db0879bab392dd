//! The container engine's own service: what runs in it is not ours to end.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use super::{ResourceError, ResourceResult, Undo};
use crate::host::{Host, HostError, ListedContainer, SURVIVORS};

/// The unit that runs the engine.
pub(crate) const UNIT: &str = "docker.service";
/// Stands where the unit was masked, in which case systemd does not load it although it is installed.
const MASK: &str = "/etc/systemd/system/docker.service";
/// The link that an engine makes for its own network.
pub(crate) const LINK: &str = "docker0";
/// Units of an engine.
const UNITS: &[&str] = &[UNIT, "docker.socket", "containerd.service"];
/// Label on containers that a role has made.
pub(crate) const OWNER: &str = "pf9.io/owner";
/// Its value on what a ledger knows.
pub(crate) const OURS: &str = "nodelet";
/// Label on containers of pods.
pub(crate) const POD: &str = "io.kubernetes.pod.uid";
/// Packages that bring an engine.
const PACKAGES: &[&str] = &["docker.io", "docker-ce", "moby-engine"];
/// How long an engine may take to answer after its start.
const ANSWER: Duration = Duration::from_secs(60);
/// Pause between two questions.
const PAUSE: Duration = Duration::from_millis(200);

/// Restarts a unit. Containers that ran in the container engine run again after a restart of it, also where its
/// configuration ends them with it.
pub(crate) async fn restart(host: &dyn Host, unit: &str) -> ResourceResult<()> {
    let ran = if unit == UNIT && host.container_engine().await.is_ok() {
        running(host).await?
    } else {
        BTreeSet::new()
    };
    host.reset_failed_unit(unit).await?;
    host.restart_unit(unit).await?;
    if ran.is_empty() {
        return Ok(());
    }
    answers(host).await?;
    let runs = running(host).await?;
    for name in ran.difference(&runs) {
        // One that was to go with its end is gone.
        if host.container(name).await?.is_some() {
            host.start_container(name).await?;
        }
    }
    Ok(())
}

/// Starts the engine where it is installed and does not answer.
pub(crate) async fn wake(host: &dyn Host) -> ResourceResult<()> {
    if host.container_engine().await.is_ok() || !is_installed(host).await? {
        return Ok(());
    }
    host.reset_failed_unit(UNIT).await?;
    host.start_unit(UNIT).await?;
    answers(host).await
}

/// Starts an engine that is down while containers have outlived it (`live-restore`): only it can end them.
pub(crate) async fn wake_for_survivors(host: &dyn Host) -> ResourceResult<()> {
    if runs(host).await? || host.list(Path::new(SURVIVORS)).await?.is_empty() {
        return Ok(());
    }
    wake(host).await.map_err(|error| match error {
        ResourceError::Host(error) => ResourceError::Host(HostError::service(
            "start docker, for its containers have outlived it and nobody else can end them",
            error,
        )),
        other => other,
    })
}

/// Whether there is an engine to take `thing` back from. One that is not installed, or not any more, has nothing of
/// ours; one that is installed and does not answer may still have it.
///
/// # Errors
/// It is installed and does not answer.
pub(crate) async fn is_there(host: &dyn Host, thing: &str) -> ResourceResult<bool> {
    let Err(error) = host.container_engine().await else {
        return Ok(true);
    };
    if !is_installed(host).await? {
        return Ok(false);
    }
    Err(ResourceError::Host(HostError::service(
        format!("take back {thing}: docker does not answer, so it may still be there"),
        error,
    )))
}

/// Whether there is an engine to ask.
///
/// # Errors
/// It is installed and does not answer.
pub(crate) async fn has(host: &dyn Host) -> ResourceResult<bool> {
    match host.container_engine().await {
        Ok(_) => Ok(true),
        Err(_) if !is_installed(host).await? => Ok(false),
        Err(error) => Err(ResourceError::Host(error)),
    }
}

/// Whether the engine answers. One whose unit is down runs nothing that could be ended; one whose unit is up and that does
/// not answer may.
///
/// # Errors
/// Its unit is active and it does not answer.
pub(crate) async fn runs(host: &dyn Host) -> ResourceResult<bool> {
    match host.container_engine().await {
        Ok(_) => Ok(true),
        Err(_) if !host.unit(UNIT).await?.is_active() => Ok(false),
        Err(error) => Err(ResourceError::Host(error)),
    }
}

/// Whether a container of ours has this name.
///
/// # Errors
/// Somebody else has put his own in its place, or the engine does not answer.
pub(crate) async fn has_ours(host: &dyn Host, name: &str) -> ResourceResult<bool> {
    if !is_there(host, &format!("container {name}")).await? {
        return Ok(false);
    }
    match host.container(name).await? {
        Some(state) if !state.labels.contains_key(OWNER) => Err(ResourceError::Unmet {
            what: format!("take the container {name} for ours: {TAKEN}"),
            next: format!("see whose it is (`docker inspect {name}`); it stays as it is"),
        }),
        state => Ok(state.is_some()),
    }
}

/// What is said of a name that somebody else has by now.
pub(crate) const TAKEN: &str = "somebody else's has this name by now";

/// Whether there is a unit to start, be it masked.
pub(crate) async fn is_installed(host: &dyn Host) -> ResourceResult<bool> {
    Ok(host.unit(UNIT).await?.loaded || host.entry(Path::new(MASK)).await?.is_some())
}

/// Whether these packages are the engine.
pub(crate) fn is_engine(packages: &[String]) -> bool {
    packages
        .iter()
        .any(|name| PACKAGES.contains(&name.as_str()))
}

/// Whether an undo ends the engine, or keeps it from starting at boot.
pub(crate) fn ends(undo: &Undo) -> bool {
    match undo {
        Undo::StopUnit { name } | Undo::SetUnitEnabled { name, .. } => is_unit(name),
        _ => false,
    }
}

/// Whether an undo would set back what the networks of containers need.
pub(crate) fn needs(undo: &Undo) -> bool {
    matches!(undo, Undo::SetSysctl { key, .. } if key == "net.ipv4.ip_forward" || key.starts_with("net.bridge."))
}

/// Whether a unit is one of the engine.
pub(crate) fn is_unit(name: &str) -> bool {
    UNITS.contains(&name)
}

/// Names of the containers, running or not, that are neither ours nor of pods.
///
/// # Errors
/// The engine does not answer.
pub(crate) async fn strangers(host: &dyn Host) -> ResourceResult<Vec<String>> {
    if !has(host).await? {
        return Ok(Vec::new());
    }
    let all = host.containers(&BTreeMap::new()).await?;
    let foreign =
        |one: &ListedContainer| !one.labels.contains_key(OWNER) && !one.labels.contains_key(POD);
    let strangers = all.into_iter().filter(foreign);
    Ok(strangers.map(|one| one.name).collect())
}

async fn answers(host: &dyn Host) -> ResourceResult<()> {
    let started = host.elapsed();
    loop {
        match host.container_engine().await {
            Ok(_) => return Ok(()),
            Err(error) if host.elapsed().saturating_sub(started) > ANSWER => {
                return Err(ResourceError::Host(error));
            }
            Err(_) => host.pause(PAUSE).await,
        }
    }
}

async fn running(host: &dyn Host) -> ResourceResult<BTreeSet<String>> {
    Ok(host
        .containers(&BTreeMap::new())
        .await?
        .into_iter()
        .filter(|container| container.running)
        .map(|container| container.name)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Services as _;
    use crate::host::fake::FakeHost;

    async fn told(host: &FakeHost) -> Result<bool, String> {
        let answer = is_there(host, "container etcd").await;
        answer.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn only_an_engine_that_is_not_installed_has_nothing_of_ours() {
        let host = FakeHost::new();
        host.meddle(|world| world.engine_without_unit = false);
        assert_eq!(told(&host).await, Ok(false));

        let silent = "take back container etcd: docker does not answer, so it may still be there";
        host.meddle(|world| world.file(MASK, ""));
        assert_eq!(told(&host).await, Err(silent.to_owned()), "masked");

        let host = FakeHost::new().with_unit(UNIT, "[Service]\n");
        assert_eq!(told(&host).await, Err(silent.to_owned()), "stopped");
        host.start_unit(UNIT).await.expect("it starts");
        assert_eq!(told(&host).await, Ok(true));
    }
}
