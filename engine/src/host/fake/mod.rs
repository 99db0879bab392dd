//! A small stateful world.
//!
//! [`FakeHost`] implements every capability of [`Host`](super::Host) with behaviour instead of expectations: a write
//! needs its directory, a container its image, a unit its file. Tests and dry runs therefore learn what a real host
//! would have told them. A [`FaultPlan`] makes calls fail, hang, lie or crash; a [`WorldSnapshot`] compares worlds.
//!
//! It leaves out what no phase depends on: processes, users, permissions (we are root), real TLS and real packets.

mod cgroups;
mod clock;
mod cluster;
mod containers;
mod engine;
mod fault;
mod files;
mod firewall;
mod gate;
mod kernel;
mod kubernetes;
mod late;
mod network;
mod packages;
mod pod_subnets;
mod processes;
mod services;
mod setup;
mod snapshot;
mod static_pods;
mod tree;
mod world;

pub(crate) use cluster::key;
pub(crate) use containers::FakeContainer;
pub(crate) use files::file_error;
pub(crate) use packages::PackageFile;
pub(crate) use services::{DIRECTORIES as UNIT_DIRECTORIES, Unit};
pub(crate) use tree::{LINK_LIMIT, Node, NodeKind, parts};

pub use fault::{Fault, FaultPlan, Mischief, Trigger};
pub use gate::{Call, FakeHost};
pub use kubernetes::KubernetesRules;
pub use processes::Program;
pub use snapshot::{WorldSnapshot, difference};
pub use world::World;
