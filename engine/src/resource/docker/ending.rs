//! Ends a container. If its shim is stopped, the error names the shim.
//!
//! docker ends a container through the container's `containerd-shim`. While a signal has stopped this process, docker's requests to it wait for
//! ever, although docker itself answers and lists the container.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::host::{Host, HostError, HostResult, ListedContainer, StoppedShim};

/// How long the search for a stopped shim may take, and docker for the list of its containers.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Stops a container, and removes it.
pub(crate) async fn end(host: &dyn Host, name: &str, grace: Duration) -> HostResult<()> {
    stop(host, name, grace).await?;
    remove(host, name).await
}

/// Stops a container.
pub(crate) async fn stop(host: &dyn Host, name: &str, grace: Duration) -> HostResult<()> {
    let stopped = host.stop_container(name, grace).await;
    explained(host, name, stopped).await
}

/// Removes a container, running or not.
pub(crate) async fn remove(host: &dyn Host, name: &str) -> HostResult<()> {
    let removed = host.remove_container(name).await;
    explained(host, name, removed).await
}

/// The result of a call about a container that is to end. The error of a container whose shim is stopped names the shim instead of docker.
pub(crate) async fn explained<T>(
    host: &dyn Host,
    name: &str,
    result: HostResult<T>,
) -> HostResult<T> {
    match result {
        Ok(answer) => Ok(answer),
        Err(error) => Err(because_of_shim(host, name).await.unwrap_or(error)),
    }
}

/// The error that names the stopped shim of a container; `None` if its shim is not stopped, or that is not known.
pub(crate) async fn because_of_shim(host: &dyn Host, name: &str) -> Option<HostError> {
    let shims = stopped_shims(host).await;
    if shims.is_empty() {
        return None;
    }
    // The list, because docker answers no question about a container that it tries to end.
    let all = listed_in_time(host).await?;
    let its = all.iter().find(|one| one.name == name)?;
    let shim = shims.iter().find(|shim| shim.container == its.id)?;
    Some(HostError::refused(
        format!("end container {name}"),
        format!("{}, then try again", why_it_stays(shim.pid)),
    ))
}

/// Why docker cannot end a container whose shim is stopped, and what to do.
pub(super) fn why_it_stays(shim: u32) -> String {
    format!(
        "its containerd-shim (process {shim}) is stopped (SIGSTOP or a debugger), and docker ends a container only through its shim; continue it with `{}`",
        continue_command(shim)
    )
}

/// The command that continues a stopped process.
pub(in crate::resource) fn continue_command(pid: u32) -> String {
    format!("kill -CONT {pid}")
}

/// The stopped shims; none, if they cannot be found.
pub(in crate::resource) async fn stopped_shims(host: &dyn Host) -> Vec<StoppedShim> {
    let shims = tokio::time::timeout(TIMEOUT, host.stopped_shims()).await;
    match shims {
        Ok(Ok(shims)) => shims,
        Ok(Err(_)) | Err(_) => Vec::new(),
    }
}

/// All containers; `None` if docker does not list them in time, which a stopped shim may cause, too.
pub(super) async fn listed_in_time(host: &dyn Host) -> Option<Vec<ListedContainer>> {
    let labels = BTreeMap::new();
    let all = tokio::time::timeout(TIMEOUT, host.containers(&labels)).await;
    all.ok()?.ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::ContainerConfig;
    use crate::host::fake::{FakeHost, FaultPlan};
    use crate::model::chain;

    const GRACE: Duration = Duration::from_secs(10);

    /// A host on which docker cannot end the container `app`, with another one whose shim is stopped.
    fn host() -> FakeHost {
        let host = FakeHost::new().with_docker().with_image("app:1");
        host.with_world_mut(|world| {
            for name in ["app", "other"] {
                world.container(ContainerConfig::bare(name, "app:1"));
            }
            world.stop_shim(17, "other");
        });
        host.set_faults(FaultPlan::none().hang("stop_container", "app"));
        host
    }

    async fn error_of(host: &FakeHost) -> String {
        let error = end(host, "app", GRACE).await.expect_err("docker hangs");
        chain(&error).join(": ")
    }

    #[tokio::test(start_paused = true)]
    async fn the_shim_is_named_if_it_is_stopped() {
        let host = host();
        let said = error_of(&host).await;
        assert!(said.contains("stop_container app: no answer"), "{said}");
        assert!(!said.contains("shim"), "the shim of another: {said}");

        host.with_world_mut(|world| world.stop_shim(4711, "app"));
        let said = error_of(&host).await;
        assert!(
            said.starts_with("end container app: its containerd-shim (process 4711)"),
            "{said}"
        );
        assert!(said.contains("`kill -CONT 4711`"), "{said}");

        host.set_faults(FaultPlan::none());
        end(&host, "app", GRACE).await.expect("it was continued");
    }
}
