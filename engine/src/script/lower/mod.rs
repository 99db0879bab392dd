//! From recorded words to the typed phase: what each word and modifier means.

mod checks;
mod cluster;
mod containers;
pub(super) mod context;
mod files;
mod header;
mod options;
mod pki;
mod requirements;
mod system;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use context::ScriptContext;
use options::Options;

use super::recorder::{Call, CallId, Lane, Recorder};
use super::vocabulary::Role;
use crate::model::{Diagnostic, PhaseName, StepId};
use crate::plan::{PlannedPhase, PlannedStep, StepPolicy};
use crate::resource::Spec;

/// A phase being lowered.
struct Lowering<'a> {
    around: &'a ScriptContext<'a>,
    phase: PhaseName,
    findings: Vec<Diagnostic>,
    /// Ids of the steps so far, in all lanes.
    taken: BTreeSet<StepId>,
}

/// Lowers one script's words. `None` for the phase when its header is unusable or it is not for this node.
pub(super) fn phase(
    recorder: Recorder,
    around: &ScriptContext<'_>,
) -> (Option<PlannedPhase>, Vec<Diagnostic>) {
    let mut findings = recorder.findings;
    let header = match header::lower(&recorder.calls, &recorder.file, around, &mut findings) {
        header::Header::Phase(header) => *header,
        header::Header::NotForThisNode => return (None, findings),
        header::Header::Unusable => return (None, findings),
    };
    let mut lowering = Lowering {
        around,
        phase: header.name.clone(),
        findings,
        taken: BTreeSet::new(),
    };
    // The step of each word and the files that consumers of the step read: a modifier may name earlier steps.
    let mut ids: BTreeMap<CallId, StepId> = BTreeMap::new();
    let mut paths: BTreeMap<CallId, Vec<PathBuf>> = BTreeMap::new();
    let mut phase = header;
    for (id, call) in recorder.calls.iter().enumerate() {
        let mut lowered = None;
        let options = Options::new(call, &ids, &paths);
        if options.left_out() {
            continue;
        }
        lowering.findings.extend(call.findings.iter().cloned());
        let said = lowering.findings.len();
        match call.word.role {
            Role::Header => {}
            Role::Resource => {
                if let Some(step) = lowering.step(call, &options) {
                    lowered = Some((step.id.clone(), step.spec.paths()));
                    match call.lane {
                        Lane::Steps | Lane::Stop | Lane::Rollback
                            if matches!(step.spec, Spec::SysctlBefore(_)) =>
                        {
                            lowering.findings.push(
                                Diagnostic::new(
                                    "P0327",
                                    call.span.clone(),
                                    format!("`{}` is used outside of `on_clean`", call.word.name),
                                )
                                .help("only a clean can restore the value from before the phase"),
                            );
                        }
                        Lane::Steps => {
                            lowering.has_a_way_back(call, &step);
                            phase.steps.push(step);
                        }
                        Lane::Stop => phase.on_stop.push(step),
                        Lane::Rollback => phase.on_rollback.push(step),
                        Lane::Clean => {
                            lowering.only_removes(call, &step);
                            phase.on_clean.push(step);
                        }
                    }
                }
            }
            Role::Check => {
                phase
                    .checks
                    .extend(checks::lower(call, &options, &mut lowering.findings))
            }
            Role::Requirement => {
                phase.requirements.extend(requirements::lower(
                    call,
                    &options,
                    &mut lowering.findings,
                ));
            }
        }
        if !call.findings.is_empty() {
            // A modifier with a wrong argument was dropped, so what seems to be missing may be in the script.
            lowering.findings.truncate(said);
        }
        if let Some((step, files)) = lowered {
            ids.insert(id, step);
            paths.insert(id, files);
        }
    }
    let findings = lowering.findings;
    // A phase that is skipped on this host may lack settings that it needs only on other hosts.
    if phase.skipped.is_some() {
        return (Some(phase), Vec::new());
    }
    (Some(phase), findings)
}

impl Lowering<'_> {
    fn step(&mut self, call: &Call, options: &Options<'_>) -> Option<PlannedStep> {
        let spec = match call.word.name {
            "directory" | "file" | "template" | "symlink" | "unit" | "env_file" => {
                files::lower(call, options, self.around, &mut self.findings)
            }
            "certificate_authority"
            | "service_account_key"
            | "encryption_keys"
            | "data_id"
            | "certificate"
            | "kubeconfig" => pki::lower(call, options, &mut self.findings),
            "image" | "image_directory" | "container" | "pods" | "pod_container" => {
                containers::lower(call, options, &mut self.findings)
            }
            "service" | "sysctl" | "kernel_module" | "packages" | "link" | "command"
            | "firewall_chains" | "ipsets" | "ipvs_services" | "cgroup" | "sysctl_as_before"
            | "group" | "timer" => system::lower(call, options, self.around, &mut self.findings),
            _ => cluster::lower(call, options, self.around, &mut self.findings),
        }?;
        let policy = self.policy(&spec, options);
        let id_text = StepId::new(&self.phase, spec.kind(), &spec.label());
        let taken = !self.taken.insert(id_text.clone());
        if taken && call.lane == Lane::Steps {
            self.findings.push(
                Diagnostic::new(
                    "P0206",
                    call.span.clone(),
                    format!(
                        "{} `{}` appears twice in this phase",
                        spec.kind(),
                        spec.label()
                    ),
                )
                .help("write it once, with all its modifiers"),
            );
        }
        Some(PlannedStep {
            id: id_text,
            span: call.span.clone(),
            spec,
            policy,
        })
    }

    /// Refuses a step whose removal a rollback and a clean could not reverse.
    fn has_a_way_back(&mut self, call: &Call, step: &PlannedStep) {
        if step.policy.absent && !step.spec.removal_comes_back() {
            self.findings.push(
                Diagnostic::new(
                    "P0326",
                    call.span.clone(),
                    format!(
                        "`{}` with .absent() cannot be a step: a rollback could not restore what it removes",
                        call.word.name
                    ),
                )
                .help("use it in `on_stop`, `on_rollback` or `on_clean`, whose removals are final"),
            );
        }
    }

    /// Refuses a step in `on_clean` that would create or change something: a clean only removes.
    fn only_removes(&mut self, call: &Call, step: &PlannedStep) {
        if !step.policy.absent && !matches!(step.spec, Spec::SysctlBefore(_)) {
            self.findings.push(
                Diagnostic::new(
                    "P0328",
                    call.span.clone(),
                    format!("`{}` in `on_clean` has no .absent()", call.word.name),
                )
                .help("a clean only removes; add .absent()"),
            );
        }
    }

    fn policy(&self, spec: &Spec, options: &Options<'_>) -> StepPolicy {
        let mut policy = StepPolicy::default();
        if let Some(timeout) = options.duration("timeout") {
            policy.timeout = timeout;
        }
        if let Some((tries, every)) = options.retry() {
            policy.tries = tries;
            policy.backoff = every;
        }
        policy.keep = options.has("keep");
        policy.absent = options.has("absent");
        policy.restart_on = options.step_ids("restart_on");
        policy.reload_on = options.step_ids("reload_on");
        debug_assert!(policy.tries > 0, "{} has a try", spec.kind());
        policy
    }
}
