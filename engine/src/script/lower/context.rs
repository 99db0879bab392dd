//! What lowering needs to know besides the words of a script.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The host and the role for which a script is lowered.
pub(in crate::script) struct LoweringContext<'a> {
    /// Templates by name.
    pub(in crate::script) templates: &'a BTreeMap<String, String>,
    /// The node kinds for which `role.yaml` lists a phase.
    pub(in crate::script) listed_for: &'a BTreeMap<String, Vec<String>>,
    /// Names of the role's phases, those of other node kinds too.
    pub(in crate::script) phases: &'a BTreeSet<String>,
    /// The role's payload on the host.
    pub(in crate::script) payload: &'a Path,
}
