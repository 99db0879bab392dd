//! What the steps of a plan are about, compared with what the ledger says that a host has.
//!
//! Not here: what becomes of a resource that the plan does not have (`undo::orphans`). Start with [`PlannedResources`].

use std::collections::BTreeSet;
use std::path::Path;

use crate::ledger::{LiveResource, LiveUndo};
use crate::model::{PhaseName, StepId};
use crate::plan::Plan;
use crate::resource::docker::container_runtime;
use crate::resource::{Spec, Undo};

/// The undos of resources that an earlier plan had no longer and that were in use then, if this plan has them again.
pub(in crate::exec) fn planned_again(resources: Vec<LiveResource>, plan: &Plan) -> Vec<LiveUndo> {
    let planned = PlannedResources::of(plan);
    let again = resources
        .into_iter()
        .filter(|resource| resource.in_use && planned.has(resource));
    again.map(|resource| resource.undo).collect()
}

/// What the steps of the plan are about.
pub(in crate::exec) struct PlannedResources<'a> {
    pub(in crate::exec) phases: BTreeSet<&'a PhaseName>,
    steps: BTreeSet<&'a StepId>,
    resources: BTreeSet<String>,
    packages: BTreeSet<&'a str>,
    /// Whether the plan has containers or images.
    containers: bool,
}

impl<'a> PlannedResources<'a> {
    pub(in crate::exec) fn of(plan: &'a Plan) -> Self {
        let phases = || plan.phases.iter().filter(|phase| phase.skipped.is_none());
        let specs = || {
            phases()
                .flat_map(|phase| &phase.steps)
                .map(|step| &step.spec)
        };
        Self {
            phases: phases().map(|phase| &phase.name).collect(),
            steps: phases()
                .flat_map(|phase| &phase.steps)
                .map(|step| &step.id)
                .collect(),
            resources: specs().flat_map(Spec::keys).collect(),
            packages: specs()
                .filter_map(|spec| match spec {
                    Spec::Packages(packages) => Some(packages.names.iter().map(String::as_str)),
                    _ => None,
                })
                .flatten()
                .collect(),
            containers: specs().any(|spec| matches!(spec, Spec::Container(_) | Spec::Image(_))),
        }
    }

    /// Whether a resource of the host stays there.
    pub(in crate::exec) fn keeps(&self, resource: &LiveResource) -> bool {
        resource.undo.keep
            // A clean takes it back, when what uses it is gone.
            || resource.in_use
            // It belongs to no step alone: taking back a unit's file loads the units again anyway.
            || resource.undo.undo == Undo::ReloadUnits
            || self.has(resource)
    }

    /// Whether the plan has a resource.
    fn has(&self, resource: &LiveResource) -> bool {
        let undo = &resource.undo.undo;
        resource.steps.iter().any(|step| self.steps.contains(step))
            || self.resources.contains(&undo.key())
            || match undo {
                Undo::PurgePackages { names } => {
                    names
                        .iter()
                        .any(|name| self.packages.contains(name.as_str()))
                        || (self.containers && container_runtime::is_runtime(names))
                }
                Undo::RemoveTree { path } | Undo::ClearDirectory { path, .. } => {
                    self.has_below(path)
                }
                _ => false,
            }
    }

    /// Whether a step is about something in this directory.
    fn has_below(&self, directory: &Path) -> bool {
        self.resources.iter().any(|resource| {
            resource
                .split_once(' ')
                .is_some_and(|(_, path)| Path::new(path).starts_with(directory))
        })
    }
}
