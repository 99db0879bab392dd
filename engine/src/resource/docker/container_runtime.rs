//! The container runtime's own service. Foreign containers in the runtime must not be stopped.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::host::{Host, HostError, LIVE_RESTORE_DIR, ListedContainer, StoppedShim};
use crate::model::chain;
use crate::resource::docker::{ending, interrupted};
use crate::resource::{ResourceError, ResourceResult, Undo};

/// The unit that runs the runtime.
pub(crate) const UNIT: &str = "docker.service";
/// The unit of what runs the containers for it.
pub(crate) const CONTAINERD_UNIT: &str = "containerd.service";
/// Exists if the unit is masked: systemd does not load a masked unit, although the unit is installed.
const MASK: &str = "/etc/systemd/system/docker.service";
/// The network link that the runtime creates for its own network.
pub(crate) const LINK: &str = "docker0";
/// Units of a runtime.
const UNITS: &[&str] = &[UNIT, "docker.socket", CONTAINERD_UNIT];
/// Label on containers that a role has made.
pub(crate) const OWNER: &str = "pf9.io/owner";
/// Value of this label on containers that the ledger records.
pub(crate) const OURS: &str = "nodelet";
/// Label on containers of pods.
pub(crate) const POD: &str = "io.kubernetes.pod.uid";
/// Packages that install a runtime.
const PACKAGES: &[&str] = &["docker.io", "docker-ce", "moby-engine"];
/// How long a runtime may take to answer after its start.
const ANSWER: Duration = Duration::from_secs(60);
/// Pause between two requests to the runtime.
const PAUSE: Duration = Duration::from_millis(200);

/// How long it may take to see which containers run before a stop, which has no more than the time of its step.
pub(super) const LOOK: Duration = Duration::from_secs(10);
/// How long docker may take to read its file again after the signal to do so.
const RELOAD: Duration = Duration::from_secs(3);

/// Restarts a unit. If the unit is the container runtime, its containers outlive the restart if its file says so. Otherwise also starts the
/// containers that ran before, and those of other programs that an earlier restart has ended.
pub(crate) async fn restart(host: &dyn Host, unit: &str) -> ResourceResult<()> {
    if unit != UNIT {
        host.reset_failed_unit(unit).await?;
        return Ok(host.restart_unit(unit).await?);
    }
    let began = host.now();
    let listed = match host.container_runtime().await {
        Ok(()) => host.containers(&BTreeMap::new()).await?,
        Err(_) => {
            if matches!(host.unit(UNIT).await, Ok(unit) if unit.is_active()) {
                warn_of_silence();
            }
            Vec::new()
        }
    };
    let ran = listed.iter().filter(|one| one.running);
    let ran: Vec<&str> = ran.map(|one| one.id.as_str()).collect();
    if !ran.is_empty() {
        read_live_restore(host).await;
    }
    // Also if they outlive it as it runs now: that is for the file to say with which docker starts again.
    let foreign = foreign_running(&listed);
    let up = up_since(host).await;
    let foreign = interrupted::remember(host, &listed, foreign, up).await?;
    host.reset_failed_unit(unit).await?;
    host.restart_unit(unit).await?;
    if ran.is_empty() && foreign.is_empty() {
        return Ok(());
    }
    answers(host).await?;
    let (_, started) = interrupted::start(host, up_since(host).await, began).await;
    let others = ran.into_iter().filter(|id| !foreign.contains(*id));
    let others: BTreeSet<&str> = others.collect();
    if !others.is_empty() {
        let listed = host.containers(&BTreeMap::new()).await?;
        let restarted = interrupted::start_ended(host, &listed, &others).await;
        if let Err((names, error)) = restarted
            && one_is_down(host, &names).await
        {
            return Err(error.into());
        }
    }
    started
}

/// Whether docker still has one of these containers, and it does not run: kubelet may have removed or started it meanwhile. If docker does not
/// list its containers, one counts as down.
pub(super) async fn one_is_down(host: &dyn Host, names: &[&str]) -> bool {
    let Ok(listed) = host.containers(&BTreeMap::new()).await else {
        return true;
    };
    let mut down = listed.iter().filter(|one| !one.running);
    down.any(|one| names.contains(&one.name.as_str()))
}

/// After a start or restart of a unit, which began at `began`. If the unit is the container runtime, starts the containers of other programs that
/// this restart or an earlier one has ended. A failure is no failure of the start, and is logged.
pub(crate) async fn after_start(host: &dyn Host, unit: &str, began: SystemTime) {
    if unit == UNIT
        && let Err(error) = start_when_it_answers(host, began).await
    {
        tracing::warn!("could not {}", chain(&error).join(": "));
    }
}

async fn start_when_it_answers(host: &dyn Host, began: SystemTime) -> ResourceResult<()> {
    if interrupted::are_there(host).await? {
        answers(host).await?;
    }
    interrupted::start(host, up_since(host).await, began)
        .await
        .1
}

/// Before a stop of a unit that a later apply starts again. If the unit is the container runtime, writes down the containers of other programs
/// that the stop ends, and takes those off the list that have ended since an earlier restart for another reason: after the next start, docker
/// does not tell that any more. A failure does not prevent the stop, and is logged.
pub(crate) async fn before_stop(host: &dyn Host, unit: &str) {
    if unit == UNIT {
        renew_list_in_time(host, true).await;
    }
}

/// Before a stop of a unit that nothing starts again. The same, but what runs then is ended on purpose and not written down.
pub(crate) async fn before_last_stop(host: &dyn Host, unit: &str) {
    if unit == UNIT && !matches!(interrupted::are_there(host).await, Ok(false)) {
        renew_list_in_time(host, false).await;
    }
}

async fn renew_list_in_time(host: &dyn Host, is_started_again: bool) {
    match tokio::time::timeout(LOOK, renew_list(host, is_started_again)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!("could not {}", chain(&error).join(": ")),
        Err(_) => warn_of_silence(),
    }
}

fn warn_of_silence() {
    tracing::warn!(
        "docker does not tell before its stop which containers run: after the next start, see with `docker ps -a` whether one that is not the role's has to be started"
    );
}

async fn renew_list(host: &dyn Host, is_started_again: bool) -> ResourceResult<()> {
    let state = host.unit(UNIT).await?;
    // A question could start a docker that is down: its socket is a unit, too.
    if !state.is_active() {
        return Ok(());
    }
    let Some(listed) = ending::listed_in_time(host).await else {
        warn_of_silence();
        return Ok(());
    };
    // What goes on without docker may end by itself until docker is up again.
    let foreign = match is_started_again && !outlive_runtime(host).await {
        true => foreign_running(&listed),
        false => Vec::new(),
    };
    interrupted::remember(host, &listed, foreign, state.active_since).await?;
    Ok(())
}

/// Whether the runtime says that its containers go on without it.
async fn outlive_runtime(host: &dyn Host) -> bool {
    matches!(host.containers_outlive_runtime().await, Ok(true))
}

/// The containers of other programs that run now.
fn foreign_running(listed: &[ListedContainer]) -> Vec<&ListedContainer> {
    let foreign = |one: &&ListedContainer| one.running && !is_of_role(one);
    listed.iter().filter(foreign).collect()
}

/// After an undo in a clean, or of a step that the plan no longer has. If it has stopped the container runtime, which was down before the role,
/// no container of another program is to be started.
pub(crate) async fn after_undo(host: &dyn Host, undo: &Undo) -> ResourceResult<()> {
    match undo {
        Undo::StopUnit { name } if name == UNIT => interrupted::forget(host).await,
        _ => Ok(()),
    }
}

/// Since when the runtime has been up; `None` if that is not known.
async fn up_since(host: &dyn Host) -> Option<SystemTime> {
    host.unit(UNIT).await.ok()?.active_since
}

/// At the end of a clean: starts the containers of other programs that a restart of the runtime has ended. None is left if the runtime is not
/// installed any more.
///
/// # Errors
/// A container cannot be started, or the runtime does not answer. The error names the containers.
pub(crate) async fn start_interrupted(host: &dyn Host) -> ResourceResult<()> {
    if interrupted::are_there(host).await? && !is_installed(host).await? {
        return interrupted::forget(host).await;
    }
    interrupted::start(host, up_since(host).await, host.now())
        .await
        .1
}

/// At the end of an apply: an earlier run may have ended between a restart of the runtime and the start of these containers. Returns the names of
/// those that were started. Cancel safe.
///
/// # Errors
/// As [`start_interrupted`]. A runtime that is down is no error: these containers are started with it.
pub(crate) async fn start_interrupted_if_up(host: &dyn Host) -> (Vec<String>, ResourceResult<()>) {
    match up_with_interrupted(host).await {
        Ok(Some(up_since)) => interrupted::start(host, up_since, host.now()).await,
        ended => (Vec::new(), ended.map(drop)),
    }
}

/// What [`start_interrupted_if_up`] would start. None, if that cannot be determined.
pub(crate) async fn interrupted_to_start(host: &dyn Host) -> Vec<String> {
    match up_with_interrupted(host).await {
        Ok(Some(up_since)) => interrupted::names_to_start(host, up_since).await,
        Ok(None) | Err(_) => Vec::new(),
    }
}

/// Since when the runtime has been up, if it is up and there are such containers.
async fn up_with_interrupted(host: &dyn Host) -> ResourceResult<Option<Option<SystemTime>>> {
    if !interrupted::are_there(host).await? {
        return Ok(None);
    }
    let runtime = host.unit(UNIT).await?;
    Ok(runtime.is_active().then_some(runtime.active_since))
}

/// Lets docker read whether its containers outlive it, if they do not as it runs now: its file may have been written since it was started. So
/// the restart that makes the file count does not end the containers. A docker that cannot read it is restarted all the same.
async fn read_live_restore(host: &dyn Host) {
    if outlive_runtime(host).await || host.reload_unit(UNIT).await.is_err() {
        return;
    }
    let started = host.elapsed();
    while !outlive_runtime(host).await && host.elapsed().saturating_sub(started) < RELOAD {
        host.pause(PAUSE).await;
    }
}

/// Starts the runtime if it is installed and does not answer.
pub(crate) async fn start_if_installed(host: &dyn Host) -> ResourceResult<()> {
    if host.container_runtime().await.is_ok() || !is_installed(host).await? {
        return Ok(());
    }
    host.reset_failed_unit(UNIT).await?;
    host.start_unit(UNIT).await?;
    answers(host).await
}

/// Starts the runtime if it is down while its containers still run (`live-restore`): only the runtime can stop them.
pub(crate) async fn ensure_running_for_live_restore(host: &dyn Host) -> ResourceResult<()> {
    if runs(host).await? || host.list(Path::new(LIVE_RESTORE_DIR)).await?.is_empty() {
        return Ok(());
    }
    start_if_installed(host).await.map_err(|error| match error {
        ResourceError::Host(error) => ResourceError::Host(HostError::service(
            "start docker: its containers still run without it, and only docker can stop them",
            error,
        )),
        other => other,
    })
}

/// Whether there is a runtime that may still have `resource`. A runtime that is not installed, or not any more, has nothing
/// of ours; an installed runtime that does not answer may still have it.
///
/// # Errors
/// The runtime is installed and does not answer.
pub(crate) async fn is_there(host: &dyn Host, resource: &str) -> ResourceResult<bool> {
    let Err(error) = host.container_runtime().await else {
        return Ok(true);
    };
    if !is_installed(host).await? {
        return Ok(false);
    }
    Err(ResourceError::Host(HostError::service(
        format!("revert {resource}: docker does not answer, so it may still be there"),
        error,
    )))
}

/// Whether a runtime is there and answers.
///
/// # Errors
/// The runtime is installed and does not answer.
pub(crate) async fn has(host: &dyn Host) -> ResourceResult<bool> {
    match host.container_runtime().await {
        Ok(_) => Ok(true),
        Err(_) if !is_installed(host).await? => Ok(false),
        Err(error) => Err(ResourceError::Host(error)),
    }
}

/// Whether the runtime answers. If its unit is inactive, there is nothing to stop through it; if its unit is active and
/// the runtime does not answer, containers may run.
///
/// # Errors
/// The unit is active and the runtime does not answer.
pub(crate) async fn runs(host: &dyn Host) -> ResourceResult<bool> {
    match host.container_runtime().await {
        Ok(_) => Ok(true),
        Err(_) if !host.unit(UNIT).await?.is_active() => Ok(false),
        Err(error) => Err(ResourceError::Host(error)),
    }
}

/// Whether a container of ours has this name.
///
/// # Errors
/// [`ResourceError::Unmet`] if the container of this name is a foreign one, and another error if the runtime does not
/// answer.
pub(crate) async fn has_ours(host: &dyn Host, name: &str) -> ResourceResult<bool> {
    if !is_there(host, &format!("container {name}")).await? {
        return Ok(false);
    }
    let state = host.container(name).await;
    match ending::explained(host, name, state).await? {
        Some(state) if !state.labels.contains_key(OWNER) => Err(ResourceError::Unmet {
            what: format!(
                "remove or stop container {name}: a container that nodelet did not create has this name now"
            ),
            next: format!("find its owner (`docker inspect {name}`); nodelet leaves it as it is"),
        }),
        state => Ok(state.is_some()),
    }
}

/// Whether the unit is installed, even if it is masked.
pub(crate) async fn is_installed(host: &dyn Host) -> ResourceResult<bool> {
    Ok(host.unit(UNIT).await?.loaded || host.entry(Path::new(MASK)).await?.is_some())
}

/// Whether one of these packages is the runtime.
pub(crate) fn is_runtime(packages: &[String]) -> bool {
    packages
        .iter()
        .any(|name| PACKAGES.contains(&name.as_str()))
}

/// Whether an undo stops the runtime or sets whether it starts at boot.
pub(crate) fn ends(undo: &Undo) -> bool {
    match undo {
        Undo::StopUnit { name } | Undo::SetUnitEnabled { name, .. } => is_unit(name),
        _ => false,
    }
}

/// Whether an undo would restart the runtime.
pub(crate) fn restarts(undo: &Undo) -> bool {
    matches!(undo, Undo::RestartUnit { name } if is_unit(name))
}

/// Whether an undo would reset a kernel setting that container networks need.
pub(crate) fn needs(undo: &Undo) -> bool {
    matches!(undo, Undo::SetSysctl { key, .. } if key == "net.ipv4.ip_forward" || key.starts_with("net.bridge."))
}

/// The unit that does the work of this one, if it is another one, which a role need not name.
#[must_use]
pub fn working_unit(unit: &str) -> Option<&'static str> {
    (unit == UNIT).then_some(CONTAINERD_UNIT)
}

/// Whether a unit is one of the runtime.
pub(crate) fn is_unit(name: &str) -> bool {
    UNITS.contains(&name)
}

/// Names of the containers, running or not, that are neither ours nor of pods.
///
/// # Errors
/// The runtime does not answer.
pub(crate) async fn foreign_containers(host: &dyn Host) -> ResourceResult<Vec<String>> {
    if !has(host).await? {
        return Ok(Vec::new());
    }
    let all = host.containers(&BTreeMap::new()).await?;
    let foreign_containers = all.into_iter().filter(|one| !is_of_role(one));
    Ok(foreign_containers.map(|one| one.name).collect())
}

/// Whether a container is ours or of a pod.
pub(in crate::resource) fn is_of_role(container: &ListedContainer) -> bool {
    let labels = &container.labels;
    labels.contains_key(OWNER) || labels.contains_key(POD)
}

/// The containers, ours or of pods, that docker cannot end because a signal has stopped their shims, with what to do; `None` if there are none,
/// or that is not known.
pub(crate) async fn cannot_end(host: &dyn Host) -> Option<String> {
    let shims = ending::stopped_shims(host).await;
    if shims.is_empty() {
        return None;
    }
    let all = ending::listed_in_time(host).await?;
    let stuck = all.iter().filter_map(|one| {
        let its = |shim: &&StoppedShim| shim.container == one.id;
        let shim = shims.iter().find(its).filter(|_| is_of_role(one))?;
        let why = ending::why_it_stays(shim.pid);
        Some(format!("docker cannot end container {}: {why}", one.name))
    });
    let stuck: Vec<String> = stuck.collect();
    (!stuck.is_empty()).then(|| stuck.join("; "))
}

/// Why the runtime must not be ended after an end of its containers has failed: containers that are ours or of pods still run. `None` if none
/// does, or the runtime does not answer.
pub(crate) async fn still_needed(host: &dyn Host) -> Option<ResourceError> {
    host.container_runtime().await.ok()?;
    let all = host.containers(&BTreeMap::new()).await.ok()?;
    let running = all.into_iter().filter(|one| one.running && is_of_role(one));
    let names: Vec<String> = running.map(|one| one.name).collect();
    (!names.is_empty()).then(|| ResourceError::Unmet {
        what: format!(
            "end or remove docker: container {} still runs, and only docker can end it",
            names.join(", ")
        ),
        next: "do first what the message about this container says".to_owned(),
    })
}

async fn answers(host: &dyn Host) -> ResourceResult<()> {
    let started = host.elapsed();
    loop {
        match host.container_runtime().await {
            Ok(_) => return Ok(()),
            Err(error) if host.elapsed().saturating_sub(started) > ANSWER => {
                return Err(ResourceError::Host(error));
            }
            Err(_) => host.pause(PAUSE).await,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::host::fake::{FakeHost, FaultPlan};
    use crate::host::{Clock as _, ContainerConfig, Containers as _, Services as _};
    use crate::model::STATE;

    /// docker's file.
    pub(crate) const FILE: &str = "/etc/docker/daemon.json";
    /// The list of containers of others.
    pub(crate) const LIST: &str = "/var/opt/pf9/nodelet/containers-to-start.json";

    pub(crate) fn of_role(name: &str) -> ContainerConfig {
        ContainerConfig {
            labels: BTreeMap::from([(OWNER.to_owned(), OURS.to_owned())]),
            ..ContainerConfig::bare(name, "role:1")
        }
    }

    /// A host on which docker has not come up after a restart, because of its file, which is in order by now. Container `theirs`, of another
    /// program, ran until then.
    pub(crate) async fn interrupted_host() -> FakeHost {
        interrupted_host_of(&["theirs"], false).await
    }

    /// The same with these containers, which go on without docker if it has `live-restore`.
    pub(crate) async fn interrupted_host_of(names: &[&str], live_restore: bool) -> FakeHost {
        let host = FakeHost::new().with_docker().with_directory(STATE);
        let file = format!(r#"{{"live-restore": {live_restore}}}"#);
        host.with_world_mut(|world| {
            for name in names.iter().chain(&["ended"]) {
                world.container(ContainerConfig::bare(*name, "app:1"));
            }
            world.kill_container("ended");
            world.file(FILE, &file);
        });
        host.reload_unit(UNIT).await.expect("it is reloaded");
        host.with_world_mut(|world| world.file(FILE, "no JSON"));
        let failed = restart(&host, UNIT).await;
        failed.expect_err("docker cannot read its file");
        host.with_world_mut(|world| world.file(FILE, &file));
        host
    }

    /// Its file was changed and changed back, as an operator or a repair does.
    #[tokio::test(start_paused = true)]
    async fn containers_outlive_a_restart_if_dockers_file_says_so_now() {
        for (file, outlive) in [("true", true), ("false", false)] {
            let host = FakeHost::new().with_docker();
            let image = "etcd:3.4";
            host.with_world_mut(|world| world.image(image));
            let config = ContainerConfig::bare("etcd", image);
            host.create_container(&config).await.expect("it is made");
            restart(&host, UNIT).await.expect("it restarts");
            let outlived = host.containers_outlive_runtime().await;
            assert!(!outlived.expect("it answers"));
            host.start_container("etcd").await.expect("it starts");
            let json = format!(r#"{{"live-restore": {file}}}"#);
            host.with_world_mut(|world| world.file("/etc/docker/daemon.json", json));
            let since = async || host.container("etcd").await.expect("it is known");
            let before = since().await.expect("it is there");
            host.pause(Duration::from_secs(1)).await;
            restart(&host, UNIT).await.expect("it restarts");
            let after = since().await.expect("it is there");
            assert!(after.running);
            assert_eq!(before.started_at == after.started_at, outlive, "{file}");
        }
    }

    /// A container of another program had its name before.
    #[tokio::test(start_paused = true)]
    async fn a_container_of_the_role_runs_again_although_its_name_is_on_the_list() {
        let host = FakeHost::new().with_docker().with_directory(STATE);
        host.with_world_mut(|world| {
            world.container(ContainerConfig::bare("etcd", "app:1"));
            world.file(FILE, "no JSON");
        });
        let failed = restart(&host, UNIT).await;
        failed.expect_err("docker cannot read its file");
        host.with_world_mut(|world| {
            world.remove_container("etcd");
            world.file(FILE, "{}");
        });
        host.start_unit(UNIT).await.expect("it starts");
        host.with_world_mut(|world| world.container(of_role("etcd")));
        restart(&host, UNIT).await.expect("it restarts");
        assert!(host.with_world(|world| world.container_runs("etcd")));
    }

    /// It is a part of one check, and a status pass makes many.
    #[tokio::test(start_paused = true)]
    async fn a_docker_that_does_not_list_its_containers_is_not_waited_for() {
        let host = FakeHost::new().with_docker();
        host.with_world_mut(|world| {
            world.container(of_role("etcd"));
            world.stop_shim(4711, "etcd");
        });
        assert!(cannot_end(&host).await.is_some());
        host.set_faults(FaultPlan::none().stall("containers", "*"));
        let answer = tokio::time::timeout(Duration::from_secs(10), cannot_end(&host)).await;
        assert_eq!(answer, Ok(None));
    }

    /// docker is down at the next restart or start, which knows of no container then, or is started by hand before a clean.
    #[tokio::test(start_paused = true)]
    async fn containers_of_others_run_again_after_a_restart_that_has_failed() {
        for next in ["restart", "start", "clean"] {
            let host = interrupted_host().await;
            let runs = |name: &str| host.with_world(|world| world.container_runs(name));
            assert!(!runs("theirs"));
            let error = start_interrupted(&host).await;
            let error = error.expect_err("docker is down").to_string();
            assert!(error.contains("docker start theirs"), "{error}");

            if next == "restart" {
                restart(&host, UNIT).await.expect("it restarts");
            } else {
                host.start_unit(UNIT).await.expect("it starts");
            }
            match next {
                "start" => after_start(&host, UNIT, host.now()).await,
                "clean" => start_interrupted(&host).await.expect("docker answers"),
                _ => {}
            }
            assert!(runs("theirs") && !runs("ended"), "{next}");
            let list = host.with_world(|world| world.text(LIST));
            assert_eq!(list, None, "{next}");
        }
    }

    async fn result_of(host: &FakeHost) -> Result<bool, String> {
        let answer = is_there(host, "container etcd").await;
        answer.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn only_a_runtime_that_is_not_installed_has_nothing_of_ours() {
        let host = FakeHost::new();
        host.with_world_mut(|world| world.runtime_without_unit = false);
        assert_eq!(result_of(&host).await, Ok(false));

        let silent = "revert container etcd: docker does not answer, so it may still be there";
        host.with_world_mut(|world| world.file(MASK, ""));
        assert_eq!(result_of(&host).await, Err(silent.to_owned()), "masked");

        let host = FakeHost::new().with_unit(UNIT, "[Service]\n");
        assert_eq!(result_of(&host).await, Err(silent.to_owned()), "stopped");
        host.start_unit(UNIT).await.expect("it starts");
        assert_eq!(result_of(&host).await, Ok(true));
    }
}
