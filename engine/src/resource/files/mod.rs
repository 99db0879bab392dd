//! Files, directories and links, and the checksums of what a role brings.
//!
//! Start with `file`.
//!
//! Not here: keys, certificates and kubeconfigs (`pki`), and the services that read these files (`system::service`).

pub(in crate::resource) mod checksums;
pub(in crate::resource) mod data_id;
pub(in crate::resource) mod directory;
pub(in crate::resource) mod env_file;
pub(in crate::resource) mod file;
pub(in crate::resource) mod hidden;
pub(in crate::resource) mod owner;
pub(in crate::resource) mod symlink;
