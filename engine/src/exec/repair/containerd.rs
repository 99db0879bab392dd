//! A containerd that a signal has stopped (SIGSTOP).
//!
//! docker starts and ends nothing without containerd, and after a minute docker itself does not answer any more. Pings of docker are answered until
//! then. So a repair that ends something before containerd works again only makes it worse.
//!
//! Its process goes on with SIGCONT. Its unit is restarted only if that does not help, because a unit of docker may be bound to it
//! (`BindsTo=`) and would end with it.

use std::collections::BTreeSet;
use std::time::Duration;

use super::stopped::is_unit;
use crate::exec::Runner;
use crate::exec::event::Event;
use crate::host::{HostError, StoppedProcess};
use crate::model::{PhaseName, chain};
use crate::plan::{Graph, PlannedPhase, PlannedStep};
use crate::resource::docker::container_runtime::{self, CONTAINERD_UNIT};
use crate::resource::{ResourceResult, Spec};

/// The name of its process. Its shims are in the same control group, and have another name.
const NAME: &str = "containerd";
/// How long docker may take to answer after containerd works again. It needs about five seconds.
const ANSWER: Duration = Duration::from_secs(30);
/// Pause between two questions to docker.
const PAUSE: Duration = Duration::from_millis(500);
/// Bound on one question to the service manager.
const TIMEOUT: Duration = Duration::from_secs(2);

/// A containerd that a signal has stopped, on a host whose plan runs docker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoppedContainerd {
    /// The phases whose checks may fail for this reason alone: the one that runs docker, and all that need it.
    pub phases: BTreeSet<PhaseName>,
}

impl StoppedContainerd {
    /// What a repair reports when containerd works again.
    #[must_use]
    pub fn woken(&self, restarted: bool) -> Event {
        Event::ResourceWoken {
            resource: CONTAINERD_UNIT.to_owned(),
            reason: "a signal had stopped its process (SIGSTOP), and docker needs it".to_owned(),
            restarted,
        }
    }
}

impl Runner<'_> {
    /// The containerd of this host, if the plan runs docker and a signal has stopped containerd. `None`, too, if that cannot be determined.
    pub async fn stopped_containerd(&self) -> Option<StoppedContainerd> {
        let is_docker = |step: &PlannedStep| {
            !step.policy.absent
                && matches!(&step.spec, Spec::Service(service) if service.unit == container_runtime::UNIT)
        };
        let runs_docker =
            |phase: &&PlannedPhase| phase.skipped.is_none() && phase.steps.iter().any(is_docker);
        let docker = self.plan.phases.iter().find(runs_docker)?;
        if !self.is_containerd_stopped().await {
            return None;
        }
        let mut phases = Graph::of(self.plan).dependents(&docker.name);
        phases.insert(docker.name.clone());
        Some(StoppedContainerd { phases })
    }

    /// Lets containerd work again if it is stopped: docker ends nothing without it.
    ///
    /// # Errors
    /// As [`Runner::wake_containerd`].
    pub async fn wake_stopped_containerd(&self) -> ResourceResult<()> {
        match self.stopped_containerd().await {
            Some(stopped) => self.wake_containerd(&stopped).await,
            None => Ok(()),
        }
    }

    /// Lets this containerd work again, and waits until docker answers. Does nothing else: no container ends, and no phase is restarted. A
    /// docker that does not answer even then is left to the checks: a restart of a containerd that goes on would not help it.
    ///
    /// # Errors
    /// It does not go on, and its unit cannot be restarted. Then docker can start and end nothing.
    pub async fn wake_containerd(&self, stopped: &StoppedContainerd) -> ResourceResult<()> {
        if let Err(error) = self.host.continue_unit(CONTAINERD_UNIT).await {
            tracing::warn!("could not {}", chain(&error).join(": "));
        }
        if self.containerd_works().await || !self.is_containerd_stopped().await {
            self.events.emit(stopped.woken(false));
            return Ok(());
        }
        if self.cancel.is_cancelled() {
            return Ok(());
        }
        let restarted = self.host.restart_unit(CONTAINERD_UNIT).await;
        restarted.map_err(|error| {
            HostError::service(
                format!(
                    "wake {CONTAINERD_UNIT}, which a signal has stopped and without which docker can start and end nothing (next: `systemctl restart {CONTAINERD_UNIT}`)"
                ),
                error,
            )
        })?;
        self.events.emit(stopped.woken(true));
        if !self.containerd_works().await {
            tracing::warn!("{CONTAINERD_UNIT} was restarted, and docker does not answer yet");
        }
        Ok(())
    }

    /// Whether a signal has stopped containerd: the main process of its unit, not a shim, and not a containerd in a container. No, if that
    /// cannot be determined.
    pub(in crate::exec) async fn is_containerd_stopped(&self) -> bool {
        let may_be =
            |process: &StoppedProcess| process.name == NAME && process.is_of_unit(CONTAINERD_UNIT);
        let mut stopped = self.stopped_processes().await;
        stopped.retain(may_be);
        if stopped.is_empty() {
            return false;
        }
        let main = self.host.main_process(CONTAINERD_UNIT);
        match tokio::time::timeout(TIMEOUT, main).await {
            Ok(Ok(Some(main))) => stopped.iter().any(|process| process.pid == main),
            _ => false,
        }
    }

    /// Whether containerd goes on, and docker gets answers from it. Waits for these. A docker that does not run cannot be asked.
    async fn containerd_works(&self) -> bool {
        let until = self.host.elapsed() + ANSWER;
        loop {
            // It goes on at once, or not at all.
            if self.is_containerd_stopped().await {
                return false;
            }
            // Unlike a ping, docker's version contains the one of containerd.
            if !self.can_docker_answer().await
                || self.host.container_runtime_version().await.is_ok()
            {
                return true;
            }
            if self.host.elapsed() >= until || self.cancel.is_cancelled() {
                return false;
            }
            self.pause(PAUSE).await;
        }
    }

    /// Whether docker's unit is active, and no signal has stopped its process.
    async fn can_docker_answer(&self) -> bool {
        let state = self.host.unit(container_runtime::UNIT);
        let state = tokio::time::timeout(TIMEOUT, state).await;
        matches!(state, Ok(Ok(state)) if state.is_active())
            && !is_unit(&self.stopped_processes().await, container_runtime::UNIT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::Recording;
    use crate::facts::Facts;
    use crate::host::Services as _;
    use crate::host::fake::{FakeHost, FaultPlan};
    use crate::model::{Span, StepId};
    use crate::plan::{Plan, PlannedCheck, Probe, StepPolicy};
    use crate::resource::{NoSecrets, ServiceSpec};

    fn plan(unit: &str) -> Plan {
        let name: PhaseName = "docker".parse().expect("a name");
        let step = PlannedStep {
            id: StepId::new(&name, "service", unit),
            span: Span::file("phases/docker.rhai"),
            spec: Spec::Service(ServiceSpec {
                unit: unit.to_owned(),
                started: true,
                enabled: None,
                restart_inputs: Vec::new(),
                reload_inputs: Vec::new(),
                runs: Vec::new(),
                checksums: None,
            }),
            policy: StepPolicy::default(),
        };
        let check = PlannedCheck {
            name: "docker answers".to_owned(),
            span: Span::file("phases/docker.rhai"),
            probe: Probe::ContainerRuntime,
            every: PlannedCheck::EVERY,
            timeout: PlannedCheck::TIMEOUT,
            failures: 1,
            advisory: false,
            needs_api: None,
            needs_quorum: false,
        };
        let docker = PlannedPhase {
            steps: vec![step],
            checks: vec![check],
            ..PlannedPhase::bare(name.clone())
        };
        let needs = PlannedPhase {
            requires: vec![name],
            ..PlannedPhase::bare("etcd".parse().expect("a name"))
        };
        let other = PlannedPhase::bare("sysctl".parse().expect("a name"));
        Plan::bare(vec![docker, needs, other])
    }

    fn host() -> FakeHost {
        let host = FakeHost::new().with_docker();
        host.with_active_unit(CONTAINERD_UNIT, "[Service]\n")
    }

    fn stop(host: &FakeHost) {
        host.with_world_mut(|world| world.stop_main_process(CONTAINERD_UNIT, NAME));
    }

    fn changes(host: &FakeHost) -> Vec<String> {
        let calls = host.mutating_calls().into_iter();
        let calls = calls.map(|call| format!("{} {}", call.name, call.argument));
        calls.collect()
    }

    /// docker still answers pings, so only its name tells what is wrong. A second look does not take it back.
    #[tokio::test(start_paused = true)]
    async fn a_pass_names_a_stopped_containerd() {
        let (host, plan) = (host(), plan(container_runtime::UNIT));
        let (facts, ignored_events) = (Facts::nothing_about("cp-1"), Recording::default());
        let runner = Runner::new(&plan, &host, &facts, &NoSecrets, &ignored_events);
        let health = runner.check_until_failed(Duration::ZERO).await;
        assert!(!health[0].fails(), "{health:?}");
        stop(&host);
        for health in [
            runner.check().await,
            runner.check_until_failed(Duration::ZERO).await,
        ] {
            assert!(health[0].fails(), "{health:?}");
            let reason = &health[0].conditions[0].reason;
            assert!(reason.contains(CONTAINERD_UNIT), "{reason}");
        }
        assert_eq!(changes(&host), [""; 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stopped_containerd_goes_on_and_nothing_is_restarted() {
        let (host, plan) = (host(), plan(container_runtime::UNIT));
        stop(&host);
        let (facts, heard) = (Facts::nothing_about("cp-1"), Recording::default());
        let runner = Runner::new(&plan, &host, &facts, &NoSecrets, &heard);
        let stopped = runner.stopped_containerd().await.expect("it is stopped");
        let phases: Vec<&str> = stopped.phases.iter().map(PhaseName::as_str).collect();
        assert_eq!(phases, ["docker", "etcd"]);
        let woken = runner.wake_containerd(&stopped).await;
        woken.expect("it goes on");
        assert_eq!(changes(&host), ["continue_unit containerd.service"]);
        assert_eq!(heard.events(), [stopped.woken(false)]);
        assert_eq!(runner.stopped_containerd().await, None);
        assert!(!runner.check().await[0].fails());
    }

    /// Neither its process nor docker may stay away for longer than that.
    #[tokio::test(start_paused = true)]
    async fn a_containerd_that_does_not_go_on_is_restarted() {
        for (fault, restarted) in [("continue_unit", true), ("container_runtime", false)] {
            let (host, plan) = (host(), plan(container_runtime::UNIT));
            stop(&host);
            host.set_faults(FaultPlan::none().fail(fault, "*"));
            let (facts, heard) = (Facts::nothing_about("cp-1"), Recording::default());
            let runner = Runner::new(&plan, &host, &facts, &NoSecrets, &heard);
            let stopped = runner.stopped_containerd().await.expect("it is stopped");
            let woken = runner.wake_stopped_containerd().await;
            woken.expect("it goes on");
            let changes = changes(&host);
            let restart = "restart_unit containerd.service";
            let is_restarted = changes.iter().any(|call| call == restart);
            // A docker that is silent is no reason to restart a containerd that goes on.
            assert_eq!(is_restarted, restarted, "{fault}: {changes:?}");
            assert_eq!(heard.events(), [stopped.woken(restarted)]);
            assert_eq!(runner.stopped_containerd().await, None);
        }
        // Nothing is ended if it cannot be restarted either.
        let (host, plan) = (host(), plan(container_runtime::UNIT));
        stop(&host);
        let faults = FaultPlan::none().fail("continue_unit", "*");
        host.set_faults(faults.fail("restart_unit", "*"));
        let (facts, heard) = (Facts::nothing_about("cp-1"), Recording::default());
        let runner = Runner::new(&plan, &host, &facts, &NoSecrets, &heard);
        let stopped = runner.stopped_containerd().await.expect("it is stopped");
        let error = runner.wake_containerd(&stopped).await;
        let error = error.expect_err("it is still stopped").to_string();
        assert!(error.contains("systemctl restart containerd"), "{error}");
        assert_eq!(heard.events(), []);
    }

    /// A docker that is down, or that is stopped as well, is repaired by its phase.
    #[tokio::test(start_paused = true)]
    async fn a_docker_that_cannot_answer_restarts_no_containerd() {
        for down in [true, false] {
            let (host, plan) = (host(), plan(container_runtime::UNIT));
            stop(&host);
            if down {
                let ended = host.stop_unit(container_runtime::UNIT).await;
                ended.expect("it ends");
            } else {
                let docker = container_runtime::UNIT;
                host.with_world_mut(|world| world.stop_main_process(docker, "dockerd"));
                host.set_faults(FaultPlan::none().fail("container_runtime", "*"));
            }
            host.clear_journal();
            let (facts, heard) = (Facts::nothing_about("cp-1"), Recording::default());
            let runner = Runner::new(&plan, &host, &facts, &NoSecrets, &heard);
            let stopped = runner.stopped_containerd().await.expect("it is stopped");
            let woken = runner.wake_containerd(&stopped).await;
            woken.expect("it goes on");
            assert_eq!(changes(&host), ["continue_unit containerd.service"]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn other_processes_are_not_taken_for_containerd() {
        let unit = "0::/system.slice/containerd.service\n";
        let inside = "0::/system.slice/docker-0123abcd.scope/system.slice/containerd.service\n";
        for (what, name, group) in [
            ("a shim", "containerd-shim", unit),
            ("a process that it has started", "containerd", unit),
            ("a containerd in a container", "containerd", inside),
            ("another one", "containerd", "0::/user.slice\n"),
        ] {
            let (host, plan) = (host(), plan(container_runtime::UNIT));
            host.with_world_mut(|world| world.stop_program(name, group));
            let (facts, ignored_events) = (Facts::nothing_about("cp-1"), Recording::default());
            let runner = Runner::new(&plan, &host, &facts, &NoSecrets, &ignored_events);
            assert_eq!(runner.stopped_containerd().await, None, "{what}");
            let health = runner.check_until_failed(Duration::ZERO).await;
            assert!(!health[0].fails(), "{what}: {health:?}");
        }
        // Without docker in the plan it is of no concern.
        let (host, plan) = (host(), plan("kubelet.service"));
        stop(&host);
        let (facts, ignored_events) = (Facts::nothing_about("cp-1"), Recording::default());
        let runner = Runner::new(&plan, &host, &facts, &NoSecrets, &ignored_events);
        assert_eq!(runner.stopped_containerd().await, None);
    }
}
