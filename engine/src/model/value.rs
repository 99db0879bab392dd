//! Values in a plan: known now, or known only when the plan runs.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::StepId;

/// A value of a script.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Value {
    /// Nothing.
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// Text.
    Text(String),
    /// Values in order.
    List(Vec<Value>),
    /// Values by name.
    Map(BTreeMap<String, Value>),
    /// A secret: its name; the value appears only while a step converges.
    Secret(SecretRef),
    /// What a step of this plan will find or make.
    Output(OutputRef),
}

/// Name of a secret, for example `kube/DOCKERHUB_PASSWORD`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretRef(pub String);

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "secret:{}", self.0)
    }
}

/// A field of what a step finds or makes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputRef {
    /// The step.
    pub step: StepId,
    /// The field, for example `pod_cidr`.
    pub field: String,
}

impl fmt::Display for OutputRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "output:{}#{}", self.step, self.field)
    }
}

impl Value {
    /// Whether the value, or one inside it, is known only when the plan runs.
    #[must_use]
    pub fn is_late(&self) -> bool {
        match self {
            Self::Secret(_) | Self::Output(_) => true,
            Self::List(items) => items.iter().any(Self::is_late),
            Self::Map(fields) => fields.values().any(Self::is_late),
            _ => false,
        }
    }

    /// Whether the value is a secret or has one inside.
    #[must_use]
    pub fn is_secret(&self) -> bool {
        match self {
            Self::Secret(_) => true,
            Self::List(items) => items.iter().any(Self::is_secret),
            Self::Map(fields) => fields.values().any(Self::is_secret),
            _ => false,
        }
    }

    /// The value as plain JSON; late values are replaced with the results of `resolve`.
    ///
    /// # Errors
    /// Those of `resolve`.
    pub fn to_json<E>(
        &self,
        resolve: &mut dyn FnMut(&Value) -> Result<serde_json::Value, E>,
    ) -> Result<serde_json::Value, E> {
        use serde_json::Value as Json;
        Ok(match self {
            Self::Null => Json::Null,
            Self::Bool(b) => Json::Bool(*b),
            Self::Integer(n) => Json::from(*n),
            Self::Text(text) => Json::from(text.as_str()),
            Self::List(items) => {
                let mut list = Vec::with_capacity(items.len());
                for item in items {
                    list.push(item.to_json(resolve)?);
                }
                Json::Array(list)
            }
            Self::Map(fields) => {
                let mut map = serde_json::Map::new();
                for (name, value) in fields {
                    map.insert(name.clone(), value.to_json(resolve)?);
                }
                Json::Object(map)
            }
            Self::Secret(_) | Self::Output(_) => resolve(self)?,
        })
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => write!(f, "()"),
            Self::Bool(b) => write!(f, "{b}"),
            Self::Integer(n) => write!(f, "{n}"),
            Self::Text(text) => write!(f, "{text}"),
            Self::List(items) => {
                write!(f, "[")?;
                for (i, item) in items.iter().enumerate() {
                    let comma = if i == 0 { "" } else { ", " };
                    write!(f, "{comma}{item}")?;
                }
                write!(f, "]")
            }
            Self::Map(fields) => {
                write!(f, "{{")?;
                for (i, (name, value)) in fields.iter().enumerate() {
                    let comma = if i == 0 { "" } else { ", " };
                    write!(f, "{comma}{name}: {value}")?;
                }
                write!(f, "}}")
            }
            Self::Secret(secret) => write!(f, "{secret}"),
            Self::Output(output) => write!(f, "{output}"),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<bool> for Value {
    fn from(b: bool) -> Self {
        Self::Bool(b)
    }
}

impl From<i64> for Value {
    fn from(n: i64) -> Self {
        Self::Integer(n)
    }
}

impl<T: Into<Value>> From<Vec<T>> for Value {
    fn from(items: Vec<T>) -> Self {
        Self::List(items.into_iter().map(Into::into).collect())
    }
}
