//! docker below an overlay: its unit, containers and images. While docker does not run, they are known after apply.
//!
//! Not here: units in general (`services`). Start with `containers`.

pub(in crate::host::overlay) mod containers;
