//! Encryption keys that were replaced. Older backups need them.
//!
//! Each key has a file in `ca/encryption/retired` with the key's name, and a second copy in one file beside the records of the other
//! keys. A key's name contains a digest of it, so a damaged or exchanged copy is noticed, and is written again from the other one.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::encryption::Key;
use crate::host::Host;
use crate::model::RECORDS;
use crate::resource::change::Differences;
use crate::resource::files::file::PRIVATE;
use crate::resource::pki::BASE;
use crate::resource::pki::stored::{Content, Stored};
use crate::resource::{Receipt, ResourceResult};

/// A key with its name. Has no `Debug`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::resource::pki) struct Named {
    pub(in crate::resource::pki) name: String,
    pub(in crate::resource::pki) secret: String,
}

/// The current state of the retired keys. Has no `Debug`.
pub(in crate::resource::pki) struct Retired {
    /// One file for each key, in the order of their names.
    files: Vec<(String, Stored, Content)>,
    /// The file with the second copies.
    record: (Stored, Content),
    /// The keys that have a valid copy.
    keys: Vec<Key>,
}

impl Retired {
    /// Reads the files. Cancel safe.
    pub(in crate::resource::pki) async fn observe(host: &dyn Host) -> ResourceResult<Self> {
        let directory = directory();
        let record = Path::new(RECORDS).join("encryption-retired.json");
        let record = Stored::read(host, &record).await?;
        let mut keys = recorded(&record.1);
        let mut names = host.list(&directory).await?;
        names.extend(keys.iter().map(Key::id));
        names.sort_unstable();
        names.dedup();
        let mut files = Vec::new();
        for name in names {
            let (stored, content) = Stored::read(host, &directory.join(&name)).await?;
            if let Some(Ok(key)) = content.parse(|text| parse(&name, text))
                && !keys.contains(&key)
            {
                keys.push(key);
            }
            files.push((name, stored, content));
        }
        Ok(Self {
            files,
            record,
            keys,
        })
    }

    /// Whether any of their files exists.
    pub(in crate::resource::pki) fn are_there(&self) -> bool {
        self.record.0.is_there() || self.files.iter().any(|(_, file, _)| file.is_there())
    }

    /// Notes the files that a converge would write again.
    pub(in crate::resource::pki) fn compare(&self, differences: &mut Differences) {
        for (name, file, content) in &self.files {
            if let Some(key) = self.key(name) {
                if content.bytes() != Some(text(key).as_bytes()) {
                    differences.note(
                        &format!("retired key {name}"),
                        said(content),
                        "from its copy",
                    );
                }
                file.compare(differences, PRIVATE);
            }
        }
        if let Some(wanted) = self.wanted_record() {
            let (file, content) = &self.record;
            if content.bytes() != Some(&wanted) {
                differences.note(
                    "copies of retired keys",
                    said(content),
                    "from the retired keys",
                );
            }
            file.compare(differences, PRIVATE);
        }
    }

    /// What is wrong with a copy, and what to do about it.
    pub(in crate::resource::pki) fn problem(&self) -> Option<String> {
        for (name, file, content) in &self.files {
            let path = file.path().display();
            match self.key(name) {
                None => {
                    return Some(format!(
                        "{path}: it is not the key of this name, and there is no copy; put the right file back, or remove it if no backup needs it"
                    ));
                }
                Some(key) if content.bytes() != Some(text(key).as_bytes()) => {
                    return Some(format!(
                        "{path}: it is {}; `nodelet apply` restores it from its copy",
                        said(content)
                    ));
                }
                Some(_) => {}
            }
        }
        let (file, content) = &self.record;
        let wanted = self.wanted_record()?;
        (content.bytes() != Some(&wanted)).then(|| {
            format!(
                "{}: it is {}; `nodelet apply` writes it from the retired keys",
                file.path().display(),
                said(content)
            )
        })
    }

    /// Writes the files that [`Retired::compare`] notes, and the key `added`. A file that is not a key is left as it is.
    pub(in crate::resource::pki) async fn converge(
        &self,
        host: &dyn Host,
        added: Option<Key>,
        receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        let mut keys: Vec<&Key> = self.keys.iter().collect();
        if let Some(key) = added.as_ref().filter(|key| !self.keys.contains(key)) {
            let (file, content) = Stored::read(host, &directory().join(key.id())).await?;
            put(&file, &content, text(key).as_bytes(), host, receipt).await?;
            keys.push(key);
        }
        for (name, file, content) in &self.files {
            if let Some(key) = self.key(name) {
                put(file, content, text(key).as_bytes(), host, receipt).await?;
            }
        }
        if let Some(wanted) = record_of(keys) {
            let (file, content) = &self.record;
            put(file, content, &wanted, host, receipt).await?;
        }
        Ok(())
    }

    /// Removes all their files.
    pub(in crate::resource::pki) async fn remove(
        &self,
        host: &dyn Host,
        receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        for (_, file, _) in &self.files {
            file.remove(host, receipt).await?;
        }
        self.record.0.remove(host, receipt).await
    }

    fn key(&self, name: &str) -> Option<&Key> {
        self.keys.iter().find(|key| key.id() == name)
    }

    fn wanted_record(&self) -> Option<Vec<u8>> {
        record_of(self.keys.iter().collect())
    }
}

fn directory() -> PathBuf {
    Path::new(BASE).join("ca/encryption/retired")
}

/// The content of the file with the second copies; `None` if no key was retired.
fn record_of(mut keys: Vec<&Key>) -> Option<Vec<u8>> {
    keys.sort_unstable_by_key(|key| key.id());
    let named: Vec<Named> = keys.into_iter().map(Key::named).collect();
    (!named.is_empty()).then(|| serde_json::to_vec(&named).expect("texts are JSON"))
}

/// The valid keys in the file with the second copies.
fn recorded(content: &Content) -> Vec<Key> {
    let named: Vec<Named> = content
        .bytes()
        .and_then(|text| serde_json::from_slice(text).ok())
        .unwrap_or_default();
    let mut keys: Vec<Key> = Vec::new();
    for key in named.iter().filter_map(|named| Key::read(named).ok()) {
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    keys
}

/// The error text is our own, because the text of a parser could quote a key.
fn parse(name: &str, text: &[u8]) -> Result<Key, String> {
    let secret = String::from_utf8(text.to_vec()).map_err(|_| "it is not text".to_owned())?;
    Key::read(&Named {
        name: name.to_owned(),
        secret: secret.trim_end().to_owned(),
    })
}

fn text(key: &Key) -> String {
    format!("{}\n", key.encoded())
}

fn said(content: &Content) -> &'static str {
    match content {
        Content::Missing => "missing",
        _ => "damaged, or of other keys",
    }
}

async fn put(
    file: &Stored,
    content: &Content,
    wanted: &[u8],
    host: &dyn Host,
    receipt: &mut Receipt<'_>,
) -> ResourceResult<()> {
    if content.bytes() == Some(wanted) {
        file.repair(host, PRIVATE, receipt).await
    } else {
        file.put(host, wanted, PRIVATE, receipt).await
    }
}
