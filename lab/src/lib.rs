//! Real hosts on one machine.
//!
//! A *lab* is a network of *hosts*. A host is a privileged container whose first process is systemd and that runs its own docker,
//! so nodelet treats it like any Debian server. For tests that need another kernel, a host is a virtual machine in such a
//! container. [`Setup::run`] makes everything that a lab needs, with Rust and apt: the outer docker, images of hosts, Kubernetes
//! from Debian's source package, and the payload of the role package. Each step is an artifact in the [`Cache`], outside the
//! checkout, keyed by its inputs. [`Lab::create`] brings hosts up, [`Host`] runs commands on them, [`Lab::destroy`] and [`topology::down`]
//! leave nothing behind.
//!
//! Nothing here is part of the product: nodelet must not know that a host is a container. Start with `topology`.

#![forbid(unsafe_code)]

pub mod cache;
pub mod command;
pub mod config;
mod debian;
pub mod docker;
pub mod fault;
pub mod lock;
pub mod micro;
pub mod package;
pub mod progress;
pub mod setup;
pub mod snapshot;
pub mod suites;
pub mod topology;

pub use cache::Cache;
pub use config::Config;
pub use docker::Docker;
pub use fault::{DEPENDENCY_FAULTS, FAULTS, Fault};
pub use micro::{Machine, Micro};
pub use setup::Setup;
pub use setup::steps::images::TOOLBOX_IMAGE;
pub use setup::steps::kubernetes::VERSION as KUBERNETES_VERSION;
pub use setup::steps::packages::{
    for_bench as install_packages_for_bench, for_tests as install_packages_for_tests,
};
pub use snapshot::HostSnapshot;
pub use suites::Suites;
pub use topology::host::{Host, Image};
pub use topology::outer_docker::OuterDocker;
pub use topology::{HostSpec, Lab, Mount, machine_mount};
