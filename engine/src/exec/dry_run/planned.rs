//! What the plan says of a resource that an operator asks about, used if the ledger does not know the resource.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Serialize;

use crate::exec::Runner;
use crate::ledger::{is_about, is_step};
use crate::model::{Span, StepId};
use crate::plan::PlannedStep;

/// A step of the plan that is about a resource.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Planned {
    /// The step.
    pub step: StepId,
    /// Where the script says so.
    pub span: Span,
    /// Why it or its phase does nothing on this host, if so.
    pub skipped: Option<String>,
    /// Whether the resource is as planned; `None` if that cannot be told.
    pub as_planned: Option<bool>,
}

impl Runner<'_> {
    /// The plan's steps about `resource`: a phase, a step, a path, the name of a container, unit … Reads only.
    pub async fn planned(&self, resource: &str) -> Vec<Planned> {
        let mut found = Vec::new();
        for phase in &self.plan.phases {
            let is_whole_phase = phase.name.as_str() == resource;
            for step in phase
                .steps
                .iter()
                .filter(|step| is_whole_phase || concerns(step, resource))
            {
                let cx = self.context(step.policy.absent);
                let pending = match phase.skipped {
                    Some(_) => None,
                    None => step.spec.pending(&cx).await.ok(),
                };
                found.push(Planned {
                    step: step.id.clone(),
                    span: step.span.clone(),
                    skipped: phase.skipped.clone(),
                    as_planned: pending.map(|pending| pending.is_none()),
                });
            }
            found.extend(
                phase
                    .skipped_words
                    .iter()
                    .filter(|word| word.label == resource)
                    .map(|word| Planned {
                        step: StepId::new(&phase.name, &word.word, &word.label),
                        span: word.span.clone(),
                        skipped: Some(word.reason.clone()),
                        as_planned: None,
                    }),
            );
        }
        found
    }

    /// The paths of the plan whose last part is `name`, in order. An operator may have only the name of a file, for example from an error.
    #[must_use]
    pub fn paths_named(&self, name: &str) -> Vec<String> {
        let steps = self.plan.phases.iter().flat_map(|phase| &phase.steps);
        let keys = steps.flat_map(|step| step.spec.keys());
        let paths: BTreeSet<String> = keys
            .filter_map(|key| {
                let (_, path) = key.split_once(' ')?;
                let its = Path::new(path);
                let is_named =
                    its.is_absolute() && its.file_name().is_some_and(|last| last == name);
                is_named.then(|| path.to_owned())
            })
            .collect();
        paths.into_iter().collect()
    }
}

fn concerns(step: &PlannedStep, resource: &str) -> bool {
    let mut keys = step.spec.keys().into_iter();
    is_step(&step.id, resource) || keys.any(|key| is_about(&key, resource))
}
