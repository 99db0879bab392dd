//! What the API server of a cluster is asked for.
//!
//! Not here: resources of Kubernetes (`resource::kubernetes`) and decisions about nodes (`kubernetes`). Start with `cluster`.

pub(in crate::host) mod certificate_requests;
pub(in crate::host) mod cluster;
pub(in crate::host) mod config_maps;
pub(in crate::host) mod pod_subnets;
