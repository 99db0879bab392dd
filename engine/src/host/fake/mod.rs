//! A small stateful world.
//!
//! [`FakeHost`] implements every capability of [`Host`](super::Host) with behaviour instead of expectations: a write
//! needs its directory, a container its image, a unit its file. Tests and dry runs therefore learn what a real host
//! would have told them. A [`FaultPlan`] makes calls fail, hang, lie or crash; a [`WorldSnapshot`] compares worlds.
//!
//! It leaves out what no phase depends on: processes, users, permissions (we are root), real TLS and real packets. Start with `fake_host`,
//! then `world`; the other modules are the capabilities by topic, as in `host::live`.

mod builder;
mod clock;
mod docker;
mod fake_host;
mod fault;
mod files;
mod kernel;
mod kubernetes;
mod late_writes;
mod network;
mod packages;
mod processes;
mod services;
mod world;

pub(crate) use docker::container::FakeContainer;
pub(crate) use files::file_error;
pub(crate) use kubernetes::cluster::key;
pub(crate) use processes::PATH as PROGRAM_PATH;
pub(crate) use services::DIRECTORIES as UNIT_DIRECTORIES;
pub(crate) use world::package::PackageFile;
pub(crate) use world::tree::{Node, NodeKind, Walk};
pub(crate) use world::unit::Unit;

pub use fake_host::{Call, FakeHost};
pub use fault::{Fault, FaultKind, FaultPlan, Trigger};
pub use kubernetes::state::KubernetesRules;
pub use world::World;
pub use world::etcd::EtcdWorld;
pub use world::program::Program;
pub use world::snapshot::{WorldSnapshot, difference};
