//! The API server below an overlay, and what would be different in its cluster.
//!
//! `ledger_hints` has our own records for the time when the API server does not answer. Not here: how the host below asks the API server
//! (`host::live::kubernetes`), and the rules of the simulated cluster (`host::fake::kubernetes`). Start with `cluster`.

mod certificate_requests;
pub(in crate::host::overlay) mod cluster;
mod config_maps;
mod etcd;
pub(in crate::host::overlay) mod ledger_hints;
pub(in crate::host::overlay) mod pod_subnets;
