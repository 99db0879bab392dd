//! A restart that fails or is interrupted starts again what it had stopped: a service that worked must not stay down
//! because of a failed repair.

use std::time::Duration;

use super::stop::Containers;
use crate::exec::Runner;
use crate::exec::event::Event;
use crate::model::{PhaseName, StepId, chain};
use crate::plan::PlannedStep;
use crate::resource::docker::container_runtime;
use crate::resource::{ResourceError, ResourceResult, Spec, Undo, within};

/// How long the container runtime may take to say how a container is configured.
const BOUND: Duration = Duration::from_secs(10);
/// How long to wait until a start is judged: a program that refuses its configuration ends at once.
const SETTLE: Duration = Duration::from_secs(2);

/// Something that a restart has stopped.
#[derive(Debug)]
pub(in crate::exec) struct Ended {
    pub(in crate::exec) phase: PhaseName,
    pub(in crate::exec) step: StepId,
    /// What starts it as it ran.
    pub(in crate::exec) start_undo: Undo,
}

/// The state of something that a restart has stopped.
#[derive(Debug, PartialEq, Eq)]
struct StoppedState {
    /// Why it does not run; `None` if it does.
    down: Option<String>,
    /// Identifies its last start.
    start: String,
}

impl StoppedState {
    fn new(runs: bool, is: String, start: String) -> Self {
        Self {
            down: (!runs).then_some(is),
            start,
        }
    }
}

impl Runner<'_> {
    /// The undo that brings back a step's container as it runs now; `None` if the step is about no container or the
    /// container does not run.
    ///
    /// # Errors
    /// The runtime does not answer within [`BOUND`], or did not answer before, so it is not known whether the container
    /// could be brought back.
    pub(in crate::exec) async fn container_as_it_runs(
        &self,
        step: &PlannedStep,
        containers: Containers,
    ) -> ResourceResult<Option<Undo>> {
        let Spec::Container(container) = &step.spec else {
            return Ok(None);
        };
        if containers == Containers::Leave {
            // A runtime whose unit is down can end no container; this restart starts the runtime.
            let runs = tokio::time::timeout(BOUND, container_runtime::runs(self.host)).await;
            if matches!(runs, Ok(Ok(false))) {
                return Ok(None);
            }
            return Err(ResourceError::Unmet {
                what: format!(
                    "end container {}: docker did not answer, so it is not known whether another one could be made",
                    container.name
                ),
                next: "see `systemctl status docker`; the next attempt looks again".to_owned(),
            });
        }
        let action = format!("tell how container {} runs", container.name);
        within(BOUND, action, container.as_it_runs(self.host)).await
    }

    /// Starts what was stopped and does not run now, the resource that was stopped last comes first: what depends on a
    /// resource was stopped before it. A failure is reported, and the others are started all the same. A resource that was
    /// started and does not run a moment later counts as a failure.
    pub(in crate::exec) async fn start_again(&self, ended: Vec<Ended>) {
        let mut started = Vec::new();
        for one in ended.into_iter().rev() {
            let action = format!("start {}", one.start_undo.key());
            let start = self.start_unless_it_runs(&one.start_undo);
            match within(one.start_undo.properties().timeout, action, start).await {
                Ok(None) => {}
                Ok(Some(observation)) => started.push((one, observation)),
                Err(error) => self.start_failed(one, &chain(&error).join(": ")),
            }
        }
        if started.is_empty() {
            return;
        }
        self.host.pause(SETTLE).await;
        for (one, first) in started {
            let action = format!("look at {}", one.start_undo.key());
            match within(BOUND, action, self.observe_stopped(&one.start_undo)).await {
                Ok(StoppedState { down: None, start }) if start == first.start => {
                    let Ended { phase, step, .. } = one;
                    self.events.emit(Event::StepStartedAgain { phase, step });
                }
                Ok(observation) => {
                    let why = observation.down.or(first.down);
                    let why =
                        why.unwrap_or_else(|| "it ended, and was started once more".to_owned());
                    let about = one.start_undo.key();
                    self.start_failed(one, &format!("start {about}: {why}"));
                }
                Err(error) => self.start_failed(one, &chain(&error).join(": ")),
            }
        }
    }

    fn start_failed(&self, ended: Ended, why: &str) {
        let Ended { phase, step, .. } = ended;
        let error = format!("could not {why}");
        self.events.emit(Event::StartFailed { phase, step, error });
    }

    /// Its state after the start; `None` if it did not have to be started.
    async fn start_unless_it_runs(
        &self,
        start_undo: &Undo,
    ) -> ResourceResult<Option<StoppedState>> {
        let runs = match start_undo {
            Undo::StartUnit { name } => {
                let unit = self.host.unit(name).await?;
                unit.is_active() || unit.active == "activating"
            }
            Undo::RecreateContainer { config, .. } => {
                let state = self.host.container(&config.name).await?;
                state.is_some_and(|state| state.running)
            }
            // A stop notes nothing else.
            _ => true,
        };
        if runs {
            return Ok(None);
        }
        start_undo.carry_out(self.host).await?;
        self.observe_stopped(start_undo).await.map(Some)
    }

    /// The present state of something that a stop has noted.
    async fn observe_stopped(&self, start_undo: &Undo) -> ResourceResult<StoppedState> {
        Ok(match start_undo {
            Undo::StartUnit { name } => {
                let unit = self.host.unit(name).await?;
                let is = if unit.loaded {
                    format!(
                        "it is {} ({}); see `journalctl -u {name}`",
                        unit.active, unit.sub
                    )
                } else {
                    format!(
                        "systemd has no unit of this name any more; see `systemctl status {name}`, then `nodelet apply`"
                    )
                };
                StoppedState::new(unit.is_active(), is, unit.invocation)
            }
            Undo::RecreateContainer { config, .. } => {
                let name = &config.name;
                match self.host.container(name).await? {
                    Some(state) => StoppedState::new(
                        state.running,
                        format!(
                            "it exited with {}; see `docker logs {name}`",
                            state.exit_code
                        ),
                        format!("{} {}", state.id, state.restarts),
                    ),
                    None => StoppedState::new(
                        false,
                        "docker has no container of this name; see `docker ps --all`".to_owned(),
                        String::new(),
                    ),
                }
            }
            _ => StoppedState::new(true, String::new(), String::new()),
        })
    }
}
