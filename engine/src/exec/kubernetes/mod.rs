//! What runs know of Kubernetes, etcd and keepalived: renewal of certificates, rotation of authorities, data and backups of etcd, pods
//! that do not start, the virtual IP, and what checks observe of them.
//!
//! `renew` and `rotate` are applies with a changed plan or selection. `stuck_pods` ends containers that a phase has waited for without
//! success. `probes`, `backups` and `virtual_ip` are observations of checks. `scratch` removes what an interrupted test of a backup left.
//! `etcd_data` tells a dry run whether etcd begins without data. `sign` signs the certificates of other nodes.
//! `quorum` refuses a run that would take etcd its quorum, and tells checks that other masters have taken it.
//! `remove_master` takes another master out of the cluster.
//!
//! Not here: how certificates are made (`resource::pki`), all other observations (`check::probe`), and the making of backups (the agent).
//! Start with `renew`.

pub(in crate::exec) mod backups;
pub(in crate::exec) mod etcd_data;
pub(in crate::exec) mod probes;
pub(in crate::exec) mod quorum;
pub(in crate::exec) mod remove_master;
pub(in crate::exec) mod renew;
pub(in crate::exec) mod rotate;
pub mod scratch;
pub(in crate::exec) mod sign;
pub(in crate::exec) mod stuck_pods;
pub(in crate::exec) mod virtual_ip;
