//! The container runtime before an apply or a repair: whether it answers, and which images it lacks.
//!
//! It is asked once for all phases. Not here: whether an image that is gone can be loaded (`repair::needs`).

use std::collections::BTreeSet;
use std::time::Duration;

use crate::exec::Runner;
use crate::plan::PlannedPhase;
use crate::resource::Spec;
use crate::resource::docker::container_runtime;

/// How long the container runtime may take to answer at all.
const ANSWER: Duration = Duration::from_secs(5);
/// Bound on each further question about it.
const BOUND: Duration = Duration::from_secs(10);

/// The container runtime at the beginning of a write trial, or of the preconditions of an apply.
#[derive(Debug, Default)]
pub(in crate::exec) struct RuntimeState {
    /// Whether it answered.
    pub(in crate::exec) answers: bool,
    /// Images that it says it does not have.
    removed: BTreeSet<String>,
}

impl RuntimeState {
    /// Whether it says that it does not have an image.
    pub(in crate::exec) fn lacks(&self, reference: &str) -> bool {
        self.removed.contains(reference)
    }
}

impl Runner<'_> {
    /// What the container runtime says of the images that these phases need. A runtime that does not answer is not asked
    /// again: each request would wait for its deadline, and the repair with it.
    pub(in crate::exec) async fn runtime_state(&self, phases: &[&PlannedPhase]) -> RuntimeState {
        let steps = phases.iter().flat_map(|phase| &phase.steps);
        let references = steps.filter_map(|step| match &step.spec {
            Spec::Image(image) => Some(&image.reference),
            Spec::Container(container) => Some(&container.image),
            _ => None,
        });
        let references: BTreeSet<&String> = references.collect();
        let mut runtime = RuntimeState::default();
        if references.is_empty() {
            return runtime;
        }
        if !matches!(self.runtime_answers(ANSWER).await, Ok(None)) {
            // A runtime that is still to be installed has no image. One that hangs may have all of them.
            let there =
                tokio::time::timeout(BOUND, container_runtime::is_installed(self.host)).await;
            if matches!(there, Ok(Ok(false))) {
                runtime.removed = references.into_iter().cloned().collect();
            }
            return runtime;
        }
        runtime.answers = true;
        for reference in references {
            if self.is_gone(reference).await {
                runtime.removed.insert(reference.clone());
            }
        }
        runtime
    }

    /// Whether the runtime says that it does not have an image.
    pub(in crate::exec) async fn is_gone(&self, reference: &str) -> bool {
        let image = tokio::time::timeout(BOUND, self.host.image(reference)).await;
        matches!(image, Ok(Ok(None)))
    }
}
