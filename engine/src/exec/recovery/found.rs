//! What this host has of the resources that the role makes, and what of it may have been there before the role.
//!
//! What may have been there before is named and stays: a clean must not remove what belongs to others.

use std::collections::BTreeSet;

use super::installed::is_ours;
use super::recovered::Recovered;
use crate::exec::Runner;
use crate::resource::directory_contents;
use crate::resource::docker::container_runtime;
use crate::resource::{PossiblyForeign, ResourceResult, Spec, Undo};

/// What this host has of a resource in the records of the simulated apply.
pub(super) enum Presence {
    /// It is on this host, and this undo takes it back.
    Present(Undo),
    /// There is nothing to take back.
    Nothing,
    /// It is not known what to go back to.
    Unknown(String),
}

impl Runner<'_> {
    /// What this host has of a resource in the records of the simulated apply. `on_top` says that saved records name other
    /// resources of the role: a resource that they do not name may have been there before the role.
    pub(super) async fn found(&self, undo: &Undo, on_top: bool) -> ResourceResult<Presence> {
        let host = self.host;
        let about = undo.key();
        let not_named = |there: bool| match there {
            true => Presence::Unknown(format!(
                "{about}: it is on the host, but the saved records do not name it; it stays, because it may have been there before the role"
            )),
            false => Presence::Nothing,
        };
        let is_present = |there: bool| match there {
            true => Presence::Present(undo.clone()),
            false => Presence::Nothing,
        };
        Ok(match undo {
            Undo::RemoveFile { path } | Undo::RestoreFile { path, .. } => {
                let there = host.entry(path).await?.is_some();
                let path = path.clone();
                match there {
                    true => Presence::Present(Undo::RemoveFile { path }),
                    false => Presence::Nothing,
                }
            }
            Undo::RemoveDirectory { path } | Undo::RemoveTree { path } => {
                let there = host.entry(path).await?.is_some();
                match on_top && !is_ours(path) {
                    true => not_named(there),
                    false => is_present(there),
                }
            }
            Undo::RemoveContainer { name } | Undo::StopContainer { name } => {
                is_present(container_runtime::has_ours(host, name).await?)
            }
            Undo::RemoveImage { reference } => {
                let there =
                    container_runtime::has(host).await? && host.image(reference).await?.is_some();
                match on_top {
                    true => not_named(there),
                    false => is_present(there),
                }
            }
            // `as_before` has noted each package.
            Undo::PurgePackages { .. } => Presence::Nothing,
            Undo::StopUnit { name } | Undo::RestartUnit { name } => {
                let loaded = host.unit(name).await?.loaded;
                match on_top && container_runtime::is_unit(name) {
                    true => Presence::Nothing,
                    false => is_present(loaded),
                }
            }
            Undo::SetUnitEnabled { name, .. } => {
                is_present(!on_top && host.unit(name).await?.loaded)
            }
            // Its name is the role's own.
            Undo::RestoreChain {
                family,
                table,
                name,
                ..
            } => Presence::Present(Undo::RestoreChain {
                family: *family,
                table: table.clone(),
                name: name.clone(),
                before: None,
            }),
            // The protocol number of the routes is ours.
            Undo::RemoveNodeRoutes
            | Undo::ReloadUnits
            | Undo::DeleteObject { .. }
            | Undo::PatchNode { .. } => Presence::Present(undo.clone()),
            // `note_kernel` has noted all kernel settings and modules of the plan.
            Undo::SetSysctl { .. } | Undo::UnloadModule { .. } => Presence::Nothing,
            Undo::RestoreAttributes { path, .. } => Presence::Unknown(format!(
                "{}: its mode and owner before the role are not known, so they stay",
                path.display()
            )),
            Undo::ClearDirectory { path, .. } => Presence::Unknown(format!(
                "{}: what was in it before the role is not known, so what is in it stays",
                path.display()
            )),
            Undo::RestoreSymlink { .. }
            | Undo::RecreateContainer { .. }
            | Undo::RestoreImage { .. }
            | Undo::StartUnit { .. }
            | Undo::RemoveEtcdLearner { .. }
            | Undo::RestoreObject { .. } => Presence::Nothing,
        })
    }

    /// Why a clean must not remove something that the role leaves behind: it exists, and it may have been there before
    /// the role. A container runtime that was there before has everything in such a directory.
    pub(super) async fn possibly_foreign(
        &self,
        left_behind: &Spec,
    ) -> ResourceResult<Option<String>> {
        let is_present = match left_behind.properties().possibly_foreign {
            Some(PossiblyForeign::Sysctl(key)) => return Ok(Some(unknown_setting(key))),
            Some(PossiblyForeign::Directory(path)) if !is_ours(path) => {
                let names = directory_contents::names(self.host, path).await?;
                names.is_some_and(|names| !names.is_empty())
            }
            Some(PossiblyForeign::Group) => {
                left_behind.pending(&self.context(true)).await?.is_some()
            }
            Some(PossiblyForeign::Directory(_)) | None => false,
        };
        let (kind, name) = (left_behind.kind(), left_behind.label());
        Ok(is_present.then(|| {
            format!("{kind} {name}: whether it was there before the role is not known; it stays")
        }))
    }

    /// Notes kernel settings and modules of the plan that are not among the `known` resources: they stay as they are.
    pub(super) async fn note_kernel(
        &self,
        known: &BTreeSet<String>,
        result: &mut Recovered,
    ) -> ResourceResult<()> {
        for step in self.plan.phases.iter().flat_map(|phase| &phase.steps) {
            match &step.spec {
                Spec::Sysctl(setting) if !known.contains(&format!("sysctl {}", setting.key)) => {
                    result.note(unknown_setting(setting.key.as_str()));
                }
                Spec::KernelModule(module)
                    if !known.contains(&format!("module {}", module.name))
                        && self.host.module_loaded(&module.name).await? =>
                {
                    result.note(format!(
                        "module {}: whether it was loaded before the role is not known, so it stays loaded",
                        module.name
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn unknown_setting(key: &str) -> String {
    format!("sysctl {key}: its value before the role is not known, so it stays as it is")
}
