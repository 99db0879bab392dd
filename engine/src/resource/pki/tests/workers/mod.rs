//! Hosts that have the cluster's authority without its key: `joining`, `signing`, and `identities`.

mod identities;
mod joining;
mod signing;
