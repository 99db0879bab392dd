//! Records what exists before a phase's first effect. It is not the role's, so a rollback or a clean must leave it.

use std::sync::{Mutex, OnceLock};

use crate::exec::session::Session;
use crate::exec::{Mode, Runner};
use crate::host::{Host, View};
use crate::plan::{PlannedPhase, PlannedStep};
use crate::resource::directory_contents;
use crate::resource::{Context, DirectorySpec, Divisible, ResourceResult, Spec, Undo};

impl Runner<'_> {
    /// Notes which `on_rollback` steps run if the phase fails. Only a phase of which earlier runs left nothing has any.
    /// A step is left out if it would remove something that exists before the phase's first effect: that is not the
    /// role's.
    pub(in crate::exec) async fn record_rollback_steps<'p>(
        &self,
        phase: &'p PlannedPhase,
        session: &Session<'_>,
        rollback_steps: &OnceLock<Vec<&'p PlannedStep>>,
    ) -> ResourceResult<()> {
        if session.mode == Mode::DryRun
            || phase.on_rollback.is_empty()
            || session.was_applied_before(&phase.name).await
        {
            return Ok(());
        }
        let mut own_steps = Vec::new();
        for step in &phase.on_rollback {
            let cx = self.context(true);
            if !step.policy.absent || step.spec.pending(&cx).await?.is_none() {
                own_steps.push(step);
            }
        }
        rollback_steps.get_or_init(|| own_steps);
        Ok(())
    }

    /// If the role owns the whole content of a directory (`exclusive`) and the directory already exists, notes the names in
    /// it: everything added later belongs to the role. The directory may be a separate disk for etcd's data. This is
    /// done once, before the role writes into it.
    pub(in crate::exec) async fn record_existing_names(
        &self,
        phase: &PlannedPhase,
        step: &PlannedStep,
        session: &Session<'_>,
        done: &Mutex<Vec<Undo>>,
    ) -> ResourceResult<()> {
        let Spec::Directory(its) = &step.spec else {
            return Ok(());
        };
        if !its.exclusive || step.policy.absent || session.mode == Mode::DryRun {
            return Ok(());
        }
        let Some(spared) = directory_contents::names(self.host, &its.path).await? else {
            return Ok(());
        };
        let path = its.path.clone();
        let undo = Undo::ClearDirectory { path, spared };
        if session.has_undo_of(&undo.key()).await {
            return Ok(());
        }
        session.receipt(&phase.name, step, done).push(undo).await
    }

    /// Records once which steps will remove what this phase leaves behind. A step is left out if its resource exists
    /// before the phase's first effect: it is not the role's.
    pub(in crate::exec) async fn record_cleanup_steps(
        &self,
        phase: &PlannedPhase,
        session: &Session<'_>,
    ) -> ResourceResult<()> {
        if phase.on_clean.is_empty() {
            return Ok(());
        }
        let Some(known) = session.known_unless_complete(&phase.name).await else {
            return Ok(());
        };
        let mut own_steps = Vec::new();
        // Nothing changes during this loop, so the firewall rules, which may be many, are read once for all steps.
        let view = View::of(self.host);
        for step in phase
            .on_clean
            .iter()
            .filter(|step| !known.contains(&step.id))
        {
            let cx = Context {
                host: &view,
                ..self.context(true)
            };
            if let Spec::SysctlSnapshot(setting) = &step.spec {
                let mut step = step.clone();
                step.spec = Spec::SysctlSnapshot(setting.noted(self.host).await?);
                own_steps.push(step);
            } else if step.spec.pending(&cx).await?.is_none() {
                own_steps.push(step.clone());
            } else if let Some(spec) = excluding_existing(&view, &step.spec).await? {
                let mut step = step.clone();
                step.spec = spec;
                own_steps.push(step);
            }
        }
        Ok(session.cleanup_steps(&phase.name, own_steps).await?)
    }
}

/// For a resource that already exists: the spec that removes only what is added later, if the two can be told apart.
async fn excluding_existing(host: &dyn Host, spec: &Spec) -> ResourceResult<Option<Spec>> {
    Ok(match spec.properties().divisible {
        // An empty directory may be a separate disk. If a directory is not empty, later files in it may belong to
        // another program.
        Some(Divisible::Directory(its)) => {
            let names = directory_contents::names(host, &its.path).await?;
            let empty = names.filter(Vec::is_empty);
            empty.map(|spared| {
                Spec::Directory(DirectorySpec {
                    spared: Some(spared),
                    ..its.clone()
                })
            })
        }
        Some(Divisible::FirewallChains(its)) if its.keep_existing => {
            Some(Spec::FirewallChains(its.excluding_current(host).await?))
        }
        Some(Divisible::IpvsServices(its)) => {
            Some(Spec::IpvsServices(its.excluding_current(host).await?))
        }
        Some(Divisible::FirewallChains(_)) | None => None,
    })
}
