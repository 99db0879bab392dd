//! What a run over some phases would stand on and is not there: `apply --only kubelet` on a bare host would start a
//! kubelet that cannot work and wait for it. `nodelet apply` asks before it touches anything.

use std::collections::BTreeSet;

use super::Runner;
use crate::ledger::Ledger;
use crate::plan::{Graph, PhaseName, PlannedPhase};
use crate::resource::ResourceResult;

/// Phases are chosen, and what they require is neither chosen nor there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "apply the chosen phases: they require {}, not on this host yet; `nodelet apply --to {last}` brings that about, too, `nodelet apply` everything",
    phases.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
)]
pub struct NotStanding {
    /// What is not there, in the plan's order.
    pub phases: Vec<PhaseName>,
    /// The last of the chosen phases.
    pub last: PhaseName,
}

impl Runner<'_> {
    /// The phases that the chosen ones require, directly or through others, and that neither are chosen nor stand.
    /// Reads only.
    ///
    /// A phase stands if the ledger has something of it. One that found all as it should be has left nothing there, and
    /// some have no steps: of these, what they are about must be as planned.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub async fn not_standing(&self) -> ResourceResult<Option<NotStanding>> {
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
        let standing = Ledger::phases_in(&Ledger::read(self.host).await?);
        let mut phases = Vec::new();
        for phase in &self.plan.phases {
            if required.contains(&phase.name)
                && phase.skipped.is_none()
                && !standing.contains(&phase.name)
                && self.has_work(phase).await
            {
                phases.push(phase.name.clone());
            }
        }
        Ok((!phases.is_empty()).then(|| NotStanding {
            phases,
            last: last.name.clone(),
        }))
    }

    /// Whether a step of it would change something. One that cannot be told stands on something that is missing.
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
