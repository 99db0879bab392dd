//! A certificate with its key, signed by an authority of this host or, through the API, by the masters of the cluster.
//!
//! `spec` is what a script says of it. `reissue` has the reasons to issue it again, `issue` makes it, and `request` asks for it; all three
//! are pure. `facts` describes
//! a certificate, `scan` finds all certificates below a directory, and `inventory` lists everything that expires, with the components that
//! use it.
//!
//! Not here: authorities (`authority`), private keys (`keys`), who signs (`signing`), and which component uses a certificate (`kubernetes::pki::consumers`).
//! Start with `spec`, then `reissue`.

pub(in crate::resource::pki) mod facts;
pub(in crate::resource::pki) mod inventory;
pub(in crate::resource::pki) mod issue;
pub(in crate::resource::pki) mod reissue;
pub(in crate::resource::pki) mod request;
pub(in crate::resource::pki) mod scan;
pub(in crate::resource::pki) mod spec;

use std::path::PathBuf;

use async_trait::async_trait;

use super::{Authority, PkiError, certificate_paths, validate};
use crate::resource::change::Differences;
use crate::resource::files::file::PRIVATE;
use crate::resource::pki::certificate::facts::show;
use crate::resource::pki::certificate::reissue::{Reading, due, reissue};
use crate::resource::pki::certificate::spec::{CertificateSpec, SignedBy};
use crate::resource::pki::signing::CertificateSigner;
use crate::resource::pki::signing::api::ApiSigner;
use crate::resource::pki::signing::readmission;
use crate::resource::pki::stored::{PUBLIC, Stored};
use crate::resource::{Action, Change, Context, Receipt, Resource, ResourceError, ResourceResult};

/// The current state of a certificate.
#[derive(Debug)]
pub struct Observed {
    certificate: Stored,
    key: Stored,
    trust: Stored,
    reading: Reading,
    /// Whether this host was admitted again, and the masters have not signed the certificate since.
    is_readmitted: bool,
}

impl CertificateSpec {
    /// Notes all reasons why the certificate that is there is to be replaced, although it is valid.
    fn due(&self, observed: &Observed, reasons: &mut Differences) {
        due(self, &observed.reading, reasons);
        if observed.is_readmitted {
            reasons.note("admission", "an earlier one", "that of the join file");
        }
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
        let (certificate, certificate_content) = Stored::read(cx.host, &paths.certificate).await?;
        let (key, key_content) = Stored::read(cx.host, &paths.key).await?;
        let (trust, trust_content) = Stored::read(cx.host, &paths.trust).await?;
        let reading = if cx.absent {
            Reading::nothing(cx.host.now())
        } else {
            let authority = Authority::read(cx.host, &self.authority).await?;
            Reading::of(
                cx.host.now(),
                [&certificate_content, &key_content, &trust_content],
                authority.as_ref(),
                self.signed_by,
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
        let is_readmitted = match self.signed_by {
            SignedBy::Api { .. } if !cx.absent => readmission::is_open(cx.host, &self.path).await?,
            SignedBy::Api { .. } | SignedBy::Authority => false,
        };
        Ok(Observed {
            certificate,
            key,
            trust,
            reading,
            is_readmitted,
        })
    }

    fn diff(&self, observed: &Observed, absent: bool) -> Option<Change> {
        let files = [&observed.certificate, &observed.key, &observed.trust];
        let there = files.iter().any(|file| file.is_there());
        if absent {
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
        self.due(observed, &mut differences);
        differences.into_change(action)
    }

    async fn converge(
        &self,
        observed: &Observed,
        cx: &Context<'_>,
        receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        if cx.absent {
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
        let mut reissue_reasons = Differences::default();
        reissue(self, &observed.reading, &mut reissue_reasons);
        self.due(observed, &mut reissue_reasons);
        if reissue_reasons.into_change(Action::Change).is_some() {
            let through_api;
            let signer: &dyn CertificateSigner = match self.signed_by {
                SignedBy::Authority => &authority,
                SignedBy::Api { wait } => {
                    through_api = ApiSigner::new(&authority, wait, cx.cancel);
                    &through_api
                }
            };
            let issued = signer.sign(self, cx.host).await?;
            let key = issued.key.expose_pem().as_bytes();
            observed.key.put(cx.host, key, PRIVATE, receipt).await?;
            observed
                .certificate
                .put(cx.host, issued.certificate.as_bytes(), PUBLIC, receipt)
                .await?;
            signer.stored(self, cx.host).await?;
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
        match self.signed_by {
            SignedBy::Authority => {
                add("authority", self.authority.clone());
                add("valid for", validate::life_text(self.life));
            }
            SignedBy::Api { .. } => {
                add("authority", format!("{}, through the API", self.authority));
                add("content", "known after apply".to_owned());
            }
        }
    }
}
