//! Probes: the single observation that a check makes.
//!
//! `Ok(None)` means it holds, `Ok(Some(reason))` that it does not, an error that it could not be determined.
//!
//! Not here: observations of Kubernetes, etcd and keepalived (`exec::kubernetes`).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::exec::kubernetes::virtual_ip::{Asked, VirtualIp, duplicate};
use crate::exec::kubernetes::{backups, probes};
use crate::exec::{Mode, Runner};
use crate::host::{CommandSpec, Host, HostError, HttpsRequest};
use crate::plan::{PlannedPhase, Probe};
use crate::resource::kernel::firewall;
use crate::resource::{Action, Context, ResourceError, ResourceResult, Spec, pki};

/// Bound on one observation.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long a unit may take to reach another state.
const TRANSITION: Duration = Duration::from_secs(2);

impl Runner<'_> {
    /// The result of a probe on `host`: the host itself, or one [`View`](crate::host::View) of it for many probes.
    pub(in crate::exec) async fn probe(
        &self,
        host: &dyn Host,
        phase: &PlannedPhase,
        probe: &Probe,
    ) -> ResourceResult<Option<String>> {
        let no = |reason: String| Ok(Some(reason));
        match probe {
            Probe::Https {
                url,
                ca,
                client,
                expect,
                certificate,
            } => {
                let request = HttpsRequest {
                    url: url.clone(),
                    ca: ca.clone(),
                    client: client.clone(),
                    timeout: TIMEOUT,
                };
                // No answer counts as a failure: the server is not there.
                let response = match host.https_get(&request).await {
                    Ok(response) => response,
                    Err(error) if error.is_permanent() => return Err(error.into()),
                    Err(error) => return no(crate::model::chain(&error).join(": ")),
                };
                if response.status != 200 {
                    let body = response.body.lines().last().unwrap_or_default();
                    let answer = format!("{url} answers {}: {}", response.status, shortened(body));
                    // A 403 is different: the API server forbids everything until it has set up its own roles.
                    if response.status == 401 {
                        let action = format!("log in to the server of {url}");
                        return Err(HostError::refused(action, answer).into());
                    }
                    return no(answer);
                }
                if !response.body.contains(expect.as_str()) {
                    return no(format!("{url} answers {}", shortened(&response.body)));
                }
                let Some(file) = certificate else {
                    return Ok(None);
                };
                let present = pki::first_certificate(host, file).await?;
                Ok((response.certificate != Some(present)).then(|| {
                    format!(
                        "the server of {url} shows another certificate than {}: it has not read that file yet",
                        file.display()
                    )
                }))
            }
            Probe::Tcp(address) => match host.tcp_connect(*address, TIMEOUT).await {
                Ok(()) => Ok(None),
                Err(error) => no(crate::model::chain(&error).join(": ")),
            },
            Probe::Run { argv, expect } => {
                let mut command = CommandSpec::new(argv.iter().cloned()).timeout(TIMEOUT);
                if !expect.is_empty() {
                    command = command.complete_output();
                }
                let output = host.run(&command).await?;
                if !output.success() {
                    return no(format!(
                        "`{}` ended with {}: {}",
                        argv.join(" "),
                        output.status,
                        shortened(output.stderr.trim())
                    ));
                }
                Ok((!output.stdout.contains(expect.as_str())).then(|| {
                    format!(
                        "`{}` says {}",
                        argv.join(" "),
                        shortened(output.stdout.trim())
                    )
                }))
            }
            Probe::FileExists(path) => Ok(match host.read(path, 1 << 20).await {
                Ok(Some(content)) if !content.is_empty() => None,
                Ok(Some(_)) => Some(format!("{} is empty", path.display())),
                Ok(None) => Some(format!("{} is not there", path.display())),
                Err(HostError::TooLarge { .. }) => None,
                Err(error) => return Err(error.into()),
            }),
            Probe::FirstFile { path, endings } => {
                let directory = path.parent().unwrap_or(Path::new("/"));
                let is_read = |name: &&String| endings.iter().any(|end| name.ends_with(end));
                let names = host.list(directory).await?;
                Ok(match names.iter().find(is_read) {
                    Some(name) if directory.join(name) == *path => None,
                    Some(name) => Some(format!(
                        "{} comes before {}, so the second file is not read; move the first one away if no program needs it",
                        directory.join(name).display(),
                        path.display()
                    )),
                    None => Some(format!("{} is not there", path.display())),
                })
            }
            Probe::ServiceActive(unit) => {
                let mut state = host.unit(unit).await?;
                // The unit changes its state: a moment later it has the new state, or it is stuck.
                if matches!(state.active.as_str(), "activating" | "deactivating") {
                    host.pause(TRANSITION).await;
                    state = host.unit(unit).await?;
                }
                if !state.is_active() {
                    return no(format!("{unit} is {} ({})", state.active, state.sub));
                }
                Ok(self.is_unit_stopped(unit).await.then(|| {
                    format!(
                        "{unit} is active, but a signal has stopped one of its processes (SIGSTOP)"
                    )
                }))
            }
            Probe::ContainerRunning(name) => Ok(match host.container(name).await? {
                None => Some(format!("there is no container {name}")),
                Some(state) if state.paused => Some(format!("container {name} is paused")),
                Some(state) if !state.running => Some(format!(
                    "container {name} has exited with {}",
                    state.exit_code
                )),
                Some(_) => None,
            }),
            Probe::ContainerRuntime => self.runtime_problem(TIMEOUT).await,
            Probe::PodRunning { pod, containers } => {
                probes::pod_running(host, pod, containers).await
            }
            Probe::NodeReady {
                node,
                kubelet,
                kubeconfig,
            } => probes::node_ready(host, node, kubelet, kubeconfig).await,
            Probe::NodeWithoutPressure { node, kubeconfig } => {
                probes::node_without_pressure(host, node, kubeconfig).await
            }
            Probe::ObjectExists { object, kubeconfig } => {
                probes::object_exists(host, object, kubeconfig).await
            }
            Probe::LinkUp(name) => Ok(match host.link(name).await? {
                None => Some(format!("there is no interface {name}")),
                Some(link) if !link.up => Some(format!("interface {name} is down")),
                Some(_) => None,
            }),
            Probe::LinkAddressed(name) => Ok(match host.link(name).await? {
                None => Some(format!("there is no interface {name}")),
                Some(link) if !link.up => Some(format!("interface {name} is down")),
                Some(link) if link.addresses.iter().all(|(ip, _)| ip.is_ipv6()) => {
                    Some(format!("interface {name} has no IPv4 address"))
                }
                Some(_) => None,
            }),
            Probe::FirewallRule {
                table,
                chain,
                target,
            } => {
                let asked = (table.as_str(), chain.as_str(), target.as_str());
                let leads = firewall::leads_to(host, asked, TIMEOUT).await?;
                let of = format!("chain {chain} of the table {table}");
                Ok(match (leads, target.as_str()) {
                    (Some(true), _) => None,
                    (None, _) => Some(format!("there is no {of}")),
                    (Some(false), "") => Some(format!("{of} has no rule")),
                    (Some(false), target) => Some(format!("{of} does not lead to {target}")),
                })
            }
            Probe::AddressHeld(address) => {
                let links = host.links().await?;
                let mut all = links.iter().flat_map(|link| &link.addresses);
                let held = all.any(|(ip, _)| ip == address);
                Ok((!held).then(|| format!("{address} is on no interface of this host")))
            }
            Probe::AddressUnique { address, link } => duplicate(host, *address, link).await,
            Probe::VirtualIp {
                address,
                link,
                port,
                ca,
                shared,
            } => {
                let virtual_ip = VirtualIp {
                    address: *address,
                    port: *port,
                    ca,
                    asked: Asked::Here {
                        link,
                        shared: *shared,
                    },
                };
                virtual_ip.problem_after_wait(host).await
            }
            Probe::VirtualIpAnswers { address, port, ca } => {
                let virtual_ip = VirtualIp {
                    address: *address,
                    port: *port,
                    ca,
                    asked: Asked::Elsewhere,
                };
                virtual_ip.problem_after_wait(host).await
            }
            Probe::CertificatesValid { directory } => {
                let scan = pki::certificates_in(host, directory).await?;
                if let Some((path, why)) = scan.unreadable.first() {
                    return no(format!("{}: {why}", path.display()));
                }
                let now = host.now();
                for facts in &scan.certificates {
                    if facts.not_before > now {
                        return Err(ResourceError::Unmet {
                            what: format!(
                                "check {}: it is not valid yet by this host's clock",
                                facts.path.display()
                            ),
                            next: "set the clock".to_owned(),
                        });
                    }
                    if let Some(near) = facts.near_its_end(now) {
                        return no(near);
                    }
                }
                if scan.cut_short {
                    return Err(ResourceError::Missing {
                        what: format!(
                            "read every certificate in {}: there are too many",
                            directory.display()
                        ),
                    });
                }
                if scan.certificates.is_empty() {
                    return no(format!(
                        "there is no certificate in {}",
                        directory.display()
                    ));
                }
                // The one that expires soon may be the one that is missing.
                match missing_certificate(host, phase, directory).await? {
                    Some(missing) => Err(ResourceError::Missing {
                        what: format!(
                            "find when every certificate ends: {} is missing",
                            missing.display()
                        ),
                    }),
                    None => Ok(None),
                }
            }
            Probe::BackupYoungerThan {
                directory,
                limit,
                cluster,
            } => backups::younger_than(host, directory, *limit, cluster).await,
            Probe::RoomForBackup { directory, file } => {
                backups::room_beside(host, directory, file).await
            }
            Probe::TokenAccepted {
                namespace,
                account,
                kubeconfig,
            } => {
                self.token_accepted(host, namespace, account, kubeconfig)
                    .await
            }
            Probe::KeysKept => keys_kept(host, phase).await,
            Probe::PackageIntact { checksums: None } => Ok(None),
            Probe::PackageIntact {
                checksums: Some(checksums),
            } => match &checksums.problems(host, &BTreeSet::new()).await?[..] {
                [] if host.reads_payload() => Ok(self.payload_problem_text().await),
                [] => Ok(None),
                problems => {
                    let each = problems
                        .iter()
                        .map(|(what, next)| format!("{what}; {next}"));
                    Ok(Some(each.collect::<Vec<_>>().join("; ")))
                }
            },
            Probe::AsPlanned => {
                let mut notes = StepNotes::default();
                self.as_planned(host, phase, &mut notes).await
            }
        }
    }

    /// Why a file of the payload cannot be used although its content is what was packed, such as a program that has
    /// lost its mode. The plan does not name the files of another version.
    async fn payload_problem_text(&self) -> Option<String> {
        for path in &self.plan.payload {
            if let Some(damage) = self.payload_problem(path, Mode::Apply).await {
                let is_missing = matches!(self.host.entry(path).await, Ok(None));
                if is_missing && self.has_another_version().await {
                    continue;
                }
                return Some(format!("{}; {}", damage.problem, damage.remedy));
            }
        }
        None
    }

    /// What is wrong with the container runtime. While containerd is stopped, docker answers for a minute more; a docker that is stopped is not
    /// asked.
    pub(in crate::exec) async fn runtime_problem(
        &self,
        timeout: Duration,
    ) -> ResourceResult<Option<String>> {
        if let Some(reason) = self.stopped_runtime_reason().await {
            return Ok(Some(reason));
        }
        self.runtime_answers(timeout).await
    }

    /// Here, too, no answer counts as a failure: a runtime that hangs ends and starts nothing.
    pub(in crate::exec) async fn runtime_answers(
        &self,
        timeout: Duration,
    ) -> ResourceResult<Option<String>> {
        // Without this bound, the host may use a shorter one of its own.
        let answer = self.host.container_runtime_within(timeout);
        Ok(match tokio::time::timeout(timeout, answer).await {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(crate::model::chain(&error).join(": ")),
            Err(_) => Some(format!(
                "the container runtime does not answer within {} s",
                timeout.as_secs()
            )),
        })
    }

    /// Whether no step of the phase would change anything. Commands are left out: to observe one may run something.
    /// Notes about the steps' resources for operators are added to `notes`.
    pub(in crate::exec) async fn as_planned(
        &self,
        host: &dyn Host,
        phase: &PlannedPhase,
        notes: &mut StepNotes,
    ) -> ResourceResult<Option<String>> {
        for step in phase
            .steps
            .iter()
            .filter(|step| step.spec.kind() != "command")
        {
            let cx = Context {
                host,
                ..self.context(step.policy.absent)
            };
            let seen = step.spec.inspect(&cx).await?;
            notes.texts.extend(seen.note);
            notes.unknown |= seen.is_unknown;
            notes.problem |= seen.has_problem;
            // A certificate that is only due is as planned until it is renewed. What is not known is reported, and restarts nothing.
            if let Some(change) = seen.change
                && !seen.is_unknown
                && change.action != Action::Renew
                && !step.spec.can_wait(&change)
            {
                let fields: Vec<&str> = change
                    .differences
                    .iter()
                    .map(|d| d.field.as_str())
                    .collect();
                return Ok(Some(format!(
                    "{} {} would be {} ({})",
                    step.spec.kind(),
                    step.spec.label(),
                    predicted_action(&step.spec, change.action),
                    fields.join(", ")
                )));
            }
            if !step.policy.absent
                && let Some(certificate) = self.contained_until_issued_again(host, &step.spec).await
            {
                return Ok(Some(format!(
                    "{} {} has certificate {certificate}, which would be issued again",
                    step.spec.kind(),
                    step.spec.label()
                )));
            }
        }
        Ok(None)
    }

    /// The certificate in a kubeconfig, if a repair of another phase issues it again. Otherwise this repair would start programs that read the kubeconfig
    /// with the old certificate in it, which has expired or is another node's.
    async fn contained_until_issued_again(&self, host: &dyn Host, spec: &Spec) -> Option<String> {
        let Spec::Kubeconfig(kubeconfig) = spec else {
            return None;
        };
        if kubeconfig.by_path {
            return None;
        }
        let phases = self.plan.phases.iter();
        let steps = phases
            .filter(|phase| phase.skipped.is_none())
            .flat_map(|phase| &phase.steps);
        for step in steps.filter(|step| !step.policy.absent) {
            let Spec::Certificate(certificate) = &step.spec else {
                continue;
            };
            if certificate.path != kubeconfig.certificate {
                continue;
            }
            let cx = Context {
                host,
                ..self.context(false)
            };
            // If it cannot be judged, the check of its own phase says why.
            let seen = step.spec.inspect(&cx).await.ok()?;
            let is_issued_again = seen.change.as_ref().is_some_and(pki::is_issued_again);
            return (is_issued_again && !seen.is_unknown).then(|| certificate.path.clone());
        }
        None
    }
}

/// What the steps of a phase tell, beside what they would change.
#[derive(Debug, Default)]
pub(in crate::exec) struct StepNotes {
    /// Notes about their resources, for operators.
    pub(in crate::exec) texts: Vec<String>,
    /// Whether it is not known of a resource if it is as it should be. An apply goes on: its step has been made.
    pub(in crate::exec) unknown: bool,
    /// Whether a note tells of a problem that only an operator can end.
    pub(in crate::exec) problem: bool,
}

/// The first certificate below this directory that the phase makes and that is not there.
async fn missing_certificate(
    host: &dyn Host,
    phase: &PlannedPhase,
    directory: &Path,
) -> ResourceResult<Option<PathBuf>> {
    for step in phase.steps.iter().filter(|step| !step.policy.absent) {
        let path = match &step.spec {
            Spec::Authority(authority) => pki::authority_paths(&authority.name).certificate,
            Spec::Certificate(certificate) => pki::certificate_paths(&certificate.path).certificate,
            _ => continue,
        };
        if path.starts_with(directory) && host.entry(&path).await?.is_none() {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// What is wrong with the authorities and keys that a phase makes.
async fn keys_kept(host: &dyn Host, phase: &PlannedPhase) -> ResourceResult<Option<String>> {
    for step in phase.steps.iter().filter(|step| !step.policy.absent) {
        let problem = match pki::key_problem(host, &step.spec).await {
            Ok(problem) => problem,
            // The key was read, and it is wrong.
            Err(error @ (ResourceError::Pki { .. } | ResourceError::Unmet { .. })) => {
                Some(crate::model::chain(&error).join(": "))
            }
            Err(error) => return Err(error),
        };
        if problem.is_some() {
            return Ok(problem);
        }
    }
    Ok(None)
}

/// What would happen to a resource. A unit that does not run exists, so it is started, not created.
fn predicted_action(spec: &Spec, action: Action) -> &'static str {
    match (spec, action) {
        (Spec::Service(_), Action::Create) => "started",
        (_, action) => action.participle(),
    }
}

/// The start of a text, on one line.
fn shortened(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() > 160 {
        format!("{}…", line.chars().take(157).collect::<String>())
    } else {
        line
    }
}
