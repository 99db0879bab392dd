//! A certificate with its key, signed by an authority of this host.

pub(in crate::resource::pki) mod consumers;
pub(in crate::resource::pki) mod facts;
pub(in crate::resource::pki) mod inventory;
pub(in crate::resource::pki) mod issue;
pub(in crate::resource::pki) mod reissue;
pub(in crate::resource::pki) mod scan;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{Authority, PkiError, certificate_paths, validate};
use crate::resource::change::Differences;
use crate::resource::files::file::PRIVATE;
use crate::resource::pki::certificate::facts::show;
use crate::resource::pki::certificate::reissue::{Reading, due, reissue};
use crate::resource::pki::stored::{Held, PUBLIC};
use crate::resource::{Action, Change, Context, Receipt, Resource, ResourceError, ResourceResult};

/// A certificate, its key, and the certificate of the authority that its peers trust.
///
/// If anything is wrong with it, it is issued again with a new key; only wrong modes and a wrong `ca.crt` are repaired
/// without a new key. A valid certificate past three fifths of its life is due: its change is an [`Action::Renew`], which does not have
/// to be made at once. The key is written first: a crash before the certificate leaves a pair that does not match, and the next
/// observation finds that.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateSpec {
    /// Directory below `certs`, for example `etcd/peer`.
    pub path: String,
    /// Name of the authority that signs it.
    pub authority: String,
    /// Common name: the user, in Kubernetes.
    pub common_name: String,
    /// Organizations: groups, in Kubernetes. At most one.
    pub organizations: Vec<String>,
    /// What it is for.
    pub usage: Usage,
    /// Names it is valid for. A name that is an IP address is added to the addresses, because peers verify it as an address.
    pub dns_names: Vec<String>,
    /// Addresses it is valid for.
    pub addresses: Vec<IpAddr>,
    /// How long it is valid, at most until its authority ends. Applies when it is issued: a change of this alone
    /// issues nothing.
    #[serde(with = "validate::life_in_text")]
    pub life: Duration,
}

/// What a certificate is for (its extended key usage).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Usage {
    /// To be a TLS server.
    Server,
    /// To be a TLS client.
    Client,
    /// Both, as etcd members are to each other.
    Peer,
}

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Server => "server",
            Self::Client => "client",
            Self::Peer => "server and client",
        })
    }
}

/// The current state of a certificate.
#[derive(Debug)]
pub struct Observed {
    absent: bool,
    certificate: Held,
    key: Held,
    trust: Held,
    reading: Reading,
}

impl CertificateSpec {
    /// Checks the specification.
    ///
    /// # Errors
    /// The invalid field, and why it is invalid.
    pub fn validate(&self) -> Result<(), PkiError> {
        validate::path("path", &self.path)?;
        validate::component("authority", &self.authority)?;
        validate::name("common_name", &self.common_name)?;
        for organization in &self.organizations {
            validate::name("organizations", organization)?;
        }
        let all = self.organizations.join(", ");
        let one = self.organizations.len() <= 1;
        validate::check(one, "organizations", &all, "rcgen writes at most one")?;
        for name in self.alternative_names().0 {
            validate::dns_name("dns_names", &name)?;
        }
        validate::life("valid_for", self.life)
    }

    /// Names and addresses without repetition, names in lower case.
    pub(super) fn alternative_names(&self) -> (BTreeSet<String>, BTreeSet<IpAddr>) {
        let mut names = BTreeSet::new();
        let mut addresses: BTreeSet<IpAddr> = self.addresses.iter().copied().collect();
        for name in &self.dns_names {
            match name.parse() {
                Ok(address) => {
                    addresses.insert(address);
                }
                Err(_) => {
                    names.insert(name.to_ascii_lowercase());
                }
            }
        }
        (names, addresses)
    }

    fn failed(&self, verb: &str) -> impl Fn(PkiError) -> ResourceError {
        let action = format!("{verb} certificate `{}`", self.path);
        move |error| error.at(action.clone())
    }
}

#[async_trait]
impl Resource for CertificateSpec {
    type Observed = Observed;

    fn label(&self) -> String {
        self.path.clone()
    }

    async fn observe(&self, cx: &Context<'_>) -> ResourceResult<Observed> {
        self.validate().map_err(self.failed("plan"))?;
        let paths = certificate_paths(&self.path);
        let (certificate, certificate_content) = Held::read(cx.host, &paths.certificate).await?;
        let (key, key_content) = Held::read(cx.host, &paths.key).await?;
        let (trust, trust_content) = Held::read(cx.host, &paths.trust).await?;
        let reading = if cx.absent {
            Reading::nothing(cx.host.now())
        } else {
            let authority = Authority::read(cx.host, &self.authority).await?;
            Reading::of(
                cx.host.now(),
                &certificate_content,
                &key_content,
                &trust_content,
                authority.as_ref(),
            )
        };
        if let Some(begins) = reading.still_to_come() {
            return Err(ResourceError::Unmet {
                what: format!(
                    "check the certificate {}: our own authority signed it, but it is valid only from {}, and the clock says {}",
                    paths.certificate.display(),
                    show(begins),
                    show(cx.host.now())
                ),
                next: if reading.can_be_issued() {
                    format!(
                        "set the clock; if the clock is right, it was ahead when the certificate was made: then remove {}, and it is made again",
                        paths.certificate.display()
                    )
                } else {
                    "set the clock".to_owned()
                },
            });
        }
        Ok(Observed {
            absent: cx.absent,
            certificate,
            key,
            trust,
            reading,
        })
    }

    fn diff(&self, observed: &Observed) -> Option<Change> {
        let files = [&observed.certificate, &observed.key, &observed.trust];
        let there = files.iter().any(|file| file.is_there());
        if observed.absent {
            return there.then(|| Change::new(Action::Remove));
        }
        let mut differences = Differences::default();
        if !there {
            self.describe(&mut differences);
            return differences.into_change(Action::Create);
        }
        reissue(self, &observed.reading, &mut differences);
        if let Some(before) = observed.reading.trust_problem() {
            differences.note("trust", before, format!("authority `{}`", self.authority));
        }
        observed.certificate.compare(&mut differences, PUBLIC);
        observed.key.compare(&mut differences, PRIVATE);
        observed.trust.compare(&mut differences, PUBLIC);
        let action = if differences.is_empty() {
            Action::Renew
        } else {
            Action::Change
        };
        due(self, &observed.reading, &mut differences);
        differences.into_change(action)
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
            observed.key.remove(cx.host, receipt).await?;
            return observed.trust.remove(cx.host, receipt).await;
        }
        let authority = Authority::read(cx.host, &self.authority)
            .await?
            .ok_or_else(|| ResourceError::Missing {
                what: format!(
                    "find authority `{}` that signs certificate `{}`: make or import it first",
                    self.authority, self.path
                ),
            })?;
        let mut reasons = Differences::default();
        reissue(self, &observed.reading, &mut reasons);
        due(self, &observed.reading, &mut reasons);
        if reasons.into_change(Action::Change).is_some() {
            let issued = authority
                .issue(self, cx.host.now())
                .map_err(self.failed("issue"))?;
            let key = issued.key.expose_pem().as_bytes();
            observed.key.put(cx.host, key, PRIVATE, receipt).await?;
            observed
                .certificate
                .put(cx.host, issued.certificate.as_bytes(), PUBLIC, receipt)
                .await?;
        } else {
            observed.key.repair(cx.host, PRIVATE, receipt).await?;
            observed
                .certificate
                .repair(cx.host, PUBLIC, receipt)
                .await?;
        }
        if observed.reading.trusts(&authority) {
            return observed.trust.repair(cx.host, PUBLIC, receipt).await;
        }
        observed
            .trust
            .put(cx.host, authority.pem(), PUBLIC, receipt)
            .await
    }

    fn paths(&self) -> Vec<PathBuf> {
        let paths = certificate_paths(&self.path);
        vec![paths.certificate, paths.key, paths.trust]
    }
}

impl CertificateSpec {
    /// Notes the fields of a certificate that does not exist yet.
    fn describe(&self, differences: &mut Differences) {
        let (names, addresses) = self.alternative_names();
        let mut add = |field: &str, value: String| {
            if !value.is_empty() {
                differences.note(field, "", value);
            }
        };
        add("common name", self.common_name.clone());
        add("organizations", self.organizations.join(", "));
        add(
            "names",
            crate::resource::pki::certificate::reissue::list(&names),
        );
        add(
            "addresses",
            crate::resource::pki::certificate::reissue::list(&addresses),
        );
        add("usage", self.usage.to_string());
        add("authority", self.authority.clone());
        add("valid for", validate::life_text(self.life));
    }
}
