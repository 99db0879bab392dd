//! `require(…)`: one typed precondition each.

use crate::facts::{NamedCidr, Requirement, SupportedSystem};
use crate::model::{Diagnostic, Value};
use crate::plan::PlannedRequirement;
use crate::script::lower::options::Options;
use crate::script::recorder::Call;

pub(super) fn lower(
    call: &Call,
    options: &Options<'_>,
    findings: &mut Vec<Diagnostic>,
) -> Option<PlannedRequirement> {
    let said: Vec<_> = call
        .options
        .iter()
        .filter(|option| option.modifier.name != "when")
        .collect();
    let [one] = said.as_slice() else {
        let span = said
            .get(1)
            .map_or_else(|| call.span.clone(), |second| second.span.clone());
        findings.push(
            Diagnostic::new("P0320", span, "a requirement asserts one thing")
                .help("use exactly one modifier, and a separate requirement for each other one"),
        );
        return None;
    };
    Some(PlannedRequirement {
        name: options.text_argument(0)?,
        span: call.span.clone(),
        requirement: requirement(one.modifier.name, options)?,
    })
}

fn requirement(name: &str, options: &Options<'_>) -> Option<Requirement> {
    let pairs =
        || -> Vec<(String, Value)> { options.map(name).unwrap_or_default().into_iter().collect() };
    Some(match name {
        "no_swap" => Requirement::NoSwap { allowed: false },
        "ports_free" => Requirement::PortsFree(options.ports(name)),
        "programs" => Requirement::Programs(options.texts(name)?),
        "memory" => Requirement::MinMemory(options.size(name, 0)?),
        "processors" => Requirement::MinCpus(u32::try_from(options.integer(name)?).ok()?),
        "disk" => Requirement::MinDisk {
            path: options.text(name)?,
            bytes: options.size(name, 1)?,
        },
        "persistent_directory" => Requirement::PersistentDirectory {
            path: options.text(name)?,
            bytes: options.size(name, 1)?,
        },
        "cgroup_controllers" => Requirement::CgroupControllers(options.texts(name)?),
        "no_foreign_runtime" => Requirement::NoForeignRuntime,
        "no_earlier_cluster" => Requirement::NoEarlierCluster,
        "no_virtual_services" => Requirement::NoVirtualServices,
        "host_name_valid" => Requirement::HostNameValid,
        "networks_disjoint" => Requirement::CidrsDisjoint {
            named: pairs()
                .into_iter()
                .map(|(name, cidr)| NamedCidr {
                    name,
                    cidr: cidr.to_string(),
                })
                .collect(),
        },
        "kernel_features" => Requirement::KernelFeatures(options.texts(name)?),
        "interface" => Requirement::Interface {
            name: options.text(name)?,
        },
        "virtual_ip" => {
            let values = options.values(name);
            let [Value::Text(address), Value::Text(interface)] = values.as_slice() else {
                return None;
            };
            Requirement::VirtualIp {
                address: address.parse().ok()?,
                interface: interface.clone(),
            }
        }
        "architecture" => Requirement::Architecture(options.texts(name)?),
        "supported_system" => Requirement::SupportedSystem(
            pairs()
                .into_iter()
                .map(|(id, versions)| SupportedSystem {
                    id,
                    versions: match versions {
                        Value::List(items) => items.iter().map(ToString::to_string).collect(),
                        one => vec![one.to_string()],
                    },
                })
                .collect(),
        ),
        "systemd" => Requirement::Systemd,
        "root" => Requirement::Root,
        "sane_clock" => Requirement::ClockSane,
        _ => return None,
    })
}
