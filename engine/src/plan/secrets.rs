//! What steps do with files that hold secrets: a copy is as private as the file, and the environment of a container has no such file.
//!
//! A script names a file by its path, and a step of another phase may make it. So this is decided when all phases are known. The mode of a
//! copy whose source no step makes is decided on the host ([`FileSource::GuardedCopy`]).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::{PlannedPhase, PlannedStep};
use crate::model::Diagnostic;
use crate::resource::{FileSource, Secrecy, Spec, TOO_OPEN, is_read_by_systemd};

/// Mode of a copy of a secret for which the script gives no mode.
const PRIVATE: u32 = 0o600;

/// The files that steps make, as far as the plan says how secret they are.
type SecrecyByPath = BTreeMap<PathBuf, Secrecy>;

/// Makes each copy as private as its source. Returns a finding for each step that would show a secret.
pub(crate) fn guard_secrets(phases: &mut [PlannedPhase]) -> Vec<Diagnostic> {
    let mut files = files_of(phases);
    // A copy may have a copy.
    while inherit(phases, &files) {
        files = files_of(phases);
    }
    let doubtful = doubtful(phases);
    let phases = phases.iter().filter(|phase| phase.skipped.is_none());
    let steps = phases.flat_map(steps_of);
    steps
        .filter_map(|step| problem(step, &files, &doubtful))
        .collect()
}

/// The copies of files that no step makes. Whether these contain a secret is known on the host only.
fn doubtful(phases: &[PlannedPhase]) -> BTreeSet<PathBuf> {
    let steps = phases.iter().flat_map(steps_of);
    let made: BTreeSet<PathBuf> = steps.flat_map(|step| step.spec.paths()).collect();
    let mut doubtful = BTreeSet::new();
    loop {
        let steps = phases.iter().flat_map(steps_of);
        let copies = steps.filter_map(|step| match &step.spec {
            Spec::File(file) => Some((&file.path, copied_from(&file.source)?)),
            _ => None,
        });
        let more: Vec<PathBuf> = copies
            .filter(|(path, source)| {
                let is_new = !doubtful.contains(*path);
                is_new && (doubtful.contains(*source) || !made.contains(*source))
            })
            .map(|(path, _)| path.clone())
            .collect();
        if more.is_empty() {
            return doubtful;
        }
        doubtful.extend(more);
    }
}

fn copied_from(source: &FileSource) -> Option<&PathBuf> {
    match source {
        FileSource::Copy(source) | FileSource::GuardedCopy(source) => Some(source),
        FileSource::Text(_) | FileSource::Payload(_) => None,
    }
}

/// The steps of a phase that make something.
fn steps_of(phase: &PlannedPhase) -> impl Iterator<Item = &PlannedStep> {
    let steps = phase.steps.iter().chain(&phase.on_stop);
    let steps = steps.chain(&phase.on_rollback).chain(&phase.on_clean);
    steps.filter(|step| !step.policy.absent)
}

fn files_of(phases: &[PlannedPhase]) -> SecrecyByPath {
    let mut files = SecrecyByPath::new();
    let steps = phases.iter().flat_map(steps_of);
    for (path, secrecy) in steps.flat_map(|step| step.spec.secrecy()) {
        let strictest = files.entry(path).or_insert(secrecy);
        *strictest = secrecy.max(*strictest);
    }
    // A link is as private as its target. A link may lead to a link.
    let links = phases.iter().flat_map(steps_of);
    let links: Vec<_> = links.filter_map(|step| link(&step.spec)).collect();
    for _ in 0..links.len() {
        for (path, target) in &links {
            if let Some(secrecy) = files.get(target).copied() {
                files.insert(path.clone(), secrecy);
            }
        }
    }
    files
}

/// The path of a link, and its target.
fn link(spec: &Spec) -> Option<(PathBuf, PathBuf)> {
    let Spec::Symlink(link) = spec else {
        return None;
    };
    let directory = link.path.parent().unwrap_or(Path::new("/"));
    Some((link.path.clone(), directory.join(&link.target)))
}

/// Makes copies as private as their sources; returns whether a copy changed.
fn inherit(phases: &mut [PlannedPhase], files: &SecrecyByPath) -> bool {
    let mut has_changed = false;
    for phase in phases {
        let steps = phase.steps.iter_mut().chain(&mut phase.on_stop);
        let steps = steps.chain(&mut phase.on_rollback);
        for step in steps.chain(&mut phase.on_clean) {
            has_changed |= inherits(step, files);
        }
    }
    has_changed
}

fn inherits(step: &mut PlannedStep, files: &SecrecyByPath) -> bool {
    let Spec::File(file) = &mut step.spec else {
        return false;
    };
    let (source, has_mode) = match &file.source {
        FileSource::Copy(source) => (source.clone(), true),
        FileSource::GuardedCopy(source) => (source.clone(), false),
        FileSource::Text(_) | FileSource::Payload(_) => return false,
    };
    let Some(secrecy) = files.get(&source).copied() else {
        return false;
    };
    let is_secret = secrecy > Secrecy::Open;
    if has_mode && (file.secret || !is_secret) {
        return false;
    }
    file.source = FileSource::Copy(source);
    file.secret |= is_secret;
    if !has_mode && secrecy == Secrecy::Private {
        file.attributes.mode = PRIVATE;
    }
    true
}

/// A finding if the step would show a secret.
fn problem(
    step: &PlannedStep,
    files: &SecrecyByPath,
    doubtful: &BTreeSet<PathBuf>,
) -> Option<Diagnostic> {
    match &step.spec {
        Spec::File(file) => {
            let source = copied_from(&file.source)?;
            if is_read_by_systemd(&file.path)
                && files.get(source).is_some_and(|one| *one > Secrecy::Open)
            {
                let message = format!(
                    "`{}` is a copy of `{}`, which contains a secret: systemd shows the settings of units to all users",
                    file.path.display(),
                    source.display()
                );
                return Some(Diagnostic::new("P0343", step.span.clone(), message).help(
                    "let the unit read the secret from its file, for example with EnvironmentFile=",
                ));
            }
            let mode = file.attributes.mode;
            let is_secret = files.get(source) == Some(&Secrecy::Private);
            (is_secret && mode & TOO_OPEN != 0).then(|| {
                let message = format!(
                    "with mode {mode:04o}, {} this copy of `{}`, which contains a secret",
                    if mode & 0o007 == 0 {
                        "its group can change"
                    } else {
                        "all users of the host have access to"
                    },
                    source.display()
                );
                Diagnostic::new("P0348", step.span.clone(), message).help(
                    "remove `.mode`, because the default of this copy is \"0600\"; if a program of another user reads it, add .owner(\"USER\"), or .group(\"GROUP\") with .mode(\"0640\")",
                )
            })
        }
        Spec::Container(container) => {
            let is_secret = |path: &PathBuf| {
                let secrecy = files.get(path);
                secrecy.is_some_and(|secrecy| *secrecy > Secrecy::Open)
            };
            let unfit = |path: &&PathBuf| is_secret(path) || doubtful.contains(*path);
            let path = container.env_files.iter().find(unfit)?;
            let message = format!(
                "`.env_from` adds `{}`, which {}: the container runtime shows the environment of a container, and nodelet records it",
                path.display(),
                if is_secret(path) {
                    "contains a secret"
                } else {
                    "is a copy of a file that no step makes and may contain a secret"
                }
            );
            Some(Diagnostic::new("P0349", step.span.clone(), message).help(
                "mount the directory of the file with .mount_read_only(…), and let the program read the file",
            ))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Attributes;
    use crate::model::{SecretRef, Span, StepId, Text, Value};
    use crate::plan::StepPolicy;
    use crate::resource::{EnvFileSpec, FileSpec, Owner, SymlinkSpec};

    fn file(path: &str, source: FileSource, mode: u32, secret: bool) -> Spec {
        Spec::File(FileSpec {
            path: path.into(),
            source,
            attributes: Attributes::root(mode),
            owner: Owner::default(),
            create_only: false,
            secret,
            unit: false,
        })
    }

    /// A copy without a mode in the script.
    fn copy(path: &str, source: &str) -> Spec {
        file(path, FileSource::GuardedCopy(source.into()), 0o644, false)
    }

    fn with_secret(path: &str) -> Spec {
        let token = Value::Secret(SecretRef("kube/TOKEN".to_owned()));
        Spec::EnvFile(EnvFileSpec {
            path: path.into(),
            values: BTreeMap::from([("TOKEN".to_owned(), token)]),
            attributes: Attributes::root(0o600),
            owner: Owner::default(),
        })
    }

    fn phase(name: &str, specs: Vec<Spec>) -> PlannedPhase {
        let mut phase = PlannedPhase::bare(name.parse().expect("a name"));
        for (index, spec) in specs.into_iter().enumerate() {
            phase.steps.push(PlannedStep {
                id: StepId::new(&phase.name, spec.kind(), &spec.label()),
                span: Span::new(format!("phases/{name}.rhai"), index + 5, 1),
                spec,
                policy: StepPolicy::default(),
            });
        }
        phase
    }

    /// Source, mode and secrecy of the file at `path`.
    fn made(phases: &[PlannedPhase], path: &str) -> (FileSource, u32, bool) {
        let mut steps = phases.iter().flat_map(steps_of);
        let found = steps.find_map(|step| match &step.spec {
            Spec::File(file) if file.path == Path::new(path) => Some(file),
            _ => None,
        });
        let file = found.expect("there is such a file");
        (file.source.clone(), file.attributes.mode, file.secret)
    }

    #[test]
    fn a_copy_is_as_private_as_its_source_and_so_is_the_copy_of_it() {
        let text = || FileSource::Text(Text::Known("a\n".to_owned()));
        let mut phases = [
            phase(
                "a",
                vec![
                    copy("/etc/second", "/etc/first"),
                    copy("/etc/first", "/etc/token.env"),
                    copy("/etc/root", "/etc/pem"),
                    copy("/etc/plain-copy", "/etc/plain"),
                    copy("/etc/other", "/etc/made-elsewhere"),
                ],
            ),
            phase(
                "b",
                vec![
                    with_secret("/etc/token.env"),
                    file("/etc/pem", text(), 0o644, true),
                    file("/etc/plain", text(), 0o644, false),
                ],
            ),
        ];
        assert_eq!(guard_secrets(&mut phases), []);
        for (path, source, mode, secret) in [
            ("/etc/first", "/etc/token.env", 0o600, true),
            ("/etc/second", "/etc/first", 0o600, true),
            ("/etc/root", "/etc/pem", 0o644, true),
            ("/etc/plain-copy", "/etc/plain", 0o644, false),
        ] {
            let expected = (FileSource::Copy(source.into()), mode, secret);
            assert_eq!(made(&phases, path), expected, "{path}");
        }
        let elsewhere = FileSource::GuardedCopy("/etc/made-elsewhere".into());
        assert_eq!(made(&phases, "/etc/other"), (elsewhere, 0o644, false));
    }

    #[test]
    fn a_mode_that_shows_the_copy_of_a_secret_is_told() {
        let source = || FileSource::Copy("/etc/token.env".into());
        let mut phases = [phase(
            "a",
            vec![
                with_secret("/etc/token.env"),
                file("/etc/narrow", source(), 0o640, false),
                file("/etc/wide", source(), 0o644, false),
            ],
        )];
        let told = guard_secrets(&mut phases);
        let told: Vec<(&str, usize)> = told.iter().map(|one| (one.code, one.span.line)).collect();
        assert_eq!(told, [("P0348", 7)]);
        assert!(made(&phases, "/etc/narrow").2, "it is not shown");
    }
    #[test]
    fn a_link_to_a_secret_is_as_private_as_the_secret() {
        let link = Spec::Symlink(SymlinkSpec {
            path: "/etc/link".into(),
            target: "token.env".to_owned(),
        });
        let source = FileSource::Copy("/etc/link".into());
        let wide = file("/etc/wide", source, 0o644, false);
        let mut phases = [phase("a", vec![with_secret("/etc/token.env"), link, wide])];
        let problems = guard_secrets(&mut phases);
        let codes: Vec<&str> = problems.iter().map(|problem| problem.code).collect();
        assert_eq!(codes, ["P0348"]);
    }

    #[test]
    fn a_copy_of_a_file_that_no_step_makes_is_doubtful_and_so_is_its_copy() {
        let text = FileSource::Text(Text::Known("a\n".to_owned()));
        let phases = [phase(
            "a",
            vec![
                copy("/etc/second", "/etc/first"),
                copy("/etc/first", "/root/database.env"),
                copy("/etc/private-copy", "/etc/private"),
                file("/etc/private", text, 0o600, false),
            ],
        )];
        let expected = ["/etc/first", "/etc/second"].map(PathBuf::from);
        assert_eq!(doubtful(&phases), expected.into());
    }
}
