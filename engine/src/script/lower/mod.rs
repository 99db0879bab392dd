//! From recorded words to the typed phase: what each word and modifier means.
//!
//! One file per topic, as in `script::variants`. `options` reads arguments and modifiers; `consistency` has the rules about several words.
//! Not here: the recording (`recorder`), and mistakes that need other phases or the host (`planner`, `facts`). Start with this file, then
//! `files`.

mod checks;
mod cluster;
mod consistency;
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

use consistency::Named;
use context::LoweringContext;
pub(super) use header::restarts_from_later_phases;
use options::Options;

use super::recorder::{Call, CallId, Lane, Recorder};
use super::variants::{ResourceWord, WordVariant};
use crate::model::{Diagnostic, PhaseName, StepId};
use crate::plan::{PlannedPhase, PlannedStep, StepPolicy};
use crate::resource::Spec;

/// A phase being lowered.
struct Lowering<'a> {
    context: &'a LoweringContext<'a>,
    phase: PhaseName,
    findings: Vec<Diagnostic>,
    /// Ids of the steps so far, in all lanes.
    taken: BTreeSet<StepId>,
    /// Paths of the steps and names of the checks so far.
    named: Named,
}

/// Lowers one script's words. `None` for the phase when its header is unusable.
pub(super) fn phase(
    recorder: Recorder,
    context: &LoweringContext<'_>,
) -> (Option<PlannedPhase>, Vec<Diagnostic>) {
    // What is wrong with the script itself counts even if the phase is skipped on this host.
    let mut in_any_case = recorder.in_any_case;
    in_any_case.extend(consistency::order(&recorder.calls));
    let header = match header::lower(&recorder.calls, &recorder.file, context, &mut in_any_case) {
        header::Header::Phase(header) => *header,
        header::Header::Unusable => {
            in_any_case.extend(recorder.findings);
            let (ids, paths) = (BTreeMap::new(), BTreeMap::new());
            let is_used = |call: &&Call| !Options::new(call, &ids, &paths).left_out();
            let used = recorder.calls.iter().filter(is_used);
            in_any_case.extend(used.flat_map(|call| call.findings.iter().cloned()));
            return (None, in_any_case);
        }
    };
    let mut lowering = Lowering {
        context,
        phase: header.name.clone(),
        findings: recorder.findings,
        taken: BTreeSet::new(),
        named: Named::default(),
    };
    // The step of each word and the files that consumers of the step read: a modifier may name earlier steps.
    let mut ids: BTreeMap<CallId, StepId> = BTreeMap::new();
    let mut paths: BTreeMap<CallId, Vec<PathBuf>> = BTreeMap::new();
    let mut phase = header;
    for (id, call) in recorder.calls.iter().enumerate() {
        let mut lowered = None;
        let options = Options::new(call, &ids, &paths);
        if options.left_out() {
            phase.skipped_words.push(options.skipped());
            continue;
        }
        lowering.findings.extend(call.findings.iter().cloned());
        let said = lowering.findings.len();
        let mut has_meaning = true;
        match call.word.variant {
            WordVariant::Header => {}
            WordVariant::Resource(resource) => {
                let step = lowering.step(resource, call, &options);
                has_meaning = step.is_some();
                if let Some(step) = step {
                    lowered = Some((step.id.clone(), step.spec.paths()));
                    match call.lane {
                        Lane::Steps | Lane::Stop | Lane::Rollback
                            if matches!(step.spec, Spec::SysctlSnapshot(_)) =>
                        {
                            lowering.findings.push(
                                Diagnostic::new(
                                    "P0327",
                                    call.span.clone(),
                                    format!(
                                        "`{}` is outside of `on_clean`, but only a clean can restore the value",
                                        call.word.name
                                    ),
                                )
                                .help(format!(
                                    "write on_clean(|| {{ {}({:?}); }});",
                                    call.word.name,
                                    step.spec.label()
                                )),
                            );
                        }
                        Lane::Steps => {
                            lowering.check_reversible(call, &step);
                            let clash = lowering.named.path(&step);
                            lowering.findings.extend(clash);
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
            WordVariant::Check => {
                let check = checks::lower(call, &options, &mut lowering.findings);
                has_meaning = check.is_some();
                if let Some(check) = check {
                    let clash = lowering.named.check(&check);
                    lowering.findings.extend(clash);
                    phase.checks.push(check);
                }
            }
            WordVariant::Requirement => {
                let requirement = requirements::lower(call, &options, &mut lowering.findings);
                has_meaning = requirement.is_some();
                phase.requirements.extend(requirement);
            }
        }
        let is_explained = lowering.findings.len() > said || !call.findings.is_empty();
        if !has_meaning && !is_explained && !call.incomplete {
            lowering.findings.push(without_meaning(call));
        }
        if !call.findings.is_empty() || call.incomplete {
            // A modifier with a wrong argument was dropped, so what seems to be missing may be in the script.
            lowering.findings.truncate(said);
        }
        if let Some((step, files)) = lowered {
            ids.insert(id, step);
            paths.insert(id, files);
        }
    }
    // A phase that is skipped on this host may lack settings that it needs only on other hosts.
    if phase.skipped.is_none() {
        in_any_case.append(&mut lowering.findings);
    }
    (Some(phase), in_any_case)
}

/// A finding for a word whose arguments have the types of the table, but not those that its meaning expects: without it, the plan would
/// lack the word silently.
fn without_meaning(call: &Call) -> Diagnostic {
    let word = call.word.name;
    let modifiers: Vec<String> = call
        .options
        .iter()
        .map(|option| format!(".{}", option.modifier.name))
        .collect();
    let message = format!(
        "nodelet cannot make a step, check or requirement of `{word}` with {}",
        if modifiers.is_empty() {
            "these arguments".to_owned()
        } else {
            modifiers.join(", ")
        }
    );
    Diagnostic::new("P0361", call.span.clone(), message).help(
        "look for a wrong argument; if no argument is wrong, report this as a defect of nodelet",
    )
}

impl Lowering<'_> {
    fn step(
        &mut self,
        resource: ResourceWord,
        call: &Call,
        options: &Options<'_>,
    ) -> Option<PlannedStep> {
        let spec = match resource {
            ResourceWord::Files(word) => {
                files::lower(word, call, options, self.context, &mut self.findings)
            }
            ResourceWord::Pki(word) => pki::lower(word, call, options, &mut self.findings),
            ResourceWord::Containers(word) => {
                containers::lower(word, call, options, &mut self.findings)
            }
            ResourceWord::System(word) => {
                let phase = &self.phase;
                system::lower(word, call, options, self.context, phase, &mut self.findings)
            }
            ResourceWord::Cluster(word) => {
                cluster::lower(word, call, options, self.context, &mut self.findings)
            }
        }?;
        self.findings
            .extend(consistency::ineffective(call, resource));
        let policy = self.policy(&spec, options);
        let refused = consistency::system_directory(call, &spec)
            .or_else(|| consistency::protected(call, &spec, policy.absent));
        self.findings.extend(refused);
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
                .help("keep one of the two, with all modifiers"),
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
    fn check_reversible(&mut self, call: &Call, step: &PlannedStep) {
        if step.policy.absent && step.spec.properties().irreversible {
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
        if step.policy.absent || matches!(step.spec, Spec::SysctlSnapshot(_)) {
            return;
        }
        let word = call.word.name;
        let (message, help) = if consistency::can_remove(call) {
            (
                format!("`{word}` in `on_clean` has no .absent()"),
                "a clean only removes: add .absent(), or write the step outside of `on_clean`",
            )
        } else {
            (
                format!("`{word}` in `on_clean` would not remove anything"),
                "a clean only removes: write the step outside of `on_clean`",
            )
        };
        self.findings
            .push(Diagnostic::new("P0328", call.span.clone(), message).help(help));
    }

    fn policy(&self, spec: &Spec, options: &Options<'_>) -> StepPolicy {
        let mut policy = StepPolicy::default();
        if let Some(timeout) = options.duration("timeout").or_else(|| pki::timeout(spec)) {
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model::{Span, Value};
    use crate::script::recorder::Argument;
    use crate::script::variants::ModifierVariant;
    use crate::script::vocabulary::{Arg, Modifier, Param, Word, WordKind};
    use crate::script::words::WORDS;

    /// An argument of the parameter's type.
    fn sample(param: &Param) -> Argument {
        Argument::Value(match param.arg {
            Arg::Text | Arg::AnyText => Value::from("example"),
            Arg::Path => Value::from("/srv/example"),
            Arg::Mode => Value::from("0600"),
            Arg::Duration => Value::from("90s"),
            Arg::Size => Value::from("1G"),
            Arg::Address => Value::from("192.0.2.1"),
            Arg::Integer(least) | Arg::Between(least, _) => Value::from(least),
            Arg::Bool => Value::from(true),
            Arg::Texts | Arg::AnyTexts => Value::from(vec!["example"]),
            Arg::Paths => Value::from(vec!["/srv/example"]),
            Arg::Addresses => Value::from(vec!["192.0.2.1"]),
            Arg::Ports => Value::from(vec![4001_i64]),
            Arg::Map => Value::Map(BTreeMap::from([(
                "example".to_owned(),
                Value::from("example"),
            )])),
            Arg::Steps => return Argument::Steps(Vec::new()),
            Arg::AnyList | Arg::Closure => Value::List(Vec::new()),
        })
    }

    fn samples(params: &[Param]) -> Vec<Argument> {
        params.iter().map(sample).collect()
    }

    /// The codes of the findings about a script that uses the word, with or without a modifier.
    fn codes(word: &'static Word, modifier: Option<&'static Modifier>) -> Vec<&'static str> {
        let span = |line| Span::new("phases/example.rhai", line, 1);
        let mut recorder = Recorder::new("phases/example.rhai");
        let header = &WORDS[0];
        let name = vec![Argument::Value(Value::from("example"))];
        let begun = recorder.word(header, name, span(1));
        for (name, value) in [
            ("about", Value::from("An example.")),
            ("nodes", Value::from(vec!["master"])),
        ] {
            let modifier = header.modifier(name).expect("the header has it");
            recorder.modify(begun, modifier, vec![Argument::Value(value)], span(1));
        }
        let call = recorder.word(word, samples(word.params), span(2));
        if let Some(modifier) = modifier {
            recorder.modify(call, modifier, samples(modifier.params), span(3));
        }
        let example = "example".to_owned();
        let templates = BTreeMap::from([(example.clone(), "text\n".to_owned())]);
        let context = LoweringContext {
            templates: &templates,
            listed_for: &BTreeMap::from([(example.clone(), vec!["master".to_owned()])]),
            phases: &BTreeSet::from([example]),
            payload: Path::new("/opt/pf9/roles/example/current/payload"),
        };
        let (_, findings) = phase(recorder, &context);
        findings.iter().map(|finding| finding.code).collect()
    }

    #[test]
    fn every_word_has_a_meaning_or_a_finding() {
        for word in WORDS.iter().filter(|word| word.kind() != WordKind::Header) {
            let codes = codes(word, None);
            assert!(!codes.contains(&"P0361"), "{}: {codes:?}", word.name);
        }
    }

    #[test]
    fn every_observation_and_every_precondition_has_a_meaning_or_a_finding() {
        let about_the_host =
            |word: &&Word| matches!(word.kind(), WordKind::Check | WordKind::Requirement);
        for word in WORDS.iter().filter(about_the_host) {
            for modifier in word.modifiers {
                let is_its = match modifier.variant {
                    ModifierVariant::Option => false,
                    ModifierVariant::Observation(_) | ModifierVariant::CheckDetail(_) => {
                        word.kind() == WordKind::Check
                    }
                    ModifierVariant::Precondition(_) => word.kind() == WordKind::Requirement,
                };
                assert!(is_its, "{} has the variant of another kind", modifier.name);
                let codes = codes(word, Some(modifier));
                assert!(!codes.contains(&"P0361"), "{}: {codes:?}", modifier.name);
            }
        }
    }
}
