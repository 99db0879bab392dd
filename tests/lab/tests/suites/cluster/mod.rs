//! What users of a cluster see: pods, Services, Secrets, the virtual IP.

pub(crate) mod security;
pub(crate) mod virtual_ip;
pub(crate) mod workload;
