//! From a role, settings and facts to a plan. Pure: the same inputs give the same plan on every machine.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::env::{self, KubeEnv};
use crate::facts::{CgroupVersion, Facts, Requirement, Verdict};
use crate::model::{Diagnostic, SecretRef, Sources, Span, Value, closest};
use crate::plan::{self, Graph, Plan, Probe};
use crate::resource::{Checksums, Spec};
use crate::role::RolePackage;
use crate::script::ScriptContext;

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
/// Every mistake in the role's scripts, and settings that do not fit the host.
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
    let around = surroundings(role, settings, facts).map_err(|finding| fail(vec![*finding]))?;
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
                _ => {}
            }
        }
        for check in phases.iter_mut().flat_map(|phase| &mut phase.checks) {
            if let Probe::PackageIntact { checksums: its } = &mut check.probe {
                *its = Some(checksums.clone());
            }
        }
    }
    let mut graph = Graph::default();
    for phase in &phases {
        graph.add(&phase.name, &phase.requires, &phase.after);
    }
    let order = graph.ordered().map_err(|errors| {
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
        fail(findings.collect())
    })?;
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

/// The setting as text; an unset one is empty.
fn text(settings: &KubeEnv, key: &str) -> String {
    settings
        .get(key)
        .map(ToString::to_string)
        .unwrap_or_default()
}

/// The name this host has as a node: its host name, or its address where `USE_HOSTNAME` is off.
#[must_use]
pub fn node_name(settings: &KubeEnv, facts: &Facts) -> Option<String> {
    if matches!(settings.get("USE_HOSTNAME"), Some(env::Value::Bool(false))) {
        facts.address.map(|address| address.to_string())
    } else {
        Some(facts.hostname.to_lowercase())
    }
}

fn surroundings(
    role: &RolePackage,
    settings: &KubeEnv,
    facts: &Facts,
) -> Result<ScriptContext, Box<Diagnostic>> {
    let missing = |what: &str, help: &str| {
        Box::new(
            Diagnostic::new(
                "P0608",
                Span::file("facts"),
                format!("the host has no {what}"),
            )
            .help(help),
        )
    };
    let address = facts.address.ok_or_else(|| {
        missing(
            "address on the link of its default route",
            "give it one; see `ip route` and `ip address`",
        )
    })?;
    if address.is_loopback() {
        return Err(missing(
            "address but a loopback one",
            "give it one that other hosts can reach",
        ));
    }
    let name = node_name(settings, facts)
        .ok_or_else(|| missing("usable name", "set one with `hostnamectl set-hostname`"))?;
    let mut kube = BTreeMap::new();
    for (key, value) in settings.iter() {
        kube.insert(key.to_owned(), setting(key, value));
    }
    Ok(ScriptContext {
        host: host(facts, &name, address),
        cluster: cluster(settings, &name, address),
        role: role_values(role, settings),
        kube,
        node: text(settings, "ROLE"),
    })
}

/// A setting as scripts see it: flags, numbers and lists typed, the rest as text; secrets by reference.
fn setting(key: &str, value: &env::Value) -> Value {
    match value {
        env::Value::Bool(b) => Value::Bool(*b),
        env::Value::Integer(n) => Value::Integer(*n),
        env::Value::List(items) => Value::from(items.clone()),
        // An empty secret is no secret: scripts may ask whether it was given.
        env::Value::Secret(secret) if secret.is_empty() => Value::from(""),
        env::Value::Secret(_) => Value::Secret(SecretRef(format!("kube/{key}"))),
        other => Value::Text(other.to_string()),
    }
}

fn host(facts: &Facts, name: &str, address: IpAddr) -> BTreeMap<String, Value> {
    let version = facts.cgroups.as_ref().map(|cgroups| cgroups.version);
    // The systemd driver needs delegated v2 hierarchies; on v1 docker's default is cgroupfs.
    let driver = if version == Some(CgroupVersion::V2) {
        "systemd"
    } else {
        "cgroupfs"
    };
    BTreeMap::from([
        ("name".to_owned(), Value::from(name)),
        ("hostname".to_owned(), Value::from(facts.hostname.clone())),
        ("address".to_owned(), Value::from(address.to_string())),
        (
            "interface".to_owned(),
            Value::from(
                facts
                    .default_route
                    .as_ref()
                    .map(|route| route.link.clone())
                    .unwrap_or_default(),
            ),
        ),
        (
            "cpus".to_owned(),
            Value::Integer(i64::from(facts.cpus.unwrap_or(1))),
        ),
        ("cgroup_driver".to_owned(), Value::from(driver)),
    ])
}

fn cluster(settings: &KubeEnv, name: &str, address: IpAddr) -> BTreeMap<String, Value> {
    let port = text(settings, "K8S_API_PORT");
    let url = |host: &str| {
        let bracketed = if host.contains(':') {
            format!("[{host}]")
        } else {
            host.to_owned()
        };
        format!("https://{bracketed}:{port}")
    };
    let master = text(settings, "ROLE") == "master";
    let api_url = url(&text(settings, "MASTER_IP"));
    let local = url("127.0.0.1");
    // One master so far: it is its own only peer.
    let this = BTreeMap::from([
        ("name".to_owned(), Value::from(name)),
        ("address".to_owned(), Value::from(address.to_string())),
    ]);
    BTreeMap::from([
        ("id".to_owned(), Value::from(cluster_id(settings))),
        (
            "api_is_address".to_owned(),
            Value::Bool(text(settings, "MASTER_IP").parse::<IpAddr>().is_ok()),
        ),
        ("api_url".to_owned(), Value::from(api_url.clone())),
        (
            "local_api_url".to_owned(),
            Value::from(if master { local } else { api_url }),
        ),
        (
            "api_service_ip".to_owned(),
            Value::from(settings.api_service_ip().to_string()),
        ),
        (
            "dns_service_ip".to_owned(),
            Value::from(settings.dns_service_ip().to_string()),
        ),
        ("masters".to_owned(), Value::List(vec![Value::Map(this)])),
        ("other_masters".to_owned(), Value::List(Vec::new())),
    ])
}

/// The cluster's id. If none is given, the address of its master, which also tells it apart from its neighbours.
fn cluster_id(settings: &KubeEnv) -> String {
    match text(settings, "CLUSTER_ID") {
        id if id.is_empty() => text(settings, "MASTER_IP"),
        id => id,
    }
}

fn role_values(role: &RolePackage, settings: &KubeEnv) -> BTreeMap<String, Value> {
    let mut values = role.parameters.clone();
    let payload = RolePackage::payload(&role.manifest.name);
    let environment: BTreeMap<String, Value> = settings
        .iter()
        .map(|(key, value)| match value {
            env::Value::Secret(secret) if !secret.is_empty() => (
                key.to_owned(),
                Value::Secret(SecretRef(format!("kube/{key}"))),
            ),
            env::Value::Secret(_) => (key.to_owned(), Value::from("")),
            other => (key.to_owned(), Value::Text(other.to_string())),
        })
        .collect();
    values.extend([
        ("name".to_owned(), Value::from(role.manifest.name.clone())),
        (
            "release".to_owned(),
            Value::from(role.manifest.release.clone()),
        ),
        ("node".to_owned(), Value::from(text(settings, "ROLE"))),
        (
            "payload".to_owned(),
            Value::from(payload.display().to_string()),
        ),
        ("kube_env".to_owned(), Value::Map(environment)),
    ]);
    values
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
