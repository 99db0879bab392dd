//! docker on a fake host: its containers and images, and what it does by itself.
//!
//! Start with `containers`.
//!
//! Not here: images and containers of a role (`resource::docker`).

pub(in crate::host::fake) mod container;
pub(in crate::host::fake) mod containers;
pub(in crate::host::fake) mod daemon;
