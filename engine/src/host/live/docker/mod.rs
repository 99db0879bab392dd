//! docker on this machine: containers, images, and images that are being loaded.
//!
//! `containers` makes the calls, `client` is the connection, and `container_config` translates a configuration. `image_archive` reads the
//! table of contents of an archive. `pending_loads` marks an image until all of it is on the disk: after a power cut, docker may list an
//! image whose programs are empty files.
//!
//! Not here: docker's unit (`systemd`), and when a container is replaced (`resource::docker`). Start with `containers`.

pub(in crate::host::live) mod client;
pub(in crate::host::live) mod container_config;
pub(in crate::host::live) mod containers;
pub(in crate::host::live) mod image_archive;
pub(in crate::host::live) mod pending_loads;
