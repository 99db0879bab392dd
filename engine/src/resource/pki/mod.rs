//! Certificates, keys and kubeconfigs of the cluster.
//!
//! Three authorities (`cluster`, `etcd`, `front-proxy`) sign one certificate per purpose, as
//! <https://kubernetes.io/docs/setup/best-practices/certificates/> asks for; the key that signs service-account
//! tokens is its own. Authorities and that key are precious: they are made once and never replaced unasked, not even
//! when they cannot be read. Everything else is cheap: at any doubt it is issued again with a new key.
//!
//! Files are the only state, and all of them are reached through [`Host`](crate::host::Host); time is the host's
//! clock. Certificates follow RFC 5280: version 3, ECDSA P-256, critical basic constraints and key usage, key
//! identifiers, random serial numbers below 20 octets. Left out on purpose: revocation lists, and certificate requests to a
//! remote authority.

mod authority;
mod certificate;
mod document;
mod error;
mod facts;
mod held;
mod issue;
mod key;
mod kubeconfig;
mod layout;
mod listing;
mod reasons;
mod rotation;
mod service_account_key;
mod signer;
mod survey;
mod uses;
mod validate;

#[cfg(test)]
mod tests;

pub use authority::{AuthoritySpec, authority_expiry};
pub use certificate::{CertificateSpec, Usage};
pub use error::PkiError;
pub use facts::CertificateFacts;
pub use issue::Issued;
pub use key::PrivateKey;
pub use kubeconfig::KubeconfigSpec;
pub use layout::{
    AuthorityPaths, BASE, CertificatePaths, authority_paths, certificate_paths, kubeconfig_path,
    service_account_paths,
};
pub use listing::{Kind, Listed, Listing, listing};
pub use rotation::{Rotation, Stage};
pub use service_account_key::ServiceAccountKeySpec;
pub use signer::Authority;
pub use survey::{Survey, certificate_in, certificates_in, first_certificate};
pub use uses::{USES, Uptake, Use, components, uses_of};
