//! What Kubernetes needs beside the objects that scripts describe: pod subnets for the nodes of a cluster, how a node joins and gets its
//! certificates, which masters there are, what they do about workers, who is a member of etcd, and what a backup of etcd consists of.
//!
//! Its decisions are pure: nodes and subnets in, subnets out. The calls of an API server are in `host::live::kubernetes`, resources of Kubernetes in
//! `resource::kubernetes`, and renewal, rotation and backups in `exec::kubernetes`. Start with `pod_subnets`.

pub mod admission;
pub mod etcd_backup;
pub mod etcd_members;
pub mod join_file;
pub mod masters;
pub mod node_request;
mod node_routes;
mod pod_subnets;
pub mod served_certificate;
mod shown;
pub mod workers;

pub(crate) use node_routes::is_on_link;
pub use node_routes::{WantedRoutes, wanted_routes};
pub use pod_subnets::{PodSubnetError, SubnetPool, allocate, allocate_all, next_free};
pub use shown::shown;

/// The label of a master's node.
pub const MASTER_LABEL: &str = "node-role.kubernetes.io/master";
/// The annotation of a master's node with the settings that all masters have in common: a JSON object, by name.
pub const SHARED_SETTINGS: &str = "nodelet.pf9.io/shared-settings";
/// The signer of nodes' certificates: masters decide about its requests and sign them (`nodelet pki sign`).
pub const NODE_SIGNER: &str = "nodelet.pf9.io/node";
