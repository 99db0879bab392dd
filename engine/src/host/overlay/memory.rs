//! What is remembered of a cluster whose API server does not answer now.

use std::collections::BTreeMap;

use crate::host::ClusterNode;

/// Something that only the API server knows for certain.
#[derive(Debug, Clone, PartialEq)]
pub enum Remembered<T> {
    /// Our records say that it was brought about like this, by this very plan.
    AsPlanned(T),
    /// It was never brought about on this host, or is gone.
    Absent,
}

/// Nodes and objects by what our own records say of them; what is not listed is known after apply.
#[derive(Debug, Default)]
pub struct Memory {
    /// Nodes by name.
    pub nodes: BTreeMap<String, Remembered<ClusterNode>>,
    /// Objects by `apiVersion/kind/namespace/name`.
    pub objects: BTreeMap<String, Remembered<serde_json::Value>>,
    /// Whether the cluster's data is not on this host yet: it will begin empty.
    pub empty: bool,
}
