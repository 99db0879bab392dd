//! An authority that was read from its files. It can verify, and sign if its key is there.

use std::path::Path;
use std::time::SystemTime;

use rcgen::{Issuer, KeyPair};
use rustls_pki_types::CertificateDer;

use super::rotation::trusted;
use crate::host::Host;
use crate::resource::ResourceResult;
use crate::resource::pki::authority::files::{AuthorityFiles, CERTIFICATE};
use crate::resource::pki::certificate::facts::{Certificate, show};
use crate::resource::pki::certificate::issue;
use crate::resource::pki::keys::record::KeyRecord;
use crate::resource::pki::stage::Stage;
use crate::resource::pki::stored::Content;
use crate::resource::pki::{
    BASE, CertificateFacts, CertificateSpec, Issued, PkiError, authority_paths, authority_record,
    keys,
};

/// An authority. Without its key it verifies but does not sign.
pub struct Authority {
    name: String,
    pem: Vec<u8>,
    certificate: Certificate,
    key: Option<KeyPair>,
    stage: Stage,
    /// The predecessor, which no longer signs, while it is still trusted.
    predecessor: Option<Certificate>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("name", &self.name)
            .field("facts", self.facts())
            .field("can_sign", &self.can_sign())
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// The authority of this name; `None` if it has no certificate. If the host has a record of it, a key that is not recorded does
    /// not sign, and a certificate that is not recorded is not trusted. Cancel safe.
    ///
    /// # Errors
    /// Its files exist but cannot be used, or its certificate is not the recorded one.
    pub async fn read(host: &dyn Host, name: &str) -> ResourceResult<Option<Self>> {
        let record = KeyRecord::read(host, &authority_record(name)).await?;
        let mut files = Ok(AuthorityFiles::read(host, name).await?);
        if record.names(CERTIFICATE) {
            files = files.and_then(|files| files.only_recorded(name, &record));
        }
        files
            .and_then(|files| Self::of(name, &files))
            .map_err(|error| error.at(format!("read authority `{name}`")))
    }

    /// The authority that consists of these files.
    pub(in crate::resource::pki) fn of(
        name: &str,
        files: &AuthorityFiles,
    ) -> Result<Option<Self>, PkiError> {
        let (certificate, key) = files.signer();
        let Some(mut its) = Self::from_contents(name, certificate, key)? else {
            return Ok(None);
        };
        its.stage = files.stage();
        let path = match its.stage {
            Stage::Switched => authority_paths(name).previous,
            Stage::Begun | Stage::Settled => authority_paths(name).next_certificate,
        };
        let parsed = files.other().parse(|pem| Certificate::parse(&path, pem));
        let parsed = parsed.transpose();
        if let Some(other) = parsed.map_err(|problem| irreplaceable(name, &path, &problem))? {
            let pem = files.other().bytes().unwrap_or_default();
            its.pem = trusted((&its.certificate, &its.pem), (&other, pem));
            its.predecessor = (its.stage == Stage::Switched).then_some(other);
        }
        Ok(Some(its))
    }

    /// Checks that certificate and key are an authority that can sign now.
    pub(in crate::resource::pki) fn can_succeed(
        name: &str,
        certificate: &Content,
        key: &Content,
        now: SystemTime,
    ) -> Result<(), PkiError> {
        match Self::from_contents(name, certificate, key)? {
            Some(its) if !its.facts().is_valid_at(now) => Err(PkiError::OutsideValidity {
                authority: format!("{name}, its successor"),
                now: show(now),
                from: show(its.facts().not_before),
                until: show(its.facts().not_after),
            }),
            Some(its) if its.can_sign() => Ok(()),
            _ => Err(irreplaceable(
                name,
                &authority_paths(name).next_key,
                "the successor's key is not there",
            )),
        }
    }

    /// The authority that consists of this certificate and this key.
    pub(in crate::resource::pki) fn from_contents(
        name: &str,
        certificate: &Content,
        key: &Content,
    ) -> Result<Option<Self>, PkiError> {
        let paths = authority_paths(name);
        let key = Self::parse_key(name, key)?;
        let irreplaceable = |path: &Path, problem: &str| irreplaceable(name, path, problem);
        let parse = |pem: &[u8]| Certificate::parse(&paths.certificate, pem);
        let parsed = certificate.parse(parse).transpose();
        let Some(parsed) = parsed.map_err(|problem| irreplaceable(&paths.certificate, &problem))?
        else {
            return Ok(None);
        };
        if !parsed.is_authority() {
            return Err(irreplaceable(
                &paths.certificate,
                "its certificate may not sign other certificates",
            ));
        }
        if key
            .as_ref()
            .is_some_and(|pair| keys::public(pair) != parsed.public_key)
        {
            return Err(irreplaceable(
                &paths.key,
                "its key does not match the certificate beside it",
            ));
        }
        Ok(Some(Self {
            name: name.to_owned(),
            pem: certificate.bytes().unwrap_or_default().to_vec(),
            certificate: parsed,
            key,
            stage: Stage::Settled,
            predecessor: None,
        }))
    }

    pub(in crate::resource::pki) fn parse_key(
        name: &str,
        key: &Content,
    ) -> Result<Option<KeyPair>, PkiError> {
        let parsed = key.parse(keys::parse).transpose();
        parsed.map_err(|problem| irreplaceable(name, &authority_paths(name).key, &problem))
    }

    /// The facts of its certificate.
    #[must_use]
    pub fn facts(&self) -> &CertificateFacts {
        &self.certificate.facts
    }

    /// Whether its key is there.
    #[must_use]
    pub fn can_sign(&self) -> bool {
        self.key.is_some()
    }

    /// The certificates that components have to trust: its own and, during a replacement, the one of its successor or predecessor.
    #[must_use]
    pub fn pem(&self) -> &[u8] {
        &self.pem
    }

    /// The stage of its replacement.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// The certificate of its predecessor, while it is still trusted.
    pub(in crate::resource::pki) fn predecessor(&self) -> Option<&Certificate> {
        self.predecessor.as_ref()
    }

    pub(in crate::resource::pki) fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// A new certificate with a new key.
    ///
    /// # Errors
    /// The specification is invalid, the key is missing, or `now` is outside the authority's validity. In the last case, no peer would
    /// accept the new certificate; the clock may be wrong, and has to be set first.
    pub fn issue(&self, spec: &CertificateSpec, now: SystemTime) -> Result<Issued, PkiError> {
        let facts = self.facts();
        let key = self.key.as_ref().ok_or_else(|| PkiError::NoKey {
            authority: self.name.clone(),
        })?;
        if !facts.is_valid_at(now) {
            return Err(PkiError::OutsideValidity {
                authority: self.name.clone(),
                now: show(now),
                from: show(facts.not_before),
                until: show(facts.not_after),
            });
        }
        let der = CertificateDer::from(self.certificate.der.as_slice());
        let issuer = Issuer::from_ca_cert_der(&der, key)?;
        let issued = issue::signed(spec, &issuer, facts.not_after, now)?;
        // rcgen rebuilds the authority's name with only one attribute of each kind. The name of an imported authority may
        // change by that, and no peer would accept its certificates.
        let check = Certificate::parse(&spec.path, issued.certificate.as_bytes());
        if !check.is_ok_and(|leaf| leaf.is_signed_by(&self.certificate)) {
            return Err(PkiError::Build(format!(
                "authority `{}` ({}) has a name or key that this program cannot sign with",
                self.name, facts.subject,
            )));
        }
        Ok(issued)
    }
}

/// A problem with a file of an authority that only an operator can solve.
pub(in crate::resource::pki) fn irreplaceable(name: &str, path: &Path, problem: &str) -> PkiError {
    PkiError::Precious {
        problem: format!("{}: {problem}", path.display()),
        help: format!(
            "nothing was changed. Put the right file back from a backup or another master. Only if there is no copy of it anywhere, \
             move {} away, and with it {} and {BASE}/certs: then a new authority is made, everything that the lost one \
             signed is issued again, and what trusts only the lost one, such as a copied kubeconfig, stops working",
            authority_paths(name).directory.display(),
            authority_record(name).display()
        ),
    }
}
