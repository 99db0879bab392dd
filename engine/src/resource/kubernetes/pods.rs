//! The containers that a kubelet started on this host.
//!
//! A stop of kubelet leaves them running, on purpose: an upgrade of kubelet must not touch workloads. When the node is
//! stopped, this resource stops them after kubelet.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::pod_container;
use crate::host::{Host, ListedContainer};
use crate::model::chain;
use crate::resource::docker::{container_runtime, ending};
use crate::resource::kernel::cgroup;
use crate::resource::{Action, Change, Context, Receipt, Resource, ResourceError, ResourceResult};

/// Label that tells a sandbox (`podsandbox`) from a container (`container`).
pub(in crate::resource) const TYPE_LABEL: &str = "io.kubernetes.docker.type";

/// All containers of pods. They can only be made absent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PodsSpec {
    /// How long each container may take to stop before it is killed.
    pub grace_seconds: u64,
}

impl PodsSpec {
    /// Top of the control groups in which kubelet puts pods, one for each driver.
    pub(crate) const CONTROL_GROUPS: [&str; 2] = ["kubepods", "kubepods.slice"];
}

#[async_trait]
impl Resource for PodsSpec {
    type Observed = Vec<ListedContainer>;

    fn label(&self) -> String {
        "all".to_owned()
    }

    async fn observe(&self, cx: &Context<'_>) -> ResourceResult<Self::Observed> {
        of_pods(cx.host).await
    }

    fn diff(&self, containers: &Self::Observed, absent: bool) -> Option<Change> {
        (absent && !containers.is_empty())
            .then(|| Change::new(Action::Remove).with("containers", containers.len(), 0))
    }

    async fn converge(
        &self,
        containers: &Self::Observed,
        cx: &Context<'_>,
        _receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        if !cx.absent {
            return Err(ResourceError::NotConverged {
                what: "start pods: kubelet does that".to_owned(),
            });
        }
        // Containers first, then the sandboxes whose network they share. One that cannot be ended keeps only its own sandbox.
        let grace = Duration::from_secs(self.grace_seconds);
        let mut left: BTreeSet<&str> = BTreeSet::new();
        let mut failure = None;
        for sandboxes in [false, true] {
            let these: Vec<&ListedContainer> = containers
                .iter()
                .filter(|one| is_sandbox(one) == sandboxes)
                .filter(|one| pod_of(one).is_none_or(|pod| !left.contains(pod)))
                .collect();
            let ends = these
                .iter()
                .copied()
                .map(|one| ending::end(cx.host, &one.name, grace));
            let ended = futures::future::join_all(ends).await;
            for (one, result) in these.into_iter().zip(ended) {
                let Err(error) = result else { continue };
                left.extend(pod_of(one));
                if failure.is_none() {
                    failure = Some(error);
                } else {
                    tracing::warn!("could not {}", chain(&error).join(": "));
                }
            }
        }
        failure.map_or(Ok(()), |error| Err(error.into()))
    }
}

/// Containers of pods, running or not; empty if no runtime runs.
async fn of_pods(host: &dyn Host) -> ResourceResult<Vec<ListedContainer>> {
    if !container_runtime::runs(host).await? {
        return Ok(Vec::new());
    }
    // All callers filter by the same label, so that a `View` has to list the containers only once.
    Ok(host.containers(&pod_container::of_pods()).await?)
}

fn is_sandbox(container: &ListedContainer) -> bool {
    container
        .labels
        .get(TYPE_LABEL)
        .is_some_and(|kind| kind == "podsandbox")
}

/// Running sandboxes with a network of their own. kubelet recreates a pod whose sandbox was stopped.
pub(in crate::resource) async fn networked_sandboxes(
    host: &dyn Host,
) -> ResourceResult<Vec<ListedContainer>> {
    let mut sandboxes = of_pods(host).await?;
    sandboxes.retain(|c| is_sandbox(c) && c.running && !c.host_network);
    Ok(sandboxes)
}

fn pod_of(container: &ListedContainer) -> Option<&str> {
    let pod = container.labels.get(container_runtime::POD);
    pod.map(String::as_str)
}

/// Makes sure that no container of the role or of a pod runs on this host. While docker does not answer, only those of pods are known.
///
/// # Errors
/// [`ResourceError::Unmet`] with the names of containers that run, and another error if the kernel does not tell.
pub async fn all_containers_have_ended(host: &dyn Host) -> ResourceResult<()> {
    let running = running(host).await?;
    if running.is_empty() {
        return Ok(());
    }
    let mut shims = ending::stopped_shims(host).await;
    shims.retain(|shim| running.contains_key(&shim.container));
    let continues: Vec<String> = shims
        .iter()
        .map(|shim| format!("`{}`", ending::continue_command(shim.pid)))
        .collect();
    let next = match continues.is_empty() {
        true => "see why docker does not end it (`docker stop NAME`, `journalctl -u docker -n 50`)"
            .to_owned(),
        false => format!(
            "continue its containerd-shim, which is stopped (SIGSTOP or a debugger): {}",
            continues.join(", ")
        ),
    };
    let names: Vec<String> = running.into_values().collect();
    Err(ResourceError::Unmet {
        what: format!(
            "end the containers of the role and of pods: container {} still runs",
            names.join(", ")
        ),
        next: format!("{next}; then run `nodelet clean` again"),
    })
}

/// The uids of the pods of which a container runs on this host; `None` if that is not known. Cancel safe.
pub(in crate::resource) async fn running_pods(host: &dyn Host) -> Option<BTreeSet<String>> {
    if matches!(container_runtime::runs(host).await, Ok(true)) {
        let all = host.containers(&pod_container::of_pods()).await.ok()?;
        let running = all.iter().filter(|one| one.running);
        return running.map(|one| pod_of(one).map(str::to_owned)).collect();
    }
    // What the runtime has left names the container, and not its pod.
    let left = running(host).await.ok()?;
    left.is_empty().then(BTreeSet::new)
}

/// The containers of the role and of pods that run, by id, each as a message names it. If docker does not answer, the control groups with
/// processes tell of pods.
async fn running(host: &dyn Host) -> ResourceResult<BTreeMap<String, String>> {
    if matches!(container_runtime::runs(host).await, Ok(true))
        && let Ok(all) = host.containers(&BTreeMap::new()).await
    {
        let of_role = container_runtime::is_of_role;
        let running = all.into_iter().filter(|one| one.running && of_role(one));
        return Ok(running.map(|one| (one.id, one.name)).collect());
    }
    let mut running = BTreeMap::new();
    for top in PodsSpec::CONTROL_GROUPS {
        for group in cgroup::lived_in(host, top).await? {
            let name = group.file_name().unwrap_or_default().to_string_lossy();
            let name = name.strip_suffix(".scope").unwrap_or(&name);
            let id = name.strip_prefix("docker-").unwrap_or(name).to_owned();
            let shown = format!("{id} (docker does not answer)");
            running.insert(id, shown);
        }
    }
    Ok(running)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::{FakeHost, FaultPlan};
    use crate::host::{ContainerConfig, Services as _};
    use crate::resource::tests::context;

    const STUCK: &str = "k8s_app_web_tenant";

    /// A host with two pods. docker cannot end a container of the first one, because its shim is stopped.
    fn host() -> FakeHost {
        let host = FakeHost::new().with_docker().with_image("app:1");
        host.with_world_mut(|world| {
            world.tenants_pod("web", "app", "app:1");
            world.tenants_pod("other", "app", "app:1");
            world.stop_shim(4711, STUCK);
        });
        host.set_faults(FaultPlan::none().hang("stop_container", STUCK));
        host
    }

    async fn ended(host: &FakeHost) -> ResourceResult<()> {
        let spec = PodsSpec { grace_seconds: 1 };
        let cx = Context {
            absent: true,
            ..context(host)
        };
        let observed = spec.observe(&cx).await?;
        spec.converge(&observed, &cx, &mut Receipt::default()).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_container_that_cannot_be_ended_keeps_only_its_own_pod() {
        let host = host();
        let error = ended(&host).await.expect_err("one cannot be ended");
        let said = chain(&error).join(": ");
        assert!(said.contains("`kill -CONT 4711`"), "{said}");
        let left = of_pods(&host).await.expect("docker answers");
        let left: Vec<&str> = left.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(left, ["k8s_POD_web_tenant", STUCK]);

        let error = all_containers_have_ended(&host)
            .await
            .expect_err("one runs");
        let ResourceError::Unmet { what, next } = &error else {
            panic!("{error:?}")
        };
        assert!(what.contains(STUCK), "{what}");
        assert!(next.contains("`kill -CONT 4711`"), "{next}");

        host.set_faults(FaultPlan::none());
        ended(&host).await.expect("it was continued");
        all_containers_have_ended(&host)
            .await
            .expect("none is left");
    }

    #[tokio::test(start_paused = true)]
    async fn the_kernel_tells_what_runs_while_docker_does_not_answer() {
        const PROCESSES: &str = "/sys/fs/cgroup/cpu/kubepods/pod1/0123abcd/cgroup.procs";
        let host = host().with_file(PROCESSES, "17\n");
        host.set_faults(FaultPlan::none());
        host.stop_unit("docker.service").await.expect("it stops");
        let error = all_containers_have_ended(&host)
            .await
            .expect_err("one runs");
        assert!(error.to_string().contains("0123abcd"), "{error}");
        host.with_world_mut(|world| world.file(PROCESSES, ""));
        all_containers_have_ended(&host)
            .await
            .expect("no process is left");
    }

    #[tokio::test(start_paused = true)]
    async fn a_container_of_the_role_counts_and_one_of_another_program_does_not() {
        let host = FakeHost::new().with_docker();
        host.with_world_mut(|world| world.container(ContainerConfig::bare("theirs", "app:1")));
        all_containers_have_ended(&host)
            .await
            .expect("none is ours");
        let owner = (
            container_runtime::OWNER.to_owned(),
            container_runtime::OURS.to_owned(),
        );
        let ours = ContainerConfig {
            labels: BTreeMap::from([owner]),
            ..ContainerConfig::bare("proxy", "proxy:1")
        };
        host.with_world_mut(|world| {
            world.container(ours);
            world.stop_shim(4711, "proxy");
        });
        let error = all_containers_have_ended(&host).await;
        let error = error.expect_err("one runs");
        let ResourceError::Unmet { what, next } = &error else {
            panic!("{error:?}")
        };
        assert!(what.contains("container proxy still runs"), "{what}");
        assert!(next.contains("`kill -CONT 4711`"), "{next}");
    }
}
