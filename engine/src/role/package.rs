//! Reading a role package from disk, bounded and with every problem named.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::RoleManifest;
use crate::diagnostic::Diagnostic;
use crate::host::{EntryKind, Files, HostError};
use crate::plan::{Span, Value};
use crate::script::{SIZE_LIMIT, ScriptSet};

/// Most templates of a role, and how deep their folders go.
const TEMPLATES: usize = 500;
const DEPTH: usize = 4;

/// A role with its scripts and templates.
#[derive(Debug, Clone)]
pub struct RolePackage {
    /// `role.yaml`.
    pub manifest: RoleManifest,
    /// Scripts and templates.
    pub scripts: BTreeMap<String, String>,
    /// Templates by name.
    pub templates: BTreeMap<String, String>,
    /// Parameters with their values.
    pub parameters: BTreeMap<String, Value>,
}

/// A role package that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RoleError {
    /// No directory holds a role of this name.
    #[error("find role `{name}`: looked in {}", places.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", "))]
    NotFound {
        /// The name or path.
        name: String,
        /// Where it was looked for.
        places: Vec<PathBuf>,
    },
    /// A file cannot be read.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The package has mistakes; they are all here.
    #[error("use role `{name}`: {} in it", if findings.len() == 1 { "a mistake".to_owned() } else { format!("{} mistakes", findings.len()) })]
    Invalid {
        /// The role.
        name: String,
        /// The mistakes.
        findings: Vec<Diagnostic>,
    },
}

impl RolePackage {
    /// Where a role of this name may stand: as a path, in `./roles`, installed under `/opt/pf9/roles`.
    #[must_use]
    pub fn places(name: &str) -> Vec<PathBuf> {
        if name.contains('/') {
            return vec![PathBuf::from(name)];
        }
        vec![
            Path::new("roles").join(name),
            Path::new("/opt/pf9/roles").join(name).join("current"),
        ]
    }

    /// Where a role's payload stands on a host.
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
        let places = Self::places(name);
        for directory in &places {
            let file = directory.join("role.yaml");
            if files.entry(&file).await?.is_some() {
                return Self::read(files, directory).await;
            }
        }
        Err(RoleError::NotFound {
            name: name.to_owned(),
            places,
        })
    }

    async fn read(files: &(dyn Files + Sync), directory: &Path) -> Result<Self, RoleError> {
        let mut findings = Vec::new();
        let manifest = read_text(files, &directory.join("role.yaml")).await?;
        let manifest: RoleManifest = match manifest.and_then(|text| {
            serde_yaml::from_str(&text).map_err(|error| {
                let (line, column) = error
                    .location()
                    .map_or((0, 0), |at| (at.line(), at.column()));
                Diagnostic::new(
                    "P0601",
                    Span::new("role.yaml", line, column),
                    describe(&error),
                )
            })
        }) {
            Ok(manifest) => manifest,
            Err(finding) => {
                return Err(RoleError::Invalid {
                    name: directory.display().to_string(),
                    findings: vec![finding],
                });
            }
        };
        if manifest.version != 1 {
            let message = format!(
                "its form has version {}, this program knows 1",
                manifest.version
            );
            findings.push(Diagnostic::new("P0602", Span::file("role.yaml"), message));
        }
        let phases = phases_directory(files, directory).await?;
        let mut scripts = BTreeMap::new();
        let mut names: Vec<&String> = manifest.nodes.values().flatten().collect();
        names.sort();
        names.dedup();
        for name in names {
            if name.parse::<crate::plan::PhaseName>().is_err() {
                findings.push(Diagnostic::new(
                    "P0603",
                    Span::file("role.yaml"),
                    format!("`{name}` is no phase name"),
                ));
                continue;
            }
            match read_text(files, &phases.join(format!("{name}.rhai"))).await? {
                Ok(text) => {
                    scripts.insert(name.clone(), text);
                }
                Err(finding) => findings.push(finding),
            }
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
        let mut parameters = BTreeMap::new();
        for (name, parameter) in &manifest.parameters {
            match parameter.value() {
                Ok(value) => {
                    parameters.insert(name.clone(), value);
                }
                Err(problem) => findings.push(Diagnostic::new(
                    "P0604",
                    Span::file("role.yaml"),
                    format!("parameter `{name}`: its default does not fit: {problem}"),
                )),
            }
        }
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

    /// The scripts of one node kind, in the role's order.
    #[must_use]
    pub fn script_set(&self, node: &str) -> Option<ScriptSet> {
        let names = self.manifest.nodes.get(node)?;
        Some(ScriptSet {
            scripts: names
                .iter()
                .filter_map(|name| Some((name.clone(), self.scripts.get(name)?.clone())))
                .collect(),
            templates: self.templates.clone(),
        })
    }
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

/// A text file within bounds; what is wrong with it is a finding about it.
async fn read_text(
    files: &(dyn Files + Sync),
    path: &Path,
) -> Result<Result<String, Diagnostic>, RoleError> {
    let shown = path
        .components()
        .skip_while(|part| part.as_os_str() != "phases" && part.as_os_str() != "role.yaml")
        .collect::<PathBuf>();
    let finding =
        |message: &str| Diagnostic::new("P0605", Span::file(shown.display().to_string()), message);
    let content = match files.read(path, SIZE_LIMIT).await {
        Ok(content) => content,
        Err(HostError::TooLarge { limit, .. }) => {
            return Ok(Err(finding(&format!(
                "the file is larger than {limit} bytes"
            ))));
        }
        Err(error) => return Err(error.into()),
    };
    Ok(match content {
        None => {
            Err(finding("the file is not there")
                .help("the role names it; add it or take the name out"))
        }
        Some(bytes) if bytes.is_empty() => Err(finding("the file is empty: was it cut short?")),
        Some(bytes) => String::from_utf8(bytes).map_err(|_| finding("the file is no UTF-8 text")),
    })
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
                findings.push(Diagnostic::new(
                    "P0606",
                    Span::file("phases/templates"),
                    message,
                ));
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

/// serde's message without the place, which the span already has.
fn describe(error: &serde_yaml::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or(&text).to_owned()
}
