//! `phase(…)` and its modifiers.

use std::collections::BTreeMap;

use crate::model::{Diagnostic, PhaseName, Span, Value};
use crate::plan::PlannedPhase;
use crate::script::lower::context::ScriptContext;
use crate::script::lower::options::Options;
use crate::script::recorder::Call;
use crate::script::vocabulary::Role;

/// What the header says.
pub(super) enum Header {
    /// A phase of this node, without steps yet.
    Phase(Box<PlannedPhase>),
    /// The phase is for other node kinds.
    NotForThisNode,
    /// There is no header, or a wrong one; findings say so.
    Unusable,
}

pub(super) fn lower(
    calls: &[Call],
    file: &str,
    around: &ScriptContext<'_>,
    findings: &mut Vec<Diagnostic>,
) -> Header {
    let stem = file
        .rsplit('/')
        .next()
        .unwrap_or(file)
        .trim_end_matches(".rhai");
    let headers: Vec<&Call> = calls
        .iter()
        .filter(|c| c.word.role == Role::Header)
        .collect();
    let Some(call) = headers.first() else {
        findings.push(
            Diagnostic::new(
                "P0401",
                Span::new(file, 1, 1),
                "the script does not name its phase",
            )
            .help(format!("begin it with phase(\"{stem}\")")),
        );
        return Header::Unusable;
    };
    if let Some(second) = headers.get(1) {
        findings.push(Diagnostic::new(
            "P0402",
            second.span.clone(),
            "one file is one phase",
        ));
    }
    let (ids, paths) = (BTreeMap::new(), BTreeMap::new());
    let options = Options::new(call, &ids, &paths);
    let Some(name) = options.text_argument(0) else {
        return Header::Unusable;
    };
    let name: PhaseName = match name.parse() {
        Ok(name) => name,
        Err(error) => {
            findings.push(Diagnostic::new(
                "P0404",
                call.span.clone(),
                error.to_string(),
            ));
            return Header::Unusable;
        }
    };
    if name.as_str() != stem {
        findings.push(
            Diagnostic::new(
                "P0403",
                call.span.clone(),
                format!("the phase is named `{name}`, its file `{stem}.rhai`"),
            )
            .help("name both the same"),
        );
    }
    if !options.has("about") {
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
                    format!("`{kind}` is no node kind"),
                )
                .help("node kinds are master and worker"),
            );
        }
    }
    if nodes.is_empty() {
        findings.push(
            Diagnostic::new(
                "P0406",
                call.span.clone(),
                format!("phase `{name}` does not say which nodes have it"),
            )
            .help("add .nodes([\"master\", \"worker\"])"),
        );
    }
    if !nodes.is_empty() && !nodes.iter().any(|kind| kind == around.node) {
        return Header::NotForThisNode;
    }
    let mut names = |modifier: &str| -> Vec<PhaseName> {
        let mut list = Vec::new();
        for text in options.texts(modifier).unwrap_or_default() {
            match text.parse() {
                Ok(name) => list.push(name),
                Err(error) => findings.push(Diagnostic::new(
                    "P0404",
                    options.span(modifier),
                    format!("{error}"),
                )),
            }
        }
        list
    };
    let requires = names("requires");
    let after = names("after");
    let skipped = matches!(options.value("when"), Some(Value::Bool(false)))
        .then(|| format!("its condition ({}) is false", options.span("when")));
    Header::Phase(Box::new(PlannedPhase {
        restart_from: options
            .text("restart_from")
            .and_then(|text| text.parse().ok()),
        name,
        about: options.text("about").unwrap_or_default(),
        span: call.span.clone(),
        skipped,
        requires,
        after,
        timeout: options.duration("timeout").unwrap_or(PlannedPhase::TIMEOUT),
        requirements: Vec::new(),
        steps: Vec::new(),
        on_stop: Vec::new(),
        on_rollback: Vec::new(),
        on_clean: Vec::new(),
        checks: Vec::new(),
    }))
}
