//! Which keys and authorities this host keeps, and a copy of each.
//!
//! A key that is lost or replaced cannot be told from a new one by looking at it. So the host remembers which one it has: for
//! each authority and for the key of service-account tokens there is one file below the engine's state
//! ([`RECORDS`](super::layout::RECORDS), for root alone), with what identifies each of the kept files and a copy of it. It is
//! written before the files themselves. So a run that is cut is finished from the copies by the next one, and no key ever signs of
//! which there is no record.
//!
//! A record is written by the resource whose files it names, in its converge and with an undo, like any other file. So a dry run
//! predicts it, a rollback and a clean keep it where the key is kept, and a purge removes it with the key.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::PublicKeyData as _;
use serde::{Deserialize, Serialize};

use super::held::{Content, Held};
use super::key;
use crate::host::{Attributes, Host};
use crate::resource::change::{Differences, content_digest};
use crate::resource::file::PRIVATE;
use crate::resource::{Receipt, ResourceResult};

/// Form of the file. A newer one is not understood.
const VERSION: u32 = 1;

/// Only root enters the directory of the records.
const DIRECTORY: Attributes = Attributes::root(0o700);

/// The kept files of an authority or key, by name, as they should be. Has no `Debug`, for there are keys among them.
pub(super) type KeptFiles = BTreeMap<&'static str, Vec<u8>>;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    /// What it is the record of: the name of its file. One that was put in another's place counts for nothing.
    of: String,
    files: BTreeMap<String, Copy>,
}

/// What is known of one file.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Copy {
    /// What tells it apart, see [`identity`].
    identity: String,
    /// Its content in base64.
    content: String,
}

impl Copy {
    fn of(name: &str, content: &[u8]) -> Self {
        Self {
            identity: identity(name, content).unwrap_or_default(),
            content: STANDARD.encode(content),
        }
    }

    /// What the copy itself is.
    fn content(&self, name: &str) -> Option<(String, Vec<u8>)> {
        let content = STANDARD.decode(&self.content).ok()?;
        Some((identity(name, &content).ok()?, content))
    }

    /// The content, if it is what was recorded.
    fn whole(&self, name: &str) -> Option<Vec<u8>> {
        let (is, content) = self.content(name)?;
        (is == self.identity).then_some(content)
    }

    /// Whether a file is the recorded one. Where one half of the record is damaged, the other half still says so.
    fn is(&self, name: &str, identity: &str) -> bool {
        self.identity == identity || self.content(name).is_some_and(|(its, _)| its == identity)
    }
}

/// A record as it stands.
pub(super) struct KeyRecord {
    directory: Held,
    file: Held,
    known: Option<BTreeMap<String, Copy>>,
    /// Why it is not known.
    problem: String,
}

/// Without what is in it: there are keys among it.
impl std::fmt::Debug for KeyRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyRecord")
            .field("is_known", &self.is_known())
            .finish_non_exhaustive()
    }
}

/// How a kept file stands beside its record.
pub(super) enum Stands {
    /// As it is recorded. The content is that of the file, or of its copy.
    AsRecorded,
    /// It is not there, or another one, and the copy is whole.
    Restorable {
        /// What is wrong with it.
        problem: String,
        /// The copy.
        copy: Vec<u8>,
    },
    /// It is not there, or another one, and there is no whole copy.
    Lost {
        /// What is wrong with it.
        problem: String,
    },
    /// The record does not have it.
    Unrecorded,
}

impl KeyRecord {
    /// Reads the record at `path`. One that cannot be understood counts as none. Cancel safe.
    ///
    /// # Errors
    /// What the host says.
    pub(super) async fn read(host: &dyn Host, path: &Path) -> ResourceResult<Self> {
        let directory = Held::look(host, path.parent().unwrap_or(path)).await?;
        let (file, content) = Held::read(host, path).await?;
        let parsed = content.parse(|bytes| {
            // The parser's own words could quote what it read.
            let document: Document = serde_json::from_slice(bytes)
                .map_err(|_| "it is damaged or cut short".to_owned())?;
            if document.of != subject(path) {
                return Err(format!("it is that of {}", document.of.escape_debug()));
            }
            if document.version != VERSION {
                return Err(format!("it is of form {}", document.version));
            }
            Ok(document.files)
        });
        let (known, problem) = match parsed {
            None => (None, "missing".to_owned()),
            Some(Ok(files)) => (Some(files), String::new()),
            Some(Err(problem)) => (None, problem),
        };
        Ok(Self {
            directory,
            file,
            known,
            problem,
        })
    }

    /// Whether the host remembers which files it keeps.
    pub(super) fn is_known(&self) -> bool {
        self.known.is_some()
    }

    /// Whether a file with this content is one of those that it has, whatever its name.
    pub(super) fn has(&self, name: &str, content: &Content) -> bool {
        let is = content.parse(|bytes| identity(name, bytes));
        let known = self.known.iter().flat_map(BTreeMap::values);
        matches!(is, Some(Ok(is)) if known.into_iter().any(|its| its.identity == is))
    }

    /// Whether it names a file.
    pub(super) fn names(&self, name: &str) -> bool {
        let mut known = self.known.iter();
        known.any(|files| files.contains_key(name))
    }

    /// How the file of this name stands beside it.
    pub(super) fn judge(&self, name: &str, content: &Content) -> Stands {
        let Some(recorded) = self.known.as_ref().and_then(|files| files.get(name)) else {
            return Stands::Unrecorded;
        };
        let is = content.parse(|bytes| identity(name, bytes));
        let problem = match is {
            Some(Ok(is)) if recorded.is(name, &is) => return Stands::AsRecorded,
            Some(Ok(_)) => format!("another {}", kind(name)),
            Some(Err(problem)) => format!("unreadable: {problem}"),
            None => "missing".to_owned(),
        };
        match recorded.whole(name) {
            Some(copy) => Stands::Restorable { problem, copy },
            None => Stands::Lost { problem },
        }
    }

    /// The copy of a file, if it is whole.
    pub(super) fn copy(&self, name: &str) -> Option<Vec<u8>> {
        self.known.as_ref()?.get(name)?.whole(name)
    }

    /// Notes what differs from the record that these files should have.
    pub(super) fn compare(&self, files: &KeptFiles, differences: &mut Differences) {
        let should = copies(files);
        match &self.known {
            Some(known) if *known == should => {}
            Some(_) => differences.note("copies", "outdated or damaged", "made anew"),
            None => differences.note("record of its keys", &self.problem, "made, with copies"),
        }
        self.directory.compare(differences, DIRECTORY);
        self.file.compare(differences, PRIVATE);
    }

    /// Writes the record of these files, where it is another.
    ///
    /// # Errors
    /// What the host says.
    pub(super) async fn put(
        &self,
        host: &dyn Host,
        files: &KeptFiles,
        receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        self.directory.repair(host, DIRECTORY, receipt).await?;
        let should = copies(files);
        if self.known.as_ref() == Some(&should) {
            return self.file.repair(host, PRIVATE, receipt).await;
        }
        let document = Document {
            version: VERSION,
            of: subject(self.file.path()),
            files: should,
        };
        let json = serde_json::to_vec(&document).expect("texts and numbers can be written");
        self.file.put(host, &json, PRIVATE, receipt).await
    }

    /// Whether there is a file.
    pub(super) fn is_there(&self) -> bool {
        self.file.is_there()
    }

    /// Removes it.
    ///
    /// # Errors
    /// What the host says.
    pub(super) async fn remove(
        &self,
        host: &dyn Host,
        receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        self.file.remove(host, receipt).await
    }
}

/// What the record at this path is of.
fn subject(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default();
    stem.to_string_lossy().into_owned()
}

fn copies(files: &KeptFiles) -> BTreeMap<String, Copy> {
    let copy = |(name, content): (&&str, &Vec<u8>)| ((*name).to_owned(), Copy::of(name, content));
    files.iter().map(copy).collect()
}

/// What tells a kept file apart, in hex. Of a key it is the SHA-256 of its public half (SPKI in DER), so one that is written in
/// another form is the same key. Of a certificate it is the SHA-256 of the whole file, because all that is in it is trusted.
pub(super) fn identity(name: &str, content: &[u8]) -> Result<String, String> {
    if is_key(name) {
        let pair = key::parse(content)?;
        return Ok(content_digest(&pair.subject_public_key_info()));
    }
    super::facts::Certificate::parse("", content)?;
    Ok(content_digest(content))
}

/// Whether a file of this name is a key.
pub(super) fn is_key(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|its| its == "key")
}

fn kind(name: &str) -> &'static str {
    if is_key(name) { "key" } else { "certificate" }
}
