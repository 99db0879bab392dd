//! A certificate authority on this host.
//!
//! `spec` is what a script says of it, and `state` is its state: according to its record, or without a record to what the certificates on
//! disk prove (`evidence`). `files` changes its files to the desired ones, `rotation` has the stages of a replacement, and `signer` is an
//! authority that was read from its files and can verify and sign.
//!
//! Not here: certificates that an authority signs (`certificate`), its paths (`kubernetes::pki::layout`), its record (`keys::record`), and
//! when it is replaced (`exec::kubernetes`). Start with `spec`, then `state`.

pub(in crate::resource::pki) mod evidence;
pub(in crate::resource::pki) mod files;
pub(in crate::resource::pki) mod rotation;
pub(in crate::resource::pki) mod signer;
pub(in crate::resource::pki) mod spec;
pub(in crate::resource::pki) mod state;

use std::path::PathBuf;

use async_trait::async_trait;

use super::{Authority, PkiError, PrivateKey, authority_paths, authority_record};
use crate::host::{Attributes, Host};
use crate::resource::change::Differences;
use crate::resource::pki::authority::files::{
    AuthorityFiles, CERTIFICATE, KEY, NEXT_CERTIFICATE, NEXT_KEY,
};
use crate::resource::pki::authority::spec::AuthoritySpec;
use crate::resource::pki::authority::state::AuthorityState;
use crate::resource::pki::certificate::issue;
use crate::resource::pki::keys;
use crate::resource::pki::keys::record::{KeptFiles, KeyRecord};
use crate::resource::pki::replacement::Replacement;
use crate::resource::pki::stage::Rotation;
use crate::resource::pki::stored::{Content, Stored};
use crate::resource::pki::successor::received::{as_authority, received};
use crate::resource::{Action, Change, Context, Receipt, Resource, ResourceResult};

/// The current state of an authority.
pub struct Observed {
    directory: Stored,
    files: AuthorityFiles,
    record: KeyRecord,
    authority_state: AuthorityState,
    /// The successor from a file, as files; none if the host has it, or makes it itself.
    received: KeptFiles,
}

/// Without the successor, which has a key.
impl std::fmt::Debug for Observed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Observed")
            .field("files", &self.files)
            .field("record", &self.record)
            .field("authority_state", &self.authority_state)
            .finish_non_exhaustive()
    }
}

impl Observed {
    /// The first file that is not as recorded, and what to do about it.
    pub(super) fn problem(&self) -> Option<(&'static str, String)> {
        let AuthorityState::Whole {
            files,
            lost,
            strays,
        } = &self.authority_state
        else {
            return None;
        };
        if let Some((file, problem)) = lost.first() {
            let problem_text =
                format!("it is {problem}; `nodelet apply` restores it from its copy");
            return Some((file, problem_text));
        }
        if let Some(file) = strays.first() {
            let problem_text =
                "it does not belong to this authority; `nodelet apply` removes it".to_owned();
            return Some((file, problem_text));
        }
        (!files.contains_key(KEY)).then(|| {
            let problem_text = "it is missing, and there is no copy of it; restore it from a backup or another master: without it, nothing can be signed";
            (KEY, problem_text.to_owned())
        })
    }
}

/// Mode and owner of the directory of an authority: only for root.
const DIRECTORY: Attributes = Attributes::root(0o700);

#[async_trait]
impl Resource for AuthoritySpec {
    type Observed = Observed;

    fn label(&self) -> String {
        self.name.clone()
    }

    async fn observe(&self, cx: &Context<'_>) -> ResourceResult<Observed> {
        self.validate()
            .map_err(|error| error.at(self.action("plan")))?;
        let directory = Stored::read_entry(cx.host, &authority_paths(&self.name).directory).await?;
        let files = AuthorityFiles::read(cx.host, &self.name).await?;
        let record = KeyRecord::read(cx.host, &authority_record(&self.name)).await?;
        let authority_state = match cx.absent {
            true => AuthorityState::Nothing,
            false => AuthorityState::of(&self.name, &files, &record, cx.host).await?,
        };
        let received = match &authority_state {
            AuthorityState::Whole { files, .. } => self.received(files, cx.host).await?,
            AuthorityState::Nothing | AuthorityState::KeyAlone(_) => KeptFiles::new(),
        };
        Ok(Observed {
            directory,
            files,
            record,
            authority_state,
            received,
        })
    }

    fn diff(&self, observed: &Observed, absent: bool) -> Option<Change> {
        let (files, record) = (&observed.files, &observed.record);
        if absent {
            let there = files.all().any(Stored::is_there) || record.is_there();
            return there.then(|| Change::new(Action::Remove));
        }
        let mut differences = Differences::default();
        let describe = |differences: &mut Differences| {
            differences.note("common name", "", &self.common_name);
            differences.note("valid for", "", format!("{} years", self.years));
        };
        match &observed.authority_state {
            AuthorityState::Nothing => {
                describe(&mut differences);
                return differences.into_change(Action::Create);
            }
            AuthorityState::KeyAlone(key) => {
                describe(&mut differences);
                differences.note("certificate", "missing", "made for the key that is there");
                Self::compare_modes(observed, key, &mut differences);
            }
            AuthorityState::Whole {
                files,
                lost,
                strays,
            } => {
                for (name, problem) in lost {
                    differences.note(name, problem, "restored from its copy");
                }
                for name in strays {
                    differences.note(name, "not of this authority", "removed");
                }
                record.compare(files, &mut differences);
                Self::compare_modes(observed, files, &mut differences);
                let step = self.step(&observed.received);
                rotation::note(step, files, &mut differences);
            }
        }
        differences.into_change(Action::Change)
    }

    async fn converge(
        &self,
        observed: &Observed,
        cx: &Context<'_>,
        receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        let (files, record) = (&observed.files, &observed.record);
        if cx.absent {
            files.align(cx.host, &KeptFiles::new(), receipt).await?;
            return record.remove(cx.host, receipt).await;
        }
        let failed = |error: PkiError| error.at(self.action("make"));
        let wanted = match &observed.authority_state {
            AuthorityState::Nothing => self.made(None, cx.host).map_err(failed)?,
            AuthorityState::KeyAlone(key) => self.made(key.get(KEY), cx.host).map_err(failed)?,
            AuthorityState::Whole { files, .. } => {
                let received = observed.received.clone();
                rotation::after(self, files.clone(), received, cx.host.now())
                    .map_err(|error| error.at(self.action("replace")))?
            }
        };
        observed
            .directory
            .repair(cx.host, DIRECTORY, receipt)
            .await?;
        // The record first: after an interruption between the two, the next run restores the files from it.
        record.put(cx.host, &wanted, receipt).await?;
        files.align(cx.host, &wanted, receipt).await
    }

    fn paths(&self) -> Vec<PathBuf> {
        vec![authority_paths(&self.name).certificate]
    }
}

impl AuthoritySpec {
    /// Notes modes and owners that differ.
    fn compare_modes(observed: &Observed, wanted: &KeptFiles, differences: &mut Differences) {
        observed.directory.compare(differences, DIRECTORY);
        for (file, attributes) in observed.files.attributes(wanted) {
            file.compare(differences, attributes);
        }
    }

    /// The successor in the file that another master has sent, if this step takes one.
    async fn received(&self, files: &KeptFiles, host: &dyn Host) -> ResourceResult<KeptFiles> {
        let (Some(sent), Some(Rotation::Begin)) = (&self.successor, self.rotation) else {
            return Ok(KeptFiles::new());
        };
        let read = Authority::of_kept(&self.name, files);
        let read = read.map_err(|error| error.at(self.action("read")))?;
        let Some(present) = read.as_ref().and_then(Replacement::of_authority) else {
            return Ok(KeptFiles::new());
        };
        let Some(file) = received(host, sent, &self.name, &present).await? else {
            return Ok(KeptFiles::new());
        };
        let (certificate, key) = as_authority(&sent.path, &file, host)?;
        Ok(KeptFiles::from([
            (NEXT_CERTIFICATE, certificate),
            (NEXT_KEY, key),
        ]))
    }

    /// The step to carry out: none if this host has the successor in the file already.
    fn step(&self, received: &KeptFiles) -> Option<Rotation> {
        let takes = self.rotation == Some(Rotation::Begin) && self.successor.is_some();
        self.rotation.filter(|_| !takes || !received.is_empty())
    }

    /// A new authority, with this key if there is one.
    fn made(&self, key: Option<&Vec<u8>>, host: &dyn Host) -> Result<KeptFiles, PkiError> {
        let present = key.map_or(Content::Missing, |pem| Content::Bytes(pem.clone()));
        let pair = match Authority::parse_key(&self.name, &present)? {
            Some(pair) => pair,
            None => keys::generate()?,
        };
        let certificate = issue::self_signed(self, &pair, host.now())?;
        let pem = match present {
            Content::Bytes(bytes) => bytes,
            _ => PrivateKey::from(&pair).expose_pem().as_bytes().to_vec(),
        };
        Ok(KeptFiles::from([
            (KEY, pem),
            (CERTIFICATE, certificate.into_bytes()),
        ]))
    }

    fn action(&self, verb: &str) -> String {
        format!("{verb} authority `{}`", self.name)
    }
}
