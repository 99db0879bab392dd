//! This host as it was before the role, as far as that is known, and an apply on a simulated host like that.
//!
//! The records of this apply name all that the role makes. What of it is on the real host is found by `found`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::installed::is_ours;
use crate::exec::event::{Event, Recording};
use crate::exec::{Runner, simulated_host};
use crate::facts::Facts;
use crate::ledger::{Ledger, Record};
use crate::model::Outcome;
use crate::plan::Plan;
use crate::resource::docker::container_runtime;
use crate::resource::{ResourceResult, Spec};

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

    /// The records that an apply writes on a simulated host like this.
    pub(super) async fn applied_to_bare(
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
}
