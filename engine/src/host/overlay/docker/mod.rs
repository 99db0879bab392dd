//! docker below an overlay: its containers and images, also while it does not run.
//!
//! `containers` answers, and `docker_on_disk` reads docker's files for the time when docker does not run. Not here: docker's unit
//! (`services`). Start with `containers`.

pub(in crate::host::overlay) mod containers;
pub(in crate::host::overlay) mod docker_on_disk;
