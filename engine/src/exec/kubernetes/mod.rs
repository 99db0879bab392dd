//! What runs know of Kubernetes, etcd and keepalived: renewal of certificates, rotation of authorities, backups of etcd, pods that do
//! not start, the virtual IP, and what checks observe of them.
//!
//! Start with `renew`.

pub(in crate::exec) mod backups;
pub(in crate::exec) mod probes;
pub(in crate::exec) mod renew;
pub(in crate::exec) mod rotate;
pub(in crate::exec) mod stuck_pods;
pub(in crate::exec) mod virtual_ip;
