//! What lowering needs to know besides the words of a script.

use std::collections::BTreeMap;
use std::path::Path;

/// The host and the role for which a script is lowered.
pub(in crate::script) struct ScriptContext<'a> {
    /// Templates by name.
    pub(in crate::script) templates: &'a BTreeMap<String, String>,
    /// `master` or `worker`.
    pub(in crate::script) node: &'a str,
    /// The role's payload on the host.
    pub(in crate::script) payload: &'a Path,
}
