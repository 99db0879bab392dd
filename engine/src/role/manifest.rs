//! `role.yaml`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

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
    /// Parameters by name: scripts read them as `role.NAME`.
    #[serde(default)]
    pub parameters: BTreeMap<String, Parameter>,
    /// SHA-256 of `SHA256SUMS`, which is beside this file in an installed package and has the digest of each file below `phases/`
    /// and `payload/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksums: Option<String>,
    /// Paths that must be in the payload, relative to it. Required, and the last key: a truncated file lacks it.
    pub payload: Vec<String>,
}

/// A typed parameter of a role.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameter {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: ParameterKind,
    /// Its value where none is given.
    pub default: serde_json::Value,
    /// Least value of a number.
    #[serde(default)]
    pub least: Option<i64>,
    /// Greatest value of a number.
    #[serde(default)]
    pub most: Option<i64>,
    /// What it decides.
    pub doc: String,
}

/// Type of a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ParameterKind {
    /// Text.
    Text,
    /// A whole number.
    Integer,
    /// True or false.
    Bool,
    /// A list of texts.
    Texts,
}

impl Parameter {
    /// The default as a value, if it has the parameter's type.
    pub(super) fn value(&self) -> Result<crate::model::Value, String> {
        use crate::model::Value;
        use serde_json::Value as Json;
        match (self.kind, &self.default) {
            (ParameterKind::Text, Json::String(text)) => Ok(Value::Text(text.clone())),
            (ParameterKind::Bool, Json::Bool(b)) => Ok(Value::Bool(*b)),
            (ParameterKind::Integer, Json::Number(number)) => {
                let n = number.as_i64().ok_or("it is no whole number")?;
                if self.least.is_some_and(|least| n < least)
                    || self.most.is_some_and(|most| n > most)
                {
                    return Err(format!("{n} is out of its range"));
                }
                Ok(Value::Integer(n))
            }
            (ParameterKind::Texts, Json::Array(items)) => items
                .iter()
                .map(|item| {
                    item.as_str()
                        .map(Value::from)
                        .ok_or_else(|| format!("{item} is no text"))
                })
                .collect::<Result<_, _>>()
                .map(Value::List),
            (kind, other) => Err(format!("{other} is not of type {kind:?}").to_lowercase()),
        }
    }
}
