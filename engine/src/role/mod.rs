//! Roles: what a host should be, as phases and typed parameters.
//!
//! A role package is a directory with `role.yaml`, `phases/` and `payload/`. In a checkout the phases are
//! shared by all roles and are two levels up. An installed package also has `SHA256SUMS`, which names each file in `phases/` and
//! `payload/`.

mod manifest;
mod package;
mod packed;

pub use manifest::{Parameter, ParameterKind, RoleManifest};
pub use package::{RoleError, RolePackage};
