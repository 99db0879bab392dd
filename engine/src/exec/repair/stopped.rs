//! Processes of a phase that a signal such as SIGSTOP has stopped.
//!
//! A slow process may answer the second time; a stopped process never answers. So a stopped process confirms a failure.
//! A stopped container of a pod is ended when its phase starts: kubelet then starts another at once, while its own
//! probes would take most of a minute. A container runtime that is stopped although it was woken is restarted before anything in it is ended.
//!
//! Not here: how a stopped docker or containerd is woken (`wake`).

use std::time::Duration;

use crate::exec::Runner;
use crate::exec::event::Event;
use crate::host::{ListedContainer, StoppedProcess};
use crate::model::chain;
use crate::plan::{PlannedPhase, PlannedStep, Probe};
use crate::resource::Spec;
use crate::resource::docker::container_runtime;
use crate::resource::kubernetes::pod_container::{StaticPods, of_pods};

/// Bound on one answer: a stopped container runtime gives none.
const TIMEOUT: Duration = Duration::from_secs(2);

impl Runner<'_> {
    /// Whether a process of this phase's units, containers or pods is stopped. No, if that cannot be determined.
    pub(in crate::exec) async fn is_stopped(&self, phase: &PlannedPhase) -> bool {
        let stopped = self.stopped_processes().await;
        if stopped.is_empty() {
            return false;
        }
        for step in phase.steps.iter().filter(|step| !step.policy.absent) {
            match &step.spec {
                Spec::Service(service) if self.is_unit_among(&stopped, &service.unit).await => {
                    return true;
                }
                Spec::Container(container) => {
                    let state = self.host.container(&container.name);
                    let state = tokio::time::timeout(TIMEOUT, state).await;
                    if let Ok(Ok(Some(state))) = state
                        && is_container(&stopped, &state.id)
                    {
                        return true;
                    }
                }
                _ => {}
            }
        }
        !self.stopped_pods(phase, &stopped).await.is_empty()
    }

    /// Whether a process of this unit is one of these. Of a container runtime only the main process counts: docker answers beside a stopped
    /// docker-proxy, and a container may have a unit of the same name.
    async fn is_unit_among(&self, stopped: &[StoppedProcess], unit: &str) -> bool {
        match container_runtime::is_unit(unit) {
            true => self.is_main_process_among(stopped, unit).await,
            false => is_unit(stopped, unit),
        }
    }

    /// Whether a process of this unit is stopped. No, if that cannot be determined, and of a container runtime: what runs in its containers may be
    /// stopped, and the runtime is asked itself.
    pub(in crate::exec) async fn is_unit_stopped(&self, unit: &str) -> bool {
        !container_runtime::is_unit(unit) && is_unit(&self.stopped_processes().await, unit)
    }

    /// Ends the stopped containers of the pods that a phase is about.
    pub(in crate::exec) async fn end_stopped_pods(&self, phase: &PlannedPhase) {
        let is_about_pods = |probe: &Probe| matches!(probe, Probe::PodRunning { .. });
        if !phase.checks.iter().any(|check| is_about_pods(&check.probe)) {
            return;
        }
        let stopped = self.stopped_processes().await;
        if stopped.is_empty() {
            return;
        }
        for container in self.stopped_pods(phase, &stopped).await {
            // A stopped process reacts to SIGKILL only.
            let ended = self.host.stop_container(&container.name, Duration::ZERO);
            match ended.await {
                Ok(()) => self.events.emit(Event::ResourceRestarted {
                    phase: phase.name.clone(),
                    resource: format!("container {}", container.name),
                    reason: "its process was stopped by a signal; kubelet starts another"
                        .to_owned(),
                }),
                Err(error) => tracing::warn!("could not {}", chain(&error).join(": ")),
            }
        }
    }

    /// Restarts a container runtime of the selected phases whose main process is stopped: its containers have to be ended
    /// next, and only the runtime can do that. With another stopped process of its unit, such as a docker-proxy, it still answers. Returns whether it
    /// was restarted.
    pub(in crate::exec) async fn restart_stopped_runtime(&self) -> bool {
        let is_its = |step: &PlannedStep| matches!(&step.spec, Spec::Service(service) if service.unit == container_runtime::UNIT);
        let phases = self.selection.phases(self.plan);
        let mut phases = phases.iter();
        let Some(phase) = phases.find(|phase| phase.steps.iter().any(is_its)) else {
            return false;
        };
        if !self.is_main_process_stopped(container_runtime::UNIT).await {
            return false;
        }
        let began = self.host.now();
        match self.host.restart_unit(container_runtime::UNIT).await {
            Ok(()) => {
                self.events.emit(Event::ResourceRestarted {
                    phase: phase.name.clone(),
                    resource: container_runtime::UNIT.to_owned(),
                    reason:
                        "its process was stopped by a signal, and what runs in it is to be ended"
                            .to_owned(),
                });
                container_runtime::after_start(self.host, container_runtime::UNIT, began).await;
            }
            // Its containers cannot be ended then; the stop reports that.
            Err(error) => {
                tracing::warn!("could not {}", chain(&error).join(": "));
                return false;
            }
        }
        true
    }

    /// None, if they cannot be listed.
    pub(super) async fn stopped_processes(&self) -> Vec<StoppedProcess> {
        let stopped = tokio::time::timeout(TIMEOUT, self.host.stopped_processes()).await;
        match stopped {
            Ok(Ok(stopped)) => stopped,
            _ => Vec::new(),
        }
    }

    async fn stopped_pods(
        &self,
        phase: &PlannedPhase,
        stopped: &[StoppedProcess],
    ) -> Vec<ListedContainer> {
        let pods = phase.checks.iter().filter_map(|check| match &check.probe {
            Probe::PodRunning { pod, containers } => Some((pod, containers)),
            _ => None,
        });
        let pods: Vec<_> = pods.collect();
        if pods.is_empty() {
            return Vec::new();
        }
        let of_pods = of_pods();
        let all = tokio::time::timeout(TIMEOUT, self.host.containers(&of_pods)).await;
        let Ok(Ok(mut all)) = all else {
            return Vec::new();
        };
        let statics = StaticPods::among(&all);
        all.retain(|container| {
            let is_theirs = |(pod, names): &(&String, &Vec<String>)| {
                names.iter().any(|name| statics.has(container, pod, name))
            };
            container.running && is_container(stopped, &container.id) && pods.iter().any(is_theirs)
        });
        all
    }
}

/// Whether one of the processes is a unit's.
pub(super) fn is_unit(stopped: &[StoppedProcess], unit: &str) -> bool {
    stopped.iter().any(|process| process.is_of_unit(unit))
}

/// Whether the control group of one of the processes is a container's: named by its id, as a directory (`/docker/ID`) or a scope
/// (`/system.slice/docker-ID.scope`).
fn is_container(stopped: &[StoppedProcess], id: &str) -> bool {
    let of_id = |part: &str| {
        let name = part.strip_suffix(".scope").unwrap_or(part);
        name == id || name.rsplit_once('-').is_some_and(|(_, name)| name == id)
    };
    let mut lines = stopped.iter().flat_map(|process| process.groups.lines());
    !id.is_empty() && lines.any(|line| line.rsplit('/').next().is_some_and(of_id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::{Recording, Status};
    use crate::facts::Facts;
    use crate::host::fake::{FakeHost, FaultPlan, World};
    use crate::host::{Containers as _, Services as _};
    use crate::model::{Outcome, PhaseName};
    use crate::plan::{Plan, PlannedCheck};
    use crate::resource::docker::container_runtime::tests::interrupted_host;
    use crate::resource::{NoSecrets, ServiceSpec};

    fn check(probe: Probe) -> PlannedCheck {
        let phase: PhaseName = "api-ready".parse().expect("a name");
        PlannedCheck {
            every: Duration::from_secs(1),
            ..PlannedCheck::bare(&phase, "it answers", probe)
        }
    }

    fn plan() -> Plan {
        let pod = Probe::PodRunning {
            pod: "k8s-master".to_owned(),
            containers: vec!["kube-apiserver".to_owned()],
        };
        let phase = PlannedPhase {
            checks: vec![check(pod)],
            ..PlannedPhase::bare("api-ready".parse().expect("a name"))
        };
        Plan::bare(vec![phase])
    }

    /// A host on which a container of this pod runs.
    fn host(pod: &str) -> FakeHost {
        let host = FakeHost::new().with_docker().with_image("image:1");
        host.with_world_mut(|world| {
            world.static_pod(&format!("{pod}-cp-1"), "kube-apiserver", "image:1")
        });
        host
    }

    fn name(pod: &str) -> String {
        format!("k8s_kube-apiserver_{pod}-cp-1")
    }

    async fn stop(host: &FakeHost, pod: &str) {
        let state = host.container(&name(pod)).await.expect("it answers");
        let id = state.expect("it is there").id;
        host.with_world_mut(|world| {
            world.stop_process(&format!("4:cpu:/kubepods/pod1/{id}\n0::/\n"))
        });
    }

    #[tokio::test(start_paused = true)]
    async fn a_stopped_pod_is_killed_at_the_start_of_its_own_phase() {
        for (pod, stopped, ended) in [
            ("k8s-master", true, true),
            ("k8s-master", false, false),
            ("coredns", true, false),
        ] {
            let host = host(pod);
            if stopped {
                stop(&host, pod).await;
            }
            let (plan, facts, heard) = (plan(), Facts::nothing_about("cp-1"), Recording::default());
            let runner = Runner::new(&plan, &host, &facts, &NoSecrets, &heard);
            let outcome = runner.apply().await.expect("it can be written down");
            // This host has no kubelet that starts it again, and no other pod of that name.
            let well = pod == "k8s-master" && !ended;
            assert_eq!(outcome == Outcome::Converged, well);
            assert_eq!(
                host.with_world(|world| world.container_runs(&name(pod))),
                !ended
            );
            let is_reported = heard.events().into_iter().any(|event| {
                matches!(event, Event::ResourceRestarted { resource, .. } if resource == format!("container {}", name(pod)))
            });
            assert_eq!(is_reported, ended);
        }
    }

    /// A second check costs a second, and half a minute more for the container runtime.
    #[tokio::test(start_paused = true)]
    async fn a_stopped_service_is_checked_once() {
        for (stopped, quick) in [(true, true), (false, false)] {
            let host = host("k8s-master");
            if stopped {
                stop(&host, "k8s-master").await;
            }
            let runtime = check(Probe::ContainerRuntime);
            let mut plan = plan();
            plan.phases[0].checks.push(runtime);
            host.set_faults(FaultPlan::none().stall("container_runtime", "*"));
            let (facts, ignored_events) = (Facts::nothing_about("cp-1"), Recording::default());
            let runner = Runner::new(&plan, &host, &facts, &NoSecrets, &ignored_events);
            let began = tokio::time::Instant::now();
            let health = runner.check_until_failed(Duration::ZERO).await;
            let status = health[0].conditions[1].status;
            assert_eq!(status, Status::False, "stopped: {stopped}");
            let took = began.elapsed();
            assert_eq!(took < Duration::from_secs(10), quick, "{took:?}");
        }
    }

    fn stop_docker(world: &mut World) {
        world.stop_main_process(container_runtime::UNIT, "dockerd");
    }

    fn plan_of_docker() -> Plan {
        let name: PhaseName = "docker".parse().expect("a name");
        let docker = Spec::Service(ServiceSpec::bare(container_runtime::UNIT));
        Plan::bare(vec![PlannedPhase {
            steps: vec![PlannedStep::bare(&name, docker)],
            ..PlannedPhase::bare(name.clone())
        }])
    }

    #[tokio::test(start_paused = true)]
    async fn a_stopped_runtime_is_restarted_before_anything_is_ended() {
        for stopped in [true, false] {
            let host = FakeHost::new().with_docker();
            host.with_world_mut(|world| match stopped {
                true => stop_docker(world),
                false => world.stop_program("docker-proxy", "0::/system.slice/docker.service\n"),
            });
            let plan = plan_of_docker();
            let name = plan.phases[0].name.clone();
            let (facts, heard) = (Facts::nothing_about("cp-1"), Recording::default());
            let runner = Runner::new(&plan, &host, &facts, &NoSecrets, &heard);
            let outcome = runner.restart(&[name], &[]).await;
            assert_eq!(outcome.expect("it is written down"), Outcome::Converged);
            let restarted = host
                .journal()
                .iter()
                .any(|call| call.name == "restart_unit");
            assert_eq!(restarted, stopped);
            let is_reported = heard.events().into_iter().any(|event| {
                matches!(event, Event::ResourceRestarted { resource, .. } if resource == container_runtime::UNIT)
            });
            assert_eq!(is_reported, stopped);
        }
    }

    /// An earlier restart has ended them, and docker has come up without nodelet since.
    #[tokio::test(start_paused = true)]
    async fn containers_of_others_run_again_after_a_restart_of_a_stopped_runtime() {
        let host = interrupted_host().await;
        let started = host.start_unit(container_runtime::UNIT).await;
        started.expect("it starts");
        host.with_world_mut(stop_docker);
        let plan = plan_of_docker();
        let (facts, ignored_events) = (Facts::nothing_about("cp-1"), Recording::default());
        let runner = Runner::new(&plan, &host, &facts, &NoSecrets, &ignored_events);
        assert!(runner.restart_stopped_runtime().await);
        assert!(host.with_world(|world| world.container_runs("theirs")));
    }

    #[test]
    fn control_groups_of_both_versions_are_known() {
        let id = "0123abcd";
        let of = |groups: &str| {
            let groups = groups.to_owned();
            [StoppedProcess {
                groups,
                ..StoppedProcess::default()
            }]
        };
        for (group, unit, container) in [
            ("4:cpu:/system.slice/docker.service\n", true, false),
            ("0::/system.slice/docker.service/sub\n", true, false),
            ("0::/system.slice/other-docker.service\n", false, false),
            ("4:cpu:/docker/0123abcd\n", false, true),
            ("0::/system.slice/docker-0123abcd.scope\n", false, true),
            (
                "4:cpu:/docker/0123abcd/system.slice/a.service\n",
                false,
                false,
            ),
            ("4:cpu:/docker/90123abcd\n", false, false),
        ] {
            assert_eq!(is_unit(&of(group), "docker.service"), unit, "{group}");
            assert_eq!(is_container(&of(group), id), container, "{group}");
        }
        assert!(!is_container(&of("0::/\n"), ""));
    }
}
