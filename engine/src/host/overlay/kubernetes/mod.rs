//! The API server below an overlay, and what would be different in its cluster.

pub(in crate::host::overlay) mod cluster;
pub(in crate::host::overlay) mod pod_subnets;
