//! docker: its own service, images and containers.
//!
//! Start with `container`; `container_runtime` is docker itself, `ending` ends containers, and `interrupted` has those of other programs that a
//! restart of docker may end.
//!
//! Not here: containers of pods (`kubernetes`), and docker's packages and unit as such (`system`).

pub(in crate::resource) mod container;
pub(crate) mod container_runtime;
pub(crate) mod ending;
pub(in crate::resource) mod image;
pub(in crate::resource) mod image_directory;
mod interrupted;
