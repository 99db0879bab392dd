//! Directories, files, links, unit files, environment files.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::host::Attributes;
use crate::model::{Diagnostic, Span, Text, Value, closest, render, variables};
use crate::resource::{DirectorySpec, EnvFileSpec, FileSource, FileSpec, Spec, SymlinkSpec};
use crate::script::lower::context::ScriptContext;
use crate::script::lower::options::Options;
use crate::script::recorder::Call;

pub(super) fn lower(
    call: &Call,
    options: &Options<'_>,
    around: &ScriptContext<'_>,
    findings: &mut Vec<Diagnostic>,
) -> Option<Spec> {
    let mode = options.mode();
    let path = || options.text_argument(0).map(PathBuf::from);
    let file = |path: PathBuf, source: FileSource, unit: bool| {
        Spec::File(FileSpec {
            path,
            source,
            attributes: Attributes::root(mode.unwrap_or(0o644)),
            once: options.has("once"),
            secret: options.has("hidden"),
            unit,
        })
    };
    match call.word.name {
        "directory" => Some(Spec::Directory(DirectorySpec {
            path: path()?,
            attributes: Attributes::root(mode.unwrap_or(0o755)),
            whole: options.has("whole"),
            spared: None,
        })),
        "symlink" => Some(Spec::Symlink(SymlinkSpec {
            path: path()?,
            target: options.text_argument(1)?,
        })),
        "file" => {
            let said = ["content", "payload", "copy_of"].map(|name| options.text(name));
            let source = match said {
                [Some(text), None, None] => FileSource::Text(Text::Known(text)),
                [None, Some(path), None] => FileSource::Payload(path.into()),
                [None, None, Some(path)] => FileSource::Copy(path.into()),
                [None, None, None] if options.has("absent") => {
                    FileSource::Text(Text::Known(String::new()))
                }
                _ => {
                    findings.push(
                        Diagnostic::new(
                            "P0306",
                            call.span.clone(),
                            "a file has one of `.content`, `.payload` and `.copy_of`",
                        )
                        .help("or add `.absent()`"),
                    );
                    return None;
                }
            };
            Some(file(path()?, source, false))
        }
        "template" => {
            let text = template(&options.text_argument(0)?, options, around, findings)?;
            Some(file(
                options.text_argument(1)?.into(),
                FileSource::Text(text),
                false,
            ))
        }
        "unit" => {
            let name = options.text_argument(0)?;
            if name.contains('/') || !name.contains('.') {
                findings.push(
                    Diagnostic::new(
                        "P0305",
                        call.span.clone(),
                        format!("`{name}` is no unit name"),
                    )
                    .help("write it with its suffix, for example pf9-kubelet.service"),
                );
                return None;
            }
            let text = template(&options.text_argument(1)?, options, around, findings)?;
            let path = PathBuf::from("/etc/systemd/system").join(name);
            Some(file(path, FileSource::Text(text), true))
        }
        _ => Some(Spec::EnvFile(EnvFileSpec {
            path: path()?,
            values: options.map("values").unwrap_or_default(),
            attributes: Attributes::root(mode.unwrap_or(0o640)),
        })),
    }
}

/// A template with its variables: rendered now if all are known, kept for the step otherwise.
pub(super) fn template(
    name: &str,
    options: &Options<'_>,
    around: &ScriptContext<'_>,
    findings: &mut Vec<Diagnostic>,
) -> Option<Text> {
    let place = format!("phases/templates/{name}");
    let Some(source) = around.templates.get(name) else {
        let mut finding = Diagnostic::new(
            "P0501",
            options.span("vars"),
            format!("there is no template `{name}`"),
        );
        if let Some(meant) = closest(name, around.templates.keys().map(String::as_str)) {
            finding = finding.help(format!("did you mean `{meant}`?"));
        }
        findings.push(finding);
        return None;
    };
    let vars = options.map("vars").unwrap_or_default();
    let used = match variables(&place, source) {
        Ok(used) => used,
        Err(error) => {
            findings.push(Diagnostic::new("P0502", error.place, error.problem));
            return None;
        }
    };
    let mut fine = true;
    for name in &used {
        if !vars.contains_key(name) {
            fine = false;
            let line = source
                .lines()
                .position(|line| line.contains(name.as_str()))
                .map_or(0, |l| l + 1);
            let mut finding = Diagnostic::new(
                "P0503",
                Span::new(place.as_str(), line, 0),
                format!(
                    "the template uses `{name}`, which {} does not give",
                    options.span("vars")
                ),
            );
            if let Some(meant) = closest(name, vars.keys().map(String::as_str)) {
                finding = finding.help(format!("did you mean `{meant}`?"));
            }
            findings.push(finding);
        }
    }
    for name in vars.keys() {
        if !used.contains(name) {
            fine = false;
            findings.push(
                Diagnostic::new(
                    "P0504",
                    options.span("vars"),
                    format!("the template {place} does not use `{name}`"),
                )
                .help("take it out, or use it"),
            );
        }
    }
    if !fine {
        return None;
    }
    text(&place, source, vars, findings)
}

fn text(
    place: &str,
    source: &str,
    vars: BTreeMap<String, Value>,
    findings: &mut Vec<Diagnostic>,
) -> Option<Text> {
    if vars.values().any(Value::is_late) {
        return Some(Text::Late {
            template: place.to_owned(),
            source: source.to_owned(),
            vars,
        });
    }
    let json = Value::Map(vars)
        .to_json(&mut |late| Err(late.to_string()))
        .expect("no variable is late");
    match render(place, source, &json) {
        Ok(text) => Some(Text::Known(text)),
        Err(error) => {
            findings.push(Diagnostic::new("P0502", error.place, error.problem));
            None
        }
    }
}
