//! The current files of an authority, and how they are changed to the desired files.

use std::collections::BTreeMap;

use super::rotation::stage_of;
use super::signer;
use crate::host::{Attributes, Host};
use crate::resource::files::file::PRIVATE;
use crate::resource::pki::keys::record::{KeptFiles, KeyRecord, RecordMatch, identity, is_key};
use crate::resource::pki::stage::Stage;
use crate::resource::pki::stored::{Content, PUBLIC, Stored};
use crate::resource::pki::{PkiError, authority_paths};
use crate::resource::{Receipt, ResourceResult};

/// Its certificate.
pub(in crate::resource::pki) const CERTIFICATE: &str = "ca.crt";
/// Its key.
pub(in crate::resource::pki) const KEY: &str = "ca.key";
/// The certificate of a successor that is trusted and does not sign yet.
pub(in crate::resource::pki) const NEXT_CERTIFICATE: &str = "next.crt";
/// The key of that successor.
pub(in crate::resource::pki) const NEXT_KEY: &str = "next.key";
/// The certificate of a predecessor that is still trusted.
pub(in crate::resource::pki) const PREVIOUS: &str = "previous.crt";

/// All files, in the order in which they are written: `previous.crt` first, so that the predecessor stays trusted; each key before its
/// certificate.
pub(in crate::resource::pki) const NAMES: [&str; 5] =
    [PREVIOUS, KEY, CERTIFICATE, NEXT_KEY, NEXT_CERTIFICATE];

/// The files of an authority, with their content.
pub(in crate::resource::pki) struct AuthorityFiles(BTreeMap<&'static str, (Stored, Content)>);

/// Without their content.
impl std::fmt::Debug for AuthorityFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.present()).finish()
    }
}

impl AuthorityFiles {
    /// Reads the files. Cancel safe.
    pub(in crate::resource::pki) async fn read(
        host: &dyn Host,
        name: &str,
    ) -> ResourceResult<Self> {
        let directory = authority_paths(name).directory;
        let mut files = BTreeMap::new();
        for name in NAMES {
            files.insert(name, Stored::read(host, &directory.join(name)).await?);
        }
        Ok(Self(files))
    }

    /// The content of a file.
    pub(in crate::resource::pki) fn content(&self, name: &str) -> &Content {
        self.0
            .get(name)
            .map_or(&Content::Missing, |(_, content)| content)
    }

    /// Whether a file exists.
    pub(in crate::resource::pki) fn has(&self, name: &str) -> bool {
        !matches!(self.content(name), Content::Missing)
    }

    /// The names of the files that exist.
    pub(in crate::resource::pki) fn present(&self) -> impl Iterator<Item = &'static str> {
        NAMES.into_iter().filter(|name| self.has(name))
    }

    /// The stage of the authority's replacement.
    pub(in crate::resource::pki) fn stage(&self) -> Stage {
        stage_of(|name| self.has(name))
    }

    /// Certificate and key of the authority that signs. On a host without a record, a switch may have been interrupted: as soon as
    /// `previous.crt` exists, the successor signs.
    pub(in crate::resource::pki) fn signer(&self) -> (&Content, &Content) {
        if !self.is_cut() {
            return (self.content(CERTIFICATE), self.content(KEY));
        }
        let key = match self.content(NEXT_KEY) {
            // The successor's key has already been moved to `ca.key`.
            Content::Missing => self.content(KEY),
            next => next,
        };
        (self.content(NEXT_CERTIFICATE), key)
    }

    /// The other trusted certificate: the successor's or the predecessor's.
    pub(in crate::resource::pki) fn other(&self) -> &Content {
        match self.stage() {
            Stage::Switched => self.content(PREVIOUS),
            Stage::Begun | Stage::Settled => self.content(NEXT_CERTIFICATE),
        }
    }

    /// The files to record on a host without a record. An interrupted switch is completed; a successor's key without its certificate is
    /// left out.
    pub(in crate::resource::pki) fn adopted(&self) -> KeptFiles {
        let (certificate, key) = self.signer();
        let mut all = vec![
            (CERTIFICATE, certificate),
            (KEY, key),
            (PREVIOUS, self.content(PREVIOUS)),
        ];
        if self.stage() == Stage::Begun {
            all.push((NEXT_CERTIFICATE, self.content(NEXT_CERTIFICATE)));
            all.push((NEXT_KEY, self.content(NEXT_KEY)));
        }
        let bytes = |(name, content): (_, &Content)| Some((name, content.bytes()?.to_vec()));
        all.into_iter().filter_map(bytes).collect()
    }

    /// Only the recorded files: a key that is not recorded does not sign, and a certificate that is not recorded is not trusted.
    ///
    /// # Errors
    /// A recorded certificate is missing or another one.
    pub(in crate::resource::pki) fn only_recorded(
        mut self,
        name: &str,
        record: &KeyRecord,
    ) -> Result<Self, PkiError> {
        for (file, (_, content)) in &mut self.0 {
            let path = authority_paths(name).directory.join(*file);
            match record.judge(file, content) {
                RecordMatch::AsRecorded => continue,
                RecordMatch::Restorable { problem, .. } if !is_key(file) => {
                    return Err(PkiError::Precious {
                        problem: format!("{}: it is {problem}", path.display()),
                        help: "`nodelet apply` restores it from its copy".to_owned(),
                    });
                }
                RecordMatch::Lost { problem } if !is_key(file) => {
                    return Err(signer::irreplaceable(
                        name,
                        &path,
                        &format!("it is {problem}"),
                    ));
                }
                _ => *content = Content::Missing,
            }
        }
        Ok(self)
    }

    /// All files.
    pub(in crate::resource::pki) fn all(&self) -> impl Iterator<Item = &Stored> {
        self.0.values().map(|(stored, _)| stored)
    }

    /// The desired mode and owner of each wanted file.
    pub(in crate::resource::pki) fn attributes<'f>(
        &'f self,
        wanted: &'f KeptFiles,
    ) -> impl Iterator<Item = (&'f Stored, Attributes)> {
        let its = self.0.iter().filter(|(name, _)| wanted.contains_key(*name));
        its.map(|(name, (stored, _))| (stored, attributes(name)))
    }

    /// Writes the wanted files that differ, and removes the other files.
    ///
    /// # Errors
    /// An operation of the host failed.
    pub(in crate::resource::pki) async fn align(
        &self,
        host: &dyn Host,
        wanted: &KeptFiles,
        receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        for name in NAMES {
            let (Some((stored, content)), Some(bytes)) = (self.0.get(name), wanted.get(name))
            else {
                continue;
            };
            if is_same(name, content, bytes) {
                stored.repair(host, attributes(name), receipt).await?;
            } else {
                stored.put(host, bytes, attributes(name), receipt).await?;
            }
        }
        for (name, (stored, _)) in &self.0 {
            if !wanted.contains_key(name) {
                stored.remove(host, receipt).await?;
            }
        }
        Ok(())
    }

    fn is_cut(&self) -> bool {
        self.has(NEXT_CERTIFICATE) && self.has(PREVIOUS)
    }
}

/// Whether content and `wanted` are the same key or certificate. The same key in another form counts as the same.
fn is_same(name: &str, content: &Content, wanted: &[u8]) -> bool {
    let is = content.parse(|bytes| identity(name, bytes));
    matches!((is, identity(name, wanted)), (Some(Ok(is)), Ok(should)) if is == should)
}

fn attributes(name: &str) -> Attributes {
    if is_key(name) { PRIVATE } else { PUBLIC }
}
