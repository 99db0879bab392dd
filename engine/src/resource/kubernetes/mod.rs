//! Kubernetes: objects in the API, this host's node, routes to other nodes, the containers of pods on this host, its member of
//! etcd, and kubeconfigs.
//!
//! Start with `manifest`.
//!
//! Not here: keys and certificates (`resource::pki`), and the allocation of pod subnets (`engine::kubernetes`).

pub(in crate::resource) mod etcd;
pub(in crate::resource) mod manifest;
pub(in crate::resource) mod node;
pub(in crate::resource) mod node_routes;
pub(in crate::resource) mod pki;
pub(crate) mod pod_container;
pub(in crate::resource) mod pods;
