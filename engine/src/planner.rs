//! From a role, settings and facts to a plan. Pure: the same inputs give the same plan on every machine.
//!
//! [`plan()`] evaluates the scripts, applies rules that concern several phases, and brings the phases into their order. `context` makes what
//! scripts read as `host`, `cluster`, `kube` and `role`; `fields` documents it. What a word of a script means is in `script::lower`, the
//! order of phases in `plan::order`. Nothing is read from a host here. Start with [`plan()`].

mod context;
mod fields;

pub use context::node_name;
pub use fields::{CLUSTER_FIELDS, HOST_FIELDS};

use std::collections::BTreeMap;

use context::{script_context, text};

use crate::env::KubeEnv;
use crate::facts::{Facts, Requirement, Verdict};
use crate::model::{Diagnostic, PhaseName, Sources, Span, closest};
use crate::plan::{self, Graph, Plan, PlannedPhase, Probe};
use crate::resource::{Checksums, Spec};
use crate::role::RolePackage;

/// Why there is no plan: every finding, and the texts to quote from.
#[derive(Debug)]
pub struct PlanError {
    /// What is wrong.
    pub findings: Vec<Diagnostic>,
    /// The scripts and templates.
    pub sources: Sources,
}

/// `ROLE` of a host that has no role, or none yet.
const NONE: &str = "none";

/// Plans `role` for the host that `facts` describe. The plan of a host without a role (`ROLE: none`) has no phases and
/// no payload.
///
/// # Errors
/// Every mistake in the role's scripts, settings of parameters that the role does not have or accept, and settings that do not fit the
/// host.
pub fn plan(role: &RolePackage, settings: &KubeEnv, facts: &Facts) -> Result<Plan, PlanError> {
    let node = text(settings, "ROLE");
    let empty = Plan {
        version: plan::VERSION,
        role: format!("{} {}", role.manifest.name, role.manifest.release),
        host: facts.hostname.clone(),
        node: node.clone(),
        payload: Vec::new(),
        phases: Vec::new(),
    };
    if node == NONE {
        return Ok(empty);
    }
    let Some(scripts) = role.script_set(&node) else {
        let known: Vec<&str> = role.manifest.nodes.keys().map(String::as_str).collect();
        let finding = Diagnostic::new(
            "P0607",
            Span::file("role.yaml"),
            format!(
                "role {} has no phases for node kind `{node}`",
                role.manifest.name
            ),
        )
        .help(match known.as_slice() {
            [] => "name its phases under `nodes`; was role.yaml cut short?".to_owned(),
            known => format!("set ROLE to {}", known.join(" or ")),
        });
        return Err(PlanError {
            findings: vec![finding],
            sources: Sources::default(),
        });
    };
    let fail = |findings| PlanError {
        findings,
        sources: scripts.sources(),
    };
    let parameters = role.parameters_with(settings).map_err(fail)?;
    let around = script_context(role, parameters, settings, facts)
        .map_err(|finding| fail(vec![*finding]))?;
    let payload = RolePackage::payload(&role.manifest.name);
    let mut phases = scripts
        .evaluate(&around, &payload)
        .map_err(|findings| fail(blame_host_name(findings, facts)))?;
    if let Some(sha256) = &role.manifest.checksums {
        let checksums = Checksums {
            file: payload.with_file_name("SHA256SUMS"),
            sha256: sha256.clone(),
        };
        for step in phases.iter_mut().flat_map(|phase| &mut phase.steps) {
            match &mut step.spec {
                Spec::Image(image) if image.archive.starts_with(&payload) => {
                    image.checksums = Some(checksums.clone());
                }
                Spec::Packages(packages) => packages.checksums = Some(checksums.clone()),
                Spec::Service(service) if !service.runs.is_empty() => {
                    service.checksums = Some(checksums.clone());
                }
                Spec::Timer(timer) => {
                    if let Some(command) = &mut timer.command {
                        command.checksums = Some(checksums.clone());
                    }
                }
                _ => {}
            }
        }
        for check in phases.iter_mut().flat_map(|phase| &mut phase.checks) {
            if let Probe::PackageIntact { checksums: its } = &mut check.probe {
                *its = Some(checksums.clone());
            }
        }
    }
    let mut findings = plan::shared_things(&phases);
    let order = match ordered(&phases) {
        Ok(order) if findings.is_empty() => order,
        Ok(_) => return Err(fail(findings)),
        Err(more) => {
            findings.extend(more);
            return Err(fail(findings));
        }
    };
    let place: BTreeMap<_, _> = order
        .iter()
        .enumerate()
        .map(|(i, name)| (name, i))
        .collect();
    phases.sort_by_key(|phase| place.get(&phase.name).copied());
    Ok(Plan {
        payload: role
            .manifest
            .payload
            .iter()
            .map(|path| payload.join(path))
            .collect(),
        phases,
        ..empty
    })
}

/// The names of the phases in the order in which they start, or what is wrong with `requires` and `after`.
fn ordered(phases: &[PlannedPhase]) -> Result<Vec<PhaseName>, Vec<Diagnostic>> {
    let mut graph = Graph::default();
    for phase in phases {
        graph.add(&phase.name, &phase.requires, &phase.after);
    }
    graph.ordered().map_err(|errors| {
        let findings = errors.iter().map(|error| {
            let name = match error {
                plan::OrderError::Missing { phase, .. } => Some(phase),
                plan::OrderError::Cycle(names) => names.first(),
            };
            let span = phases
                .iter()
                .find(|phase| Some(&phase.name) == name)
                .map_or_else(|| Span::file("role.yaml"), |phase| phase.span.clone());
            let finding = Diagnostic::new("P0407", span, error.to_string());
            let names = phases.iter().map(|phase| phase.name.as_str());
            match error {
                plan::OrderError::Missing { missing, .. } => match closest(missing.as_str(), names)
                {
                    Some(meant) => finding.help(format!("did you mean `{meant}`?")),
                    None => finding
                        .help("add it to the role, or say `.after` for a phase that may be absent"),
                },
                plan::OrderError::Cycle(_) => {
                    finding.help("take one of these `.requires` or `.after` out")
                }
            }
        });
        findings.collect()
    })
}

/// If the host's name is the cause of findings, it is reported once, and not for every line that uses it.
fn blame_host_name(mut findings: Vec<Diagnostic>, facts: &Facts) -> Vec<Diagnostic> {
    let Verdict::NotMet { problem, remedy } = Requirement::HostNameValid.check(facts) else {
        return findings;
    };
    let all = findings.len();
    let name = facts.hostname.to_lowercase();
    findings.retain(|finding| name.is_empty() || !finding.message.to_lowercase().contains(&name));
    if findings.len() < all || name.is_empty() {
        findings.insert(
            0,
            Diagnostic::new("P0608", Span::file("facts"), problem).help(remedy),
        );
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;

    /// Such a host need not have an address: it waits for its role, perhaps without a network.
    #[tokio::test]
    async fn a_host_without_a_role_has_a_plan_without_phases() {
        let manifest = "version: 1\nname: r\nrelease: '1'\nabout: A role.\nnodes:\n  master: [example]\npayload: [bin/a]\n";
        let host = FakeHost::new()
            .with_file("/r/role.yaml", manifest)
            .with_file("/r/phases/example.rhai", "phase(\"example\");\n")
            .with_directory("/r/phases/templates");
        let role = RolePackage::load(&host, "/r").await.expect("a role");
        let facts = Facts::nothing_about("cp-1");
        let planned = |settings: &[(&str, &str)]| {
            let pairs = settings
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
            let settings = KubeEnv::from_pairs(pairs).expect("good settings");
            plan(&role, &settings, &facts)
        };
        let named = ("MASTER_IP", "172.30.0.11");
        let waits = planned(&[named]).expect("nothing is to be done");
        assert_eq!((waits.node.as_str(), waits.phases.len()), ("none", 0));
        assert!(waits.payload.is_empty(), "{:?}", waits.payload);
        let unknown = planned(&[named, ("ROLE", "worker")]).expect_err("it has no workers");
        assert_eq!(unknown.findings[0].code, "P0607");
    }
}
