//! Kubernetes: objects in the API, this host's node, and the containers of pods on this host.
//!
//! Start with `manifest`.

pub(in crate::resource) mod manifest;
pub(in crate::resource) mod node;
pub(crate) mod pod_container;
pub(in crate::resource) mod pods;
