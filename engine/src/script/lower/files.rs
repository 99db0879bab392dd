//! Directories, files, links, unit files, environment files, data ids: what these words mean.
//!
//! Contains the choice of a file's content, and its mode and owner with the rules for files that hold a secret. `template` compares a
//! template with its variables, and renders it if all of them are known.
//!
//! Not here: paths that no step may make, and paths that two steps have (`consistency`), and how the files are written
//! (`resource::files`). Start with [`lower`].

mod template;

pub(super) use template::template;

use std::path::{Path, PathBuf};

use crate::host::Attributes;
use crate::model::{Diagnostic, Text, Value};
use crate::resource::{
    DataIdSpec, DirectorySpec, EnvFileSpec, FileSource, FileSpec, Owner, Spec, SymlinkSpec,
    TOO_OPEN, is_read_by_systemd,
};
use crate::script::lower::context::LoweringContext;
use crate::script::lower::options::Options;
use crate::script::lower::system::{UNIT_LETTERS, is_unit_name};
use crate::script::recorder::Call;
use crate::script::variants::FileWord;

pub(super) fn lower(
    word: FileWord,
    call: &Call,
    options: &Options<'_>,
    context: &LoweringContext<'_>,
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
    match word {
        FileWord::Directory => {
            let access = access(options, 0o755, false, findings)?;
            Some(Spec::Directory(DirectorySpec {
                path: path()?,
                attributes: access.attributes,
                owner: access.owner,
                exclusive: options.has("exclusive"),
                spared: None,
            }))
        }
        FileWord::Symlink => Some(Spec::Symlink(SymlinkSpec {
            path: path()?,
            target: options.text_argument(1)?,
        })),
        FileWord::File => {
            let said = ["content", "payload", "copy_of"].map(|name| options.text(name));
            let source = match said {
                [Some(text), None, None] => FileSource::Text(Text::Known(text)),
                [None, Some(path), None] => FileSource::Payload(path.into()),
                [None, None, Some(path)] if options.has("mode") => FileSource::Copy(path.into()),
                [None, None, Some(path)] => FileSource::GuardedCopy(path.into()),
                [None, None, None] if options.has("absent") => {
                    FileSource::Text(Text::Known(String::new()))
                }
                _ => {
                    findings.push(no_single_source(call, options));
                    return None;
                }
            };
            let access = access(options, 0o644, false, findings)?;
            Some(file(path()?, source, access, false))
        }
        FileWord::Template => {
            let text = template(&options.text_argument(0)?, options, context, findings)?;
            let path = PathBuf::from(options.text_argument(1)?);
            if is_read_by_systemd(&path) {
                no_secret_of_units(&text, options, findings)?;
            }
            let access = access(options, 0o644, text.is_secret(), findings)?;
            Some(file(path, FileSource::Text(text), access, false))
        }
        FileWord::Unit => {
            let name = options.text_argument(0)?;
            if !is_unit_name(&name) || !name.contains('.') {
                let help = if is_unit_name(&name) {
                    format!("write it with its suffix, for example \"{name}.service\"")
                } else {
                    UNIT_LETTERS.to_owned()
                };
                let message = format!("`{}` is not a unit name", name.escape_debug());
                findings.push(Diagnostic::new("P0305", call.span.clone(), message).help(help));
                return None;
            }
            let text = template(&options.text_argument(1)?, options, context, findings)?;
            no_secret_of_units(&text, options, findings)?;
            let path = Path::new(UNITS).join(name);
            let access = access(options, 0o644, false, findings)?;
            Some(file(path, FileSource::Text(text), access, true))
        }
        FileWord::EnvFile => {
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
        FileWord::DataId => data_id(call, options, findings),
    }
}

/// The name of a data id is a part of the name of its record.
fn data_id(call: &Call, options: &Options<'_>, findings: &mut Vec<Diagnostic>) -> Option<Spec> {
    let name = options.text_argument(0)?;
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
        findings.push(
            Diagnostic::new(
                "P0330",
                call.span.clone(),
                format!("`{name}` cannot be the name of a data id"),
            )
            .help("use letters, digits and `-`, for example \"etcd\""),
        );
        return None;
    }
    Some(Spec::DataId(DataIdSpec {
        name,
        path: options.text_argument(1)?.into(),
    }))
}

/// A finding for a file without content, or with content from several modifiers.
fn no_single_source(call: &Call, options: &Options<'_>) -> Diagnostic {
    let sources = ["content", "payload", "copy_of"].into_iter();
    let given: Vec<&str> = sources.filter(|name| options.has(name)).collect();
    let (message, help) = if given.is_empty() {
        let help = "add .content(\"…\"), .payload(`${role.payload}/…`) or .copy_of(\"/…\"); if the file must not exist, add .absent()";
        (
            "the script does not say what the file contains".to_owned(),
            help,
        )
    } else {
        let given = given.join("` and `.");
        let message = format!("more than one modifier gives the file its content: `.{given}`");
        (message, "keep one of them")
    };
    Diagnostic::new("P0306", call.span.clone(), message).help(help)
}

/// The directory of unit files and their drop-ins.
const UNITS: &str = "/etc/systemd/system";

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
                        "with mode {mode:04o}, {} the file, which contains a secret",
                        if mode & 0o007 == 0 {
                            "its group can change"
                        } else {
                            "all users of the host have access to"
                        }
                    ),
                )
                .help(
                    "remove `.mode`, because the default is \"0600\"; if a program of another user reads the file, add .owner(\"USER\"), or .group(\"GROUP\") with .mode(\"0640\")",
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
    let help = match text.split_once(':') {
        Some((user, "")) => format!("write .owner(\"{user}\")"),
        Some(("", group)) => format!("write .group(\"{group}\")"),
        Some((user, group)) => {
            format!("write user and group separately: .owner(\"{user}\").group(\"{group}\")")
        }
        None => "write a name without blanks, or a number from 0 to 4294967294".to_owned(),
    };
    let problem = format!("`{text}` is not the name of a {kind}");
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
        .help("write the secret into a file of its own with `template`, and name this file in the unit with EnvironmentFile= or LoadCredential="),
    );
    None
}
