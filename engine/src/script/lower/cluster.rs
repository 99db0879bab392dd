//! Objects in the cluster: manifests, the node, its drain; the pods and their containers on this host.

use std::path::PathBuf;

use ipnet::IpNet;

use super::files::template;
use super::system::{only_absent, unit_name};
use crate::host::Taint;
use crate::kubernetes::SubnetPool;
use crate::model::{Diagnostic, Value, closest};
use crate::resource::{
    DrainSpec, EtcdMemberSpec, EtcdPromotedSpec, InitialState, ManifestSpec, NodeRoutesSpec,
    NodeSpec, PodContainerSpec, PodsSpec, Spec,
};
use crate::script::lower::context::LoweringContext;
use crate::script::lower::options::Options;
use crate::script::recorder::Call;
use crate::script::variants::ClusterWord;

/// The kubeconfig used where a script names none.
pub(super) const ADMIN: &str = "/etc/pf9/kube.d/kubeconfigs/local-admin.yaml";

pub(super) fn lower(
    word: ClusterWord,
    call: &Call,
    options: &Options<'_>,
    context: &LoweringContext<'_>,
    findings: &mut Vec<Diagnostic>,
) -> Option<Spec> {
    match word {
        ClusterWord::Manifest => Some(Spec::Manifest(ManifestSpec {
            text: template(&options.text_argument(0)?, options, context, findings)?,
            name: options.text_argument(0)?,
            kubeconfig: kubeconfig(options),
        })),
        ClusterWord::Drain => {
            let kubelet = options
                .text("kubelet")
                .and_then(|unit| unit_name(unit, options.span("kubelet"), findings));
            Some(Spec::Drain(DrainSpec {
                node: options.text_argument(0)?,
                kubeconfig: kubeconfig(options),
                kubelet,
                seconds: options.seconds("within", 30, findings),
            }))
        }
        ClusterWord::Pods => {
            only_absent(call, options, findings)?;
            Some(Spec::Pods(PodsSpec {
                grace_seconds: options.seconds("grace", 10, findings),
            }))
        }
        ClusterWord::NodeRoutes => node_routes(call, options, findings),
        ClusterWord::EtcdMember => etcd_member(call, options, findings),
        ClusterWord::EtcdPromoted => {
            let [data, peer] = needed(call, options, ["data", "peer"], findings)?;
            Some(Spec::EtcdPromoted(EtcdPromotedSpec {
                name: options.text_argument(0)?,
                data: data.into(),
                peer,
            }))
        }
        ClusterWord::PodContainer => Some(Spec::PodContainer(PodContainerSpec {
            pod: options.text_argument(0)?,
            container: options.text_argument(1)?,
            inputs: options.restart_inputs(),
        })),
        ClusterWord::Node => {
            let name = options.text_argument(0)?;
            let mut taints = Vec::new();
            for taint in options.repeated("taint") {
                let [key, value, effect] = taint.as_slice() else {
                    continue;
                };
                if !Taint::EFFECTS.contains(&effect.as_str()) {
                    findings.push(
                        Diagnostic::new(
                            "P0314",
                            options.span("taint"),
                            format!("`{effect}` is not an effect of a taint"),
                        )
                        .help(match closest(effect, Taint::EFFECTS) {
                            Some(meant) => format!("did you mean \"{meant}\"?"),
                            None => format!("write \"{}\"", Taint::EFFECTS.join("\" or \"")),
                        }),
                    );
                }
                taints.push(Taint {
                    key: key.clone(),
                    value: value.clone(),
                    effect: effect.clone(),
                });
            }
            let labels = options.repeated("label").into_iter().filter_map(|label| {
                let [key, value] = label.as_slice() else {
                    return None;
                };
                Some((key.clone(), value.clone()))
            });
            let shared = options.map("shared_settings").unwrap_or_default();
            let shared = shared.into_iter();
            Some(Spec::Node(NodeSpec {
                name,
                shared_settings: shared.map(|(name, its)| (name, its.to_string())).collect(),
                kubeconfig: kubeconfig(options),
                labels: labels.collect(),
                taints,
                untainted: options
                    .repeated("untainted")
                    .into_iter()
                    .flatten()
                    .collect(),
                schedulable: options.has("schedulable"),
                pod_subnets: pod_subnets(options, findings),
            }))
        }
    }
}

/// The kubeconfig that the modifier names.
fn kubeconfig(options: &Options<'_>) -> PathBuf {
    let named = options.text("kubeconfig");
    named.map_or_else(|| ADMIN.into(), PathBuf::from)
}

fn node_routes(call: &Call, options: &Options<'_>, findings: &mut Vec<Diagnostic>) -> Option<Spec> {
    let network = options.text_argument(1)?;
    let Ok(network) = network.parse::<IpNet>() else {
        let message = format!("`{}` is not a network", network.escape_debug());
        findings.push(
            Diagnostic::new("P0378", call.span.clone(), message)
                .help("write the pods' network, for example \"10.20.0.0/16\""),
        );
        return None;
    };
    Some(Spec::NodeRoutes(NodeRoutesSpec {
        node: options.text_argument(0)?,
        network: network.trunc(),
        kubeconfig: kubeconfig(options),
    }))
}

fn etcd_member(call: &Call, options: &Options<'_>, findings: &mut Vec<Diagnostic>) -> Option<Spec> {
    let names = ["data", "peer", "settings", "initial_state", "token"];
    let [data, peer, settings, initial_state, token] = needed(call, options, names, findings)?;
    let Some(initial_state) = InitialState::of(&initial_state) else {
        let message = format!(
            "`{}` is no state of a cluster",
            initial_state.escape_debug()
        );
        findings.push(
            Diagnostic::new("P0387", options.span("initial_state"), message)
                .help("it is \"new\" or \"existing\""),
        );
        return None;
    };
    Some(Spec::EtcdMember(EtcdMemberSpec {
        name: options.text_argument(0)?,
        data: data.into(),
        peer,
        settings: settings.into(),
        initial_state,
        token,
        api: options.text("api"),
        data_id: options.text("data_id"),
    }))
}

/// The texts of modifiers that the word needs. Each that is missing is a finding.
fn needed<const N: usize>(
    call: &Call,
    options: &Options<'_>,
    names: [&str; N],
    findings: &mut Vec<Diagnostic>,
) -> Option<[String; N]> {
    let texts = names.map(|name| (name, options.text(name)));
    let missing: Vec<String> = texts
        .iter()
        .filter(|(name, text)| text.is_none() && !options.has(name))
        .map(|(name, _)| format!(".{name}(…)"))
        .collect();
    if !missing.is_empty() {
        let message = format!("`{}` needs {}", call.word.name, missing.join(", "));
        findings.push(
            Diagnostic::new("P0386", call.span.clone(), message).help("add them after the word"),
        );
    }
    let texts: Vec<String> = texts.into_iter().filter_map(|(_, text)| text).collect();
    texts.try_into().ok()
}

/// `.pod_subnet_of(network, prefix)`.
fn pod_subnets(options: &Options<'_>, findings: &mut Vec<Diagnostic>) -> Option<SubnetPool> {
    let values = options.values("pod_subnet_of");
    let [Value::Text(network), Value::Integer(prefix)] = values.as_slice() else {
        return None;
    };
    let pool = network.parse::<IpNet>().ok().and_then(|network| {
        let prefix = u8::try_from(*prefix).ok()?;
        let fits = (network.prefix_len()..=network.max_prefix_len()).contains(&prefix);
        fits.then(|| SubnetPool {
            network: network.trunc(),
            prefix,
        })
    });
    if pool.is_none() {
        findings.push(
            Diagnostic::new(
                "P0329",
                options.span("pod_subnet_of"),
                format!("`{network}` has no subnets of length {prefix}"),
            )
            .help("name a network such as \"10.20.0.0/16\" and a longer prefix, for example 24"),
        );
    }
    pool
}
