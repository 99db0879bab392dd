//! The state of an authority according to its record or, without a record, to the certificates on disk.

use super::evidence::Evidence;
use super::signer::irreplaceable;
use crate::host::Host;
use crate::resource::pki::authority::files::{
    AuthorityFiles, CERTIFICATE, KEY, NEXT_CERTIFICATE, PREVIOUS,
};
use crate::resource::pki::certificate::facts::Certificate;
use crate::resource::pki::keys::record::{KeptFiles, KeyRecord, RecordMatch};
use crate::resource::pki::stored::Content;
use crate::resource::pki::{Authority, PkiError, authority_paths, authority_record};
use crate::resource::{ResourceError, ResourceResult};

/// The state of an authority.
pub(in crate::resource::pki) enum AuthorityState {
    /// There is no authority, and no record of one.
    Nothing,
    /// A key without a certificate. The key is the only file.
    KeyAlone(KeptFiles),
    /// An authority.
    Whole {
        /// Its files as they should be.
        files: KeptFiles,
        /// Files that are missing or replaced, and what is wrong with each. They are restored.
        lost: Vec<(&'static str, String)>,
        /// Other files in its directory that do not belong to it. They are removed.
        strays: Vec<&'static str>,
    },
}

/// Without the content of its files, which include keys.
impl std::fmt::Debug for AuthorityState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Nothing => "Nothing",
            Self::KeyAlone(_) => "KeyAlone",
            Self::Whole { .. } => "Whole",
        })
    }
}

impl AuthorityState {
    /// The state of the authority of this name.
    ///
    /// # Errors
    /// It is lost or a foreign one, with the remedy; or the host cannot be read.
    pub(in crate::resource::pki) async fn of(
        name: &str,
        files: &AuthorityFiles,
        record: &KeyRecord,
        host: &dyn Host,
    ) -> ResourceResult<Self> {
        if record.names(CERTIFICATE) {
            Self::recorded(name, files, record, host).await
        } else {
            Self::without_record(name, files, host).await
        }
    }

    /// The state according to its record.
    async fn recorded(
        name: &str,
        files: &AuthorityFiles,
        record: &KeyRecord,
        host: &dyn Host,
    ) -> ResourceResult<Self> {
        let (mut wanted, mut lost, mut strays) = (KeptFiles::new(), Vec::new(), Vec::new());
        let mut imported = None;
        for file in crate::resource::pki::authority::files::NAMES {
            let content = files.content(file);
            match record.judge(file, content) {
                RecordMatch::AsRecorded => {
                    let live = || content.bytes().unwrap_or_default().to_vec();
                    wanted.insert(file, record.copy(file).unwrap_or_else(live));
                }
                RecordMatch::Restorable { problem, copy } => {
                    wanted.insert(file, copy);
                    lost.push((file, problem));
                }
                RecordMatch::Lost { problem } => {
                    let problem = format!("it is {problem}, and there is no intact copy of it");
                    return Err(unusable(name, file, &problem));
                }
                RecordMatch::Unrecorded if !files.has(file) => {}
                // The imported key of an authority of which this host had only the certificate.
                RecordMatch::Unrecorded if file == KEY => imported = content.bytes(),
                RecordMatch::Unrecorded => strays.push(file),
            }
        }
        if let Some(key) = imported {
            wanted.insert(KEY, key.to_vec());
        }
        // If the record has the certificate, only the key can be wrong, so the advice is not to make a new authority.
        let with_advice = |error: PkiError| match error {
            PkiError::Precious { problem, .. } if imported.is_some() => PkiError::Precious {
                problem,
                help: format!(
                    "nothing was changed. {} has a copy of the certificate and none of a key. Put the key of this certificate in \
                     place, or move {} away: then this host has the certificate alone, as before",
                    authority_record(name).display(),
                    authority_paths(name).key.display()
                ),
            },
            error => error,
        };
        // Certificate and key have to match; an imported key has not been checked yet.
        let of = |file| {
            let bytes = wanted.get(file).cloned();
            bytes.map_or(Content::Missing, Content::Bytes)
        };
        Authority::from_contents(name, &of(CERTIFICATE), &of(KEY))
            .map_err(|error| at(name, with_advice(error)))?;
        let present = files.content(CERTIFICATE);
        // An interrupted step of a replacement leaves a certificate that the record has under another name.
        if lost.iter().any(|(file, _)| *file == CERTIFICATE) && !record.has(CERTIFICATE, present) {
            Self::is_not_in_use(name, present, host).await?;
        }
        Ok(Self::Whole {
            files: wanted,
            lost,
            strays,
        })
    }

    /// Checks that no certificate on disk belongs to the authority on disk. If one does, the record may be the wrong one: older than the
    /// authority, or of another host, for example after a disk was partly restored.
    async fn is_not_in_use(name: &str, present: &Content, host: &dyn Host) -> ResourceResult<()> {
        let parsed = present.parse(|pem| Certificate::parse("", pem));
        let Some(Ok(present)) = parsed else {
            return Ok(());
        };
        if present.is_authority() && Evidence::gather(host).await?.proves(&present) {
            let (path, record) = (authority_paths(name).certificate, authority_record(name));
            let (path, record) = (path.display(), record.display());
            let error = PkiError::Precious {
                problem: format!(
                    "{path}: certificates on this host belong to this authority, but {record} records another one"
                ),
                help: format!(
                    "nothing was changed. The record has a copy of its authority. If the recorded authority is the right one, move \
                     {path} away: `nodelet apply` then restores the recorded authority, and issues again what the present one signed. \
                     If the present authority is the right one, move {record} away: `nodelet apply` then accepts the present one. Do not \
                     move both away"
                ),
            };
            return Err(at(name, error));
        }
        Ok(())
    }

    /// The state on a host without a record.
    async fn without_record(
        name: &str,
        files: &AuthorityFiles,
        host: &dyn Host,
    ) -> ResourceResult<Self> {
        let authority = Authority::of(name, files).map_err(|error| at(name, error))?;
        let key =
            Authority::parse_key(name, files.content(KEY)).map_err(|error| at(name, error))?;
        let evidence = Evidence::gather(host).await?;
        let trusted = [CERTIFICATE, NEXT_CERTIFICATE, PREVIOUS];
        let mut trusted = trusted.iter().filter_map(|file| {
            let parsed = files
                .content(file)
                .parse(|pem| Certificate::parse("", pem))?;
            parsed.ok()
        });
        let is_in_use = trusted.any(|its| evidence.proves(&its));
        if !is_in_use && evidence.has_orphans() {
            let problem = match authority {
                Some(_) => {
                    "no certificate on this host belongs to this authority, but there are certificates of another one"
                }
                None => {
                    "it is missing, but there are certificates of an authority that is not on this host"
                }
            };
            return Err(unusable(name, CERTIFICATE, problem));
        }
        let adopted = files.adopted();
        Ok(match (authority, key) {
            (Some(_), _) => {
                let strays = files.present();
                let strays = strays.filter(|name| !adopted.contains_key(name)).collect();
                Self::Whole {
                    files: adopted,
                    lost: Vec::new(),
                    strays,
                }
            }
            (None, Some(_)) => {
                let key = files.content(KEY).bytes().unwrap_or_default();
                Self::KeyAlone(KeptFiles::from([(KEY, key.to_vec())]))
            }
            (None, None) => Self::Nothing,
        })
    }
}

fn unusable(name: &str, file: &str, problem: &str) -> ResourceError {
    let path = authority_paths(name).directory.join(file);
    at(name, irreplaceable(name, &path, problem))
}

fn at(name: &str, error: PkiError) -> ResourceError {
    error.at(format!("read authority `{name}`"))
}
