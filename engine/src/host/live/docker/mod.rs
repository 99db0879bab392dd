//! docker on this machine: containers, images, and images that are being loaded.
//!
//! Start with `containers`; `client` is the connection.
//!
//! Not here: docker's unit (`systemd`), and when a container is replaced (`resource::docker`).

pub(in crate::host::live) mod client;
pub(in crate::host::live) mod container_config;
pub(in crate::host::live) mod containers;
pub(in crate::host::live) mod image_archive;
pub(in crate::host::live) mod pending_loads;
