//! What a stopped process (SIGSTOP) adds to the condition of a check, so that an operator looks for no other cause.
//!
//! Not here: which processes are stopped, and what a repair does about it (`repair::stopped`, `repair::wake`).

use crate::exec::Runner;
use crate::exec::check::condition::{Condition, Status};
use crate::host::Host;
use crate::model::chain;
use crate::plan::{PlannedCheck, PlannedPhase, Probe};
use crate::resource::Spec;
use crate::resource::docker::{container_runtime, ending};

/// The signal, in the reason of a check whose process it has stopped.
const SIGNAL: &str = "SIGSTOP";

impl Runner<'_> {
    /// Adds to the reason of a failed check that a process of its phase is stopped, if the reason does not say so. Returns whether one is.
    pub(in crate::exec::check) async fn note_stopped(
        &self,
        phase: &PlannedPhase,
        condition: &mut Condition,
    ) -> bool {
        let is_stopped = self.is_stopped(phase).await;
        if is_stopped && !condition.reason.contains(SIGNAL) {
            condition.reason += &format!("; a signal has stopped one of its processes ({SIGNAL})");
        }
        is_stopped
    }

    /// Adds what a stopped shim prevents: docker ends a container only through the container's shim. A docker that answers is reported with the
    /// containers that it cannot end. A check whose result is not known gets the shims of its containers added to its reason: docker answers nothing
    /// about a container that it has tried to end. It keeps its own reason, because the result may be unknown for another cause.
    pub(in crate::exec::check) async fn note_shims(
        &self,
        host: &dyn Host,
        phase: &PlannedPhase,
        check: &PlannedCheck,
        condition: &mut Condition,
    ) {
        match (&check.probe, condition.status) {
            (Probe::ContainerRuntime, Status::True) => {
                if let Some(problem) = container_runtime::cannot_end(host).await {
                    condition.status = Status::False;
                    // A repair could not end these containers either.
                    condition.advisory = true;
                    condition.reason = problem;
                }
            }
            (Probe::ContainerRunning(_) | Probe::AsPlanned, Status::Unknown) => {
                let of_another = |its: &str| matches!(&check.probe, Probe::ContainerRunning(name) if name != its);
                let containers = phase.steps.iter().filter_map(|step| match &step.spec {
                    Spec::Container(container) if !of_another(&container.name) => {
                        Some(container.name.as_str())
                    }
                    _ => None,
                });
                for name in containers {
                    if let Some(error) = ending::because_of_shim(host, name).await {
                        condition.reason += &format!("; {}", chain(&error).join(": "));
                    }
                }
            }
            _ => {}
        }
    }
}
