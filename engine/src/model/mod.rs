//! Plain data that all modules share: names, values, positions, texts, findings, errors of the system, and how a run ended.
//!
//! Contains the types that stand in scripts, plans, events and the ledger, and pure functions over them. Nothing here reads a host or
//! knows a kind of resource; only `old_records` knows old names of some.
//!
//! Start with [`name`] (phases, steps, positions in scripts), then [`value`] (what a script can say) and [`template`].

mod count;
mod diagnostic;
mod error;
mod hex;
mod name;
pub mod old_records;
mod paths;
mod pause;
pub(crate) mod preflight_record;
mod run;
mod sysctl_key;
mod template;
mod value;

pub use count::count;
pub use diagnostic::{Diagnostic, Sources, closest};
pub use error::{SystemError, chain};
pub use hex::hex;
pub use name::{InvalidPhaseName, PhaseName, Span, StepId};
pub(crate) use name::{is_module_name, is_package_name};
pub(crate) use paths::{KERNEL_TREES, OWN_PATHS, is_in_kernel_file_system, resolve_var_run};
pub use paths::{RECORDS, STATE};
pub use pause::doubled;
pub use run::{Failure, Outcome, Problem, Verb};
pub use sysctl_key::{InvalidSysctlKey, SysctlKey};
pub use template::{FILTERS, RenderError, RenderProblem, Text, render, variables};
pub use value::{OutputRef, SecretRef, Value};
