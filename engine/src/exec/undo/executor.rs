//! Carries out undos and cleanup steps, for a rollback, a clean and a removal of orphans.
//!
//! What differs depends on the [`UndoPurpose`]. The callers choose the order of the phases, report and record.

use crate::host::{Host, HostError};
use crate::ledger::LiveUndo;
use crate::model::{Failure, PhaseName, Span, chain};
use crate::plan::PlannedStep;
use crate::resource::docker::container_runtime;
use crate::resource::{
    Context, MaskedSecrets, Outputs, Receipt, Resource, ResourceError, ResourceResult, Spec, Undo,
    last_order, with_resource, within,
};

/// What undos are carried out for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::exec) enum UndoPurpose {
    /// A phase failed: all that it did a moment ago has to go.
    Rollback,
    /// All that the role did is taken back.
    Clean,
    /// The plan no longer has these resources.
    Prune,
}

/// What became of an undo.
pub(in crate::exec) enum Undone {
    /// It was carried out.
    Done,
    /// It was carried out and has to be once more: units read the restored files, but something failed.
    Again,
    /// It removes a directory that is not empty. Its content may be removed later.
    Full,
    /// Others use the resource by now, so it stays. This is not a failure.
    Left(ResourceError),
    /// It failed.
    Failed(ResourceError),
}

/// Carries out the undos of one run.
pub(in crate::exec) struct Executor<'a> {
    host: &'a dyn Host,
    purpose: UndoPurpose,
    /// The number of failures. The caller counts them, because other things can fail, too.
    pub(in crate::exec) failed: usize,
    /// Something in the container runtime could not be removed, or may still be there.
    pub(in crate::exec) containers_left: bool,
    /// What is carried out after everything else. Afterwards: directories that are still not empty, because they hold
    /// files that are not the role's, or that are kept.
    pub(in crate::exec) later: Vec<LiveUndo>,
}

impl<'a> Executor<'a> {
    pub(in crate::exec) fn new(host: &'a dyn Host, purpose: UndoPurpose) -> Self {
        Self {
            host,
            purpose,
            failed: 0,
            containers_left: false,
            later: Vec::new(),
        }
    }

    /// Carries out one undo, within its time limit.
    pub(in crate::exec) async fn undo(&mut self, undo: &Undo) -> Undone {
        if self.containers_left
            && let Some(error) = keeps_runtime(undo, self.host).await
        {
            return Undone::Failed(error);
        }
        let action = format!("revert {}", undo.key());
        let its = undo.properties();
        match within(its.timeout, action, self.carry_out(undo)).await {
            // Not in a prune: nodeletd tries again what has failed, and each try would restart the unit.
            Ok(true)
                if its.deferred_order.is_some()
                    && self.failed > 0
                    && self.purpose != UndoPurpose::Prune =>
            {
                Undone::Again
            }
            Ok(true) => Undone::Done,
            Ok(false) => Undone::Full,
            Err(error) if self.leaves(undo, &error) => Undone::Left(error),
            Err(error) => {
                self.containers_left |= its.needs_runtime;
                Undone::Failed(error)
            }
        }
    }

    /// Returns `false` if the undo removes a directory that is not empty.
    async fn carry_out(&self, undo: &Undo) -> ResourceResult<bool> {
        if self.is_full(undo).await {
            return Ok(false);
        }
        // It may have been started since, with a configuration that is now gone.
        if let Undo::StartUnit { name } = undo
            && self.purpose == UndoPurpose::Clean
            && name.ends_with(".service")
        {
            let name = name.clone();
            Undo::RestartUnit { name }.carry_out(self.host).await?;
        } else {
            undo.carry_out(self.host).await?;
            // After a rollback, docker is started again.
            if self.purpose != UndoPurpose::Rollback {
                container_runtime::after_undo(self.host, undo).await?;
            }
        }
        // Together with the file, and not at the end: a run that is interrupted in between would leave a unit running
        // whose file is gone.
        if self.purpose == UndoPurpose::Prune && is_unit_file(undo) {
            self.host.reload_units().await?;
        }
        Ok(true)
    }

    /// Whether a failed undo is no failure: the resource may stay.
    fn leaves(&self, undo: &Undo, error: &ResourceError) -> bool {
        let may_stay = match self.purpose {
            UndoPurpose::Rollback => false,
            UndoPurpose::Clean => true,
            // An image may be in use by a container that this run replaces; the next run can remove it.
            UndoPurpose::Prune => !matches!(undo, Undo::RemoveImage { .. }),
        };
        may_stay && is_shared_or_external(undo, error)
    }

    /// Whether an undo removes a directory that is not empty.
    pub(in crate::exec) async fn is_full(&self, undo: &Undo) -> bool {
        let Undo::RemoveDirectory { path } = undo else {
            return false;
        };
        let names = self.host.list(path).await;
        names.is_ok_and(|names| !names.is_empty())
    }

    /// Takes what is carried out after everything else, in its order.
    pub(in crate::exec) fn last(&mut self) -> Vec<LiveUndo> {
        let mut last = std::mem::take(&mut self.later);
        last.sort_by_key(|live| last_order(&live.undo));
        last
    }

    /// Starts the container runtime if it is installed and does not answer. Returns why that failed.
    pub(in crate::exec) async fn ensure_runtime_running(&mut self) -> Option<ResourceError> {
        let error = container_runtime::start_if_installed(self.host)
            .await
            .err()?;
        self.containers_left = true;
        Some(error)
    }
}

/// Whether the container runtime is needed for these undos and these cleanup steps.
pub(in crate::exec) fn needs_runtime<'u>(
    undos: impl IntoIterator<Item = &'u LiveUndo>,
    cleanup: impl IntoIterator<Item = &'u PlannedStep>,
) -> bool {
    let (mut undos, mut cleanup) = (undos.into_iter(), cleanup.into_iter());
    undos.any(|live| live.undo.properties().needs_runtime)
        || cleanup.any(|step| matches!(step.spec, Spec::Pods(_)))
}

/// Makes the resource of a step absent, within the step's time limit; returns whether it was there.
pub(in crate::exec) async fn remove(host: &dyn Host, step: &PlannedStep) -> ResourceResult<bool> {
    let cx = Context {
        host,
        outputs: &Outputs::default(),
        secrets: &MaskedSecrets,
        absent: true,
        cancel: None,
    };
    let removal = async {
        let mut tries = step.policy.tries;
        loop {
            let result = with_resource!(&step.spec, resource => remove_once(resource, &cx).await);
            tries = tries.saturating_sub(1);
            if result.is_ok() || tries == 0 {
                return result;
            }
            host.pause(step.policy.backoff).await;
        }
    };
    let action = format!("revert {}", name_of(step));
    within(step.policy.timeout, action, removal).await
}

async fn remove_once<R: Resource>(resource: &R, cx: &Context<'_>) -> ResourceResult<bool> {
    let observed = resource.observe(cx).await?;
    if resource.diff(&observed, cx.absent).is_none() {
        return Ok(false);
    }
    // The removal needs no undo of its own.
    let mut ignored = Receipt::default();
    resource.converge(&observed, cx, &mut ignored).await?;
    let left = resource.diff(&resource.observe(cx).await?, cx.absent);
    if left.is_none() {
        return Ok(true);
    }
    let label = resource.label();
    let what = format!("remove {label}: it still exists, or another program created it again");
    Err(ResourceError::NotConverged { what })
}

/// The name of a step's resource, for messages.
pub(in crate::exec) fn name_of(step: &PlannedStep) -> String {
    format!("{} {}", step.spec.kind(), step.spec.label())
}

/// What the ledger says of a resource that could not be taken back.
pub(in crate::exec) fn failure(
    phase: &PhaseName,
    resource: &str,
    error: &ResourceError,
    next: String,
) -> Failure {
    Failure {
        what: format!("{}{resource}", Failure::UNDO),
        span: Span::file(format!("phases/{phase}.rhai")),
        chain: chain(error),
        found: Vec::new(),
        next,
    }
}

/// Why the runtime's package has to stay: the runtime does not answer and may still have containers.
pub(in crate::exec) async fn keeps_runtime(undo: &Undo, host: &dyn Host) -> Option<ResourceError> {
    if !brings_runtime(undo) || host.container_runtime().await.is_ok() {
        return None;
    }
    Some(ResourceError::Unmet {
        what: "remove docker while containers may still be in it: it does not answer".to_owned(),
        next: "find out why docker does not answer (`journalctl -u docker -n 50`), then run `nodelet clean` again"
            .to_owned(),
    })
}

/// Whether an undo removes the packages of a container runtime.
pub(in crate::exec) fn brings_runtime(undo: &Undo) -> bool {
    matches!(undo, Undo::PurgePackages { names } if container_runtime::is_runtime(names))
}

/// Whether the role itself may be what uses a resource that a prune leaves, so that a later clean has to take it back.
pub(in crate::exec) fn role_may_use(undo: &Undo) -> bool {
    matches!(undo, Undo::UnloadModule { .. } | Undo::PurgePackages { .. })
}

/// Whether an undo changes a unit file of the role.
fn is_unit_file(undo: &Undo) -> bool {
    matches!(
        undo,
        Undo::RemoveFile { path } | Undo::RestoreFile { path, .. } if path.starts_with("/etc/systemd/system")
    )
}

/// Whether a failed undo is about something outside of this host, or about something that other programs use by now. It
/// is reported as left, not as a failure.
fn is_shared_or_external(undo: &Undo, error: &ResourceError) -> bool {
    match undo {
        Undo::DeleteObject { .. } | Undo::RestoreObject { .. } | Undo::PatchNode { .. } => true,
        // A foreign container has the name by now (`container_runtime::has_ours`).
        Undo::RemoveContainer { .. } | Undo::StopContainer { .. } => {
            matches!(error, ResourceError::Unmet { .. })
        }
        // Another module, a foreign container or another package needs it by now.
        Undo::UnloadModule { .. } | Undo::RemoveImage { .. } | Undo::PurgePackages { .. } => {
            matches!(error, ResourceError::Host(HostError::InUse { .. }))
        }
        Undo::RemoveFile { .. }
        | Undo::RestoreFile { .. }
        | Undo::RestoreSymlink { .. }
        | Undo::RemoveDirectory { .. }
        | Undo::RemoveTree { .. }
        | Undo::ClearDirectory { .. }
        | Undo::RestoreAttributes { .. }
        | Undo::RecreateContainer { .. }
        | Undo::RestoreImage { .. }
        | Undo::StopUnit { .. }
        | Undo::StartUnit { .. }
        | Undo::RestartUnit { .. }
        | Undo::SetUnitEnabled { .. }
        | Undo::ReloadUnits
        | Undo::SetSysctl { .. }
        | Undo::RemoveNodeRoutes
        | Undo::RemoveEtcdLearner { .. }
        | Undo::RestoreChain { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::docker::container_runtime::tests::{LIST, interrupted_host};

    /// It was down before the role. Without this a clean after a stop would ask for containers that docker cannot start.
    #[tokio::test(start_paused = true)]
    async fn a_clean_that_stops_docker_forgets_the_containers_of_others() {
        for (purpose, forgets) in [
            (UndoPurpose::Clean, true),
            (UndoPurpose::Prune, true),
            (UndoPurpose::Rollback, false),
        ] {
            let host = interrupted_host().await;
            let stop = Undo::StopUnit {
                name: container_runtime::UNIT.to_owned(),
            };
            let undone = Executor::new(&host, purpose).undo(&stop).await;
            assert!(matches!(undone, Undone::Done), "forgets: {forgets}");
            let list = host.with_world(|world| world.text(LIST));
            assert_eq!(list.is_none(), forgets);
        }
    }

    #[test]
    fn resources_in_use_by_others_are_reported_as_left() {
        let image = Undo::RemoveImage {
            reference: "app:1".to_owned(),
        };
        let packages = Undo::PurgePackages {
            names: vec!["iptables".to_owned()],
        };
        let unit = Undo::StopUnit {
            name: "app.service".to_owned(),
        };
        let in_use = ResourceError::Host(HostError::in_use("remove it", "container x uses it"));
        let failed = ResourceError::Host(HostError::service("remove it", "it is in use"));
        assert!(is_shared_or_external(&image, &in_use));
        assert!(is_shared_or_external(&packages, &in_use));
        assert!(!is_shared_or_external(&unit, &in_use));
        assert!(!is_shared_or_external(&image, &failed));
        assert!(!is_shared_or_external(&packages, &failed));
    }
}
