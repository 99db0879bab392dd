//! Whether an apply may touch the container of this host's etcd member: etcd must keep its quorum without it.
//!
//! Only a container that runs counts. So neither the first bring-up, a join, nor an apply on a host whose etcd is down is asked about.

use std::time::Duration;

use crate::exec::kubernetes::quorum::lock::{DisruptionLock, NotLocked, WAIT};
use crate::exec::kubernetes::quorum::{PlannedMember, guard};
use crate::exec::undo::orphans::PhaseOrphans;
use crate::exec::{Mode, Runner};
use crate::kubernetes::etcd_members::{Loss, Me, OWN_ENDPOINT, peer_url};
use crate::model::Problem;
use crate::plan::{PlannedPhase, PlannedStep};
use crate::resource::pki::Rotation;
use crate::resource::{Action, Change, ContainerSpec, Spec, Undo};

/// Bound on one look at a step.
const BOUND: Duration = Duration::from_secs(10);
/// How long the container runtime may take to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// The name of the member's container in roles whose plan is not this one.
const CONTAINER: &str = "etcd";

impl Runner<'_> {
    /// Why an apply must not begin; `None` if it leaves the member as it runs, or if etcd keeps its quorum. Before an apply, it waits while another
    /// master has the lock on the members of etcd. Cancel safety: as [`Runner::take_disruption_lock`].
    pub(in crate::exec) async fn quorum_problem_of_apply(
        &self,
        orphans: &[PhaseOrphans],
        mode: Mode,
    ) -> Option<Problem> {
        if self.accepts_quorum_loss {
            return None;
        }
        let phases = self.selection.phases(self.plan);
        for &phase in &phases {
            let planned = PlannedMember::of(phase).and_then(|planned| planned.container);
            let Some((step, container)) = planned else {
                continue;
            };
            let told = self.container_runs(&container.name).await;
            let step = told.map(|_| step);
            if self.member_runs(told).await && self.would_restart(step, container, &phases).await {
                let asked = self.quorum_problem_in_turn([phase], Loss::Restart, mode);
                return asked.await;
            }
        }
        let leaves = removes_member(orphans);
        if !leaves || !self.member_runs(self.container_runs(CONTAINER).await).await {
            return None;
        }
        let name = self.plan.host.to_lowercase();
        let peer = self.facts.address.map(peer_url).unwrap_or_default();
        let me = Me {
            name: &name,
            peer: &peer,
        };
        guard(self.host, me, Some(CONTAINER), Loss::Restart, None).await
    }

    /// Takes the lock on the members of etcd if this phase would restart this host's member, which runs. The preflight has asked whether the
    /// quorum stays; since then another master may have ended its member.
    ///
    /// # Errors
    /// Why the member must not be restarted now.
    ///
    /// # Cancel safety
    /// As [`Runner::take_disruption_lock`].
    pub(in crate::exec) async fn lock_restart(
        &self,
        phase: &PlannedPhase,
        mode: Mode,
    ) -> Result<DisruptionLock, NotLocked> {
        let planned = PlannedMember::of(phase).and_then(|planned| planned.container);
        let Some((step, container)) = planned.filter(|_| mode == Mode::Apply) else {
            return Ok(DisruptionLock::default());
        };
        let told = self.container_runs(&container.name).await;
        let step = told.map(|_| step);
        if self.member_runs(told).await && self.would_restart(step, container, &[phase]).await {
            return self.take_disruption_lock(phase, Loss::Restart, WAIT).await;
        }
        Ok(DisruptionLock::default())
    }

    /// Whether the container runs; `None` if the runtime does not tell.
    async fn container_runs(&self, container: &str) -> Option<bool> {
        let look = async {
            self.host.container_runtime().await?;
            self.host.container(container).await
        };
        let state = tokio::time::timeout(ANSWER, look).await.ok()?.ok()?;
        Some(state.is_some_and(|state| state.running))
    }

    /// Whether the member runs. If the runtime does not tell whether its container does, a member that answers runs.
    async fn member_runs(&self, told: Option<bool>) -> bool {
        match told {
            Some(runs) => runs,
            None => self.host.member_status(OWN_ENDPOINT).await.is_ok(),
        }
    }

    /// Whether the container would be made again: it differs from the plan, or a file that it reads does. `step` is the one of the container.
    /// It is not asked if the runtime does not answer: the start of the runtime alone changes no container.
    async fn would_restart(
        &self,
        step: Option<&PlannedStep>,
        container: &ContainerSpec,
        phases: &[&PlannedPhase],
    ) -> bool {
        if let Some(step) = step
            && self.would_change(step).await
        {
            return true;
        }
        let applied = phases.iter().filter(|phase| phase.skipped.is_none());
        let steps: Vec<&PlannedStep> = applied.flat_map(|phase| &phase.steps).collect();
        let is_read = |step: &PlannedStep| {
            let paths = step.spec.paths();
            let mut paths = paths.iter();
            paths.any(|path| container.env_files.contains(path) || container.inputs.contains(path))
        };
        for step in steps.iter().copied() {
            // The files with the roots differ only after this step.
            let roots = changed_authority(&step.spec);
            let are_read = roots.is_some_and(|name| {
                let mut steps = steps.iter().copied();
                steps.any(|its| has_roots(&its.spec, name) && is_read(its))
            });
            if (are_read || is_read(step)) && self.would_change(step).await {
                return true;
            }
        }
        false
    }

    /// Whether an apply would change what the step is about. If that cannot be determined, it counts as a change.
    async fn would_change(&self, step: &PlannedStep) -> bool {
        let cx = self.context(step.policy.absent);
        match tokio::time::timeout(BOUND, step.spec.pending(&cx)).await {
            Ok(Ok(change)) => change.is_some_and(|change| needs_restart(&step.spec, &change)),
            // The member's own step fails if the others do not answer. It never writes its file again.
            Ok(Err(_)) | Err(_) => !matches!(step.spec, Spec::EtcdMember(_)),
        }
    }
}

/// The authority of which this step changes what is trusted.
fn changed_authority(spec: &Spec) -> Option<&str> {
    match spec {
        Spec::Authority(authority) => match authority.rotation {
            Some(Rotation::Begin | Rotation::Finish) => Some(&authority.name),
            Some(Rotation::Switch) | None => None,
        },
        _ => None,
    }
}

/// Whether this is a certificate that has the roots of an authority beside it.
fn has_roots(spec: &Spec, authority: &str) -> bool {
    matches!(spec, Spec::Certificate(certificate) if certificate.authority == authority)
}

/// Whether what is taken back is the container of the member.
fn removes_member(orphans: &[PhaseOrphans]) -> bool {
    let steps = orphans.iter().flat_map(|orphan| &orphan.steps);
    let mut undos = steps.flat_map(|step| &step.resources);
    undos.any(|resource| {
        matches!(&resource.undo.undo, Undo::RemoveContainer { name } if name == CONTAINER)
    })
}

/// Whether etcd has to be restarted to see the change. Of a certificate, that is so for its roots only: etcd reads all else at each
/// connection.
fn needs_restart(spec: &Spec, change: &Change) -> bool {
    match spec {
        Spec::Certificate(_) => match change.action {
            Action::Create => true,
            _ => change.differences.iter().any(|one| one.field == "trust"),
        },
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::kubernetes::quorum::lock::tests::other_takes_lock;
    use crate::exec::kubernetes::quorum::tests::{host, phase};
    use crate::exec::{Event, Recording};
    use crate::facts::Facts;
    use crate::host::fake::FakeHost;
    use crate::host::{Attributes, Clock as _, EtcdLock};
    use crate::model::{Outcome, StepId, Text};
    use crate::plan::{Plan, StepPolicy};
    use crate::resource::pki::{SignedBy, Usage};
    use crate::resource::{CertificateSpec, FileSource, FileSpec, NoSecrets, Owner};

    /// The plan of the member with this command, and this setting in its file; of a phase without steps for no command.
    fn plan(command: &str, setting: &str) -> Plan {
        let mut phase = phase();
        let path = "/etc/etcd.env";
        for step in &mut phase.steps {
            if let Spec::Container(container) = &mut step.spec {
                container.command = vec![command.to_owned()];
                container.env_files.push(path.into());
            }
        }
        let file = Spec::File(FileSpec {
            path: path.into(),
            source: FileSource::Text(Text::Known(format!("SETTING={setting}\n"))),
            attributes: Attributes::root(0o600),
            owner: Owner::default(),
            create_only: false,
            secret: false,
            unit: false,
        });
        let file = PlannedStep {
            id: StepId::new(&phase.name, "file", path),
            span: phase.span.clone(),
            spec: file,
            policy: StepPolicy::default(),
        };
        phase.steps.insert(0, file);
        if command.is_empty() {
            phase.steps.clear();
        }
        Plan {
            host: "m-1".to_owned(),
            ..Plan::bare(vec![phase])
        }
    }

    async fn apply(host: &FakeHost, plan: &Plan, accepts: bool) -> (Outcome, String) {
        let heard = Recording::default();
        let facts = Facts::nothing_about("m-1");
        let mut runner = Runner::new(plan, host, &facts, &NoSecrets, &heard);
        runner.accepts_quorum_loss = accepts;
        let outcome = runner.apply().await.expect("it is written down");
        let events = heard.events();
        let said = events.iter().find_map(Event::refusal).unwrap_or_default();
        (outcome, said)
    }

    #[tokio::test(start_paused = true)]
    async fn an_apply_restarts_no_member_that_the_quorum_needs() {
        let host = host();
        let begun = apply(&host, &plan("etcd", "one"), false).await;
        assert_eq!(begun.0, Outcome::Converged, "{}", begun.1);
        host.with_world_mut(|world| world.etcd.silence("172.30.0.13"));
        let same = apply(&host, &plan("etcd", "one"), false).await;
        assert_eq!(same.0, Outcome::Converged, "nothing changes: {}", same.1);
        for (command, setting) in [("another", "one"), ("etcd", "another"), ("", "")] {
            let (outcome, said) = apply(&host, &plan(command, setting), false).await;
            assert_eq!(outcome, Outcome::Refused, "`{command}`, `{setting}`");
            assert!(said.contains("m-3"), "{said}");
            assert!(host.with_world(|world| world.container_runs("etcd")));
        }
        let accepted = apply(&host, &plan("etcd", "another"), true).await;
        assert_eq!(accepted.0, Outcome::Converged, "{}", accepted.1);
    }

    /// As if a change were applied on all masters at the same time.
    #[tokio::test(start_paused = true)]
    async fn an_apply_waits_until_another_master_has_restarted_its_member() {
        let host = host();
        let begun = apply(&host, &plan("etcd", "one"), false).await;
        assert_eq!(begun.0, Outcome::Converged, "{}", begun.1);
        let minute = Duration::from_secs(60);
        other_takes_lock(&host, minute).await;
        let began = host.elapsed();
        let same = apply(&host, &plan("etcd", "one"), false).await;
        assert_eq!(same.0, Outcome::Converged, "{}", same.1);
        assert!(host.elapsed() - began < minute, "nothing is restarted");
        let changed = apply(&host, &plan("etcd", "another"), false).await;
        assert_eq!(changed.0, Outcome::Converged, "{}", changed.1);
        assert!(host.elapsed() - began >= minute);
        let next = other_takes_lock(&host, 10 * minute).await;
        assert!(matches!(next, EtcdLock::Held { .. }), "{next:?}");
        let held = apply(&host, &plan("etcd", "one"), false).await;
        assert_eq!(held.0, Outcome::Refused);
        assert!(held.1.contains("m-2"), "{}", held.1);
        assert!(host.with_world(|world| world.container_runs("etcd")));
    }

    /// Also while another master is down.
    #[tokio::test(start_paused = true)]
    async fn an_apply_begins_a_member_that_does_not_run() {
        let host = host();
        host.with_world_mut(|world| world.etcd.silence("172.30.0.13"));
        let begun = apply(&host, &plan("etcd", "one"), false).await;
        assert_eq!(begun.0, Outcome::Converged, "{}", begun.1);
    }

    /// A key that is lost for example is made again, and etcd reads it at the next connection.
    #[test]
    fn of_a_certificate_only_other_roots_need_a_restart() {
        let certificate = Spec::Certificate(CertificateSpec {
            path: "etcd/peer".to_owned(),
            authority: "etcd".to_owned(),
            common_name: "etcd".to_owned(),
            organizations: Vec::new(),
            usage: Usage::Peer,
            dns_names: Vec::new(),
            addresses: Vec::new(),
            life: Duration::from_secs(3600),
            signed_by: SignedBy::default(),
        });
        for (change, needed) in [
            (Change::new(Action::Create), true),
            (
                Change::new(Action::Change).with("key", "missing", "new"),
                false,
            ),
            (
                Change::new(Action::Change).with("trust", "other", "etcd"),
                true,
            ),
            (Change::new(Action::Renew), false),
        ] {
            assert_eq!(needs_restart(&certificate, &change), needed, "{change:?}");
        }
    }
}
