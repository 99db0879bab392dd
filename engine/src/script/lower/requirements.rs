//! `require(…)`: one typed precondition each.

use crate::facts::kernel::FEATURES;
use crate::facts::{NamedCidr, Requirement, SupportedSystem};
use crate::model::{Diagnostic, Value, closest};
use crate::plan::PlannedRequirement;
use crate::script::lower::options::Options;
use crate::script::recorder::{Call, RecordedOption};

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
    let one = match said.as_slice() {
        [one] => one,
        [] => {
            let message = "the requirement does not say what must be true";
            findings.push(Diagnostic::new("P0320", call.span.clone(), message).help(
                "add one modifier, for example .memory(\"2G\"), .ports_free([443]) or .root()",
            ));
            return None;
        }
        [first, second, ..] => {
            let (first, name) = (first.modifier.name, second.modifier.name);
            let message = format!(
                "a requirement is about one thing, and this one is about two: `.{first}` and `.{name}`"
            );
            findings.push(
                Diagnostic::new("P0320", second.span.clone(), message)
                    .help(format!("write a second require(…) with `.{name}`")),
            );
            return None;
        }
    };
    findings.extend(wrong_name(one, options));
    Some(PlannedRequirement {
        name: options.text_argument(0)?,
        span: call.span.clone(),
        requirement: requirement(one.modifier.name, options)?,
    })
}

/// A finding for the first name that nodelet cannot look for on any host.
fn wrong_name(option: &RecordedOption, options: &Options<'_>) -> Option<Diagnostic> {
    let modifier = option.modifier.name;
    let problem = match modifier {
        "programs" => wrong_program,
        "kernel_features" => unknown_feature,
        _ => return None,
    };
    let (message, help) = options
        .texts(modifier)?
        .iter()
        .find_map(|name| problem(name))?;
    let code = if modifier == "programs" {
        "P0372"
    } else {
        "P0373"
    };
    Some(Diagnostic::new(code, option.span.clone(), message).help(help))
}

/// Message and help for what cannot be the name of a program.
fn wrong_program(name: &str) -> Option<(String, String)> {
    let has_blank = name.chars().any(char::is_whitespace);
    let is_relative = name.contains('/') && !name.starts_with('/');
    if !name.is_empty() && !has_blank && !is_relative {
        return None;
    }
    let word = name.split_whitespace().next().unwrap_or_default();
    let word = word.rsplit('/').next().unwrap_or_default();
    let help = if word.is_empty() {
        "write the name of a program, for example \"iptables\"".to_owned()
    } else {
        format!("write only the name of the program: \"{word}\"")
    };
    let message = format!("`.programs` gets {name:?}, and no program has such a name");
    Some((message, help))
}

/// Message and help for a feature of the kernel that nodelet does not know.
fn unknown_feature(name: &str) -> Option<(String, String)> {
    let known: Vec<&str> = FEATURES.iter().map(|feature| feature.name).collect();
    if known.contains(&name) {
        return None;
    }
    let help = match closest(name, known.iter().copied()) {
        Some(meant) => format!("did you mean \"{meant}\"?"),
        None => format!("nodelet knows these features: {}", known.join(", ")),
    };
    let message = format!("`.kernel_features` gets `{name}`, a feature that nodelet does not know");
    Some((message, help))
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
