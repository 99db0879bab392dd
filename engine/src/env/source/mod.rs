//! Settings as they are written: files, their order, and positions in them.
//!
//! Start with `layers`.
//!
//! Not here: what a setting means and whether its value is allowed (`check`, `rules`).

pub(in crate::env) mod layers;
pub(in crate::env) mod parse;
pub(in crate::env) mod place;
pub(in crate::env) mod yaml;
