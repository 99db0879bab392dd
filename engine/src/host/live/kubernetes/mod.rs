//! The API server, as the kubeconfig files of this machine reach it.
//!
//! Start with `cluster`; `kubeconfig` makes the clients. `error_class` of `live` tells permanent errors from transient ones.
//!
//! Not here: the components on this host, which are units and containers, and what objects should be (`resource::kubernetes`).

pub(in crate::host::live) mod certificate_requests;
pub(in crate::host::live) mod cluster;
pub(in crate::host::live) mod config_maps;
pub(in crate::host::live) mod drain;
pub(in crate::host::live) mod kubeconfig;
mod list;
pub(in crate::host::live) mod pod_subnets;
pub(in crate::host::live) mod secrets;
pub(in crate::host::live) mod watch;
