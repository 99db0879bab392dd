//! A restart that did not come to its end starts again what it had stopped: a service that worked must not stay down for a repair that
//! did not.

use std::time::Duration;

use super::Runner;
use super::advice::chain;
use super::event::Event;
use crate::host::HostError;
use crate::plan::{PhaseName, PlannedStep, StepId};
use crate::resource::{ResourceError, ResourceResult, Spec, Undo};

/// For the container engine to say how a container is configured.
const LOOK: Duration = Duration::from_secs(10);

/// Something that a restart has stopped.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) phase: PhaseName,
    pub(super) step: StepId,
    /// What starts it as it ran.
    pub(super) way_back: Undo,
}

impl Runner<'_> {
    /// What brings a step's container back as it runs now, where it is one and runs. What the engine does not tell is not brought back.
    pub(super) async fn container_as_it_runs(&self, step: &PlannedStep) -> Option<Undo> {
        let Spec::Container(container) = &step.spec else {
            return None;
        };
        let looked = tokio::time::timeout(LOOK, container.as_it_runs(self.host)).await;
        looked.ok()?.ok().flatten()
    }

    /// Starts what was stopped and does not run now, the last one that was stopped first: what others build on was stopped after them.
    /// A failure keeps none of the others from being tried, and each is told.
    pub(super) async fn start_again(&self, ended: Vec<Ended>) {
        for Ended {
            phase,
            step,
            way_back,
        } in ended.into_iter().rev()
        {
            let after = way_back.patience();
            let started = tokio::time::timeout(after, self.start_unless_it_runs(&way_back)).await;
            let started = started.unwrap_or_else(|_| {
                let action = format!("start {}", way_back.about());
                Err(ResourceError::Host(HostError::Deadline { action, after }))
            });
            match started {
                Ok(false) => {}
                Ok(true) => self.events.emit(Event::StepStartedAgain { phase, step }),
                Err(error) => {
                    let error = format!("could not {}", chain(&error).join(": "));
                    self.events.emit(Event::StartFailed { phase, step, error });
                }
            }
        }
    }

    /// Whether it had to be started.
    async fn start_unless_it_runs(&self, way_back: &Undo) -> ResourceResult<bool> {
        let runs = match way_back {
            Undo::StartUnit { name } => {
                let unit = self.host.unit(name).await?;
                unit.is_active() || unit.active == "activating"
            }
            Undo::RecreateContainer { config, .. } => {
                let state = self.host.container(&config.name).await?;
                state.is_some_and(|state| state.running)
            }
            // Nothing else is noted by a stop.
            _ => true,
        };
        if !runs {
            way_back.carry_out(self.host).await?;
        }
        Ok(!runs)
    }
}
