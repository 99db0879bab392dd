//! Which phases a repair can restart although some files cannot be written, something is lost, or etcd needs this host's member.
//!
//! `write_trial` finds what cannot be written or is lost. This blocks its phase; the other failed phases are restarted, unless they would
//! wait for that phase without success. In the same way, the guard of the quorum blocks the phase of the member.

use std::collections::BTreeSet;

use super::restart::restart_set;
use super::write_trial::{Unwritable, problems};
use crate::exec::Runner;
use crate::exec::kubernetes::quorum::PlannedMember;
use crate::kubernetes::etcd_members::Loss;
use crate::model::{PhaseName, Problem};
use crate::plan::{Graph, Plan, PlannedPhase};
use crate::resource::Spec;

impl Runner<'_> {
    /// The phases that can be restarted for these failed phases although some files cannot be written, in the plan's
    /// order; and what cannot be written, or is lost. A phase with such a file is not restarted. A phase that needs it
    /// is not restarted either, unless it failed itself while the phase with the file runs. The same is true of the phase
    /// of etcd's member, if the quorum would be lost without it.
    pub async fn restartable(
        &self,
        failed: &BTreeSet<PhaseName>,
    ) -> (Vec<PhaseName>, Vec<Problem>) {
        let all = restart_set(self.plan, failed);
        let trial = self.unwritable(&all).await;
        let mut unwritable = trial.found;
        // Also if the runtime does not answer now: the restart may wake it.
        unwritable.extend(self.needed_member(&all).await);
        let mut blocked = BTreeSet::new();
        let mut down = BTreeSet::new();
        for one in &unwritable {
            match &one.phase {
                Some(phase) => blocked.insert(phase.clone()),
                None => return (Vec::new(), problems(unwritable)),
            };
        }
        for phase in self
            .plan
            .phases
            .iter()
            .filter(|p| blocked.contains(&p.name))
        {
            if self.is_down(phase).await {
                down.insert(phase.name.clone());
            }
        }
        let set = without(self.plan, failed, &blocked, &down);
        (set, problems(unwritable))
    }

    /// The phase of etcd's member, if it is one of these and its restart would take etcd its quorum.
    async fn needed_member(&self, phases: &[PhaseName]) -> Option<Unwritable> {
        let mut these = (self.plan.phases.iter()).filter(|phase| phases.contains(&phase.name));
        let phase = these.find(|phase| PlannedMember::of(phase).is_some())?;
        let problem = self.quorum_problem([phase], Loss::Restart).await?;
        Some(Unwritable {
            phase: Some(phase.name.clone()),
            problem,
        })
    }

    /// Whether something that a phase starts does not run, or cannot be checked, or an image that the phase brings is
    /// gone.
    async fn is_down(&self, phase: &PlannedPhase) -> bool {
        for step in &phase.steps {
            let runs = match &step.spec {
                Spec::Service(service) if service.started => {
                    let unit = self.host.unit(&service.unit).await;
                    unit.is_ok_and(|unit| unit.is_active())
                }
                Spec::Container(container) => container.runs(self.host).await.unwrap_or_default(),
                Spec::Image(image) => !self.is_gone(&image.reference).await,
                _ => true,
            };
            if !runs {
                return true;
            }
        }
        false
    }
}

/// The restart set of `failed` without the `blocked` phases and those that need them. A phase that failed itself stays
/// in the set, unless it needs a blocked phase that is `down`: it would wait without success.
fn without(
    plan: &Plan,
    failed: &BTreeSet<PhaseName>,
    blocked: &BTreeSet<PhaseName>,
    down: &BTreeSet<PhaseName>,
) -> Vec<PhaseName> {
    let graph = Graph::of(plan);
    let needs = |one: &PhaseName, of: &BTreeSet<PhaseName>| {
        of.iter().any(|other| graph.dependents(other).contains(one))
    };
    let from = |name: &PhaseName| {
        let phase = plan.phases.iter().find(|phase| phase.name == *name);
        phase.and_then(|phase| phase.restart_from.clone())
    };
    let free = |name: &&PhaseName| {
        let starts = from(name).is_some_and(|first| blocked.contains(&first));
        !blocked.contains(*name) && !starts && !needs(name, down)
    };
    let failed: BTreeSet<PhaseName> = failed.iter().filter(free).cloned().collect();
    let mut set = restart_set(plan, &failed);
    set.retain(|one| !blocked.contains(one) && (failed.contains(one) || !needs(one, blocked)));
    set
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::Recording;
    use crate::exec::kubernetes::quorum::tests as quorum;
    use crate::facts::Facts;
    use crate::model::Outcome;
    use crate::resource::NoSecrets;

    #[tokio::test(start_paused = true)]
    async fn a_member_that_the_quorum_needs_blocks_no_other_phase() {
        let host = quorum::host();
        let kubelet = PlannedPhase::bare("kubelet".parse().expect("a name"));
        let plan = Plan::bare(vec![quorum::phase(), kubelet]);
        let failed = set(&["etcd", "kubelet"]);
        let (facts, heard) = (Facts::nothing_about("m-1"), Recording::default());
        let runner = || Runner::new(&plan, &host, &facts, &NoSecrets, &heard);
        let applied = runner().apply().await.expect("it is written down");
        assert_eq!(applied, Outcome::Converged);
        let (all, problems) = runner().restartable(&failed).await;
        assert_eq!((all.len(), problems.len()), (2, 0), "{problems:?}");
        host.with_world_mut(|world| world.etcd.silence("172.30.0.13"));
        let (others, problems) = runner().restartable(&failed).await;
        let others: Vec<&str> = others.iter().map(PhaseName::as_str).collect();
        assert_eq!(others, ["kubelet"]);
        assert!(problems.iter().any(|one| one.problem.contains("m-3")));
    }

    fn set(names: &[&str]) -> BTreeSet<PhaseName> {
        names.iter().map(|n| n.parse().expect("a name")).collect()
    }

    #[test]
    fn an_unwritable_path_blocks_no_other_phase() {
        let phase = |name: &str, requires: &[&str]| PlannedPhase {
            requires: requires
                .iter()
                .map(|n| n.parse().expect("a name"))
                .collect(),
            ..PlannedPhase::bare(name.parse().expect("a name"))
        };
        let plan = Plan::bare(vec![
            phase("docker", &[]),
            phase("etcd", &["docker"]),
            phase("kubelet", &["docker"]),
            phase("api-ready", &["kubelet", "etcd"]),
            phase("keepalived", &[]),
        ]);
        for (failed, blocked, down, restarted) in [
            (&["kubelet"][..], &["kubelet"][..], &[][..], ""),
            (&["kubelet", "keepalived"], &["kubelet"], &[], "keepalived"),
            (&["kubelet", "etcd"], &["kubelet"], &[], "etcd"),
            (&["etcd", "docker"], &["docker"], &[], "etcd"),
            (&["etcd", "docker"], &["docker"], &["docker"], ""),
            (&["docker"], &["kubelet"], &[], "docker etcd"),
            (&["api-ready", "kubelet"], &["kubelet"], &["kubelet"], ""),
            (&["api-ready", "kubelet"], &["kubelet"], &[], "api-ready"),
        ] {
            let left = without(&plan, &set(failed), &set(blocked), &set(down));
            let left: Vec<&str> = left.iter().map(PhaseName::as_str).collect();
            assert_eq!(left.join(" "), restarted, "{failed:?}, {blocked:?}");
        }
    }
}
