//! `check(…)`: exactly one observation each.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use hyper::Uri;

use crate::model::{Diagnostic, Span, Value};
use crate::plan::{NeededApi, PlannedCheck, Probe};
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
        needs_api: options.text("needs_api").map(|node| NeededApi {
            node,
            kubeconfig: KUBELET.into(),
        }),
        needs_quorum: options.has("needs_quorum"),
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
        CheckDetail::Ca => &[
            Observation::Https,
            Observation::VirtualIp,
            Observation::VirtualIpAnswers,
        ],
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

/// A finding for what is no URL that a check may get.
fn wrong_url(url: &str, span: Span) -> Option<Diagnostic> {
    let whole = whole_url(url);
    let scheme = whole.as_ref().and_then(Uri::scheme_str).unwrap_or_default();
    let host = whole.as_ref().and_then(Uri::host).unwrap_or_default();
    let (message, help) = match scheme {
        "https" => return None,
        "http" if is_loopback(host) => return None,
        "http" => (
            format!("`.https` gets the URL {url:?}, and plain http is only for this host itself"),
            "write https://… and add .ca(PATH) with the path of the root certificate, or write a loopback address such as 127.0.0.1".to_owned(),
        ),
        _ => {
            let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
            let meant = format!("https://{rest}");
            let help = if whole_url(&meant).is_some() {
                format!("write \"{meant}\"")
            } else {
                "write scheme, host, port and path, for example \"https://127.0.0.1:6443/healthz\""
                    .to_owned()
            };
            (
                format!("`.https` gets {url:?}, which is no URL of a server"),
                help,
            )
        }
    };
    Some(Diagnostic::new("P0365", span, message).help(help))
}

/// A finding for a check that trusts no server.
fn no_root_certificate(url: &str, span: Span) -> Diagnostic {
    let message =
        format!("`.https` gets {url:?} without a root certificate, so it trusts no server");
    Diagnostic::new("P0369", span, message).help(
        "add .ca(PATH) with the path of the root certificate, or .server_certificate(NAME) if the server's certificate is one of this role",
    )
}

/// The URL, if it has a scheme and a host, and no port that a server cannot have.
fn whole_url(text: &str) -> Option<Uri> {
    let url: Uri = text.parse().ok()?;
    let authority = url.authority()?.as_str();
    // An IPv6 address has colons in its brackets.
    let end = authority.rsplit(']').next().unwrap_or(authority);
    let has_port = !end.contains(':') || url.port_u16().is_some_and(|port| port > 0);
    let has_host = url.host().is_some_and(|host| !host.is_empty());
    let is_whole = url.scheme().is_some() && has_port && has_host;
    is_whole.then_some(url)
}

/// Whether the host of a URL is this host itself.
fn is_loopback(host: &str) -> bool {
    let address = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let address = address.unwrap_or(host).parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// The roots of a check of a virtual IP, or a finding; `name` is the modifier of its observation.
fn ca_of_virtual_ip(
    name: &str,
    options: &Options<'_>,
    findings: &mut Vec<Diagnostic>,
) -> Option<PathBuf> {
    let ca = options.text("ca");
    if ca.is_none() {
        let message =
            format!("`.{name}` verifies the certificate of the API server, so it needs `.ca`");
        findings.push(Diagnostic::new("P0358", options.span(name), message).help(
            "add .ca(PATH) with the path of the root certificate, for example .ca(\"/etc/pf9/kube.d/certs/ca.crt\")",
        ));
    }
    ca.map(PathBuf::from)
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
            let url = text()?;
            if let Some(finding) = wrong_url(&url, options.span(name)) {
                findings.push(finding);
                return None;
            }
            let ca = options.text("ca").map(PathBuf::from).or_else(|| {
                let one = client.as_ref().or(server.as_ref());
                one.map(|directory| directory.join("ca.crt"))
            });
            if ca.is_none() && url.starts_with("https:") {
                findings.push(no_root_certificate(&url, options.span(name)));
                return None;
            }
            Probe::Https {
                url,
                ca,
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
        Observation::AddressUnique => {
            let [address, link] = options.all_texts(name)?;
            Probe::AddressUnique {
                address: address.parse().ok()?,
                link,
            }
        }
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
            Probe::VirtualIp {
                address: address.parse().ok()?,
                link: link.clone(),
                port: u16::try_from(*port).ok()?,
                ca: ca_of_virtual_ip(name, options, findings)?,
                shared: !matches!(options.value("peers"), Some(Value::List(peers)) if peers.is_empty()),
            }
        }
        Observation::VirtualIpAnswers => {
            let values = options.values(name);
            let [Value::Text(address), Value::Integer(port)] = values.as_slice() else {
                return None;
            };
            Probe::VirtualIpAnswers {
                address: address.parse().ok()?,
                port: u16::try_from(*port).ok()?,
                ca: ca_of_virtual_ip(name, options, findings)?,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_gets_whole_urls_and_plain_http_only_from_this_host() {
        let help = |url: &str| {
            let finding = wrong_url(url, Span::new("phases/example.rhai", 1, 1))?;
            assert_eq!(finding.code, "P0365");
            finding.help
        };
        for right in [
            "https://127.0.0.1:4001/health?exclude=NOSPACE",
            "https://localhost:443/readyz",
            "https://[::1]:443/readyz",
            "https://api.example.com",
            "http://127.0.0.1:10248/healthz",
            "http://[::1]:10248/healthz",
            "http://localhost/",
        ] {
            assert_eq!(help(right), None, "{right}");
        }
        for (wrong, says) in [
            (
                "127.0.0.1:443/healthz",
                "write \"https://127.0.0.1:443/healthz\"",
            ),
            (
                "htps://127.0.0.1/healthz",
                "write \"https://127.0.0.1/healthz\"",
            ),
            ("/healthz", "write scheme, host"),
            ("", "write scheme, host"),
            ("https://", "write scheme, host"),
            ("https://a b/", "write scheme, host"),
            ("https://127.0.0.1:99999/healthz", "write scheme, host"),
            ("https://127.0.0.1:0/healthz", "write scheme, host"),
            ("http://10.0.0.9/healthz", "add .ca(PATH)"),
            ("http://example.com/", "add .ca(PATH)"),
        ] {
            let help = help(wrong).unwrap_or_default();
            assert!(help.contains(says), "{wrong}: {help}");
        }
    }
}
