//! Roles: what a host should be, as phases and typed parameters.
//!
//! A role package is a directory with `role.yaml`, `phases/` and `payload/`. In a checkout the phases are
//! shared by all roles and are two levels up. An installed package also has `SHA256SUMS`, which names each file in `phases/` and
//! `payload/`. `docs/role.md` describes all of it for authors.
//!
//! Not here: evaluation of the scripts (`script`), the plan (`planner`), and whether another role is on the host (`exec::undo`). Start
//! with `package` (reading), then `manifest`, `parameter` and `parameters`.

mod fields;
mod inspect;
mod manifest;
mod mistake;
mod package;
mod packed;
mod parameter;
mod parameters;

pub(crate) use fields::field_list;
pub use fields::{Field, MANIFEST_KEYS, PARAMETER_KEYS, ROLE_FIELDS};
pub use manifest::RoleManifest;
pub use package::{RoleError, RolePackage};
pub use parameter::{Parameter, ParameterKind};
