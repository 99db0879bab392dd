//! Roles: what a host should be, as phases and typed parameters.
//!
//! A role package is a directory with `role.yaml`, `phases/` and `payload/`. In a checkout the phases are
//! shared by all roles and stand two levels up.

mod manifest;
mod ownership;
mod package;

pub use manifest::{Parameter, ParameterKind, RoleManifest};
pub use package::{RoleError, RolePackage};
