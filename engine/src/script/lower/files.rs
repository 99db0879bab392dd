//! Directories, files, links, unit files, environment files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::host::Attributes;
use crate::model::{Diagnostic, Span, Text, Value, closest, render, variables};
use crate::resource::{DirectorySpec, EnvFileSpec, FileSource, FileSpec, Owner, Spec, SymlinkSpec};
use crate::script::lower::context::ScriptContext;
use crate::script::lower::options::Options;
use crate::script::lower::system::{UNIT_LETTERS, is_unit_name};
use crate::script::recorder::Call;

pub(super) fn lower(
    call: &Call,
    options: &Options<'_>,
    context: &ScriptContext<'_>,
    findings: &mut Vec<Diagnostic>,
) -> Option<Spec> {
    let path = || options.text_argument(0).map(PathBuf::from);
    let file = |path: PathBuf, source: FileSource, access: Access, unit: bool| {
        Spec::File(FileSpec {
            path,
            source,
            attributes: access.attributes,
            owner: access.owner,
            create_only: options.has("create_only"),
            secret: options.has("sensitive"),
            unit,
        })
    };
    match call.word.name {
        "directory" => {
            let access = access(options, 0o755, false, findings)?;
            Some(Spec::Directory(DirectorySpec {
                path: path()?,
                attributes: access.attributes,
                owner: access.owner,
                exclusive: options.has("exclusive"),
                spared: None,
            }))
        }
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
            let access = access(options, 0o644, false, findings)?;
            Some(file(path()?, source, access, false))
        }
        "template" => {
            let text = template(&options.text_argument(0)?, options, context, findings)?;
            let path = PathBuf::from(options.text_argument(1)?);
            if path.starts_with(UNITS) {
                no_secret_of_units(&text, options, findings)?;
            }
            let access = access(options, 0o644, text.is_secret(), findings)?;
            Some(file(path, FileSource::Text(text), access, false))
        }
        "unit" => {
            let name = options.text_argument(0)?;
            if !is_unit_name(&name) || !name.contains('.') {
                let help = if is_unit_name(&name) {
                    "write it with its suffix, for example pf9-kubelet.service"
                } else {
                    UNIT_LETTERS
                };
                let message = format!("`{}` is no unit name", name.escape_debug());
                findings.push(Diagnostic::new("P0305", call.span.clone(), message).help(help));
                return None;
            }
            let text = template(&options.text_argument(1)?, options, context, findings)?;
            no_secret_of_units(&text, options, findings)?;
            let path = Path::new(UNITS).join(name);
            let access = access(options, 0o644, false, findings)?;
            Some(file(path, FileSource::Text(text), access, true))
        }
        "env_file" => {
            let values = options.map("values").unwrap_or_default();
            let secret = values.values().any(Value::is_secret);
            let access = access(options, 0o640, secret, findings)?;
            Some(Spec::EnvFile(EnvFileSpec {
                path: path()?,
                values,
                attributes: access.attributes,
                owner: access.owner,
            }))
        }
        _ => None,
    }
}

/// The directory of unit files and their drop-ins.
const UNITS: &str = "/etc/systemd/system";

/// Permissions that let others read a secret, or a group replace it.
const TOO_OPEN: u32 = 0o027;

/// Who may read and write what a step makes.
struct Access {
    attributes: Attributes,
    owner: Owner,
}

/// Mode and owner as the modifiers say, or the `usual` mode. A file with a secret is private unless its group may read it.
fn access(
    options: &Options<'_>,
    usual: u32,
    secret: bool,
    findings: &mut Vec<Diagnostic>,
) -> Option<Access> {
    let mode = match options.mode() {
        Some(mode) if secret && mode & TOO_OPEN != 0 => {
            findings.push(
                Diagnostic::new(
                    "P0341",
                    options.span("mode"),
                    format!(
                        "mode {mode:04o} is too open for a file that holds a secret: other users could read the secret, or the group could change it"
                    ),
                )
                .help(
                    "remove .mode(…): the default is \"0600\"; for a program of another user, add .owner(…), or .group(…) and .mode(\"0640\")",
                ),
            );
            return None;
        }
        Some(mode) => mode,
        None if secret => 0o600,
        None => usual,
    };
    let user = account(options, "owner", "user", findings);
    let group = account(options, "group", "group", findings);
    let ((uid, user), (gid, group)) = (user?, group?);
    Some(Access {
        attributes: Attributes { mode, uid, gid },
        owner: Owner { user, group },
    })
}

/// The account that a modifier names: its number, or root's number and a name for the step to look up.
fn account(
    options: &Options<'_>,
    modifier: &str,
    kind: &str,
    findings: &mut Vec<Diagnostic>,
) -> Option<(u32, Option<String>)> {
    let text = match options.text(modifier) {
        Some(text) if text != "root" => text,
        _ => return Some((0, None)),
    };
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number && is_account(&text) {
        return Some((0, Some(text)));
    }
    // For the kernel, the largest number means "unchanged".
    if let Ok(number) = text.parse::<u32>()
        && is_number
        && number != u32::MAX
    {
        return Some((number, None));
    }
    let help = if text.contains(':') {
        "write user and group apart: .owner(\"chrony\").group(\"chrony\")"
    } else {
        "write a name without blanks, or a number from 0 to 4294967294"
    };
    let problem = format!("`{text}` is no name of a {kind}");
    findings.push(Diagnostic::new("P0342", options.span(modifier), problem).help(help));
    None
}

/// Whether a text can be the name of a user or group.
fn is_account(text: &str) -> bool {
    let name = text.strip_suffix('$').unwrap_or(text);
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(fits)
        && text.len() <= 32
}

/// A finding if a unit file or drop-in holds a secret.
fn no_secret_of_units(
    text: &Text,
    options: &Options<'_>,
    findings: &mut Vec<Diagnostic>,
) -> Option<()> {
    if !text.is_secret() {
        return Some(());
    }
    findings.push(
        Diagnostic::new(
            "P0343",
            options.span("vars"),
            "a unit file cannot hold a secret: systemd shows the settings of units to every user",
        )
        .help("render the secret into a file of its own with `template`, and name that file in the unit with EnvironmentFile= or LoadCredential="),
    );
    None
}

/// A template with its variables: rendered now if all are known, kept for the step otherwise.
pub(super) fn template(
    name: &str,
    options: &Options<'_>,
    context: &ScriptContext<'_>,
    findings: &mut Vec<Diagnostic>,
) -> Option<Text> {
    let place = format!("phases/templates/{name}");
    let Some(source) = context.templates.get(name) else {
        let mut finding = Diagnostic::new(
            "P0501",
            options.span("vars"),
            format!("there is no template `{name}`"),
        );
        if let Some(meant) = closest(name, context.templates.keys().map(String::as_str)) {
            finding = finding.help(format!("did you mean `{meant}`?"));
        }
        findings.push(finding);
        return None;
    };
    if let Some(finding) = foreign_encoding(&place, source) {
        findings.push(finding);
        return None;
    }
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

/// A finding if a template begins with a byte order mark or ends lines as Windows does: the files made from it would, too.
fn foreign_encoding(place: &str, source: &str) -> Option<Diagnostic> {
    if source.starts_with('\u{feff}') {
        let message = "the template begins with a byte order mark, which would be in the file, too";
        return Some(
            Diagnostic::new("P0510", Span::new(place, 1, 0), message)
                .help("save it as UTF-8 without a byte order mark"),
        );
    }
    let before = source.split_once('\r')?.0;
    let line = before.matches('\n').count() + 1;
    let message = "the line contains a carriage return, which would be in the file, too";
    Some(
        Diagnostic::new("P0510", Span::new(place, line, 0), message)
            .help("save the template with line feeds alone (LF, not CRLF)"),
    )
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
