//! Whether this host can join its cluster, or begin one: asked before an apply touches anything.
//!
//! The steps themselves say the same. But they come after others, and a host that is refused has to stay as it is.

use std::time::Duration;

use crate::exec::kubernetes::probes::has_no_pods_yet;
use crate::exec::{Renewals, Runner};
use crate::model::Problem;
use crate::plan::{PlannedPhase, PlannedStep};
use crate::resource::{Action, ResourceError, ResourceResult, Spec};

/// Bound on one question.
const BOUND: Duration = Duration::from_secs(10);
/// Bound on the questions whether the token of the join file is accepted.
const BOUND_OF_TOKEN: Duration = Duration::from_secs(20);
/// What has to hold where a host begins its cluster.
pub(super) const CLUSTER_IS_NEW: &str = "the cluster that this host begins does not exist";

impl Runner<'_> {
    /// What keeps this host from its cluster: a join file that cannot be used, also because its token has ended, or a cluster that exists although
    /// this host is to begin it. What cannot be determined yet is left to the steps. Changes nothing. Cancel safe.
    ///
    /// The join file is asked for, too, if its phase is not selected: without it, another phase of a master would make keys of a cluster of its own.
    pub(in crate::exec) async fn joining_problems(&self) -> Vec<Problem> {
        let selected = self.selection.phases(self.plan);
        let mut problems = self.join_file_problems().await;
        let others = steps(&selected).filter(|step| !joins(step));
        problems.extend(self.refusals(others).await);
        problems
    }

    /// The part of [`Self::joining_problems`] that is about the join file. A restart asks it before it ends anything. Changes nothing. Cancel safe.
    pub(in crate::exec) async fn join_file_problems(&self) -> Vec<Problem> {
        let all: Vec<&PlannedPhase> = self.plan.phases.iter().collect();
        self.refusals(steps(&all).filter(|step| joins(step))).await
    }

    /// Which of these steps say that this host can neither join nor begin a cluster.
    async fn refusals<'p>(&self, steps: impl Iterator<Item = &'p PlannedStep>) -> Vec<Problem> {
        let mut problems = Vec::new();
        for step in steps {
            let requirement = match &step.spec {
                Spec::JoinFile(_) | Spec::JoinMaster(_) => "this host can join its cluster",
                Spec::EtcdMember(_) => CLUSTER_IS_NEW,
                _ => continue,
            };
            let mut answer = tokio::time::timeout(BOUND, self.may_join_or_begin(step)).await;
            let is_usable = matches!(answer, Ok(Ok(())));
            // A repair or a renewal goes on without: other phases must not wait for a new join file. Its step asks later.
            let asks_token = self.renewals == Renewals::All;
            if is_usable
                && asks_token
                && let Spec::JoinFile(file) = &step.spec
            {
                let cx = self.context(false);
                answer = tokio::time::timeout(BOUND_OF_TOKEN, file.token_is_accepted(&cx)).await;
            }
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

    /// Why a full clean of this host must not begin: the masters have not signed a certificate that it needs, so it would end pods that run, and could not
    /// come up again. `None` if it may; a host without the kubeconfig of its kubelet, on which no pod runs, has none yet. Changes nothing. Cancel safe.
    pub async fn signature_problem_of_clean(&self) -> Option<Problem> {
        let phases: Vec<&PlannedPhase> = self.plan.phases.iter().collect();
        let mut checks = phases.iter().flat_map(|phase| &phase.checks);
        let needed = checks.find_map(|check| check.needs_api.as_ref())?;
        if has_no_pods_yet(self.host, needed).await {
            return None;
        }
        for step in steps(&phases).filter(|step| !step.spec.is_signed_here()) {
            let cx = self.context(false);
            let pending = tokio::time::timeout(BOUND, step.spec.pending(&cx)).await;
            let Ok(Ok(Some(change))) = pending else {
                continue;
            };
            if change.action != Action::Renew {
                return Some(Problem {
                    requirement: "the host can come up again".to_owned(),
                    span: step.span.clone(),
                    problem: format!(
                        "{} is still to be signed by a master; a clean would end its pods, and it could not come up again without that",
                        step.spec.label()
                    ),
                    remedy: "on a master, look at `nodelet cluster status` and the log of nodeletd: they say why it is not signed".to_owned(),
                });
            }
        }
        None
    }

    async fn may_join_or_begin(&self, step: &PlannedStep) -> ResourceResult<()> {
        match &step.spec {
            Spec::EtcdMember(member) => member.may_begin(self.host).await,
            spec => spec.pending(&self.context(false)).await.map(drop),
        }
    }
}

/// Whether a step needs the join file.
fn joins(step: &PlannedStep) -> bool {
    matches!(step.spec, Spec::JoinFile(_) | Spec::JoinMaster(_))
}

/// What these phases are to make.
pub(super) fn steps<'p>(phases: &[&'p PlannedPhase]) -> impl Iterator<Item = &'p PlannedStep> {
    let phases = phases.iter().filter(|phase| phase.skipped.is_none());
    let steps = phases.flat_map(|phase| &phase.steps);
    steps.filter(|step| !step.policy.absent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::Recording;
    use crate::facts::Facts;
    use crate::model::PhaseName;
    use crate::plan::Plan;
    use crate::resource::NoSecrets;
    use crate::resource::pki::tests::workers::joining::{BOOTSTRAP_USER, spec, worker_to_be};

    /// A worker that has lost its certificates, with a join file that was used: its docker is repaired all the same.
    #[tokio::test]
    async fn a_refused_token_keeps_an_apply_from_beginning_and_no_repair() {
        let (_, host, _) = worker_to_be().await;
        host.with_world_mut(|world| world.refuse_user(BOOTSTRAP_USER, true));
        let name: PhaseName = "certs".parse().expect("a name");
        let step = PlannedStep::bare(&name, Spec::JoinFile(spec()));
        let phase = PlannedPhase {
            steps: vec![step],
            ..PlannedPhase::bare(name)
        };
        let plan = Plan::bare(vec![phase]);
        let (facts, heard) = (Facts::nothing_about("worker-1"), Recording::default());
        for (renewals, refuses) in [(Renewals::All, true), (Renewals::none(), false)] {
            let mut runner = Runner::new(&plan, &host, &facts, &NoSecrets, &heard);
            runner.renewals = renewals;
            let problems = runner.joining_problems().await;
            assert_eq!(!problems.is_empty(), refuses, "{problems:?}");
        }
    }
}
