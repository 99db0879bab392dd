//! A certificate authority on this host.

use std::path::PathBuf;
use std::time::SystemTime;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::held::{Content, Held, PUBLIC};
use super::{Authority, PkiError, PrivateKey, authority_paths, issue, key, validate};
use crate::host::{Attributes, Host};
use crate::resource::change::Differences;
use crate::resource::file::PRIVATE;
use crate::resource::{Action, Change, Context, Receipt, Resource, ResourceResult};

/// A certificate authority. It is made where there is none, and never replaced: an unreadable one is an error that
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
}

/// An authority as it stands.
#[derive(Debug)]
pub struct Observed {
    absent: bool,
    directory: Held,
    certificate: Held,
    key: Held,
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
        let paths = authority_paths(&self.name);
        let directory = Held::look(cx.host, &paths.directory).await?;
        let (certificate, certificate_content) = Held::read(cx.host, &paths.certificate).await?;
        let (key, key_content) = Held::read(cx.host, &paths.key).await?;
        let has_certificate = !cx.absent
            && Authority::from_contents(&self.name, &certificate_content, &key_content)
                .map_err(|error| error.at(self.action("read")))?
                .is_some();
        Ok(Observed {
            absent: cx.absent,
            directory,
            certificate,
            key,
            has_certificate,
        })
    }

    fn diff(&self, observed: &Observed) -> Option<Change> {
        if observed.absent {
            let there = observed.certificate.is_there() || observed.key.is_there();
            return there.then(|| Change::new(Action::Remove));
        }
        let mut differences = Differences::default();
        if !observed.has_certificate {
            differences.note("common name", "", &self.common_name);
            differences.note("valid for", "", format!("{} years", self.years));
            if !observed.key.is_there() {
                return differences.into_change(Action::Create);
            }
            differences.note("certificate", "missing", "made for the key that is there");
        }
        observed.directory.compare(&mut differences, DIRECTORY);
        observed.certificate.compare(&mut differences, PUBLIC);
        observed.key.compare(&mut differences, PRIVATE);
        differences.into_change(Action::Change)
    }

    async fn converge(
        &self,
        observed: &Observed,
        _change: &Change,
        cx: &Context<'_>,
        receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        if observed.absent {
            observed.certificate.remove(cx.host, receipt).await?;
            return observed.key.remove(cx.host, receipt).await;
        }
        observed
            .directory
            .repair(cx.host, DIRECTORY, receipt)
            .await?;
        observed.key.repair(cx.host, PRIVATE, receipt).await?;
        if observed.has_certificate {
            return observed.certificate.repair(cx.host, PUBLIC, receipt).await;
        }
        let failed = |error: PkiError| error.at(self.action("make"));
        let (_, present) = Held::read(cx.host, &authority_paths(&self.name).key).await?;
        let key = match Authority::parse_key(&self.name, &present).map_err(failed)? {
            Some(key) => key,
            None => key::generate().map_err(failed)?,
        };
        let certificate = issue::self_signed(self, &key, cx.host.now()).map_err(failed)?;
        if matches!(present, Content::Missing) {
            let pem = PrivateKey::from(&key);
            observed
                .key
                .put(cx.host, pem.expose_pem().as_bytes(), PRIVATE, receipt)
                .await?;
        }
        observed
            .certificate
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

/// When the authority of this name ends; `None` where there is none. Its replacement is planned by people: nothing
/// here does it unasked, so a status has to warn in time.
///
/// # Errors
/// Its files cannot be read.
pub async fn authority_expiry(host: &dyn Host, name: &str) -> ResourceResult<Option<SystemTime>> {
    let authority = Authority::read(host, name).await?;
    Ok(authority.map(|authority| authority.facts().not_after))
}
