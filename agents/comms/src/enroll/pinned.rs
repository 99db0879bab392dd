//! Trust in a plane of which nothing but the fingerprint of its root is known.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest as _, Sha256};

use crate::identity;

/// SHA-256 of a certificate.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Whether it is the one of this certificate.
    #[must_use]
    pub fn is_of(&self, certificate: &CertificateDer<'_>) -> bool {
        Sha256::digest(certificate)[..] == self.0
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Fingerprint {
    type Err = String;

    /// 64 hexadecimal digits, also with colons, and with `sha256:` before them.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || "it needs 64 hexadecimal digits".to_owned();
        let digits = text
            .strip_prefix("sha256:")
            .unwrap_or(text)
            .replace(':', "");
        if digits.len() != 64 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let mut bytes = [0; 32];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).map_err(|_| wrong())?;
        }
        Ok(Self(bytes))
    }
}

/// Trusts a server whose chain ends at the root with this fingerprint. The server has to send that root, and the root has to be valid: this host could use no certificate of another
/// one, and the token would have been used in vain.
#[derive(Debug)]
pub struct Pinned {
    root: Fingerprint,
    provider: Arc<CryptoProvider>,
}

impl Pinned {
    /// With the signatures that `provider` knows.
    #[must_use]
    pub fn new(root: Fingerprint, provider: Arc<CryptoProvider>) -> Self {
        Self { root, provider }
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let root = others.iter().find(|its| self.root.is_of(its));
        let root = root.ok_or_else(|| {
            Error::General(
                "the server shows no root with the fingerprint that was given".to_owned(),
            )
        })?;
        // What follows does not look at it.
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs());
        let problem = identity::problem(root, at);
        let problem = problem.map_err(|error| Error::General(format!("{error:#}")))?;
        if let Some(problem) = problem {
            return Err(Error::General(format!(
                "the token was not sent: the root of the plane {problem}"
            )));
        }
        let mut roots = RootCertStore::empty();
        roots.add(root.clone().into_owned())?;
        let usual = WebPkiServerVerifier::builder_with_provider(
            Arc::new(roots),
            Arc::clone(&self.provider),
        );
        let usual = usual
            .build()
            .map_err(|error| Error::General(error.to_string()))?;
        usual.verify_server_cert(certificate, others, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

    use super::*;

    #[test]
    fn a_fingerprint_is_read_as_tools_write_it() {
        let plain = "ab".repeat(32);
        let with_colons = ["AB"; 32].join(":");
        let parsed: Fingerprint = plain.parse().expect("digits");
        assert_eq!(Ok(parsed), with_colons.parse());
        assert_eq!(Ok(parsed), format!("sha256:{plain}").parse());
        assert_eq!(format!("{parsed:?}"), plain);
        for wrong in [
            "",
            "ab",
            &"ag".repeat(32),
            &"ab".repeat(33),
            &"ä".repeat(32),
        ] {
            Fingerprint::from_str(wrong).expect_err(wrong);
        }
    }

    #[test]
    fn a_root_that_is_not_valid_is_refused_before_the_token_is_sent() {
        let name = ServerName::try_from("plane.test").expect("a name");
        for (begins, ends, problem) in [
            (1990, 2100, None),
            (1990, 2000, Some("the root of the plane has expired")),
            (2100, 2101, Some("is the clock of this host right?")),
        ] {
            let mut root = CertificateParams::default();
            root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            root.distinguished_name
                .push(DnType::CommonName, "the plane");
            root.not_before = rcgen::date_time_ymd(begins, 1, 1);
            root.not_after = rcgen::date_time_ymd(ends, 1, 1);
            let root_key = KeyPair::generate().expect("a key");
            let certificate = root.self_signed(&root_key).expect("a root");
            let fingerprint = Fingerprint(Sha256::digest(certificate.der()).into());
            let server = CertificateParams::new(vec!["plane.test".to_owned()]).expect("a name");
            let key = KeyPair::generate().expect("a key");
            let issuer = Issuer::from_params(&root, &root_key);
            let server = server.signed_by(&key, &issuer).expect("a certificate");
            let pinned = Pinned::new(fingerprint, Arc::new(identity::provider()));
            let others = [certificate.der().clone()];
            let now = UnixTime::now();
            let verified = pinned.verify_server_cert(server.der(), &others, &name, &[], now);
            match (verified, problem) {
                (Ok(_), None) => {}
                (Err(error), Some(problem)) => {
                    let said = error.to_string();
                    assert!(said.contains(problem), "{said}");
                }
                (verified, problem) => panic!("{verified:?} {problem:?}"),
            }
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(text in ".{0,100}", digits in "[0-9a-fA-F:]{60,100}") {
            let _ = Fingerprint::from_str(&text);
            let _ = Fingerprint::from_str(&digits);
        }
    }
}
