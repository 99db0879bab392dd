//! What Kubernetes needs beside the objects that scripts describe: pod subnets for the nodes of a cluster, routes to them,
//! and what a backup of etcd consists of.
//!
//! It is pure: nodes and subnets in, subnets out. The calls of an API server are in `host::live::kubernetes`, resources of Kubernetes in
//! `resource::kubernetes`, and renewal, rotation and backups in `exec::kubernetes`. Start with `pod_subnets`.

pub mod etcd_backup;
mod node_routes;
mod pod_subnets;

pub use node_routes::{WantedRoutes, wanted_routes};
pub use pod_subnets::{PodSubnetError, SubnetPool, allocate, allocate_all, next_free};
