//! From a role, settings and facts to a plan. Pure: the same inputs give the same plan on every machine.
//!
//! [`plan()`] evaluates the scripts, applies rules that concern several phases, and brings the phases into their order. `context` makes what
//! scripts read as `host`, `cluster`, `kube` and `role`; `fields` documents it. What a word of a script means is in `script::lower`, the
//! order of phases in `plan::order`. Nothing is read from a host here. Start with [`plan()`].

mod context;
mod fields;

pub use context::node_name;
pub use fields::{CLUSTER_FIELDS, HOST_FIELDS, kube_table};

use std::collections::BTreeMap;
use std::net::IpAddr;

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
            [] => format!("list the phases of `{node}` under `nodes` in role.yaml"),
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
    if let Some(finding) = master_of_itself(settings, facts, &node) {
        return Err(fail(vec![finding]));
    }
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
    let mut findings = plan::shared_resources(&phases);
    findings.extend(plan::guard_secrets(&mut phases));
    let order = match ordered(&phases, role, &node) {
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

/// A finding if a worker is to reach the masters at its own address or name.
fn master_of_itself(settings: &KubeEnv, facts: &Facts, node: &str) -> Option<Diagnostic> {
    let master = text(settings, "MASTER_IP");
    let links = facts.links.iter().flatten();
    let mut addresses = links.flat_map(|link| &link.addresses);
    let is_own = match master.parse::<IpAddr>() {
        Ok(address) => {
            // Saved settings may have an IPv4 address in the form of IPv6.
            let address = address.to_canonical();
            facts.address == Some(address) || addresses.any(|its| its.addr() == address)
        }
        Err(_) => !master.is_empty() && master.eq_ignore_ascii_case(&facts.hostname),
    };
    (node == "worker" && is_own).then(|| {
        Diagnostic::new(
            "P0385",
            Span::file("settings"),
            format!("MASTER_IP is {master}, which is this host itself, but ROLE is worker"),
        )
        .help("set MASTER_IP to the virtual IP of the masters or to the address of the master; or set ROLE to master")
    })
}

/// The names of the phases of a node kind in the order in which they start, or what is wrong with `requires` and `after`.
fn ordered(
    phases: &[PlannedPhase],
    role: &RolePackage,
    node: &str,
) -> Result<Vec<PhaseName>, Vec<Diagnostic>> {
    let mut graph = Graph::default();
    for phase in phases {
        graph.add(&phase.name, &phase.requires, &phase.after);
    }
    graph.ordered().map_err(|errors| {
        let findings = errors.iter().map(|error| match error {
            plan::OrderError::Missing { phase, missing } => {
                let (message, help) = missing_phase(phase, missing, role, node);
                Diagnostic::new("P0407", place_of(phases, Some(phase)), message).help(help)
            }
            plan::OrderError::Cycle(names) => {
                let span = place_of(phases, names.first());
                Diagnostic::new("P0407", span, error.to_string())
                    .help("remove one of these names from the `.requires` or `.after` of another")
            }
        });
        findings.collect()
    })
}

/// Where a phase is.
fn place_of(phases: &[PlannedPhase], name: Option<&PhaseName>) -> Span {
    let phase = phases.iter().find(|phase| Some(&phase.name) == name);
    phase.map_or_else(|| Span::file("role.yaml"), |phase| phase.span.clone())
}

/// Message and help about a phase that another one requires and that the node kind does not have.
fn missing_phase(
    phase: &PhaseName,
    missing: &PhaseName,
    role: &RolePackage,
    node: &str,
) -> (String, String) {
    let kinds = role.manifest.nodes.iter();
    let others: Vec<&str> = kinds
        .filter(|(_, names)| names.iter().any(|name| name == missing.as_str()))
        .map(|(kind, _)| kind.as_str())
        .collect();
    if !others.is_empty() {
        let others = others.join("` and `");
        return (
            format!(
                "phase `{phase}` requires `{missing}`, which role.yaml lists for `{others}`, but not for `{node}`"
            ),
            format!(
                "list `{missing}` for `{node}`, too; if only the order matters, write .after([\"{missing}\"]) in place of `.requires`"
            ),
        );
    }
    let names = role.manifest.nodes.values().flatten();
    let meant = closest(missing.as_str(), names.map(String::as_str));
    let help = match meant {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!(
            "remove `{missing}` from `.requires`, or write phases/{missing}.rhai and list `{missing}` in role.yaml"
        ),
    };
    let message = format!("phase `{phase}` requires `{missing}`, which this role does not have");
    (message, help)
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

    #[test]
    fn a_worker_is_not_its_own_master() {
        let mut facts = Facts::nothing_about("w-1");
        facts.address = Some(IpAddr::from([172, 30, 0, 21]));
        for (role, master, is_wrong) in [
            ("worker", "172.30.0.21", true),
            ("worker", "W-1", true),
            ("worker", "172.30.0.11", false),
            ("worker", "w-10", false),
            ("master", "172.30.0.21", false),
        ] {
            let pairs = [("ROLE", role), ("MASTER_IP", &master.to_lowercase())];
            let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
            let settings = KubeEnv::from_pairs(pairs).expect("good settings");
            let finding = master_of_itself(&settings, &facts, role);
            assert_eq!(finding.is_some(), is_wrong, "{role} {master}");
        }
        let saved = b"ROLE: worker\nMASTER_IP: ::ffff:172.30.0.21\n".to_vec();
        let saved = KubeEnv::resolve_saved("saved.yaml", saved).expect("settings that were good");
        assert!(master_of_itself(&saved, &facts, "worker").is_some());
    }
}
