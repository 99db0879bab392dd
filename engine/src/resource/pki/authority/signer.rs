//! An authority that was read from its files. It can verify, and sign if its key is there.

use std::path::Path;
use std::time::SystemTime;

use rcgen::{Issuer, KeyPair};
use rustls_pki_types::CertificateDer;

use super::rotation::{stage_of, trusted};
use crate::host::Host;
use crate::resource::ResourceResult;
use crate::resource::pki::authority::files::{
    AuthorityFiles, CERTIFICATE, KEY, NEXT_CERTIFICATE, PREVIOUS,
};
use crate::resource::pki::certificate::facts::{Certificate, show};
use crate::resource::pki::certificate::issue;
use crate::resource::pki::keys::record::{KeptFiles, KeyRecord};
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
    /// The other trusted certificate: the successor's or the predecessor's.
    other: Option<Certificate>,
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
        its.with_other(files.other()).map(Some)
    }

    /// The authority that has these files.
    pub(in crate::resource::pki) fn of_kept(
        name: &str,
        files: &KeptFiles,
    ) -> Result<Option<Self>, PkiError> {
        let content = |file| {
            let bytes = files.get(file).cloned();
            bytes.map_or(Content::Missing, Content::Bytes)
        };
        let (certificate, key) = (content(CERTIFICATE), content(KEY));
        let Some(mut its) = Self::from_contents(name, &certificate, &key)? else {
            return Ok(None);
        };
        its.stage = stage_of(|file| files.contains_key(file));
        let other = match its.stage {
            Stage::Switched => content(PREVIOUS),
            Stage::Begun | Stage::Settled => content(NEXT_CERTIFICATE),
        };
        its.with_other(&other).map(Some)
    }

    /// With the other trusted certificate of its stage, if there is one.
    fn with_other(mut self, content: &Content) -> Result<Self, PkiError> {
        let path = match self.stage {
            Stage::Switched => authority_paths(&self.name).previous,
            Stage::Begun | Stage::Settled => authority_paths(&self.name).next_certificate,
        };
        let parsed = content.parse(|pem| Certificate::parse(&path, pem));
        let parsed = parsed.transpose();
        if let Some(other) = parsed.map_err(|problem| irreplaceable(&self.name, &path, &problem))? {
            let pem = content.bytes().unwrap_or_default();
            self.pem = trusted((&self.certificate, &self.pem), (&other, pem));
            self.other = Some(other);
        }
        Ok(self)
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
            other: None,
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
        let switched = self.stage == Stage::Switched;
        self.other.as_ref().filter(|_| switched)
    }

    /// Every certificate that is trusted: its own, and the one of its successor or predecessor.
    pub(in crate::resource::pki) fn trusted(&self) -> impl Iterator<Item = &Certificate> {
        [Some(&self.certificate), self.other.as_ref()]
            .into_iter()
            .flatten()
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
        let issuer = self.issuer(now)?;
        let issued = issue::signed(spec, &issuer, self.facts().not_after, now)?;
        self.has_signed(spec, &issued.certificate)?;
        Ok(issued)
    }

    /// A new certificate, in PEM, for the key of this certification request (PKCS #10 in PEM). Its content is that of `spec`: only the key
    /// is taken from the request.
    ///
    /// # Errors
    /// As [`Authority::issue`], or the request is damaged or its signature does not match its key.
    pub fn sign_request(
        &self,
        spec: &CertificateSpec,
        request: &[u8],
        now: SystemTime,
    ) -> Result<String, PkiError> {
        let issuer = self.issuer(now)?;
        let end = self.facts().not_after;
        let certificate = issue::signed_request(spec, request, &issuer, end, now)?;
        self.has_signed(spec, &certificate)?;
        Ok(certificate)
    }

    /// Its key and name, for signatures at this time.
    fn issuer(&self, now: SystemTime) -> Result<Issuer<'_, &KeyPair>, PkiError> {
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
        Ok(Issuer::from_ca_cert_der(&der, key)?)
    }

    fn has_signed(&self, spec: &CertificateSpec, certificate: &str) -> Result<(), PkiError> {
        // rcgen rebuilds the authority's name with only one attribute of each kind. The name of an imported authority may
        // change by that, and no peer would accept its certificates.
        let check = Certificate::parse(&spec.path, certificate.as_bytes());
        if !check.is_ok_and(|leaf| leaf.is_signed_by(&self.certificate)) {
            return Err(PkiError::Build(format!(
                "authority `{}` ({}) has a name or key that this program cannot sign with",
                self.name,
                self.facts().subject,
            )));
        }
        Ok(())
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
