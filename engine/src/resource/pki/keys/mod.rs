//! Private keys: generated, parsed, and never shown.
//!
//! Two kinds of resource are here: the key pair of service-account tokens (`service_account`), and the keys with which the API server
//! encrypts Secrets (`encryption`; `retired` has those that were replaced, and `received` takes the next one from another master). `record` says which keys and authorities a host has, with a
//! copy of each, and `problem` is what a status reports about them.
//!
//! Not here: the keys of authorities and certificates as files (`authority`, `certificate`). Start with this file, then `record`.

pub(in crate::resource::pki) mod encryption;
pub(in crate::resource::pki) mod problem;
mod received;
pub(in crate::resource::pki) mod record;
pub(in crate::resource::pki) mod retired;
pub(in crate::resource::pki) mod service_account;

use rcgen::{KeyPair, PublicKeyData as _};
use x509_parser::pem::Pem;

use super::PkiError;

/// A private key in PEM (PKCS #8). `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateKey(String);

impl PrivateKey {
    /// The key itself, only to be written to its file.
    #[must_use]
    pub fn expose_pem(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PrivateKey(…)")
    }
}

impl From<&KeyPair> for PrivateKey {
    fn from(key: &KeyPair) -> Self {
        Self(key.serialize_pem())
    }
}

/// A new ECDSA P-256 key: every TLS stack in the cluster accepts it, and it takes a millisecond, not a second.
pub(super) fn generate() -> Result<KeyPair, PkiError> {
    Ok(KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?)
}

/// The private key in some PEM text, in PKCS #8, SEC 1 or PKCS #1 form. Other blocks, such as the parameters
/// that `openssl ecparam` writes, are ignored.
///
/// The error text is our own, because the text of a parser could quote the key.
pub(super) fn parse(pem: &[u8]) -> Result<KeyPair, String> {
    for block in Pem::iter_from_buffer(pem) {
        let Ok(block) = block else {
            return Err("it is damaged or cut short".to_owned());
        };
        match block.label.as_str() {
            "ENCRYPTED PRIVATE KEY" => {
                return Err("it is encrypted, and nodelet cannot ask for its password".to_owned());
            }
            "PRIVATE KEY" | "EC PRIVATE KEY" | "RSA PRIVATE KEY" => {
                return KeyPair::try_from(block.contents.as_slice()).map_err(|_| {
                    "its key is damaged or of a kind that is not supported".to_owned()
                });
            }
            _ => {}
        }
    }
    Err("it holds no private key in PEM".to_owned())
}

/// The public half in the form that a certificate contains, for a comparison.
pub(super) fn public(key: &KeyPair) -> Vec<u8> {
    key.der_bytes().to_vec()
}
