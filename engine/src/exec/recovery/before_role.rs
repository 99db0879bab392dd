//! This host as it was before the role, as far as that is known, and an apply on a simulated host like that.
//!
//! The records of this apply name all that the role makes. What of it is on the real host is found by `found`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::installed::is_ours;
use super::unpredicted::{UnpredictedStep, take_failed, take_joins};
use crate::exec::event::{Event, Recording};
use crate::exec::{Runner, simulated_host};
use crate::facts::Facts;
use crate::ledger::{Ledger, Record};
use crate::model::Outcome;
use crate::plan::Plan;
use crate::resource::docker::container_runtime;
use crate::resource::{ResourceError, ResourceResult, Spec};

/// An apply on a simulated host.
pub(super) struct SimulatedApply {
    /// What it has written to its ledger.
    pub(super) records: Vec<Record>,
    /// Steps that cannot be simulated.
    pub(super) unpredicted: Vec<UnpredictedStep>,
}

impl Runner<'_> {
    /// This host as it was before the role, as far as that is known.
    pub(super) async fn as_before(&self, unknown: &mut Vec<String>) -> ResourceResult<Facts> {
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

    /// An apply on a simulated host like this. A step that fails there is taken out of the plan, and the apply begins anew.
    ///
    /// # Errors
    /// The apply fails at no step, so what the role has made cannot be told.
    pub(super) async fn applied_to_bare(&self, bare: &Facts) -> ResourceResult<SimulatedApply> {
        let mut plan: Plan = self.plan.clone();
        for phase in &mut plan.phases {
            // Only the changes matter here.
            phase.checks.clear();
            phase.requirements.clear();
        }
        let mut unpredicted = take_joins(&mut plan);
        loop {
            let host = simulated_host(bare, &plan).with_kubernetes(|rules| {
                rules.pod_cidr = "10.0.0.0/24".to_owned();
                // Those of other masters, for a worker.
                rules.remote_api = true;
            });
            let events = Recording::default();
            let runner = Runner::new(&plan, &host, bare, self.secrets, &events);
            // The future contains a future of the same type: without a box its size would be infinite.
            if Box::pin(runner.apply()).await? == Outcome::Converged {
                let records = Ledger::read(&host).await?;
                return Ok(SimulatedApply {
                    records,
                    unpredicted,
                });
            }
            let events = events.events();
            let Some(step) = take_failed(&mut plan, &events) else {
                return Err(unpredictable(&events));
            };
            unpredicted.push(step);
        }
    }
}

/// The simulated apply fails at no step.
fn unpredictable(events: &[Event]) -> ResourceError {
    let why = events.iter().find_map(|event| match event {
        Event::PhaseFailed { phase, failure, .. } => {
            Some(format!("phase {phase}: {}", failure.chain.join(": ")))
        }
        event => event.refusal(),
    });
    ResourceError::Unmet {
        what: format!(
            "recover the ledger {}: what the role has made here cannot be told, because an apply on a simulated host fails: {}",
            Ledger::path().display(),
            why.unwrap_or_default()
        ),
        next: "use the settings and the role with which this host was brought up".to_owned(),
    }
}
