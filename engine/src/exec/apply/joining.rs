//! Whether this host can join its cluster, or begin one: asked before an apply touches anything.
//!
//! The steps themselves say the same. But they come after others, and a host that is refused has to stay as it is.

use std::time::Duration;

use crate::exec::Runner;
use crate::model::Problem;
use crate::plan::{PlannedPhase, PlannedStep};
use crate::resource::{ResourceError, ResourceResult, Spec};

/// Bound on one question.
const BOUND: Duration = Duration::from_secs(10);
/// What has to hold where a host begins its cluster.
pub(super) const CLUSTER_IS_NEW: &str = "the cluster that this host begins does not exist";

impl Runner<'_> {
    /// What keeps this host from its cluster: a join file that cannot be used, or a cluster that exists although this host is to begin it.
    /// What cannot be determined yet is left to the steps. Changes nothing. Cancel safe.
    pub(in crate::exec) async fn joining_problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for step in steps(&self.selection.phases(self.plan)) {
            let requirement = match &step.spec {
                Spec::JoinFile(_) | Spec::JoinMaster(_) => "this host can join its cluster",
                Spec::EtcdMember(_) => CLUSTER_IS_NEW,
                _ => continue,
            };
            let answer = tokio::time::timeout(BOUND, self.may_join_or_begin(step)).await;
            if let Ok(Err(ResourceError::Unmet { what, next })) = answer {
                problems.push(Problem {
                    requirement: requirement.to_owned(),
                    span: step.span.clone(),
                    problem: what,
                    remedy: next,
                });
            }
        }
        problems
    }

    async fn may_join_or_begin(&self, step: &PlannedStep) -> ResourceResult<()> {
        match &step.spec {
            Spec::EtcdMember(member) => member.may_begin(self.host).await,
            spec => spec.pending(&self.context(false)).await.map(drop),
        }
    }
}

/// What these phases are to make.
pub(super) fn steps<'p>(phases: &[&'p PlannedPhase]) -> impl Iterator<Item = &'p PlannedStep> {
    let phases = phases.iter().filter(|phase| phase.skipped.is_none());
    let steps = phases.flat_map(|phase| &phase.steps);
    steps.filter(|step| !step.policy.absent)
}
