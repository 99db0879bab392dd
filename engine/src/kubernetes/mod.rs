//! What Kubernetes needs beside the objects that scripts describe.

mod pod_subnets;

pub use pod_subnets::{PodSubnetError, SubnetPool, allocate, allocate_all, next_free};
