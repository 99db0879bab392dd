//! A docker or a containerd that a signal has stopped (SIGSTOP).
//!
//! A stopped docker answers nothing. Without containerd, docker starts and ends nothing, and after a minute docker itself does not answer any
//! more; pings of docker are answered until then. So a repair that ends something before both work again only makes it worse.
//!
//! Their processes go on with SIGCONT. A unit is restarted only if that does not help: a unit of docker may be bound to containerd
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

/// The units that are woken, in this order: docker needs containerd.
const UNITS: [&str; 2] = [CONTAINERD_UNIT, container_runtime::UNIT];
/// How long docker may take to answer after both work again. It needs about five seconds.
const ANSWER: Duration = Duration::from_secs(30);
/// Pause between two questions to docker.
const PAUSE: Duration = Duration::from_millis(500);
/// Bound on one question to the service manager.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Units of the container runtime that a signal has stopped, on a host whose plan runs docker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoppedRuntime {
    /// The units, in the order in which they are woken; at least one.
    pub units: Vec<&'static str>,
    /// The phases whose checks may fail for this reason alone: the one that runs docker, and all that need it.
    pub phases: BTreeSet<PhaseName>,
}

impl StoppedRuntime {
    /// What a repair reports when these units work again and none had to be restarted.
    #[must_use]
    pub fn woken(&self) -> Vec<Event> {
        self.units.iter().map(|unit| woken(unit, false)).collect()
    }
}

/// What a repair reports when a unit works again.
fn woken(unit: &str, restarted: bool) -> Event {
    let reason = "a signal had stopped its process (SIGSTOP)";
    Event::ResourceWoken {
        resource: unit.to_owned(),
        reason: match unit == CONTAINERD_UNIT {
            true => format!("{reason}, and docker needs it"),
            false => reason.to_owned(),
        },
        restarted,
    }
}

impl Runner<'_> {
    /// The units of this host's container runtime that a signal has stopped, if the plan runs docker. `None`, too, if that cannot be determined.
    pub async fn stopped_runtime(&self) -> Option<StoppedRuntime> {
        let is_docker = |step: &PlannedStep| {
            !step.policy.absent
                && matches!(&step.spec, Spec::Service(service) if service.unit == container_runtime::UNIT)
        };
        let runs_docker =
            |phase: &&PlannedPhase| phase.skipped.is_none() && phase.steps.iter().any(is_docker);
        let docker = self.plan.phases.iter().find(runs_docker)?;
        let units = self.stopped_runtime_units().await;
        if units.is_empty() {
            return None;
        }
        let mut phases = Graph::of(self.plan).dependents(&docker.name);
        phases.insert(docker.name.clone());
        Some(StoppedRuntime { units, phases })
    }

    /// Lets docker and containerd work again if they are stopped: nothing is ended without them.
    ///
    /// # Errors
    /// As [`Runner::wake_runtime`].
    pub async fn wake_stopped_runtime(&self) -> ResourceResult<()> {
        match self.stopped_runtime().await {
            Some(stopped) => self.wake_runtime(&stopped).await,
            None => Ok(()),
        }
    }

    /// Lets these units work again, and waits until docker answers. Does nothing else: no container ends, and no phase is restarted. A
    /// docker that does not answer even then is left to the checks: a restart of a containerd that goes on would not help it.
    ///
    /// # Errors
    /// containerd does not go on, and its unit cannot be restarted. Then docker can start and end nothing. A docker that cannot be restarted
    /// is left to the checks: its phase may repair its configuration.
    pub async fn wake_runtime(&self, stopped: &StoppedRuntime) -> ResourceResult<()> {
        // All of them first: a restart of containerd would wait for the end of a docker that is stopped.
        for unit in &stopped.units {
            if let Err(error) = self.host.continue_unit(unit).await {
                tracing::warn!("could not {}", chain(&error).join(": "));
            }
        }
        for unit in &stopped.units {
            if self.unit_works(unit).await || !self.is_main_process_stopped(unit).await {
                self.events.emit(woken(unit, false));
                continue;
            }
            if self.cancel.is_cancelled() {
                return Ok(());
            }
            self.restart_to_wake(unit).await?;
        }
        Ok(())
    }

    /// Restarts a unit that does not go on.
    async fn restart_to_wake(&self, unit: &str) -> ResourceResult<()> {
        let is_containerd = unit == CONTAINERD_UNIT;
        // docker may be bound to containerd (`BindsTo=`), and is restarted with it then.
        if is_containerd {
            container_runtime::before_stop(self.host, container_runtime::UNIT).await;
        }
        let began = self.host.now();
        if let Err(error) = self.host.restart_unit(unit).await {
            let needs = match is_containerd {
                true => " and without which docker can start and end nothing",
                false => "",
            };
            let error = HostError::service(
                format!(
                    "wake {unit}, which a signal has stopped{needs} (next: `systemctl restart {unit}`)"
                ),
                error,
            );
            if is_containerd {
                return Err(error.into());
            }
            tracing::warn!("could not {}", chain(&error).join(": "));
            return Ok(());
        }
        self.events.emit(woken(unit, true));
        if self.unit_works(unit).await {
            // A docker that is down is started by its phase, and these containers with it.
            let docker = self.host.unit(container_runtime::UNIT).await;
            if docker.is_ok_and(|docker| docker.is_active()) {
                container_runtime::after_start(self.host, container_runtime::UNIT, began).await;
            }
        } else {
            tracing::warn!("{unit} was restarted, and docker does not answer yet");
        }
        Ok(())
    }

    /// What a check says of a container runtime that a signal has stopped; `None` if none has.
    pub(in crate::exec) async fn stopped_runtime_reason(&self) -> Option<String> {
        let units = self.stopped_runtime_units().await;
        match units.as_slice() {
            [] => None,
            [unit] => {
                let needs = match *unit == CONTAINERD_UNIT {
                    true => ", and docker needs it",
                    false => "",
                };
                Some(format!(
                    "{unit} is active, but a signal has stopped its process (SIGSTOP){needs}"
                ))
            }
            units => Some(format!(
                "{} are active, but a signal has stopped their processes (SIGSTOP)",
                units.join(" and ")
            )),
        }
    }

    /// The units of the container runtime that a signal has stopped: the main process of the unit, not a shim, and not one in a container.
    /// None, if that cannot be determined.
    async fn stopped_runtime_units(&self) -> Vec<&'static str> {
        let stopped = self.stopped_processes().await;
        let mut units = Vec::new();
        for unit in UNITS {
            if self.is_main_process_among(&stopped, unit).await {
                units.push(unit);
            }
        }
        units
    }

    /// Whether a signal has stopped the main process of a unit. No, if that cannot be determined.
    pub(super) async fn is_main_process_stopped(&self, unit: &str) -> bool {
        let stopped = self.stopped_processes().await;
        self.is_main_process_among(&stopped, unit).await
    }

    /// Whether the main process of a unit is one of these. No, if that cannot be determined.
    pub(super) async fn is_main_process_among(
        &self,
        stopped: &[StoppedProcess],
        unit: &str,
    ) -> bool {
        if !is_unit(stopped, unit) {
            return false;
        }
        let main = self.host.main_process(unit);
        match tokio::time::timeout(TIMEOUT, main).await {
            Ok(Ok(Some(main))) => {
                let mut its = stopped.iter().filter(|process| process.is_of_unit(unit));
                its.any(|process| process.pid == main)
            }
            _ => false,
        }
    }

    /// Whether a unit goes on, and docker answers and gets answers from containerd. Waits for these. A docker that does not run cannot be asked.
    async fn unit_works(&self, unit: &str) -> bool {
        let until = self.host.elapsed() + ANSWER;
        loop {
            // It goes on at once, or not at all.
            if self.is_main_process_stopped(unit).await {
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

    /// Whether docker's unit is active, and no signal has stopped its main process. Without another process of the unit, such as a docker-proxy,
    /// docker still answers.
    async fn can_docker_answer(&self) -> bool {
        let state = self.host.unit(container_runtime::UNIT);
        let state = tokio::time::timeout(TIMEOUT, state).await;
        matches!(state, Ok(Ok(state)) if state.is_active())
            && !self.is_main_process_stopped(container_runtime::UNIT).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::Recording;
    use crate::facts::Facts;
    use crate::host::fake::{FakeHost, FaultPlan};
    use crate::host::{ContainerConfig, Containers as _, Services as _};
    use crate::model::STATE;
    use crate::plan::{Plan, PlannedCheck, Probe};
    use crate::resource::docker::container_runtime::tests::interrupted_host;
    use crate::resource::{NoSecrets, ServiceSpec};

    fn plan(unit: &str) -> Plan {
        let name: PhaseName = "docker".parse().expect("a name");
        let step = PlannedStep::bare(&name, Spec::Service(ServiceSpec::bare(unit)));
        let check = PlannedCheck::bare(&name, "docker answers", Probe::ContainerRuntime);
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
        host.with_world_mut(|world| world.stop_main_process(CONTAINERD_UNIT, "containerd"));
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
        let host = host();
        stop(&host);
        assert_goes_on_alone(&host, CONTAINERD_UNIT).await;
    }

    async fn assert_goes_on_alone(host: &FakeHost, unit: &str) {
        let plan = plan(container_runtime::UNIT);
        let (facts, heard) = (Facts::nothing_about("cp-1"), Recording::default());
        let runner = Runner::new(&plan, host, &facts, &NoSecrets, &heard);
        let stopped = runner.stopped_runtime().await.expect("it is stopped");
        let phases: Vec<&str> = stopped.phases.iter().map(PhaseName::as_str).collect();
        assert_eq!(phases, ["docker", "etcd"]);
        let woken = runner.wake_runtime(&stopped).await;
        woken.expect("it goes on");
        assert_eq!(changes(host), [format!("continue_unit {unit}")]);
        assert_eq!(heard.events(), stopped.woken());
        assert_eq!(runner.stopped_runtime().await, None);
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
            let done = runner.wake_stopped_runtime().await;
            done.expect("it goes on");
            let changes = changes(&host);
            let restart = "restart_unit containerd.service";
            let is_restarted = changes.iter().any(|call| call == restart);
            // A docker that is silent is no reason to restart a containerd that goes on.
            assert_eq!(is_restarted, restarted, "{fault}: {changes:?}");
            assert_eq!(heard.events(), [woken(CONTAINERD_UNIT, restarted)]);
            assert_eq!(runner.stopped_runtime().await, None);
        }
        // Nothing is ended if it cannot be restarted either.
        let (host, plan) = (host(), plan(container_runtime::UNIT));
        stop(&host);
        let faults = FaultPlan::none().fail("continue_unit", "*");
        host.set_faults(faults.fail("restart_unit", "*"));
        let (facts, heard) = (Facts::nothing_about("cp-1"), Recording::default());
        let runner = Runner::new(&plan, &host, &facts, &NoSecrets, &heard);
        let stopped = runner.stopped_runtime().await.expect("it is stopped");
        let error = runner.wake_runtime(&stopped).await;
        let error = error.expect_err("it is still stopped").to_string();
        assert!(error.contains("systemctl restart containerd"), "{error}");
        assert_eq!(heard.events(), []);
    }

    /// A docker that is down is repaired by its phase. One that is stopped as well goes on, and is asked afterwards.
    #[tokio::test(start_paused = true)]
    async fn a_docker_that_cannot_answer_restarts_no_containerd() {
        for down in [true, false] {
            let (host, plan) = (host(), plan(container_runtime::UNIT));
            stop(&host);
            let mut continued = vec!["continue_unit containerd.service"];
            if down {
                let ended = host.stop_unit(container_runtime::UNIT).await;
                ended.expect("it ends");
            } else {
                stop_docker(&host);
                host.set_faults(FaultPlan::none().fail("container_runtime", "*"));
                continued.push("continue_unit docker.service");
            }
            host.clear_journal();
            let (facts, heard) = (Facts::nothing_about("cp-1"), Recording::default());
            let runner = Runner::new(&plan, &host, &facts, &NoSecrets, &heard);
            let stopped = runner.stopped_runtime().await.expect("it is stopped");
            let woken = runner.wake_runtime(&stopped).await;
            woken.expect("it goes on");
            assert_eq!(changes(&host), continued);
        }
    }

    fn stop_docker(host: &FakeHost) {
        let docker = container_runtime::UNIT;
        host.with_world_mut(|world| world.stop_main_process(docker, "dockerd"));
    }

    /// A restart of docker would be a restart of all that needs it.
    #[tokio::test(start_paused = true)]
    async fn a_stopped_docker_is_named_and_goes_on_and_nothing_is_restarted() {
        let (host, plan) = (host(), plan(container_runtime::UNIT));
        stop_docker(&host);
        let (facts, ignored_events) = (Facts::nothing_about("cp-1"), Recording::default());
        let runner = Runner::new(&plan, &host, &facts, &NoSecrets, &ignored_events);
        let health = runner.check_until_failed(Duration::ZERO).await;
        assert!(health[0].fails(), "{health:?}");
        assert_eq!(
            health[0].conditions[0].reason,
            "docker.service is active, but a signal has stopped its process (SIGSTOP)"
        );
        assert_goes_on_alone(&host, container_runtime::UNIT).await;
    }

    /// docker itself goes on, and answers a little later.
    #[tokio::test(start_paused = true)]
    async fn docker_is_waited_for_beside_a_stopped_docker_proxy() {
        let (host, plan) = (host(), plan(container_runtime::UNIT));
        stop(&host);
        host.with_world_mut(|world| {
            world.stop_program("docker-proxy", "0::/system.slice/docker.service\n");
        });
        host.set_faults(FaultPlan::none().fail("container_runtime", "*").times(3));
        let (facts, heard) = (Facts::nothing_about("cp-1"), Recording::default());
        let runner = Runner::new(&plan, &host, &facts, &NoSecrets, &heard);
        let stopped = runner.stopped_runtime().await.expect("it is stopped");
        assert_eq!(stopped.units, [CONTAINERD_UNIT]);
        let woken = runner.wake_runtime(&stopped).await;
        woken.expect("it goes on");
        let answers = host.container_runtime().await;
        answers.expect("docker was waited for");
        assert_eq!(changes(&host), ["continue_unit containerd.service"]);
    }

    /// A docker that cannot be restarted either is left to its phase, which may repair its configuration.
    #[tokio::test(start_paused = true)]
    async fn a_docker_that_does_not_go_on_is_restarted() {
        for restarts in [true, false] {
            let (host, plan) = (host(), plan(container_runtime::UNIT));
            stop_docker(&host);
            let mut faults = FaultPlan::none().fail("continue_unit", "*");
            if !restarts {
                faults = faults.fail("restart_unit", "*");
            }
            host.set_faults(faults);
            let (facts, heard) = (Facts::nothing_about("cp-1"), Recording::default());
            let runner = Runner::new(&plan, &host, &facts, &NoSecrets, &heard);
            let done = runner.wake_stopped_runtime().await;
            done.expect("the repair goes on");
            let changes = changes(&host);
            let restart = "restart_unit docker.service";
            assert!(changes.iter().any(|call| call == restart), "{changes:?}");
            let restarted = restarts.then(|| woken(container_runtime::UNIT, true));
            assert_eq!(heard.events(), Vec::from_iter(restarted));
            assert_eq!(runner.stopped_runtime().await.is_none(), restarts);
        }
    }

    /// An earlier restart has ended them, and docker has come up without nodelet since.
    #[tokio::test(start_paused = true)]
    async fn containers_of_others_run_again_after_a_restart_that_wakes_docker() {
        let (host, plan) = (interrupted_host().await, plan(container_runtime::UNIT));
        let started = host.start_unit(container_runtime::UNIT).await;
        started.expect("it starts");
        stop_docker(&host);
        host.set_faults(FaultPlan::none().fail("continue_unit", "*"));
        let (facts, ignored_events) = (Facts::nothing_about("cp-1"), Recording::default());
        let runner = Runner::new(&plan, &host, &facts, &NoSecrets, &ignored_events);
        let woken = runner.wake_stopped_runtime().await;
        woken.expect("it is restarted");
        assert!(host.with_world(|world| world.container_runs("theirs")));
    }

    /// docker may be bound to containerd, and is restarted with it then.
    #[tokio::test(start_paused = true)]
    async fn containers_of_others_are_written_down_before_containerd_is_restarted() {
        let (host, plan) = (host(), plan(container_runtime::UNIT));
        host.with_world_mut(|world| {
            world.directory(STATE);
            world.container(ContainerConfig::bare("theirs", "app:1"));
        });
        stop(&host);
        host.set_faults(FaultPlan::none().fail("continue_unit", "*"));
        let (facts, ignored_events) = (Facts::nothing_about("cp-1"), Recording::default());
        let runner = Runner::new(&plan, &host, &facts, &NoSecrets, &ignored_events);
        let woken = runner.wake_stopped_runtime().await;
        woken.expect("it is restarted");
        let changes = changes(&host);
        let at = |wanted: &str| changes.iter().position(|call| call.contains(wanted));
        let written = at("write /var/opt/pf9/nodelet/containers-to-start.json");
        let restarted = at("restart_unit containerd.service");
        assert!(written.is_some() && written < restarted, "{changes:?}");
        // Nothing has ended it, so nothing is to be started.
        let removed = at("remove /var/opt/pf9/nodelet/containers-to-start.json");
        assert!(removed > restarted, "{changes:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_names_both_if_both_are_stopped() {
        let (host, plan) = (host(), plan(container_runtime::UNIT));
        stop(&host);
        stop_docker(&host);
        let (facts, ignored_events) = (Facts::nothing_about("cp-1"), Recording::default());
        let runner = Runner::new(&plan, &host, &facts, &NoSecrets, &ignored_events);
        let health = runner.check_until_failed(Duration::ZERO).await;
        assert_eq!(
            health[0].conditions[0].reason,
            "containerd.service and docker.service are active, but a signal has stopped their processes (SIGSTOP)"
        );
    }

    /// docker answers beside it, so a docker that is only slow is not taken for a stopped one.
    #[tokio::test(start_paused = true)]
    async fn a_stopped_docker_proxy_does_not_confirm_a_failure() {
        let (host, plan) = (host(), plan(container_runtime::UNIT));
        host.with_world_mut(|world| {
            world.stop_program("docker-proxy", "0::/system.slice/docker.service\n");
        });
        let (facts, ignored_events) = (Facts::nothing_about("cp-1"), Recording::default());
        let runner = Runner::new(&plan, &host, &facts, &NoSecrets, &ignored_events);
        assert!(!runner.is_stopped(&plan.phases[0]).await);
        stop_docker(&host);
        assert!(runner.is_stopped(&plan.phases[0]).await);
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
            assert_eq!(runner.stopped_runtime().await, None, "{what}");
            let health = runner.check_until_failed(Duration::ZERO).await;
            assert!(!health[0].fails(), "{what}: {health:?}");
        }
        // Without docker in the plan it is of no concern.
        let (host, plan) = (host(), plan("kubelet.service"));
        stop(&host);
        let (facts, ignored_events) = (Facts::nothing_about("cp-1"), Recording::default());
        let runner = Runner::new(&plan, &host, &facts, &NoSecrets, &ignored_events);
        assert_eq!(runner.stopped_runtime().await, None);
    }
}
