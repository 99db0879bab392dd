//! `check(…)`: exactly one observation each.

use std::path::{Path, PathBuf};

use crate::model::{Diagnostic, Span, Value};
use crate::plan::{PlannedCheck, Probe};
use crate::script::lower::options::Options;
use crate::script::recorder::Call;

/// The directory that certificates' paths are relative to.
const CERTS: &str = "/etc/pf9/kube.d/certs";
/// Kubeconfig for checks of the node: kubelet's own, which exists on every node.
const KUBELET: &str = "/etc/pf9/kube.d/kubeconfigs/kubelet.yaml";
/// Modifiers that set how a check observes, and are no observation themselves.
const MANNER: &[&str] = &[
    "every",
    "timeout",
    "failures",
    "advisory",
    "when",
    "expect",
    "ca",
    "client_certificate",
    "server_certificate",
    "peers",
];

pub(super) fn lower(
    call: &Call,
    options: &Options<'_>,
    findings: &mut Vec<Diagnostic>,
) -> Option<PlannedCheck> {
    let said: Vec<_> = call
        .options
        .iter()
        .filter(|option| !MANNER.contains(&option.modifier.name))
        .collect();
    let name = match said.as_slice() {
        [one] => one.modifier.name,
        [] => {
            findings.push(
                Diagnostic::new("P0317", call.span.clone(), "the check observes nothing")
                    .help("add .https(…), .tcp(…), .service_active(…) or another observation"),
            );
            return None;
        }
        [first, second, ..] => {
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
    without_effect(call, name, findings);
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
        probe: probe(name, options, findings)?,
        every,
        timeout,
        failures: options
            .integer("failures")
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or(PlannedCheck::FAILURES),
        advisory: options.has("advisory"),
    })
}

/// Findings for modifiers that the check's observation does not use.
fn without_effect(call: &Call, observation: &str, findings: &mut Vec<Diagnostic>) {
    for option in &call.options {
        let modifier = option.modifier.name;
        let used_by: &[&str] = match modifier {
            "expect" => &["https", "run"],
            "client_certificate" | "server_certificate" => &["https"],
            "ca" => &["https", "virtual_ip"],
            "peers" => &["virtual_ip"],
            _ => continue,
        };
        if !used_by.contains(&observation) {
            findings.push(
                Diagnostic::new(
                    "P0359",
                    option.span.clone(),
                    format!("`.{modifier}` has no effect on `.{observation}`"),
                )
                .help(format!(
                    "remove it; only checks with `.{}` use it",
                    used_by.join("` and `.")
                )),
            );
        }
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

fn probe(name: &str, options: &Options<'_>, findings: &mut Vec<Diagnostic>) -> Option<Probe> {
    let text = || options.text(name);
    let expect = options.text("expect").unwrap_or_default();
    Some(match name {
        "https" => {
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
        "tcp" => {
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
        "run" => {
            let argv = options.texts(name)?;
            super::system::has_program(&argv, options.span(name), findings)?;
            Probe::Run { argv, expect }
        }
        "file_exists" => Probe::FileExists(text()?.into()),
        "first_file" => {
            let values = options.values(name);
            let [Value::Text(path), Value::List(endings)] = values.as_slice() else {
                return None;
            };
            Probe::FirstFile {
                path: path.into(),
                endings: endings.iter().map(ToString::to_string).collect(),
            }
        }
        "service_active" => {
            let unit = super::system::unit_name(text()?, options.span(name), findings)?;
            Probe::ServiceActive(unit)
        }
        "container_running" => Probe::ContainerRunning(text()?),
        "container_runtime" => Probe::ContainerRuntime,
        "pod_running" => {
            let values = options.values(name);
            let [Value::Text(pod), Value::List(containers)] = values.as_slice() else {
                return None;
            };
            Probe::PodRunning {
                pod: pod.clone(),
                containers: containers.iter().map(ToString::to_string).collect(),
            }
        }
        "node_ready" => {
            let values = options.values(name);
            let [node, kubelet] = values.as_slice() else {
                return None;
            };
            let unit = kubelet.to_string();
            Probe::NodeReady {
                node: node.to_string(),
                kubelet: super::system::unit_name(unit, options.span(name), findings)?,
                kubeconfig: KUBELET.into(),
            }
        }
        "node_without_pressure" => Probe::NodeWithoutPressure {
            node: text()?,
            kubeconfig: KUBELET.into(),
        },
        "object_exists" => {
            let values: Vec<String> = options
                .values(name)
                .iter()
                .map(ToString::to_string)
                .collect();
            let [version, kind, namespace, name] = values.as_slice() else {
                return None;
            };
            Probe::ObjectExists {
                object: serde_json::json!({
                    "apiVersion": version,
                    "kind": kind,
                    "metadata": { "namespace": namespace, "name": name },
                }),
                kubeconfig: super::cluster::ADMIN.into(),
            }
        }
        "link_up" => Probe::LinkUp(text()?),
        "link_addressed" => Probe::LinkAddressed(text()?),
        "firewall_rules" | "firewall_jump" => {
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
        "address_held" => Probe::AddressHeld(text()?.parse().ok()?),
        "virtual_ip" => {
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
        "certificates_valid" => Probe::CertificatesValid {
            directory: text()?.into(),
        },
        "backup_younger_than" => {
            let values = options.values(name);
            let [
                Value::Text(directory),
                Value::Text(limit),
                Value::Text(cluster),
            ] = values.as_slice()
            else {
                return None;
            };
            Probe::BackupYoungerThan {
                directory: directory.into(),
                limit: crate::script::recorder::parse_duration(limit)?,
                cluster: cluster.clone(),
            }
        }
        "room_for_backup" => {
            let values = options.values(name);
            let [Value::Text(directory), Value::Text(file)] = values.as_slice() else {
                return None;
            };
            Probe::RoomForBackup {
                directory: directory.into(),
                file: file.into(),
            }
        }
        "token_accepted" => {
            let values = options.values(name);
            let [Value::Text(namespace), Value::Text(account)] = values.as_slice() else {
                return None;
            };
            Probe::TokenAccepted {
                namespace: namespace.clone(),
                account: account.clone(),
                kubeconfig: super::cluster::ADMIN.into(),
            }
        }
        "keys_kept" => Probe::KeysKept,
        "package_intact" => Probe::PackageIntact { checksums: None },
        "as_planned" => Probe::AsPlanned,
        _ => return None,
    })
}
