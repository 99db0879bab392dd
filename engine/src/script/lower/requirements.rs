//! `require(…)`: one typed precondition each.

use crate::facts::kernel::FEATURES;
use crate::facts::{NamedCidr, Requirement, SupportedSystem};
use crate::model::{Diagnostic, Value, closest};
use crate::plan::PlannedRequirement;
use crate::script::lower::options::Options;
use crate::script::recorder::{Call, RecordedOption};
use crate::script::variants::{ModifierVariant, Precondition};

pub(super) fn lower(
    call: &Call,
    options: &Options<'_>,
    findings: &mut Vec<Diagnostic>,
) -> Option<PlannedRequirement> {
    let said: Vec<_> = call
        .options
        .iter()
        .filter_map(|option| match option.modifier.variant {
            ModifierVariant::Precondition(precondition) => Some((option, precondition)),
            ModifierVariant::Option
            | ModifierVariant::CheckDetail(_)
            | ModifierVariant::Observation(_) => None,
        })
        .collect();
    let (option, precondition) = match said.as_slice() {
        [(option, precondition)] => (*option, *precondition),
        [] => {
            let message = "the requirement does not say what must be true";
            findings.push(Diagnostic::new("P0320", call.span.clone(), message).help(
                "add one modifier, for example .memory(\"2G\"), .ports_free([443]) or .root()",
            ));
            return None;
        }
        [(first, _), (second, _), ..] => {
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
    Some(PlannedRequirement {
        name: options.text_argument(0)?,
        span: call.span.clone(),
        requirement: requirement(precondition, option, options, findings)?,
    })
}

/// A finding, with this code, for the first name that nodelet cannot look for on any host.
fn wrong_name(
    names: &[String],
    code: &'static str,
    problem: fn(&str) -> Option<(String, String)>,
    option: &RecordedOption,
) -> Option<Diagnostic> {
    let (message, help) = names.iter().find_map(|name| problem(name))?;
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

/// The precondition; `option` is its modifier.
fn requirement(
    precondition: Precondition,
    option: &RecordedOption,
    options: &Options<'_>,
    findings: &mut Vec<Diagnostic>,
) -> Option<Requirement> {
    let name = option.modifier.name;
    let pairs =
        || -> Vec<(String, Value)> { options.map(name).unwrap_or_default().into_iter().collect() };
    Some(match precondition {
        Precondition::NoSwap => Requirement::NoSwap { allowed: false },
        Precondition::PortsFree => Requirement::PortsFree(options.ports(name)),
        Precondition::Programs => {
            let names = options.texts(name)?;
            findings.extend(wrong_name(&names, "P0372", wrong_program, option));
            Requirement::Programs(names)
        }
        Precondition::Memory => Requirement::MinMemory(options.size(name, 0)?),
        Precondition::Processors => {
            Requirement::MinCpus(u32::try_from(options.integer(name)?).ok()?)
        }
        Precondition::ProcessorsOnline => {
            let list = options.text(name)?;
            let Some(requirement) = Requirement::cpus_online(&list) else {
                let message = format!("`.{name}` gets {list:?}, which is not a list of processors");
                findings.push(
                    Diagnostic::new("P0379", option.span.clone(), message)
                        .help("write numbers and ranges, for example \"0-1,4\""),
                );
                return None;
            };
            requirement
        }
        Precondition::Disk => Requirement::MinDisk {
            path: options.text(name)?,
            bytes: options.size(name, 1)?,
        },
        Precondition::PersistentDirectory => Requirement::PersistentDirectory {
            path: options.text(name)?,
            bytes: options.size(name, 1)?,
        },
        Precondition::CgroupControllers => Requirement::CgroupControllers(options.texts(name)?),
        Precondition::NoForeignRuntime => Requirement::NoForeignRuntime,
        Precondition::NoEarlierCluster => Requirement::NoEarlierCluster,
        Precondition::NoVirtualServices => Requirement::NoVirtualServices,
        Precondition::HostNameValid => Requirement::HostNameValid,
        Precondition::HostNameNotOfApi => Requirement::HostNameNotOfApi {
            names: options.texts(name)?,
        },
        Precondition::NetworksDisjoint => Requirement::CidrsDisjoint {
            named: pairs()
                .into_iter()
                .map(|(name, cidr)| NamedCidr {
                    name,
                    cidr: cidr.to_string(),
                })
                .collect(),
        },
        Precondition::KernelFeatures => {
            let names = options.texts(name)?;
            findings.extend(wrong_name(&names, "P0373", unknown_feature, option));
            Requirement::KernelFeatures(names)
        }
        Precondition::Interface => Requirement::Interface {
            name: options.text(name)?,
        },
        Precondition::NodeAddress => Requirement::NodeAddress {
            address: options.text(name)?.parse().ok()?,
        },
        Precondition::UsableAddress => Requirement::UsableAddress {
            address: options.text(name)?.parse().ok()?,
        },
        Precondition::VirtualIp => {
            let [address, interface] = options.all_texts(name)?;
            Requirement::VirtualIp {
                address: address.parse().ok()?,
                interface,
            }
        }
        Precondition::VirtualIpFree => {
            let values = options.values(name);
            let [Value::Text(address), Value::Integer(port)] = values.as_slice() else {
                return None;
            };
            Requirement::VirtualIpFree {
                address: address.parse().ok()?,
                port: u16::try_from(*port).ok()?,
            }
        }
        Precondition::VirtualRouterFree => {
            let values = options.values(name);
            let [Value::Integer(router_id), Value::Text(interface)] = values.as_slice() else {
                return None;
            };
            Requirement::VirtualRouterFree {
                router_id: u8::try_from(*router_id).ok()?,
                interface: interface.clone(),
            }
        }
        Precondition::Architecture => Requirement::Architecture(options.texts(name)?),
        Precondition::SupportedSystem => Requirement::SupportedSystem(
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
        Precondition::Systemd => Requirement::Systemd,
        Precondition::Root => Requirement::Root,
        Precondition::SaneClock => Requirement::ClockSane,
    })
}
