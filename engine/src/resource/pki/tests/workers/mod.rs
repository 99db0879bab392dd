//! Hosts that have the cluster's authority without its key: `joining`, `signing`, `identities`, and `published`.

mod identities;
pub(crate) mod joining;
mod published;
mod signing;
