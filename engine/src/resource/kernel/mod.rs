//! The kernel: settings, modules, control groups, links, packet filter, address sets and virtual services.
//!
//! Start with `settings`.
//!
//! Not here: what the kernel can do, which is a precondition (`facts::kernel`).

pub(in crate::resource) mod cgroup;
pub(crate) mod firewall;
pub(in crate::resource) mod firewall_chain;
pub(in crate::resource) mod ipsets;
pub(in crate::resource) mod ipvs;
pub(in crate::resource) mod link;
pub(in crate::resource) mod packet_filter;
pub(in crate::resource) mod settings;
pub(in crate::resource) mod sysctl_snapshot;
