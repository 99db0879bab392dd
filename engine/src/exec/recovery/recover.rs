//! Recovers a ledger that was lost or damaged on a host where the role runs.
//!
//! The copy of the ledger comes first: if the tip says that nothing was done since, the copy is the ledger. Otherwise
//! the ledger is rebuilt: the plan is applied to a simulated host as this one was before the role, and each resource in
//! the records of that apply is compared with this host. What is on this host is recorded as the role's. What the host
//! had before the role is not known from this; each such resource is named.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::installed::is_ours;
use crate::exec::event::{Event, Recording};
use crate::exec::undo::another_role::name;
use crate::exec::{Runner, simulated_host};
use crate::facts::Facts;
use crate::ledger::{Ledger, LedgerError, Record, Recoverable, RunId};
use crate::model::{Outcome, StepId, Verb};
use crate::plan::Plan;
use crate::resource::docker::container_runtime;
use crate::resource::files::directory;
use crate::resource::{ResourceError, ResourceResult, Spec, Undo};

/// The result of a recovery, or of its dry run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Recovered {
    /// Where the records come from.
    pub source: RecoveredFrom,
    /// Resources that are recorded as the role's from now on, because this host has them as the role makes them.
    pub recorded: Vec<String>,
    /// What could not be known, a sentence each.
    pub unknown: Vec<String>,
    /// Saved contents of files that no record names any more; empty if nothing is missing.
    pub unused_contents: Vec<PathBuf>,
}

/// Where the records of a recovered ledger come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "from", rename_all = "snake_case")]
pub enum RecoveredFrom {
    /// The copy from the end of the last run: nothing is missing.
    Copy {
        /// That run.
        run: RunId,
    },
    /// The complete lines of a file, up to this run; the rest comes from the host.
    Part {
        /// The file.
        path: PathBuf,
        /// The last run in it.
        run: RunId,
    },
    /// Only the plan and the host.
    Host,
}

/// What this host has of a resource in the records of the simulated apply.
enum Found {
    /// It is on this host, and this undo takes it back.
    Present(Undo),
    /// There is nothing to take back.
    Nothing,
    /// It is not known what to go back to.
    Unknown(String),
}

impl Runner<'_> {
    /// Recovers the ledger; with `dry_run` says what would be recovered and writes nothing.
    ///
    /// # Errors
    /// The ledger is not lost: it knows what the role has made here. Or something that is no ledger is in its place. Or
    /// what remains of it reaches to the last run and names another role than the plan. Or the host cannot be read.
    pub async fn recover(&self, dry_run: bool) -> ResourceResult<Recovered> {
        match self.lost_ledger().await {
            None => {
                return Err(ResourceError::Unmet {
                    what: format!(
                        "recover the ledger {}: it is not lost, and it knows all that the role made on this host",
                        Ledger::path().display()
                    ),
                    next: "nothing has to be recovered; `nodelet history` shows what it knows"
                        .to_owned(),
                });
            }
            // Also in a dry run: it must not promise what the recovery then refuses.
            Some(unusable @ LedgerError::Unusable { .. }) => return Err(unusable.into()),
            Some(_) => {}
        }
        let from = Ledger::recoverable(self.host).await?;
        let doubt = self.doubt_about_role(&from)?;
        let run = from.last_run.max(1) + 1;
        let Rebuilt {
            mut result,
            records,
        } = match &from.exact {
            Some(records) if self.unrecorded(records).await.is_empty() => {
                let mut exact = Recovered::of(RecoveredFrom::Copy { run: from.last_run });
                exact.records.clone_from(records);
                exact.records.push(self.begins(run));
                exact
            }
            _ => self.rebuild(&from, run).await?,
        };
        if let Some(doubt) = doubt {
            result.note(doubt);
        }
        let changed = result.recorded.len();
        // A complete copy names all that a clean needs.
        if !matches!(result.source, RecoveredFrom::Copy { .. }) {
            result.unused_contents = Ledger::unused_contents(self.host, &records).await?;
        }
        for resource in self.unrecorded(&records).await {
            result.note(format!(
                "{resource}: it is on the host, but could not be recorded, so it stays"
            ));
        }
        if !dry_run {
            Ledger::recover(self.host, records, from.damaged, (run, changed)).await?;
        }
        Ok(result)
    }

    /// Refuses a plan of another role than the one that the remains of the ledger name. Its ledger would call this host
    /// its own: the next apply would remove what only the other role has, without `--replace-role`.
    ///
    /// If later runs are lost, one of them may have replaced the role. Then returns a sentence about this.
    fn doubt_about_role(&self, from: &Recoverable) -> ResourceResult<Option<String>> {
        let Some((_, records)) = &from.part else {
            return Ok(None);
        };
        let Some(standing) = role_of(records) else {
            return Ok(None);
        };
        let planned = &self.plan.role;
        if name(&standing) == name(planned) {
            return Ok(None);
        }
        let (last, known) = (last_run(records), from.last_run);
        if last < known {
            return Ok(Some(format!(
                "role {planned}: what remains of the ledger names the role {standing}, but it ends with run {last}, and run {known} \
                 was the last one; the next `nodelet apply` removes what only {standing} has, and `nodelet plan` shows what that is"
            )));
        }
        Err(ResourceError::Unmet {
            what: format!(
                "recover the ledger {}: it is the ledger of the role {standing}, and {planned} is another role",
                Ledger::path().display()
            ),
            next: format!(
                "recover it with the role of this host: `nodelet recover --role {}`; then replace that role with \
                 `nodelet apply --replace-role`, if you want to",
                name(&standing)
            ),
        })
    }

    fn begins(&self, run: RunId) -> Record {
        let at = humantime::format_rfc3339_seconds(self.host.now()).to_string();
        Record::Run {
            run,
            verb: Verb::Recover,
            role: self.plan.role.clone(),
            digest: self.plan.digest(),
            at,
        }
    }

    /// The records that an apply on this host before the role would have written, for the resources that are on it now.
    async fn rebuild(&self, from: &Recoverable, run: RunId) -> ResourceResult<Rebuilt> {
        let mut rebuilt = match &from.part {
            Some((path, records)) => {
                let mut rebuilt = Recovered::of(RecoveredFrom::Part {
                    path: path.clone(),
                    run: last_run(records),
                });
                rebuilt.records.clone_from(records);
                rebuilt
            }
            None => Recovered::of(RecoveredFrom::Host),
        };
        let live = Ledger::live_in(&rebuilt.records);
        let known: BTreeSet<String> = live.iter().map(|live| live.undo.key()).collect();
        let on_top = live.iter().any(|live| !live.keep);
        let cleanups: BTreeSet<String> = Ledger::all_cleanup_steps_in(&rebuilt.records)
            .iter()
            .map(|(phase, _)| phase.to_string())
            .collect();
        let bare = self.as_before(&mut rebuilt.result.unknown).await?;
        self.note_kernel(&known, &mut rebuilt.result).await?;
        let applied = self
            .applied_to_bare(&bare, &mut rebuilt.result.unknown)
            .await?;
        // Leaves out what the saved records name: it is known.
        let names = |undo: &Undo| match undo {
            Undo::PurgePackages { names } => names.clone(),
            _ => Vec::new(),
        };
        let purged: BTreeSet<String> = live.iter().flat_map(|live| names(&live.undo)).collect();
        rebuilt.result.unknown.retain(|line| {
            let (resource, _) = line.split_once(": ").unwrap_or((line, ""));
            let package = resource.strip_prefix("package ");
            !known.contains(resource) && !package.is_some_and(|name| purged.contains(name))
        });
        rebuilt.records.push(self.begins(run));
        let mut wanted: BTreeSet<StepId> = BTreeSet::new();
        let mut resources = BTreeSet::new();
        let mut mapped = Vec::new();
        for record in applied {
            match record {
                Record::Undo {
                    phase,
                    step,
                    keep,
                    undo,
                    ..
                } => {
                    if known.contains(&undo.key()) || resources.contains(&undo.key()) {
                        continue;
                    }
                    resources.insert(undo.key());
                    match self.found(&undo, on_top).await? {
                        Found::Present(undo) => {
                            wanted.insert(step.clone());
                            if undo != Undo::ReloadUnits {
                                rebuilt.result.recorded.push(undo.key());
                            }
                            rebuilt.result.record_uncertain(&undo);
                            mapped.push(Record::Undo {
                                run,
                                phase,
                                step,
                                keep,
                                undo,
                            });
                        }
                        Found::Nothing => {}
                        Found::Unknown(why) => rebuilt.result.note(why),
                    }
                }
                Record::CleanupSteps {
                    phase, steps: all, ..
                } if !cleanups.contains(phase.as_str()) => {
                    let mut steps = Vec::new();
                    for step in all {
                        match self.possibly_foreign(&step.spec).await? {
                            Some(why) => rebuilt.result.note(why),
                            None => steps.push(step),
                        }
                    }
                    let partial = false;
                    mapped.push(Record::CleanupSteps {
                        run,
                        phase,
                        steps,
                        partial,
                    });
                }
                Record::Intent {
                    phase,
                    step,
                    span,
                    action,
                    fields,
                    ..
                } => {
                    mapped.push(Record::Intent {
                        run,
                        phase,
                        step,
                        span,
                        action,
                        fields,
                    });
                }
                Record::Receipt { phase, step, .. } => {
                    mapped.push(Record::Receipt { run, phase, step });
                }
                Record::Header { .. }
                | Record::Run { .. }
                | Record::PhaseApplied { .. }
                | Record::CleanupSteps { .. }
                | Record::Failed { .. }
                | Record::Reverted { .. }
                | Record::Pruned { .. }
                | Record::CleanupDone { .. }
                | Record::Cleaned { .. }
                | Record::End { .. } => {}
            }
        }
        mapped.retain(|record| match record {
            Record::Intent { step, .. } | Record::Receipt { step, .. } => wanted.contains(step),
            _ => true,
        });
        rebuilt.records.extend(mapped);
        Ok(rebuilt)
    }

    /// Why a clean must not remove something that the role leaves behind: it exists, and it may have been there before
    /// the role. A container runtime that was there before has everything in such a directory.
    async fn possibly_foreign(&self, left_behind: &Spec) -> ResourceResult<Option<String>> {
        let is_present = match left_behind {
            Spec::SysctlSnapshot(setting) => return Ok(Some(unknown_setting(&setting.key))),
            Spec::Directory(its) if !is_ours(&its.path) => {
                let names = directory::names(self.host, &its.path).await?;
                names.is_some_and(|names| !names.is_empty())
            }
            Spec::Group(_) => left_behind.pending(&self.context(true)).await?.is_some(),
            Spec::Directory(_)
            | Spec::File(_)
            | Spec::Symlink(_)
            | Spec::EnvFile(_)
            | Spec::Authority(_)
            | Spec::ServiceAccountKey(_)
            | Spec::EncryptionKeys(_)
            | Spec::DataId(_)
            | Spec::Certificate(_)
            | Spec::Kubeconfig(_)
            | Spec::Image(_)
            | Spec::ImageDirectory(_)
            | Spec::Container(_)
            | Spec::Service(_)
            | Spec::Sysctl(_)
            | Spec::KernelModule(_)
            | Spec::Packages(_)
            | Spec::Link(_)
            | Spec::Pods(_)
            | Spec::PodContainer(_)
            | Spec::Manifest(_)
            | Spec::Node(_)
            | Spec::Drain(_)
            | Spec::Command(_)
            | Spec::FirewallChains(_)
            | Spec::Ipsets(_)
            | Spec::IpvsServices(_)
            | Spec::Cgroup(_)
            | Spec::Timer(_) => false,
        };
        let (kind, name) = (left_behind.kind(), left_behind.label());
        Ok(is_present.then(|| {
            format!("{kind} {name}: whether it was there before the role is not known; it stays")
        }))
    }

    /// Notes kernel settings and modules of the plan that are not among the `known` resources: they stay as they are.
    async fn note_kernel(
        &self,
        known: &BTreeSet<String>,
        result: &mut Recovered,
    ) -> ResourceResult<()> {
        for step in self.plan.phases.iter().flat_map(|phase| &phase.steps) {
            match &step.spec {
                Spec::Sysctl(setting) if !known.contains(&format!("sysctl {}", setting.key)) => {
                    result.note(unknown_setting(&setting.key));
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

    /// This host as it was before the role, as far as that is known.
    async fn as_before(&self, unknown: &mut Vec<String>) -> ResourceResult<Facts> {
        let steps = || self.plan.phases.iter().flat_map(|phase| &phase.steps);
        for step in steps() {
            let Spec::Packages(packages) = &step.spec else {
                continue;
            };
            for package in packages.on_host(&self.context(false)).await? {
                let whose = match package.installed {
                    Some(version) if version == package.version => format!(
                        "version {version} is installed, as the role brings it; whether it was there before the role is not known"
                    ),
                    Some(version) if packages.names.contains(&package.name) => format!(
                        "version {version} is installed and the role brings {}, so it was there before the role, or was upgraded since",
                        package.version
                    ),
                    _ => continue,
                };
                // Several steps may bring the same package.
                let line = format!("package {}: {whose}; it stays", package.name);
                if !unknown.contains(&line) {
                    unknown.push(line);
                }
            }
        }
        // A container runtime that stays keeps its images.
        for step in steps() {
            if let Spec::Image(image) = &step.spec
                && self.facts.images.contains(&image.reference)
            {
                unknown.push(format!(
                    "image {}: whether it was there before the role is not known; it stays",
                    image.reference
                ));
            }
        }
        let mut facts = self.facts.clone();
        facts.listening = Some(Vec::new());
        facts.met_before.clear();
        facts.earlier_clusters.clear();
        facts.virtual_services.clear();
        facts.installed_role = None;
        let planned: BTreeSet<PathBuf> = steps().flat_map(|step| step.spec.paths()).collect();
        let of_plan = |unit: &str| planned.iter().any(|path| path.ends_with(unit));
        facts.units.retain(|unit, _| !of_plan(unit));
        let directories: BTreeSet<&Path> = steps()
            .filter_map(|step| match &step.spec {
                Spec::Directory(directory) => Some(directory.path.as_path()),
                _ => None,
            })
            .collect();
        for disk in &mut facts.disks {
            let path = Path::new(&disk.path);
            // The role has made a directory of its own, unless it is a separate disk.
            if is_ours(path) && directories.contains(path) && !self.is_mounted(path).await? {
                disk.mode = None;
            }
        }
        facts
            .files
            .retain(|path, _| !planned.contains(Path::new(path)));
        let phases = self.plan.phases.iter();
        let links: BTreeSet<&str> = phases
            .flat_map(|phase| phase.steps.iter().chain(&phase.on_clean))
            .filter_map(|step| match &step.spec {
                Spec::Link(link) => Some(link.name.as_str()),
                _ => None,
            })
            // A container runtime that stays keeps its link.
            .filter(|name| *name != container_runtime::LINK)
            .collect();
        if let Some(all) = &mut facts.links {
            all.retain(|link| !links.contains(link.name.as_str()));
        }
        Ok(facts)
    }

    async fn is_mounted(&self, path: &Path) -> ResourceResult<bool> {
        let above = path.parent().unwrap_or(path);
        let (its, above) = (self.host.space(path).await?, self.host.space(above).await?);
        Ok(its.device != above.device)
    }

    /// The records that an apply writes on a simulated host like this.
    async fn applied_to_bare(
        &self,
        bare: &Facts,
        unknown: &mut Vec<String>,
    ) -> ResourceResult<Vec<Record>> {
        let mut plan: Plan = self.plan.clone();
        for phase in &mut plan.phases {
            // Only the changes matter here.
            phase.checks.clear();
            phase.requirements.clear();
        }
        let host = simulated_host(bare, &plan)
            .with_kubernetes(|rules| rules.pod_cidr = "10.0.0.0/24".to_owned());
        let events = Recording::default();
        let runner = Runner::new(&plan, &host, bare, self.secrets, &events);
        // The future contains a future of the same type: without a box its size would be infinite.
        let outcome = Box::pin(runner.apply()).await?;
        if outcome != Outcome::Converged {
            for event in events.events() {
                if let Event::PhaseFailed { phase, failure, .. } = event {
                    unknown.push(format!(
                        "phase {phase} and those after it: what they make is unknown: {}",
                        failure.chain.join(": ")
                    ));
                }
            }
        }
        Ok(Ledger::read(&host).await?)
    }

    /// What this host has of a resource in the records of the simulated apply. `on_top` says that saved records name other
    /// resources of the role: a resource that they do not name may have been there before the role.
    async fn found(&self, undo: &Undo, on_top: bool) -> ResourceResult<Found> {
        let host = self.host;
        let about = undo.key();
        let not_named = |there: bool| match there {
            true => Found::Unknown(format!(
                "{about}: it is on the host, but the saved records do not name it; it stays, because it may have been there before the role"
            )),
            false => Found::Nothing,
        };
        let is_present = |there: bool| match there {
            true => Found::Present(undo.clone()),
            false => Found::Nothing,
        };
        Ok(match undo {
            Undo::RemoveFile { path } | Undo::RestoreFile { path, .. } => {
                let there = host.entry(path).await?.is_some();
                let path = path.clone();
                match there {
                    true => Found::Present(Undo::RemoveFile { path }),
                    false => Found::Nothing,
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
            Undo::PurgePackages { .. } => Found::Nothing,
            Undo::StopUnit { name } | Undo::RestartUnit { name } => {
                let loaded = host.unit(name).await?.loaded;
                match on_top && container_runtime::is_unit(name) {
                    true => Found::Nothing,
                    false => is_present(loaded),
                }
            }
            Undo::SetUnitEnabled { name, .. } => {
                is_present(!on_top && host.unit(name).await?.loaded)
            }
            Undo::ReloadUnits | Undo::DeleteObject { .. } | Undo::PatchNode { .. } => {
                Found::Present(undo.clone())
            }
            // `note_kernel` has noted all kernel settings and modules of the plan.
            Undo::SetSysctl { .. } | Undo::UnloadModule { .. } => Found::Nothing,
            Undo::RestoreAttributes { path, .. } => Found::Unknown(format!(
                "{}: its mode and owner before the role are not known, so they stay",
                path.display()
            )),
            Undo::ClearDirectory { path, .. } => Found::Unknown(format!(
                "{}: what was in it before the role is not known, so what is in it stays",
                path.display()
            )),
            Undo::RestoreSymlink { .. }
            | Undo::RecreateContainer { .. }
            | Undo::RestoreImage { .. }
            | Undo::StartUnit { .. }
            | Undo::RestoreObject { .. } => Found::Nothing,
        })
    }
}

/// The role that these records say is on the host. What a clean keeps belongs to no role.
fn role_of(records: &[Record]) -> Option<String> {
    let is_clean = |record: &Record| matches!(record, Record::Cleaned { .. });
    let since = records.iter().rposition(is_clean).map_or(0, |at| at + 1);
    Ledger::role_in(&records[since..])
}

/// The number of the last run in these records; 0 if there is none.
fn last_run(records: &[Record]) -> RunId {
    records.iter().filter_map(Record::run).max().unwrap_or(0)
}

/// A recovery in progress.
struct Rebuilt {
    result: Recovered,
    records: Vec<Record>,
}

impl Recovered {
    fn of(source: RecoveredFrom) -> Rebuilt {
        Rebuilt {
            result: Self {
                source,
                recorded: Vec::new(),
                unknown: Vec::new(),
                unused_contents: Vec::new(),
            },
            records: Vec::new(),
        }
    }

    fn note(&mut self, unknown_line: String) {
        if !self.unknown.contains(&unknown_line) {
            self.unknown.push(unknown_line);
        }
    }

    /// Notes what a clean will remove although it may have been there before the role.
    fn record_uncertain(&mut self, undo: &Undo) {
        match undo {
            Undo::RemoveFile { path } if !is_ours(path) && !is_named_ours(path) => {
                self.note(format!(
                    "{}: whether a file was there before the role is not known; a clean removes it",
                    path.display()
                ));
            }
            _ => {}
        }
    }
}

/// Whether a file has `pf9` in its name: no other program makes such a file.
fn is_named_ours(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.contains("pf9")
}

fn unknown_setting(key: &str) -> String {
    format!("sysctl {key}: its value before the role is not known, so it stays as it is")
}
