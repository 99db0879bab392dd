//! Finds what a run of selected phases requires and the host does not have: `apply --only kubelet` on a bare host would
//! start a kubelet that cannot work and wait for it. `nodelet apply` checks this before it changes anything.

use std::collections::BTreeSet;

use crate::exec::Runner;
use crate::ledger::Ledger;
use crate::model::PhaseName;
use crate::plan::{Graph, PlannedPhase};
use crate::resource::ResourceResult;

/// The chosen phases require others that are neither chosen nor on this host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "apply the chosen phases: they require {}, which this host does not have yet; `nodelet apply --to {last}` applies them, too, `nodelet apply` applies everything",
    phases.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
)]
pub struct UnmetRequires {
    /// The phases that this host does not have, in the plan's order.
    pub phases: Vec<PhaseName>,
    /// The last of the chosen phases.
    pub last: PhaseName,
}

impl Runner<'_> {
    /// The phases that the chosen ones require, directly or through others, and that are neither chosen nor on this
    /// host. Reads only.
    ///
    /// A phase is on this host if the ledger has something of it. A phase that found everything as planned, or that has
    /// no steps, left nothing in the ledger: what it is about must be as planned.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub async fn unmet_requires(&self) -> ResourceResult<Option<UnmetRequires>> {
        let chosen = self.selection.phases(self.plan);
        let Some(last) = chosen.last() else {
            return Ok(None);
        };
        let graph = Graph::of(self.plan);
        let active = chosen.iter().filter(|phase| phase.skipped.is_none());
        let required: BTreeSet<PhaseName> = active
            .flat_map(|phase| graph.requirements(&phase.name))
            .filter(|name| !chosen.iter().any(|its| its.name == *name))
            .collect();
        if required.is_empty() {
            return Ok(None);
        }
        let applied = Ledger::phases_in(&Ledger::read(self.host).await?);
        let mut phases = Vec::new();
        for phase in &self.plan.phases {
            if required.contains(&phase.name)
                && phase.skipped.is_none()
                && !applied.contains(&phase.name)
                && self.has_work(phase).await
            {
                phases.push(phase.name.clone());
            }
        }
        Ok((!phases.is_empty()).then(|| UnmetRequires {
            phases,
            last: last.name.clone(),
        }))
    }

    /// Whether a step of it would change something. If that cannot be determined, the step needs something that is
    /// missing.
    async fn has_work(&self, phase: &PlannedPhase) -> bool {
        for step in &phase.steps {
            let cx = self.context(step.policy.absent);
            if !matches!(step.spec.pending(&cx).await, Ok(None)) {
                return true;
            }
        }
        false
    }
}
