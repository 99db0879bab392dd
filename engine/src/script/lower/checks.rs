//! `check(…)`: exactly one observation each.

use std::path::{Path, PathBuf};

use crate::model::{Diagnostic, Span, Value};
use crate::plan::{PlannedCheck, Probe};
use crate::script::lower::options::Options;
use crate::script::recorder::Call;
use crate::script::variants::{CheckDetail, ModifierVariant, Observation};

/// The directory that certificates' paths are relative to.
const CERTS: &str = "/etc/pf9/kube.d/certs";
/// Kubeconfig for checks of the node: kubelet's own, which exists on every node.
const KUBELET: &str = "/etc/pf9/kube.d/kubeconfigs/kubelet.yaml";

pub(super) fn lower(
    call: &Call,
    options: &Options<'_>,
    findings: &mut Vec<Diagnostic>,
) -> Option<PlannedCheck> {
    let said: Vec<_> = call
        .options
        .iter()
        .filter_map(|option| match option.modifier.variant {
            ModifierVariant::Observation(observation) => Some((option, observation)),
            ModifierVariant::Option
            | ModifierVariant::CheckDetail(_)
            | ModifierVariant::Precondition(_) => None,
        })
        .collect();
    let (name, observation) = match said.as_slice() {
        [(one, observation)] => (one.modifier.name, *observation),
        [] => {
            findings.push(
                Diagnostic::new("P0317", call.span.clone(), "the check observes nothing")
                    .help("add .https(…), .tcp(…), .service_active(…) or another observation"),
            );
            return None;
        }
        [(first, _), (second, _), ..] => {
            findings.push(
                Diagnostic::new(
                    "P0318",
                    second.span.clone(),
                    format!(
                        "a check makes one observation, and this one makes two: `.{}` and `.{}`",
                        first.modifier.name, second.modifier.name
                    ),
                )
                .help(format!(
                    "write a second check(…) with `.{}`",
                    second.modifier.name
                )),
            );
            return None;
        }
    };
    without_effect(call, name, observation, findings);
    let every = options.duration("every").unwrap_or(PlannedCheck::EVERY);
    let timeout = options.duration("timeout").unwrap_or(PlannedCheck::TIMEOUT);
    if timeout < every {
        let said = if options.has("timeout") {
            "timeout"
        } else {
            "every"
        };
        findings.push(
            Diagnostic::new(
                "P0357",
                options.span(said),
                format!(
                    "the check gives up after {}, but the pause between two tries is {}",
                    humantime::format_duration(timeout),
                    humantime::format_duration(every)
                ),
            )
            .help("make `.timeout` longer or `.every` shorter"),
        );
    }
    Some(PlannedCheck {
        name: options.text_argument(0)?,
        span: call.span.clone(),
        probe: probe(observation, name, options, findings)?,
        every,
        timeout,
        failures: options
            .integer("failures")
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or(PlannedCheck::FAILURES),
        advisory: options.has("advisory"),
    })
}

/// Findings for modifiers that the check's observation, with this name, does not use.
fn without_effect(
    call: &Call,
    name: &str,
    observation: Observation,
    findings: &mut Vec<Diagnostic>,
) {
    for option in &call.options {
        let ModifierVariant::CheckDetail(detail) = option.modifier.variant else {
            continue;
        };
        let used_by = users(detail);
        if used_by.contains(&observation) {
            continue;
        }
        let is_user = |variant: ModifierVariant| matches!(variant, ModifierVariant::Observation(one) if used_by.contains(&one));
        let modifiers = call.word.modifiers.iter();
        let users = modifiers.filter(|modifier| is_user(modifier.variant));
        let users: Vec<&str> = users.map(|modifier| modifier.name).collect();
        let modifier = option.modifier.name;
        findings.push(
            Diagnostic::new(
                "P0359",
                option.span.clone(),
                format!("`.{modifier}` has no effect on `.{name}`"),
            )
            .help(format!(
                "remove it; only checks with `.{}` use it",
                users.join("` and `.")
            )),
        );
    }
}

/// The observations that use a detail.
fn users(detail: CheckDetail) -> &'static [Observation] {
    match detail {
        CheckDetail::Expect => &[Observation::Https, Observation::Run],
        CheckDetail::ClientCertificate | CheckDetail::ServerCertificate => &[Observation::Https],
        CheckDetail::Ca => &[Observation::Https, Observation::VirtualIp],
        CheckDetail::Peers => &[Observation::VirtualIp],
    }
}

/// A finding for what is no address and port.
fn no_socket(address: &str, port: i64, span: Span) -> Diagnostic {
    if u16::try_from(port).is_err() {
        let message = format!("`.tcp` gets the port {port}, and no port has such a number");
        return Diagnostic::new("P0319", span, message).help("write a port from 1 to 65535");
    }
    let message = format!("`.tcp` gets `{address}`, which is no IP address");
    Diagnostic::new("P0319", span, message).help(format!(
        "write an address and not a name, for example .tcp(\"127.0.0.1\", {port})"
    ))
}

/// The observation; `name` is its modifier.
fn probe(
    observation: Observation,
    name: &str,
    options: &Options<'_>,
    findings: &mut Vec<Diagnostic>,
) -> Option<Probe> {
    let text = || options.text(name);
    let expect = options.text("expect").unwrap_or_default();
    Some(match observation {
        Observation::Https => {
            let directory = |option| options.text(option).map(|path| Path::new(CERTS).join(path));
            let client = directory("client_certificate");
            let server = directory("server_certificate");
            Probe::Https {
                url: text()?,
                ca: options.text("ca").map(PathBuf::from).or_else(|| {
                    let one = client.as_ref().or(server.as_ref());
                    one.map(|directory| directory.join("ca.crt"))
                }),
                client: client.map(|d| (d.join("request.crt"), d.join("request.key"))),
                expect,
                certificate: server.map(|directory| directory.join("request.crt")),
            }
        }
        Observation::Tcp => {
            let values = options.values(name);
            let [Value::Text(address), Value::Integer(port)] = values.as_slice() else {
                return None;
            };
            let socket = address
                .parse()
                .ok()
                .zip(u16::try_from(*port).ok())
                .map(|(address, port)| std::net::SocketAddr::new(address, port));
            let Some(socket) = socket else {
                findings.push(no_socket(address, *port, options.span(name)));
                return None;
            };
            Probe::Tcp(socket)
        }
        Observation::Run => {
            let argv = options.texts(name)?;
            super::system::has_program(&argv, options.span(name), findings)?;
            Probe::Run { argv, expect }
        }
        Observation::FileExists => Probe::FileExists(text()?.into()),
        Observation::FirstFile => {
            let values = options.values(name);
            let [Value::Text(path), Value::List(endings)] = values.as_slice() else {
                return None;
            };
            Probe::FirstFile {
                path: path.into(),
                endings: endings.iter().map(ToString::to_string).collect(),
            }
        }
        Observation::ServiceActive => {
            let unit = super::system::unit_name(text()?, options.span(name), findings)?;
            Probe::ServiceActive(unit)
        }
        Observation::ContainerRunning => Probe::ContainerRunning(text()?),
        Observation::ContainerRuntime => Probe::ContainerRuntime,
        Observation::PodRunning => {
            let values = options.values(name);
            let [Value::Text(pod), Value::List(containers)] = values.as_slice() else {
                return None;
            };
            Probe::PodRunning {
                pod: pod.clone(),
                containers: containers.iter().map(ToString::to_string).collect(),
            }
        }
        Observation::NodeReady => {
            let [node, kubelet] = options.all_texts(name)?;
            Probe::NodeReady {
                node,
                kubelet: super::system::unit_name(kubelet, options.span(name), findings)?,
                kubeconfig: KUBELET.into(),
            }
        }
        Observation::NodeWithoutPressure => Probe::NodeWithoutPressure {
            node: text()?,
            kubeconfig: KUBELET.into(),
        },
        Observation::ObjectExists => {
            let [version, kind, namespace, name] = options.all_texts(name)?;
            Probe::ObjectExists {
                object: serde_json::json!({
                    "apiVersion": version,
                    "kind": kind,
                    "metadata": { "namespace": namespace, "name": name },
                }),
                kubeconfig: super::cluster::ADMIN.into(),
            }
        }
        Observation::LinkUp => Probe::LinkUp(text()?),
        Observation::LinkAddressed => Probe::LinkAddressed(text()?),
        Observation::FirewallRules | Observation::FirewallJump => {
            let values = options.values(name);
            let [Value::Text(table), Value::Text(chain), rest @ ..] = values.as_slice() else {
                return None;
            };
            Probe::FirewallRule {
                table: table.clone(),
                chain: chain.clone(),
                target: rest.first().map(ToString::to_string).unwrap_or_default(),
            }
        }
        Observation::AddressHeld => Probe::AddressHeld(text()?.parse().ok()?),
        Observation::VirtualIp => {
            let values = options.values(name);
            let [
                Value::Text(address),
                Value::Text(link),
                Value::Integer(port),
            ] = values.as_slice()
            else {
                return None;
            };
            let Some(ca) = options.text("ca") else {
                findings.push(
                    Diagnostic::new(
                        "P0358",
                        options.span(name),
                        "`.virtual_ip` verifies the certificate of the API server, so it needs `.ca`",
                    )
                    .help("add .ca(PATH) with the path of the root certificate, for example .ca(\"/etc/pf9/kube.d/certs/ca.crt\")"),
                );
                return None;
            };
            Probe::VirtualIp {
                address: address.parse().ok()?,
                link: link.clone(),
                port: u16::try_from(*port).ok()?,
                ca: ca.into(),
                shared: !matches!(options.value("peers"), Some(Value::List(peers)) if peers.is_empty()),
            }
        }
        Observation::CertificatesValid => Probe::CertificatesValid {
            directory: text()?.into(),
        },
        Observation::BackupYoungerThan => {
            let [directory, limit, cluster] = options.all_texts(name)?;
            Probe::BackupYoungerThan {
                directory: directory.into(),
                limit: crate::script::recorder::parse_duration(&limit)?,
                cluster,
            }
        }
        Observation::RoomForBackup => {
            let [directory, file] = options.all_texts(name)?;
            Probe::RoomForBackup {
                directory: directory.into(),
                file: file.into(),
            }
        }
        Observation::TokenAccepted => {
            let [namespace, account] = options.all_texts(name)?;
            Probe::TokenAccepted {
                namespace,
                account,
                kubeconfig: super::cluster::ADMIN.into(),
            }
        }
        Observation::KeysKept => Probe::KeysKept,
        Observation::PackageIntact => Probe::PackageIntact { checksums: None },
        Observation::AsPlanned => Probe::AsPlanned,
    })
}
