//! Merges the files of `/etc/pf9/nodelet`: sorted by name, a later file wins. The caller reads the files and passes their contents.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::parse::parse;
use super::place::{Place, Source};
use super::yaml::{self, Entry, Node};
use crate::env::error::{EnvError, Found};
use crate::env::key::Key;
use crate::env::keys::KEYS;
use crate::env::suggest::closest_key;
use crate::env::value::{SecretText, SettingValue};

/// Most files that are read.
pub const MAX_FILES: usize = 64;
/// Largest file that is read, in bytes.
pub const MAX_FILE_BYTES: usize = 1024 * 1024;
/// Most keys in one file; the table has far fewer.
pub const MAX_KEYS_PER_FILE: usize = 1024;
/// Longest value, in bytes. Linux takes environment strings of up to 128 KiB.
pub const MAX_VALUE_BYTES: usize = 64 * 1024;

/// How the names of settings for the role's parameters begin: `ROLE_LEAST_MEMORY` sets the parameter `least_memory`.
pub const ROLE_PREFIX: &str = "ROLE_";
/// Longest name of such a setting, in bytes.
const ROLE_NAME_BYTES: usize = ROLE_PREFIX.len() + 64;

/// A value and its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The checked value.
    pub value: SettingValue,
    /// Where the value comes from.
    pub source: Source,
}

/// The settings that files give, without the defaults.
pub type Layered = BTreeMap<&'static str, Setting>;

/// Merges file contents, sorted by path; a later file wins. Or returns every problem of every file.
pub fn load_directory(files: Vec<(PathBuf, Vec<u8>)>) -> Result<Layered, Vec<EnvError>> {
    let mut merge = Merge::default();
    merge.directory(files);
    if merge.problems.is_empty() {
        Ok(merge.settings)
    } else {
        Err(merge.problems)
    }
}

/// A merge in progress: the settings so far, the problems, and the keys that have problems.
#[derive(Default)]
pub(crate) struct Merge {
    pub(crate) settings: Layered,
    /// Settings of the role's parameters. Their values are secrets until the role tells which are not.
    pub(crate) of_role: BTreeMap<String, Setting>,
    pub(crate) problems: Vec<EnvError>,
    /// Whether a whole file was refused. Then it is unknown which keys are missing.
    pub(crate) incomplete: bool,
    /// Keys with a problem; the rules between keys skip them.
    pub(crate) failed: Vec<&'static str>,
}

impl Merge {
    /// YAML files.
    pub(crate) fn directory(&mut self, mut files: Vec<(PathBuf, Vec<u8>)>) {
        if files.len() > MAX_FILES {
            self.refuse(EnvError::TooManyFiles {
                count: files.len(),
                limit: MAX_FILES,
            });
            return;
        }
        files.sort();
        for (path, content) in files {
            self.file(&path, &content);
        }
    }

    fn file(&mut self, path: &Path, content: &[u8]) {
        if content.len() > MAX_FILE_BYTES {
            self.refuse(EnvError::FileTooLarge {
                place: Place::file(path),
                bytes: content.len(),
                limit: MAX_FILE_BYTES,
            });
            return;
        }
        let entries = match yaml::entries(path, content) {
            Ok(entries) => entries,
            Err(problem) => return self.refuse(problem),
        };
        let mut layer = Layer::default();
        for entry in entries {
            if is_of_role(&entry.key) {
                self.role_entry(&mut layer, entry);
                continue;
            }
            let place = Some(entry.place);
            let Some(key) = self.key(&mut layer, &entry.key, place.as_ref()) else {
                continue;
            };
            let nested = |found| EnvError::NestedValue {
                key: key.name,
                expected: key.kind.to_string(),
                found,
                place: place.clone(),
            };
            match entry.node {
                Node::Scalar(text) => self.text(key, &text, place),
                Node::Null => self.fail(
                    key,
                    EnvError::NoValue {
                        key: key.name,
                        expected: key.kind.to_string(),
                        help: key
                            .may_be_empty()
                            .then(|| "write `\"\"` for the empty value".to_owned()),
                        place,
                    },
                ),
                Node::Sequence => self.fail(key, nested("a list")),
                Node::Mapping => self.fail(key, nested("a map")),
            }
        }
    }

    /// An environment file, kube_override.env.
    pub(crate) fn environment(&mut self, path: &Path, content: &[u8]) {
        let assignments = match parse(path, content) {
            Ok(assignments) => assignments,
            Err(problem) => return self.refuse(problem),
        };
        let mut layer = Layer::default();
        for assignment in assignments {
            let place = Some(Place::line(path, assignment.line));
            if is_of_role(&assignment.name) {
                self.role_text(&mut layer, assignment.name, assignment.value, place);
            } else if let Some(key) = self.key(&mut layer, &assignment.name, place.as_ref()) {
                self.text(key, &assignment.value, place);
            }
        }
    }

    /// Pairs without a file.
    pub(crate) fn pairs(&mut self, pairs: impl IntoIterator<Item = (String, String)>) {
        let mut layer = Layer::default();
        for (name, text) in pairs {
            if is_of_role(&name) {
                self.role_text(&mut layer, name, text, None);
            } else if let Some(key) = self.key(&mut layer, &name, None) {
                self.text(key, &text, None);
            }
        }
    }

    /// The key of this name; an error if the layer has given it already.
    fn key(
        &mut self,
        layer: &mut Layer,
        name: &str,
        place: Option<&Place>,
    ) -> Option<&'static Key> {
        let Some(key) = KEYS.iter().find(|key| key.name == name) else {
            self.problems.push(EnvError::UnknownKey {
                key: Found::name(name),
                closest: closest_key(name),
                place: place.cloned(),
            });
            return None;
        };
        if let Some(first_line) = layer.first_occurrence(key.name, place) {
            self.fail(
                key,
                EnvError::DuplicateKey {
                    key: key.name,
                    first_line,
                    place: place.cloned(),
                },
            );
            return None;
        }
        Some(key)
    }

    fn text(&mut self, key: &'static Key, text: &str, place: Option<Place>) {
        match key.parse(text) {
            Ok(value) => {
                let source = place.map_or(Source::Given, Source::File);
                self.settings.insert(key.name, Setting { value, source });
            }
            Err(refusal) => self.fail(
                key,
                EnvError::InvalidValue {
                    key: key.name,
                    expected: refusal.expected,
                    found: if key.hides_wrong_text() {
                        Found::hidden()
                    } else {
                        Found::text(text)
                    },
                    help: refusal.help,
                    place,
                },
            ),
        }
    }

    /// A setting of a role's parameter in a YAML file.
    fn role_entry(&mut self, layer: &mut Layer, entry: Entry) {
        let place = Some(entry.place);
        let problem = match entry.node {
            Node::Scalar(text) => return self.role_text(layer, entry.key, text, place),
            Node::Null => "expected text, found no value; write `\"\"` for the empty value",
            Node::Sequence => {
                "expected text, found a list; write its texts with commas between them"
            }
            Node::Mapping => "expected text, found a map",
        };
        self.problems.push(EnvError::RoleSetting {
            key: entry.key,
            problem: problem.to_owned(),
            place,
        });
    }

    /// The text of a setting of a role's parameter; an error if the layer has given it already.
    fn role_text(&mut self, layer: &mut Layer, key: String, text: String, place: Option<Place>) {
        let problem = if let Some(first_line) = layer.first_occurrence(&key, place.as_ref()) {
            let first = first_line.map(|line| format!(", first in line {line}"));
            format!("given twice{}", first.unwrap_or_default())
        } else if text.len() > MAX_VALUE_BYTES {
            format!("expected at most {MAX_VALUE_BYTES} bytes")
        } else if text.contains('\0') {
            "expected text without NUL characters".to_owned()
        } else {
            let value = SettingValue::Secret(SecretText::new(key.clone(), text));
            let source = place.map_or(Source::Given, Source::File);
            self.of_role.insert(key, Setting { value, source });
            return;
        };
        self.problems.push(EnvError::RoleSetting {
            key,
            problem,
            place,
        });
    }

    /// Records that one file, or all of them, was refused.
    fn refuse(&mut self, problem: EnvError) {
        self.incomplete = true;
        self.problems.push(problem);
    }

    fn fail(&mut self, key: &'static Key, problem: EnvError) {
        self.failed.push(key.name);
        self.problems.push(problem);
    }
}

/// The keys of one file, with the line on which each is given first.
#[derive(Default)]
struct Layer {
    lines: BTreeMap<String, Option<u32>>,
}

impl Layer {
    /// The line on which the key was given before, if it was; otherwise records it.
    fn first_occurrence(&mut self, key: &str, place: Option<&Place>) -> Option<Option<u32>> {
        if let Some(first_line) = self.lines.get(key) {
            return Some(*first_line);
        }
        let line = place.and_then(|place| place.line);
        self.lines.insert(key.to_owned(), line);
        None
    }
}

/// Whether this can be the setting of a role's parameter.
fn is_of_role(name: &str) -> bool {
    let fits = |byte: u8| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'_');
    name.len() <= ROLE_NAME_BYTES
        && name
            .strip_prefix(ROLE_PREFIX)
            .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(fits))
}
