//! Kubernetes on a fake host: the rules by which its components work, the API server, static pods and pod subnets.
//!
//! Start with `rules`; `state` is what the API server remembers.
//!
//! Not here: docker (`docker`) and units (`services`), on which these rules depend.

pub(in crate::host::fake) mod cluster;
pub(in crate::host::fake) mod pod_subnets;
pub(in crate::host::fake) mod rules;
pub(in crate::host::fake) mod state;
pub(in crate::host::fake) mod static_pods;
