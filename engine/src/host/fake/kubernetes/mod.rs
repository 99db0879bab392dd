//! Kubernetes on a fake host: the rules by which its components and keepalived work, the API server, static pods, pod subnets,
//! requests for certificates, and the members of etcd.
//!
//! Start with `rules`; `state` is what the API server remembers.
//!
//! Not here: docker (`docker`) and units (`services`), on which these rules depend.

pub(in crate::host::fake) mod certificate_requests;
pub(in crate::host::fake) mod cluster;
pub(in crate::host::fake) mod config_maps;
pub(in crate::host::fake) mod etcd;
pub(in crate::host::fake) mod pod_subnets;
pub(in crate::host::fake) mod rules;
pub(in crate::host::fake) mod state;
pub(in crate::host::fake) mod static_pods;

/// What a package of this name brings, as items of a fake package.
pub(in crate::host::fake) fn package_items(name: &str) -> &'static [&'static str] {
    match name {
        "containernetworking-plugins" => &["program=/usr/lib/cni/bridge"],
        "keepalived" => &["unit=keepalived.service", "program=/usr/sbin/keepalived"],
        _ => &[],
    }
}
