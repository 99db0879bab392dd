//! Merges the files of `/etc/pf9/nodelet`: sorted by name, a later file wins. The caller reads the files and passes their contents.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::parse::parse;
use super::place::{Place, Source};
use super::yaml::{self, Node};
use crate::env::error::{EnvError, Found};
use crate::env::key::Key;
use crate::env::keys::KEYS;
use crate::env::suggest::closest;
use crate::env::value::Value;

/// Most files that are read.
pub const MAX_FILES: usize = 64;
/// Largest file that is read, in bytes.
pub const MAX_FILE_BYTES: usize = 1024 * 1024;
/// Most keys in one file; the table has far fewer.
pub const MAX_KEYS_PER_FILE: usize = 1024;
/// Longest value, in bytes. Linux takes environment strings of up to 128 KiB.
pub const MAX_VALUE_BYTES: usize = 64 * 1024;

/// A value and its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The checked value.
    pub value: Value,
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
            if let Some(key) = self.key(&mut layer, &assignment.name, place.as_ref()) {
                self.text(key, &assignment.value, place);
            }
        }
    }

    /// Pairs without a file.
    pub(crate) fn pairs(&mut self, pairs: impl IntoIterator<Item = (String, String)>) {
        let mut layer = Layer::default();
        for (name, text) in pairs {
            if let Some(key) = self.key(&mut layer, &name, None) {
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
                closest: closest(name),
                place: place.cloned(),
            });
            return None;
        };
        let line = place.and_then(|place| place.line);
        if let Some(first_line) = layer.seen.insert(key.name, line) {
            layer.seen.insert(key.name, first_line);
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
    seen: BTreeMap<&'static str, Option<u32>>,
}
