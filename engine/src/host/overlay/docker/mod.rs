//! docker below an overlay: its containers and images. While docker does not run, they are known after apply.
//!
//! Not here: docker's unit (`services`). Start with `containers`.

pub(in crate::host::overlay) mod containers;
