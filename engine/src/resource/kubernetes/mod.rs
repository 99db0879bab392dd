//! Kubernetes: objects in the API, this host's node, and the containers of pods on this host.
//!
//! Start with `manifest`.
//!
//! Not here: certificates and kubeconfigs (`pki`), and the allocation of pod subnets (`engine::kubernetes`).

pub(in crate::resource) mod manifest;
pub(in crate::resource) mod node;
pub(crate) mod pod_container;
pub(in crate::resource) mod pods;
