//! docker below an overlay: its containers and images, also while it does not run.

pub(in crate::host::overlay) mod containers;
pub(in crate::host::overlay) mod docker_on_disk;
