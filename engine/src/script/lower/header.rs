//! `phase(…)` and its modifiers.

use std::collections::BTreeMap;

use crate::model::{Diagnostic, PhaseName, Span, Value, closest};
use crate::plan::{Graph, PlannedPhase};
use crate::script::lower::context::LoweringContext;
use crate::script::lower::options::Options;
use crate::script::recorder::Call;
use crate::script::vocabulary::WordKind;

/// What the header says.
pub(super) enum Header {
    /// A phase, without steps yet.
    Phase(Box<PlannedPhase>),
    /// There is no header, or a wrong one; findings say so.
    Unusable,
}

pub(super) fn lower(
    calls: &[Call],
    file: &str,
    context: &LoweringContext<'_>,
    findings: &mut Vec<Diagnostic>,
) -> Header {
    let stem = file
        .rsplit('/')
        .next()
        .unwrap_or(file)
        .trim_end_matches(".rhai");
    let headers: Vec<&Call> = calls
        .iter()
        .filter(|c| c.word.kind() == WordKind::Header)
        .collect();
    let Some(call) = headers.first() else {
        findings.push(
            Diagnostic::new(
                "P0401",
                Span::new(file, 1, 1),
                "the script does not name its phase",
            )
            .help(format!(
                "begin it with phase(\"{stem}\").about(\"…\").nodes([\"{}\"]);",
                kinds_of(stem, context)
            )),
        );
        return Header::Unusable;
    };
    if let Some(second) = headers.get(1) {
        let first = call.span.line;
        let message = format!(
            "the script has two phases, and a file has exactly one; the first is in line {first}"
        );
        findings.push(
            Diagnostic::new("P0402", second.span.clone(), message).help(
                "move this phase and its words to a file of its own, phases/NAME.rhai, and list NAME in role.yaml",
            ),
        );
    }
    let (ids, paths) = (BTreeMap::new(), BTreeMap::new());
    let options = Options::new(call, &ids, &paths);
    let Some(name) = options.text_argument(0) else {
        return Header::Unusable;
    };
    let name: PhaseName = match name.parse() {
        Ok(name) => name,
        // The recorder has a finding for an empty text and for a control character.
        Err(_) if name.is_empty() || name.contains(char::is_control) => return Header::Unusable,
        Err(error) => {
            findings.push(
                Diagnostic::new("P0404", call.span.clone(), error.to_string()).help(format!(
                    "write phase(\"{stem}\"): the name of the phase is the name of its file"
                )),
            );
            return Header::Unusable;
        }
    };
    if name.as_str() != stem {
        findings.push(
            Diagnostic::new(
                "P0403",
                call.span.clone(),
                format!("the phase has the name `{name}`, but its file is `{stem}.rhai`"),
            )
            .help(format!(
                "write phase(\"{stem}\"), or rename the file and its entry in role.yaml to `{name}`"
            )),
        );
    }
    // What seems to be missing may be in a part with another mistake.
    let is_whole = call.findings.is_empty() && !call.incomplete;
    if is_whole && !options.has("about") {
        findings.push(
            Diagnostic::new(
                "P0405",
                call.span.clone(),
                format!("phase `{name}` does not say what it is for"),
            )
            .help("add .about(\"…\")"),
        );
    }
    let nodes = options.texts("nodes").unwrap_or_default();
    for kind in &nodes {
        if kind != "master" && kind != "worker" {
            findings.push(
                Diagnostic::new(
                    "P0304",
                    options.span("nodes"),
                    format!("`{kind}` is not a node kind"),
                )
                .help(match closest(kind, ["master", "worker"]) {
                    Some(meant) => format!("did you mean \"{meant}\"?"),
                    None => "the node kinds are \"master\" and \"worker\"".to_owned(),
                }),
            );
        }
    }
    if is_whole && nodes.is_empty() {
        findings.push(
            Diagnostic::new(
                "P0406",
                call.span.clone(),
                format!("phase `{name}` does not say which nodes have it"),
            )
            .help(format!("add .nodes([\"{}\"])", kinds_of(stem, context))),
        );
    }
    let listed = context.listed_for.get(stem).map(Vec::as_slice);
    let left_out: Vec<&str> = listed
        .unwrap_or_default()
        .iter()
        .filter(|kind| !nodes.contains(kind))
        .map(String::as_str)
        .collect();
    if !nodes.is_empty() && !left_out.is_empty() {
        let kinds = left_out.join("` and `");
        let items = left_out.join("\", \"");
        findings.push(
            Diagnostic::new(
                "P0409",
                options.span("nodes"),
                format!(
                    "role.yaml lists phase `{name}` for `{kinds}`, but `.nodes` of the phase does not contain `{kinds}`"
                ),
            )
            .help(format!(
                "add \"{items}\" to `.nodes`, or remove `{name}` from the phases of `{kinds}` in role.yaml"
            )),
        );
        return Header::Unusable;
    }
    let mut names = |modifier: &str| -> Vec<PhaseName> {
        let mut list = Vec::new();
        for text in options.texts(modifier).unwrap_or_default() {
            match text.parse::<PhaseName>() {
                Ok(name) => list.push(name),
                Err(error) => {
                    let finding =
                        Diagnostic::new("P0404", options.span(modifier), error.to_string());
                    let meant = closest(&text, context.phases.iter().map(String::as_str));
                    findings.push(match meant {
                        Some(meant) => finding.help(format!("did you mean `{meant}`?")),
                        None => finding
                            .help("write the name of the phase's file in phases/, without `.rhai`"),
                    });
                }
            }
        }
        list
    };
    let requires = names("requires");
    let after = names("after");
    for name in &after {
        known(name.as_str(), "after", &options, context, findings);
    }
    let restart_from: Option<PhaseName> = options
        .text("restart_from")
        .filter(|name| known(name, "restart_from", &options, context, findings))
        .and_then(|name| name.parse().ok());
    let skipped = matches!(options.value("when"), Some(Value::Bool(false)))
        .then(|| format!("its condition ({}) is false", options.span("when")));
    Header::Phase(Box::new(PlannedPhase {
        restart_from,
        about: options.text("about").unwrap_or_default(),
        span: call.span.clone(),
        skipped,
        requires,
        after,
        timeout: options.duration("timeout").unwrap_or(PlannedPhase::TIMEOUT),
        ..PlannedPhase::bare(name)
    }))
}

/// The node kinds for which `role.yaml` lists a phase, as the items of a list in a script without the first and the last quote.
fn kinds_of(phase: &str, context: &LoweringContext<'_>) -> String {
    let listed = context.listed_for.get(phase);
    listed.map_or_else(|| "master".to_owned(), |kinds| kinds.join("\", \""))
}

/// Whether some node kind of the role has this phase; otherwise a finding. A phase that only other node kinds have is fine.
fn known(
    name: &str,
    modifier: &str,
    options: &Options<'_>,
    context: &LoweringContext<'_>,
    findings: &mut Vec<Diagnostic>,
) -> bool {
    if context.phases.contains(name) {
        return true;
    }
    let finding = Diagnostic::new(
        "P0423",
        options.span(modifier),
        format!("`.{modifier}` names `{name}`, but no node kind of the role has such a phase"),
    );
    let meant = closest(name, context.phases.iter().map(String::as_str));
    findings.push(match meant {
        Some(meant) => finding.help(format!("did you mean `{meant}`?")),
        None => finding.help(format!(
            "remove `{name}` from `.{modifier}`, or write phases/{name}.rhai and list `{name}` in role.yaml"
        )),
    });
    false
}

/// Findings for phases whose repair would begin at a phase that does not come before them.
pub(in crate::script) fn restarts_from_later_phases(phases: &[PlannedPhase]) -> Vec<Diagnostic> {
    let mut graph = Graph::default();
    for phase in phases {
        graph.add(&phase.name, &phase.requires, &phase.after);
    }
    let is_planned = |name: &PhaseName| phases.iter().any(|phase| phase.name == *name);
    let mut findings = Vec::new();
    for phase in phases {
        let first = match &phase.restart_from {
            Some(first) if is_planned(first) => first,
            _ => continue,
        };
        if !graph.before(&phase.name).contains(first) {
            let message = format!(
                "a repair of `{}` cannot begin at `{first}`, which does not come before it",
                phase.name
            );
            findings.push(
                Diagnostic::new("P0424", phase.span.clone(), message).help(format!(
                    "write .after([\"{first}\"]) in `{}`, or remove .restart_from(\"{first}\")",
                    phase.name
                )),
            );
        }
    }
    findings
}
