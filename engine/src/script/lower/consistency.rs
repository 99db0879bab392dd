//! Rules about several words of a script: their order, names that appear twice, and paths that more than one step has. `protected` has the
//! rules about paths that no step may make or change, and `ineffective` those about modifiers that say nothing.

mod ineffective;
mod protected;

pub(super) use ineffective::{can_remove, ineffective};
pub(super) use protected::protected;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::model::Diagnostic;
use crate::plan::{PlannedCheck, PlannedStep};
use crate::resource::Spec;
use crate::script::recorder::{Call, Lane};
use crate::script::vocabulary::WordKind;

/// Directories that many programs of the base system share.
const SYSTEM: &[&str] = &[
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/etc/systemd",
    "/etc/systemd/system",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/sys",
    "/tmp",
    "/usr",
    "/usr/bin",
    "/usr/lib",
    "/usr/libexec",
    "/usr/local",
    "/usr/local/bin",
    "/usr/local/sbin",
    "/usr/sbin",
    "/usr/share",
    "/var",
    "/var/cache",
    "/var/lib",
    "/var/log",
    "/var/opt",
    "/var/run",
    "/var/spool",
    "/var/tmp",
];
/// Directories in which operators mount disks or install software. A clean may name one, because it leaves what existed before.
const PLACES: &[&str] = &["/home", "/media", "/mnt", "/opt", "/srv"];

/// Findings for words that are not where the language expects them: the header, then the resources, then the checks. The
/// lanes may be anywhere after the header.
pub(super) fn order(calls: &[Call]) -> Vec<Diagnostic> {
    let is_header = |call: &Call| call.word.kind() == WordKind::Header;
    let Some(header) = calls.iter().position(is_header) else {
        // A script without a header has a finding of its own.
        return Vec::new();
    };
    let mut findings = Vec::new();
    let mut first_check: Option<&Call> = None;
    for (at, call) in calls.iter().enumerate() {
        if at < header {
            let message = format!("`{}` comes before `phase`", call.word.name);
            findings.push(
                Diagnostic::new("P0420", call.span.clone(), message)
                    .help("move it below phase(…), with which a script begins"),
            );
            continue;
        }
        match (call.word.kind(), lane_word(call.lane)) {
            (WordKind::Check | WordKind::Requirement, Some(lane)) => {
                let message = format!("`{}` in `{lane}` is not a step", call.word.name);
                findings.push(
                    Diagnostic::new("P0422", call.span.clone(), message)
                        .help(format!("move it out of `{lane}`, which runs only steps")),
                );
            }
            (WordKind::Check, None) => first_check = first_check.or(Some(call)),
            (WordKind::Resource, None) => {
                if let Some(check) = first_check {
                    let message = format!("`{}` comes after a check", call.word.name);
                    let help = format!(
                        "move it before the check in line {}: all steps run before the first check",
                        check.span.line
                    );
                    findings.push(Diagnostic::new("P0421", call.span.clone(), message).help(help));
                }
            }
            (WordKind::Resource, Some(_))
            | (WordKind::Header, _)
            | (WordKind::Requirement, None) => {}
        }
    }
    findings
}

/// The word that opens a lane; none for the steps of an apply.
fn lane_word(lane: Lane) -> Option<&'static str> {
    match lane {
        Lane::Steps => None,
        Lane::Stop => Some("on_stop"),
        Lane::Rollback => Some("on_rollback"),
        Lane::Clean => Some("on_clean"),
    }
}

/// A finding if a step is about a directory that belongs to the base system: its mode and owner would change for all programs.
pub(super) fn system_directory(call: &Call, spec: &Spec) -> Option<Diagnostic> {
    let Spec::Directory(directory) = spec else {
        return None;
    };
    let is = |list: &[&str]| list.iter().any(|path| Path::new(path) == directory.path);
    let refused = is(SYSTEM) || (is(PLACES) && call.lane != Lane::Clean);
    refused.then(|| {
        let path = directory.path.display();
        let message = format!("`{path}` belongs to the base system");
        Diagnostic::new("P0356", call.span.clone(), message).help(
            "name a directory below it, because the step would change mode and owner of this directory for all programs",
        )
    })
}

/// What the steps and checks of a phase have named so far.
#[derive(Debug, Default)]
pub(super) struct Named {
    /// The line of each check.
    checks: BTreeMap<String, usize>,
    /// Kind and line of the step that makes each path.
    paths: BTreeMap<PathBuf, (&'static str, usize)>,
}

impl Named {
    /// A finding if another check of the phase has this name.
    pub(super) fn check(&mut self, check: &PlannedCheck) -> Option<Diagnostic> {
        let line = check.span.line;
        let first = self.checks.insert(check.name.clone(), line)?;
        let message = format!("the phase has two checks named `{}`", check.name);
        Some(
            Diagnostic::new("P0355", check.span.clone(), message).help(format!(
                "give each check a name that says what it asserts; line {first} has the first one"
            )),
        )
    }

    /// A finding if a step of another kind makes the same path.
    pub(super) fn path(&mut self, step: &PlannedStep) -> Option<Diagnostic> {
        let path = step.spec.properties().path?;
        let kind = step.spec.kind();
        let (first, line) = self
            .paths
            .insert(path.to_path_buf(), (kind, step.span.line))
            .filter(|(first, _)| *first != kind)?;
        let message = format!(
            "two steps make `{}`: `{kind}` here, and `{first}` in line {line}",
            path.display()
        );
        Some(Diagnostic::new("P0354", step.span.clone(), message).help(
            "remove one of them: each apply would replace the result of one by that of the other",
        ))
    }
}
