//! `role.yaml`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Parameter;
use crate::model::Span;

/// A role: which phases for which node kind, in order, and its parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoleManifest {
    /// Version of this form; 1.
    pub version: u32,
    /// The role's name, for example `pf9-kube`.
    pub name: String,
    /// The role's version.
    pub release: String,
    /// What the role makes of a host, one line.
    pub about: String,
    /// Phases by node kind, in order.
    pub nodes: BTreeMap<String, Vec<String>>,
    /// Parameters by name: scripts read them as `role.NAME`, settings set them as `ROLE_NAME`.
    #[serde(default)]
    pub parameters: BTreeMap<String, Parameter>,
    /// SHA-256 of `SHA256SUMS`, which is beside this file in an installed package and has the digest of each file below `phases/`
    /// and `payload/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksums: Option<String>,
    /// Paths that must be in the payload, relative to it. Required, and the last key: a truncated file lacks it.
    pub payload: Vec<String>,
}

impl RoleManifest {
    /// The node kinds that list a phase.
    pub(super) fn kinds_with(&self, phase: &str) -> Vec<String> {
        self.nodes
            .iter()
            .filter(|(_, phases)| phases.iter().any(|name| name == phase))
            .map(|(kind, _)| kind.clone())
            .collect()
    }
}

/// The line of `role.yaml` that has a name, as a key or in a list: serde keeps no positions.
pub(super) fn place(text: &str, name: &str) -> Span {
    place_from(text, 0, name)
}

/// The line that declares a parameter; other keys may have the same name.
pub(super) fn parameter_place(text: &str, name: &str) -> Span {
    let before = text
        .lines()
        .take_while(|line| !line.starts_with("parameters:"));
    place_from(text, before.count(), name)
}

/// The same after this number of lines.
fn place_from(text: &str, lines: usize, name: &str) -> Span {
    let says = |line: &str| {
        let line = line
            .trim()
            .trim_start_matches("- ")
            .trim_matches(['"', '\'']);
        line.strip_prefix(name)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
    };
    let found = text
        .lines()
        .enumerate()
        .skip(lines)
        .find(|(_, line)| says(line));
    Span::new("role.yaml", found.map_or(1, |(index, _)| index + 1), 0)
}
