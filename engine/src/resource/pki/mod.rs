//! Certificates and keys of the cluster. Paths, kubeconfigs and what uses a certificate are in `resource::kubernetes::pki`.
//!
//! Three authorities (`cluster`, `etcd`, `front-proxy`) sign one certificate per purpose, as
//! <https://kubernetes.io/docs/setup/best-practices/certificates/> asks for; a separate key signs service-account
//! tokens. The authorities and that key are precious: they are made once and never replaced without a request of an operator, not
//! even if they cannot be read. The host records which ones it has, with a copy of each (`record.rs`): a lost or replaced one is
//! restored from its copy or reported, and nothing is derived from a foreign one. Every other certificate and key is cheap: in case
//! of doubt it is issued again with a new key.
//!
//! Files are the only state; they are read and written through [`Host`](crate::host::Host), and the time is the host's
//! clock. Certificates follow RFC 5280: version 3, ECDSA P-256, critical basic constraints and key usage, key
//! identifiers, random serial numbers below 20 octets. Left out on purpose: revocation lists.
//!
//! A worker has the cluster's authority without its key. `join` records it from the worker's join file, and `signing` asks the masters
//! through the API to sign the worker's certificates. A further master takes all authorities and keys from its join file (`join::master`).
//! During a replacement each master gets the successor (`successor`), and shows how far it is (`present`).
//!
//! Not here: when certificates are renewed and authorities replaced (`exec::kubernetes`). Start with `authority`, then `certificate`.

mod authority;
mod certificate;
mod error;
mod join;
mod keys;
mod present;
mod replacement;
mod signing;
mod stage;
pub(super) mod stored;
mod successor;
pub(super) mod validate;

#[cfg(test)]
pub(crate) mod tests;

pub use super::kubernetes::pki::consumers::{
    CONSUMERS, Consumer, ReloadMode, components, consumer_of,
};
pub use super::kubernetes::pki::kubeconfig::KubeconfigSpec;
pub use super::kubernetes::pki::layout::{
    AuthorityPaths, BASE, BOOTSTRAP_KUBECONFIG, CertificatePaths, NODE_CERTIFICATE,
    NODE_KUBECONFIG, authority_paths, authority_record, certificate_paths, kubeconfig_path,
    request_key, request_keys, request_kubeconfig, service_account_paths, service_account_record,
};
pub use authority::signer::Authority;
pub use authority::spec::AuthoritySpec;
pub use certificate::facts::CertificateFacts;
pub use certificate::inventory::{Inventory, Kind, Listed, inventory};
pub use certificate::issue::Issued;
pub(crate) use certificate::reissue::is_issued_again;
pub use certificate::scan::{Scan, certificate_in, certificates_in, first_certificate};
pub use certificate::spec::{CertificateSpec, SignedBy, Usage};
pub use error::PkiError;
pub use join::master::export::export_keys;
pub use join::master::spec::JoinMasterSpec;
pub use join::published::{PUBLISHED, PublishedAuthorities};
pub use join::spec::JoinFileSpec;
pub use keys::PrivateKey;
pub use keys::encryption::{
    ENCRYPTION, EncryptionKeysSpec, encryption_directories, encryption_key_ids, encryption_stage,
    stored_prefix,
};
pub use keys::problem::key_problem;
pub(crate) use keys::problem::{has_service_account_key, may_be_read};
pub use keys::service_account::ServiceAccountKeySpec;
pub use replacement::{NoReplacement, Replacement};
pub use signing::identity::{KeptNode, kept_node};
pub(crate) use stage::FINISH_FIELDS;
pub use stage::{Rotation, Stage};
pub use successor::sent::SentSuccessor;
pub use successor::{received_id, successor_of};
