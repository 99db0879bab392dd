//! Scripts that belong to no role of the product: corpora of mistakes, examples, and scripts of single tests.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use engine::plan::Plan;
use engine::planner;
use engine::role::{RoleManifest, RolePackage};

use crate::{Case, text};

/// The folders in a folder, sorted.
///
/// # Panics
/// It cannot be read.
#[must_use]
pub fn folders(path: impl AsRef<Path>) -> Vec<PathBuf> {
    entries(path.as_ref())
        .into_iter()
        .filter(|path| path.is_dir())
        .collect()
}

/// What is in a folder, sorted; nothing where there is none.
fn entries(path: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<PathBuf> = fs::read_dir(path)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    entries.sort();
    entries
}

/// Phase scripts and templates.
#[derive(Debug, Default)]
pub struct Scripts {
    phases: BTreeMap<String, String>,
    templates: BTreeMap<String, String>,
}

impl Scripts {
    /// The scripts `*.rhai` and templates `*.tmpl` of a folder.
    ///
    /// # Panics
    /// One of them is no text.
    #[must_use]
    pub fn read(folder: &Path) -> Self {
        let mut scripts = Self::default();
        for path in entries(folder) {
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            match name.strip_suffix(".rhai") {
                Some(phase) => scripts = scripts.phase(phase, &text(&path)),
                None if name.ends_with(".tmpl") => scripts = scripts.template(&name, &text(&path)),
                None => {}
            }
        }
        scripts
    }

    /// Adds a phase.
    #[must_use]
    pub fn phase(mut self, name: &str, script: &str) -> Self {
        self.phases.insert(name.to_owned(), script.to_owned());
        self
    }

    /// Adds a template.
    #[must_use]
    pub fn template(mut self, name: &str, source: &str) -> Self {
        self.templates.insert(name.to_owned(), source.to_owned());
        self
    }

    /// Plans them for a master, with the facts and settings of `case`.
    ///
    /// # Errors
    /// The diagnostics, as an author reads them.
    pub fn plan(&self, case: &Case) -> Result<Plan, String> {
        let manifest = RoleManifest {
            version: 1,
            name: "example".to_owned(),
            release: "1.0.0".to_owned(),
            about: "Scripts of a test.".to_owned(),
            nodes: BTreeMap::from([("master".to_owned(), self.phases.keys().cloned().collect())]),
            parameters: BTreeMap::new(),
            checksums: None,
            payload: Vec::new(),
        };
        let role = RolePackage {
            manifest,
            scripts: self.phases.clone(),
            templates: self.templates.clone(),
            parameters: BTreeMap::new(),
        };
        planner::plan(&role, &case.settings, &case.facts)
            .map_err(|error| error.sources.render(&error.findings))
    }
}
