//! Records: which keys and authorities this host has, and a copy of each.
//!
//! The content of a key does not show whether it is the original or a replacement. So the host records which one it has: for
//! each authority and for the service-account key there is one file below the engine's state
//! ([`RECORDS`](crate::model::RECORDS), for root only), with the identity and a copy of each recorded file. The record is written
//! before the files themselves. So after an interrupted run the next run restores the files from the copies, and every key that
//! signs has a record.
//!
//! A record is written by the resource whose files it names, in its converge and with an undo, like any other file. So a dry run
//! predicts it, a rollback and a clean keep it if the key is kept, and a purge removes it with the key.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::PublicKeyData as _;
use serde::{Deserialize, Serialize};

use crate::host::{Attributes, Host};
use crate::resource::change::{Differences, content_digest};
use crate::resource::files::file::PRIVATE;
use crate::resource::pki::keys;
use crate::resource::pki::stored::{Content, Stored};
use crate::resource::{Receipt, ResourceResult};

/// Version of the file's format. Another version is not accepted.
const VERSION: u32 = 1;

/// Mode and owner of the directory of the records: only for root.
const DIRECTORY: Attributes = Attributes::root(0o700);

/// Name and desired content of each recorded file of an authority or key. Has no `Debug`, because it contains keys.
pub(in crate::resource::pki) type KeptFiles = BTreeMap<&'static str, Vec<u8>>;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordFile {
    version: u32,
    /// The name of the record's own file. A record that was copied to another record's path is ignored.
    of: String,
    files: BTreeMap<String, Copy>,
}

/// What is recorded of one file.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Copy {
    /// Identity of the file, see [`identity`].
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

    /// Identity and content of the copy.
    fn content(&self, name: &str) -> Option<(String, Vec<u8>)> {
        let content = STANDARD.decode(&self.content).ok()?;
        Some((identity(name, &content).ok()?, content))
    }

    /// The content of the copy, if its identity is the recorded one.
    fn intact_copy(&self, name: &str) -> Option<Vec<u8>> {
        let (is, content) = self.content(name)?;
        (is == self.identity).then_some(content)
    }

    /// Whether a file is the recorded one. If the recorded identity or the copy is damaged, the other of the two is enough.
    fn is(&self, name: &str, identity: &str) -> bool {
        self.identity == identity || self.content(name).is_some_and(|(its, _)| its == identity)
    }
}

/// The current state of a record.
pub(in crate::resource::pki) struct KeyRecord {
    directory: Stored,
    file: Stored,
    known: Option<BTreeMap<String, Copy>>,
    /// Why `known` is `None`.
    problem: String,
}

/// Without its content, which contains keys.
impl std::fmt::Debug for KeyRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyRecord")
            .field("is_known", &self.is_known())
            .finish_non_exhaustive()
    }
}

/// The state of a file compared with its record.
pub(in crate::resource::pki) enum RecordMatch {
    /// The file is as recorded.
    AsRecorded,
    /// It is missing or another one, and the copy is intact.
    Restorable {
        /// What is wrong with it.
        problem: String,
        /// The copy.
        copy: Vec<u8>,
    },
    /// It is missing or another one, and there is no intact copy.
    Lost {
        /// What is wrong with it.
        problem: String,
    },
    /// It is not in the record.
    Unrecorded,
}

impl KeyRecord {
    /// Reads the record at `path`. A record that cannot be parsed counts as missing. Cancel safe.
    ///
    /// # Errors
    /// An operation of the host failed.
    pub(in crate::resource::pki) async fn read(
        host: &dyn Host,
        path: &Path,
    ) -> ResourceResult<Self> {
        let directory = Stored::read_entry(host, path.parent().unwrap_or(path)).await?;
        let (file, content) = Stored::read(host, path).await?;
        let parsed = content.parse(|bytes| {
            // The parser's own error text could quote a key.
            let file: RecordFile = serde_json::from_slice(bytes)
                .map_err(|_| "it is damaged or cut short".to_owned())?;
            if file.of != subject(path) {
                return Err(format!("it belongs to {}", file.of.escape_debug()));
            }
            if file.version != VERSION {
                return Err(format!("its version is {}", file.version));
            }
            Ok(file.files)
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

    /// Whether there is a valid record.
    pub(in crate::resource::pki) fn is_known(&self) -> bool {
        self.known.is_some()
    }

    /// Whether a file with this content is in the record under any name.
    pub(in crate::resource::pki) fn has(&self, name: &str, content: &Content) -> bool {
        let is = content.parse(|bytes| identity(name, bytes));
        let known = self.known.iter().flat_map(BTreeMap::values);
        matches!(is, Some(Ok(is)) if known.into_iter().any(|its| its.identity == is))
    }

    /// Whether the record contains a file of this name.
    pub(in crate::resource::pki) fn names(&self, name: &str) -> bool {
        let mut known = self.known.iter();
        known.any(|files| files.contains_key(name))
    }

    /// Compares the file of this name with the record.
    pub(in crate::resource::pki) fn judge(&self, name: &str, content: &Content) -> RecordMatch {
        let Some(recorded) = self.known.as_ref().and_then(|files| files.get(name)) else {
            return RecordMatch::Unrecorded;
        };
        let is = content.parse(|bytes| identity(name, bytes));
        let problem = match is {
            Some(Ok(is)) if recorded.is(name, &is) => return RecordMatch::AsRecorded,
            Some(Ok(_)) => format!("another {}", kind(name)),
            Some(Err(problem)) => format!("unreadable: {problem}"),
            None => "missing".to_owned(),
        };
        match recorded.intact_copy(name) {
            Some(copy) => RecordMatch::Restorable { problem, copy },
            None => RecordMatch::Lost { problem },
        }
    }

    /// The copy of a file, if it is intact.
    pub(in crate::resource::pki) fn copy(&self, name: &str) -> Option<Vec<u8>> {
        self.known.as_ref()?.get(name)?.intact_copy(name)
    }

    /// Notes how the record differs from the one that these files should have.
    pub(in crate::resource::pki) fn compare(
        &self,
        files: &KeptFiles,
        differences: &mut Differences,
    ) {
        let should = copies(files);
        match &self.known {
            Some(known) if *known == should => {}
            Some(_) => differences.note("copies", "outdated or damaged", "made anew"),
            None => differences.note("record of its keys", &self.problem, "made, with copies"),
        }
        self.directory.compare(differences, DIRECTORY);
        self.file.compare(differences, PRIVATE);
    }

    /// Writes the record of these files, if it differs.
    ///
    /// # Errors
    /// An operation of the host failed.
    pub(in crate::resource::pki) async fn put(
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
        let file = RecordFile {
            version: VERSION,
            of: subject(self.file.path()),
            files: should,
        };
        let json = serde_json::to_vec(&file).expect("texts and numbers can be written");
        self.file.put(host, &json, PRIVATE, receipt).await
    }

    /// Whether the file of the record exists.
    pub(in crate::resource::pki) fn is_there(&self) -> bool {
        self.file.is_there()
    }

    /// Removes the record.
    ///
    /// # Errors
    /// An operation of the host failed.
    pub(in crate::resource::pki) async fn remove(
        &self,
        host: &dyn Host,
        receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        self.file.remove(host, receipt).await
    }
}

/// The subject of the record at this path.
fn subject(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default();
    stem.to_string_lossy().into_owned()
}

fn copies(files: &KeptFiles) -> BTreeMap<String, Copy> {
    let copy = |(name, content): (&&str, &Vec<u8>)| ((*name).to_owned(), Copy::of(name, content));
    files.iter().map(copy).collect()
}

/// Identity of a file, in hex. For a key it is the SHA-256 of its public half (SPKI in DER), so the same key in another form has the
/// same identity. For a certificate it is the SHA-256 of the whole file, because every certificate in the file is trusted.
pub(in crate::resource::pki) fn identity(name: &str, content: &[u8]) -> Result<String, String> {
    if is_key(name) {
        let pair = keys::parse(content)?;
        return Ok(content_digest(&pair.subject_public_key_info()));
    }
    crate::resource::pki::certificate::facts::Certificate::parse("", content)?;
    Ok(content_digest(content))
}

/// Whether a file of this name is a key.
pub(in crate::resource::pki) fn is_key(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|its| its == "key")
}

fn kind(name: &str) -> &'static str {
    if is_key(name) { "key" } else { "certificate" }
}
