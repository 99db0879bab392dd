//! A certificate authority on this host.

use std::path::PathBuf;
use std::time::SystemTime;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::held::{Content, Held, PUBLIC};
use super::rotation::{self, Files, Rotation};
use super::{Authority, PkiError, PrivateKey, authority_paths, issue, key, validate};
use crate::host::{Attributes, Host};
use crate::resource::change::Differences;
use crate::resource::file::PRIVATE;
use crate::resource::{Action, Change, Context, Receipt, Resource, ResourceResult};

/// A certificate authority. It is made where there is none, and replaced step by step where that is asked for
/// ([`Rotation`]) alone: an unreadable one is an error that
/// says what to do. A certificate without its key (as a worker has it) is left as it is; a key without a
/// certificate (a crash between the two) gets a certificate, for nothing can have been signed with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthoritySpec {
    /// `cluster`, `etcd` or `front-proxy`.
    pub name: String,
    /// Common name of its certificate.
    pub common_name: String,
    /// How long it is valid.
    pub years: u32,
    /// What is to be done to replace it; a plan that a script made says nothing of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<Rotation>,
}

/// An authority as it stands.
#[derive(Debug)]
pub struct Observed {
    absent: bool,
    directory: Held,
    files: Files,
    has_certificate: bool,
}

/// Only root enters the directory of an authority.
const DIRECTORY: Attributes = Attributes::root(0o700);

impl AuthoritySpec {
    /// Whether the specification can stand.
    ///
    /// # Errors
    /// The field that cannot, and why.
    pub fn validate(&self) -> Result<(), PkiError> {
        validate::component("name", &self.name)?;
        validate::name("common_name", &self.common_name)?;
        validate::years("years", self.years)
    }
}

#[async_trait]
impl Resource for AuthoritySpec {
    type Observed = Observed;

    fn label(&self) -> String {
        self.name.clone()
    }

    async fn observe(&self, cx: &Context<'_>) -> ResourceResult<Observed> {
        self.validate()
            .map_err(|error| error.at(self.action("plan")))?;
        let directory = Held::look(cx.host, &authority_paths(&self.name).directory).await?;
        let files = Files::read(cx.host, &self.name).await?;
        let has_certificate = !cx.absent
            && Authority::of(&self.name, &files)
                .map_err(|error| error.at(self.action("read")))?
                .is_some();
        Ok(Observed {
            absent: cx.absent,
            directory,
            files,
            has_certificate,
        })
    }

    fn diff(&self, observed: &Observed) -> Option<Change> {
        let files = &observed.files;
        if observed.absent {
            let there = files.all().iter().any(|(file, _)| file.is_there());
            return there.then(|| Change::new(Action::Remove));
        }
        let mut differences = Differences::default();
        if !observed.has_certificate {
            differences.note("common name", "", &self.common_name);
            differences.note("valid for", "", format!("{} years", self.years));
            if !files.key.0.is_there() {
                return differences.into_change(Action::Create);
            }
            differences.note("certificate", "missing", "made for the key that is there");
        }
        observed.directory.compare(&mut differences, DIRECTORY);
        for (file, attributes) in files.all() {
            file.compare(&mut differences, attributes);
        }
        rotation::note(self.rotation, files, &mut differences);
        differences.into_change(Action::Change)
    }

    async fn converge(
        &self,
        observed: &Observed,
        _change: &Change,
        cx: &Context<'_>,
        receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        let files = &observed.files;
        if observed.absent {
            for (file, _) in files.all() {
                file.remove(cx.host, receipt).await?;
            }
            return Ok(());
        }
        observed
            .directory
            .repair(cx.host, DIRECTORY, receipt)
            .await?;
        for (file, attributes) in files.all() {
            file.repair(cx.host, attributes, receipt).await?;
        }
        if observed.has_certificate {
            return rotation::carry_out(self, files, cx, receipt).await;
        }
        let failed = |error: PkiError| error.at(self.action("make"));
        let (place, present) = &files.key;
        let key = match Authority::parse_key(&self.name, present).map_err(failed)? {
            Some(key) => key,
            None => key::generate().map_err(failed)?,
        };
        let certificate = issue::self_signed(self, &key, cx.host.now()).map_err(failed)?;
        if matches!(present, Content::Missing) {
            let pem = PrivateKey::from(&key);
            place
                .put(cx.host, pem.expose_pem().as_bytes(), PRIVATE, receipt)
                .await?;
        }
        let (place, _) = &files.certificate;
        place
            .put(cx.host, certificate.as_bytes(), PUBLIC, receipt)
            .await
    }

    fn paths(&self) -> Vec<PathBuf> {
        vec![authority_paths(&self.name).certificate]
    }
}

impl AuthoritySpec {
    fn action(&self, verb: &str) -> String {
        format!("{verb} authority `{}`", self.name)
    }
}

/// When the authority of this name ends; `None` where there is none. People decide on its replacement, so a status has to
/// warn in time.
///
/// # Errors
/// Its files cannot be read.
pub async fn authority_expiry(host: &dyn Host, name: &str) -> ResourceResult<Option<SystemTime>> {
    let authority = Authority::read(host, name).await?;
    Ok(authority.map(|authority| authority.facts().not_after))
}
