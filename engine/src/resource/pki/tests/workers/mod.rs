//! Hosts that have the cluster's authority without its key: `joining`, `clocks`, `signing`, `identities`, and `published`.

mod clocks;
mod identities;
pub(crate) mod joining;
mod published;
mod signing;
