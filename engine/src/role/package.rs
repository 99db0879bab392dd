//! Reads a role package from disk, within limits, and reports every problem.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::manifest::place;
use super::{RoleManifest, inspect, mistake, packed, parameters};
use crate::env::KubeEnv;
use crate::host::{EntryKind, Files, HostError, Ownership, OwnershipError};
use crate::model::{Diagnostic, Span, Value};
use crate::script::{SIZE_LIMIT, ScriptSet};
use crate::yaml;

/// Most templates of a role, and the deepest nesting of their folders.
const TEMPLATES: usize = 500;
const DEPTH: usize = 4;
/// Code of a file that is not there.
const MISSING: &str = "P0611";

/// A role with its scripts and templates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RolePackage {
    /// `role.yaml`.
    pub manifest: RoleManifest,
    /// Scripts and templates.
    pub scripts: BTreeMap<String, String>,
    /// Templates by name.
    pub templates: BTreeMap<String, String>,
    /// Parameters with their defaults.
    pub parameters: BTreeMap<String, Value>,
}

/// A role package that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RoleError {
    /// No directory holds a role of this name.
    #[error(
        "find role `{name}`: looked in {}{}",
        place.display(),
        path_hint(name, *beside)
    )]
    NotFound {
        /// The name or path.
        name: String,
        /// Where it was looked for.
        place: PathBuf,
        /// The current directory has a directory of this name.
        beside: bool,
    },
    /// A user other than root can change a part of the package, whose programs run as root.
    #[error(
        "use a role that only root can change: {}: {problem}; install the role's package again, or see who has changed it \
         and set it right (`{fix} {}`)",
        path.display(),
        path.display()
    )]
    Untrusted {
        /// The file or directory.
        path: PathBuf,
        /// Who else can change it.
        problem: String,
        /// Command that takes this away, without the path.
        fix: &'static str,
    },
    /// The package has more files, directories or links than a role needs.
    #[error("look through the role's package: it has too many files or its links form a loop, at {}", path.display())]
    TooLarge {
        /// Where the search stopped.
        path: PathBuf,
    },
    /// A file cannot be read.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The package has mistakes; all of them are listed.
    #[error("use role `{name}`: {} in it", if findings.len() == 1 { "a mistake".to_owned() } else { format!("{} mistakes", findings.len()) })]
    Invalid {
        /// The role.
        name: String,
        /// The mistakes.
        findings: Vec<Diagnostic>,
    },
}

impl From<OwnershipError> for RoleError {
    fn from(error: OwnershipError) -> Self {
        match error {
            OwnershipError::Untrusted { path, problem, fix } => {
                Self::Untrusted { path, problem, fix }
            }
            OwnershipError::TooLarge { path } => Self::TooLarge { path },
            OwnershipError::Host(error) => Self::Host(error),
        }
    }
}

impl RolePackage {
    /// The directory of a role: a name means the installed role; a path contains a slash, or is `.` or `..`.
    #[must_use]
    pub fn directory(name: &str) -> PathBuf {
        if name.contains('/') || matches!(name, "." | "..") {
            return PathBuf::from(name);
        }
        Path::new("/opt/pf9/roles").join(name).join("current")
    }

    /// The directory of a role's payload on a host.
    #[must_use]
    pub fn payload(name: &str) -> PathBuf {
        Path::new("/opt/pf9/roles")
            .join(name)
            .join("current/payload")
    }

    /// Finds and reads the role `name` (a name or a path).
    ///
    /// # Errors
    /// It is not there, cannot be read, or has mistakes.
    pub async fn load(files: &(dyn Files + Sync), name: &str) -> Result<Self, RoleError> {
        let place = Self::directory(name);
        if files.entry(&place.join("role.yaml")).await?.is_some() {
            return Self::read(files, &place).await;
        }
        Err(RoleError::NotFound {
            name: name.to_owned(),
            place,
            beside: Self::is_beside(files, name).await,
        })
    }

    /// Whether the current directory has a directory of this name. A name does not mean this directory: it may belong to another user.
    pub async fn is_beside(files: &(dyn Files + Sync), name: &str) -> bool {
        let here = Path::new(name);
        // If this cannot be read, the error comes without the hint.
        let found = files.entry(here).await.ok().flatten();
        Self::directory(name) != here
            && found.is_some_and(|found| found.kind == EntryKind::Directory)
    }

    /// As [`RolePackage::load`], for a role that nodelet executes on this host as root: only root can change the package, its payload
    /// and the directories on the paths to them. If `role.yaml` names checksums, scripts and templates are as they were packed. A path
    /// must be absolute here.
    ///
    /// # Errors
    /// As [`RolePackage::load`], or a user other than root can change a part of it, or a script or template differs from its checksum.
    pub async fn load_owned_by_root(
        files: &(dyn Files + Sync),
        name: &str,
    ) -> Result<Self, RoleError> {
        let place = Self::directory(name);
        let mut ownership = Ownership::new(files);
        ownership.verify(&place).await?;
        ownership
            .verify(&phases_directory(files, &place).await?)
            .await?;
        let role = Self::load(files, name).await?;
        packed::verify(files, &place, &role).await?;
        ownership
            .verify(&Self::payload(&role.manifest.name))
            .await?;
        Ok(role)
    }

    async fn read(files: &(dyn Files + Sync), directory: &Path) -> Result<Self, RoleError> {
        let mut findings = Vec::new();
        let text = read_text(files, &directory.join("role.yaml")).await?;
        let (text, manifest): (String, RoleManifest) = match text.and_then(|text| {
            let text = yaml::without_mark(&text).to_owned();
            if let Some(line) = yaml::too_deep(text.as_bytes()) {
                let message = format!("brackets nested more than {} deep", yaml::MAX_BRACKETS);
                let span = Span::new("role.yaml", line, 0);
                return Err(Diagnostic::new("P0613", span, message)
                    .help("a role is lists and maps of names: write them one below the other"));
            }
            let manifest = serde_yaml::from_str(&text).map_err(|error| mistake::mistake(&error))?;
            Ok((text, manifest))
        }) {
            Ok(read) => read,
            Err(finding) => {
                return Err(RoleError::Invalid {
                    name: directory.display().to_string(),
                    findings: vec![finding],
                });
            }
        };
        if manifest.version != 1 {
            let message = format!(
                "the file has the format version {}, and this program reads version 1",
                manifest.version
            );
            findings.push(
                Diagnostic::new("P0602", place(&text, "version"), message)
                    .help("write `version: 1`; if the role is for a newer nodelet, install that"),
            );
        }
        inspect::inspect(&manifest, &text, &mut findings);
        let phases = phases_directory(files, directory).await?;
        let mut scripts = BTreeMap::new();
        let mut names: Vec<&String> = manifest.nodes.values().flatten().collect();
        names.sort();
        names.dedup();
        for name in names {
            if name.parse::<crate::model::PhaseName>().is_err() {
                let message = format!("`{name}` is not a phase name");
                findings.push(Diagnostic::new("P0603", place(&text, name), message).help(
                    "use lower-case letters, digits and `-`, at most 63: the file of the phase is phases/NAME.rhai",
                ));
                continue;
            }
            match read_text(files, &phases.join(format!("{name}.rhai"))).await? {
                Ok(text) => {
                    scripts.insert(name.clone(), text);
                }
                Err(finding) if finding.code == MISSING => {
                    let message = format!("{} is not there", finding.span);
                    findings.push(Diagnostic::new(MISSING, place(&text, name), message).help(
                        format!("write phases/{name}.rhai, or remove `{name}` from `nodes`"),
                    ));
                }
                Err(finding) => findings.push(finding),
            }
        }
        // The phases of a checkout belong to several roles. After another mistake, a name in the list may be wrong.
        if findings.is_empty() && phases == directory.join("phases") {
            let names = files.list(&phases).await?;
            findings.extend(unlisted(&names, &scripts));
        }
        let mut templates = BTreeMap::new();
        collect(
            files,
            &phases.join("templates"),
            "",
            0,
            &mut templates,
            &mut findings,
        )
        .await?;
        let parameters = parameters::declared(&manifest, &text, &mut findings);
        if findings.is_empty() {
            Ok(Self {
                manifest,
                scripts,
                templates,
                parameters,
            })
        } else {
            Err(RoleError::Invalid {
                name: manifest.name,
                findings,
            })
        }
    }

    /// The parameters with the values that settings give them, otherwise with their defaults.
    ///
    /// # Errors
    /// Every setting of a parameter that is unknown or does not fit, and every required parameter without a value.
    pub fn parameters_with(
        &self,
        settings: &KubeEnv,
    ) -> Result<BTreeMap<String, Value>, Vec<Diagnostic>> {
        parameters::resolve(&self.manifest, &self.parameters, settings)
    }

    /// Whether a setting whose name begins with [`crate::env::ROLE_PREFIX`] is that of a secret parameter, or of none.
    #[must_use]
    pub fn is_secret(&self, setting: &str) -> bool {
        parameters::is_secret(&self.manifest, setting)
    }

    /// The scripts of one node kind, in the role's order.
    #[must_use]
    pub fn script_set(&self, node: &str) -> Option<ScriptSet> {
        let names = self.manifest.nodes.get(node)?;
        Some(ScriptSet {
            scripts: names
                .iter()
                .filter_map(|name| Some((name.clone(), self.scripts.get(name)?.clone())))
                .collect(),
            phases: self.manifest.nodes.values().flatten().cloned().collect(),
            templates: self.templates.clone(),
            listed_for: names
                .iter()
                .map(|name| (name.clone(), self.manifest.kinds_with(name)))
                .collect(),
        })
    }
}

/// A finding for each script among these files that no node kind lists. A file whose name begins with a dot is a temporary file of an editor.
fn unlisted(files: &[String], listed: &BTreeMap<String, String>) -> Vec<Diagnostic> {
    let names = files.iter().filter(|file| !file.starts_with('.'));
    let names = names.filter_map(|file| file.strip_suffix(".rhai"));
    let unlisted = names.filter(|name| !listed.contains_key(*name));
    unlisted
        .map(|name| {
            let name = name.escape_debug();
            let span = Span::new(format!("phases/{name}.rhai"), 1, 0);
            let message = format!("role.yaml lists no phase `{name}`, so this script never runs");
            Diagnostic::new("P0623", span, message).help(format!(
                "list `{name}` under a node kind in `nodes` of role.yaml, or delete the file"
            ))
        })
        .collect()
}

/// `phases` in the package, or the checkout's own.
async fn phases_directory(
    files: &(dyn Files + Sync),
    directory: &Path,
) -> Result<PathBuf, RoleError> {
    let own = directory.join("phases");
    if files.entry(&own).await?.is_some() {
        return Ok(own);
    }
    let shared = directory.join("../../phases");
    Ok(shared)
}

/// A text file within the size limit; a problem with it is returned as a finding.
async fn read_text(
    files: &(dyn Files + Sync),
    path: &Path,
) -> Result<Result<String, Diagnostic>, RoleError> {
    let shown = path
        .components()
        .skip_while(|part| part.as_os_str() != "phases" && part.as_os_str() != "role.yaml")
        .collect::<PathBuf>();
    let shown = shown.display().to_string();
    let finding = |line: usize, message: &str| {
        Diagnostic::new("P0605", Span::new(shown.as_str(), line, 0), message)
    };
    let content = match files.read(path, SIZE_LIMIT).await {
        Ok(content) => content,
        Err(HostError::TooLarge { limit, .. }) => {
            return Ok(Err(finding(
                1,
                &format!("the file is larger than {limit} bytes"),
            )));
        }
        Err(error) => return Err(error.into()),
    };
    Ok(match content {
        None => Err(Diagnostic::new(
            MISSING,
            Span::file(shown.as_str()),
            "the file is not there",
        )),
        Some(bytes) if bytes.is_empty() => {
            Err(finding(1, "the file is empty").help(content_of(&shown)))
        }
        Some(bytes) => String::from_utf8(bytes).map_err(|error| {
            let right = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = right.iter().filter(|byte| **byte == b'\n').count() + 1;
            finding(line, "from this line on, the file is no UTF-8 text").help("save it as UTF-8")
        }),
    })
}

/// What an author writes into an empty file.
fn content_of(file: &str) -> String {
    let script = file.strip_prefix("phases/");
    let script = script.and_then(|name| name.strip_suffix(".rhai"));
    let what = match script {
        Some(phase) => format!("write the phase into it: phase(\"{phase}\") …"),
        None if file == "role.yaml" => {
            "write the keys of a role into it, from `version` to `payload`".to_owned()
        }
        None => "write the text of the template into it, or delete it".to_owned(),
    };
    format!("{what}; if its content is lost, install the role's package again")
}

/// Reads all templates below a directory.
fn collect<'a>(
    files: &'a (dyn Files + Sync),
    directory: &'a Path,
    prefix: &'a str,
    depth: usize,
    templates: &'a mut BTreeMap<String, String>,
    findings: &'a mut Vec<Diagnostic>,
) -> std::pin::Pin<Box<dyn Future<Output = Result<(), RoleError>> + Send + 'a>> {
    Box::pin(async move {
        for name in files.list(directory).await? {
            let path = directory.join(&name);
            let relative = format!("{prefix}{name}");
            let Some(entry) = files.entry(&path).await? else {
                continue;
            };
            if entry.kind == EntryKind::Directory {
                if depth < DEPTH {
                    let prefix = format!("{relative}/");
                    collect(files, &path, &prefix, depth + 1, templates, findings).await?;
                }
                continue;
            }
            if !name.ends_with(".tmpl") {
                continue;
            }
            if templates.len() >= TEMPLATES {
                let message = format!("the role has more than {TEMPLATES} templates");
                let span = Span::new(format!("phases/templates/{relative}"), 1, 0);
                findings.push(
                    Diagnostic::new("P0606", span, message)
                        .help("delete those that no phase uses, or make one template of several"),
                );
                return Ok(());
            }
            match read_text(files, &path).await? {
                Ok(text) => {
                    templates.insert(relative, text);
                }
                Err(finding) => findings.push(finding),
            }
        }
        Ok(())
    })
}

/// The end of the message about a name that is also the name of a directory in the current directory.
fn path_hint(name: &str, beside: bool) -> String {
    if !beside {
        return String::new();
    }
    format!(
        ", because a name means an installed role; the directory `{name}` here is `--role ./{name}`"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_scripts_that_no_node_kind_lists_are_found() {
        let files = [
            ".#b.rhai",
            "a.rhai",
            "a.rhai~",
            "b.rhai",
            "c\n.rhai",
            "templates",
        ];
        let listed = BTreeMap::from([("a".to_owned(), String::new())]);
        let found = unlisted(&files.map(str::to_owned), &listed);
        let found: Vec<String> = found.iter().map(|one| one.span.to_string()).collect();
        assert_eq!(found, ["phases/b.rhai:1", "phases/c\\n.rhai:1"]);
    }
}
