//! Our own records of a cluster whose API server does not answer now.

use std::collections::BTreeMap;

use crate::host::ClusterNode;

/// Something that only the API server knows for certain.
#[derive(Debug, Clone, PartialEq)]
pub enum LedgerHint<T> {
    /// According to our records, a run has made it as this plan has it.
    AsPlanned(T),
    /// It was never made from this host, or is gone.
    Absent,
}

/// Nodes and objects according to our own records; what is not listed is known after apply.
#[derive(Debug, Default)]
pub struct LedgerHints {
    /// Nodes by name.
    pub nodes: BTreeMap<String, LedgerHint<ClusterNode>>,
    /// Objects by `apiVersion/kind/namespace/name`.
    pub objects: BTreeMap<String, LedgerHint<serde_json::Value>>,
    /// Whether the routes to other nodes that are there now are those that an apply finds.
    pub routes: bool,
    /// Whether the cluster's data is not on this host yet: it will begin empty.
    pub empty: bool,
}
