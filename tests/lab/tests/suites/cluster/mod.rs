//! What users of a cluster see: pods, their network, Services, Secrets, the virtual IP, workers, several masters.

pub(crate) mod masters;
pub(crate) mod pod_network;
pub(crate) mod security;
pub(crate) mod strangers;
pub(crate) mod virtual_ip;
pub(crate) mod workers;
pub(crate) mod workload;
