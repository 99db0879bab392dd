//! The keys that this host has, and what it lacks of those in a join file.

use crate::host::Host;
use crate::kubernetes::join_file::{AuthorityPem, MASTER_AUTHORITIES, MasterJoinFile};
use crate::resource::files::file::PRIVATE;
use crate::resource::pki::authority::files::{AuthorityFiles, CERTIFICATE, KEY};
use crate::resource::pki::authority::state::AuthorityState;
use crate::resource::pki::certificate::facts::Certificate;
use crate::resource::pki::certificate::spec::CLUSTER;
use crate::resource::pki::join::trust;
use crate::resource::pki::keys::record::{KeptFiles, KeyRecord, identity};
use crate::resource::pki::keys::{encryption, service_account};
use crate::resource::pki::stored::Stored;
use crate::resource::pki::{authority_record, service_account_record};
use crate::resource::{Receipt, ResourceResult};

/// The keys of this host. Has no `Debug`, because it contains keys.
pub(super) struct Present {
    authorities: Vec<(&'static str, KeyRecord, KeptFiles)>,
    service_account: (KeyRecord, Option<Vec<u8>>),
    encryption: (Stored, Option<String>),
}

/// A record that this host lacks. Has no `Debug`, because it contains keys.
pub(super) struct Lacking {
    /// What it is, for a report.
    pub(super) name: String,
    /// What identifies it, for a report. It shows no key.
    pub(super) shown: String,
    record: Record,
}

enum Record {
    Keys(KeyRecord, KeptFiles),
    Encryption(Stored, String),
}

impl Lacking {
    /// Writes the record.
    ///
    /// # Errors
    /// An operation of the host failed.
    pub(super) async fn put(
        &self,
        host: &dyn Host,
        receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        match &self.record {
            Record::Keys(record, files) => record.put(host, files, receipt).await,
            Record::Encryption(file, text) => {
                file.put(host, text.as_bytes(), PRIVATE, receipt).await
            }
        }
    }
}

impl Present {
    /// Reads what the host has. Cancel safe.
    ///
    /// # Errors
    /// A key or authority is lost or a foreign one, with the remedy; or the host cannot be read.
    pub(super) async fn read(host: &dyn Host) -> ResourceResult<Self> {
        let mut authorities = Vec::new();
        for name in MASTER_AUTHORITIES {
            let files = AuthorityFiles::read(host, name).await?;
            let record = KeyRecord::read(host, &authority_record(name)).await?;
            let kept = match AuthorityState::of(name, &files, &record, host).await? {
                AuthorityState::Nothing => KeptFiles::new(),
                AuthorityState::KeyAlone(files) | AuthorityState::Whole { files, .. } => files,
            };
            authorities.push((name, record, kept));
        }
        let record = KeyRecord::read(host, &service_account_record()).await?;
        let (file, _) = Stored::read(host, &encryption::encryption_record()).await?;
        Ok(Self {
            authorities,
            service_account: (record, service_account::present(host).await?),
            encryption: (file, encryption::present(host).await?),
        })
    }

    /// Whether the host can sign as the cluster. The record of this authority is written last, so then all others were written, too.
    pub(super) fn has_joined(&self) -> bool {
        let mut all = self.authorities.iter();
        all.any(|(name, _, files)| {
            *name == CLUSTER && files.contains_key(CERTIFICATE) && files.contains_key(KEY)
        })
    }

    /// What the host lacks, in the order in which it is to be written.
    ///
    /// # Errors
    /// What the host has and the file has differently.
    pub(super) fn lacking(self, file: &MasterJoinFile) -> Result<Vec<Lacking>, String> {
        let mut all = Vec::new();
        let (record, text) = self.encryption;
        match text {
            Some(text) if text == file.encryption_keys => {}
            Some(_) => return Err("the encryption keys".to_owned()),
            None => all.push(Lacking {
                name: "encryption keys".to_owned(),
                shown: encryption::ids_in(&file.encryption_keys)?.join(", "),
                record: Record::Encryption(record, file.encryption_keys.clone()),
            }),
        }
        let (record, key) = self.service_account;
        let its = file.service_account_key.as_bytes();
        match key {
            Some(key) if is_same_key(&key, its) => {}
            Some(_) => return Err("the service-account key".to_owned()),
            None => all.push(Lacking {
                name: "service-account key".to_owned(),
                shown: "of the join file".to_owned(),
                record: Record::Keys(
                    record,
                    KeptFiles::from([(service_account::KEY, its.to_vec())]),
                ),
            }),
        }
        // The cluster's authority comes last: it tells that the host has joined.
        for (name, record, present) in self.authorities.into_iter().rev() {
            let Some(pem) = file.authorities.get(name) else {
                continue;
            };
            if let Some(files) = lacking_files(name, present, pem)? {
                all.push(Lacking {
                    name: format!("authority {name}"),
                    shown: trust::named(&files),
                    record: Record::Keys(record, files),
                });
            }
        }
        Ok(all)
    }
}

/// The authority as the files that a host has of it.
pub(super) fn files(pem: &AuthorityPem) -> KeptFiles {
    KeptFiles::from([
        (CERTIFICATE, pem.certificate.clone().into_bytes()),
        (KEY, pem.key.clone().into_bytes()),
    ])
}

/// The files to record of an authority; `None` if the host has it. A worker that becomes a master has the certificate alone: it stays, in
/// its own form.
fn lacking_files(
    name: &str,
    mut present: KeptFiles,
    pem: &AuthorityPem,
) -> Result<Option<KeptFiles>, String> {
    let mut wanted = files(pem);
    let der = |pem: &[u8]| Certificate::parse("", pem).map(|its| its.der);
    let certificate = present.remove(CERTIFICATE);
    let has_certificate = match &certificate {
        Some(its) if der(its) == der(pem.certificate.as_bytes()) => true,
        Some(_) => return Err(format!("authority `{name}`")),
        None => false,
    };
    let has_key = match present.get(KEY) {
        Some(its) if is_same_key(its, pem.key.as_bytes()) => true,
        Some(_) => return Err(format!("the key of authority `{name}`")),
        None => false,
    };
    if has_certificate && has_key {
        return Ok(None);
    }
    wanted.extend(certificate.map(|its| (CERTIFICATE, its)));
    Ok(Some(wanted))
}

/// Whether both are the same key, also if their forms differ.
fn is_same_key(one: &[u8], other: &[u8]) -> bool {
    matches!((identity(KEY, one), identity(KEY, other)), (Ok(one), Ok(other)) if one == other)
}
