//! Text that a plan puts into files: fixed, or rendered from a template.
//!
//! A template whose variables are all known is rendered while the plan is made, so the plan shows the very
//! bytes. One with late values keeps its source and is rendered by the step, in memory.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::template::render;
use crate::model::{Span, Value};

/// Content of a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Text {
    /// These bytes.
    Known(String),
    /// A template with at least one late variable.
    Late {
        /// Name of the template, for messages.
        template: String,
        /// Its source.
        source: String,
        /// Its variables.
        vars: BTreeMap<String, Value>,
    },
}

/// A template that does not render.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("render {place}: {problem}")]
pub struct RenderError {
    /// Template file and line.
    pub place: Span,
    /// Kind of the problem.
    pub kind: RenderProblem,
    /// What is wrong.
    pub problem: String,
}

/// Kind of the problem of a template. It decides what its author is advised to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenderProblem {
    /// Templates do not have this filter.
    UnknownFilter,
    /// A variable or a field does not exist.
    Undefined,
    /// Tags or brackets are nested too deeply.
    TooDeep,
    /// The template does not parse.
    Syntax,
    /// The rendering takes too many operations, or makes too much text.
    TooLarge,
    /// Something else, for example syntax that templates cannot use.
    Other,
}

impl Text {
    /// Whether the content holds a secret.
    #[must_use]
    pub fn is_secret(&self) -> bool {
        match self {
            Self::Known(_) => false,
            Self::Late { vars, .. } => vars.values().any(Value::is_secret),
        }
    }

    /// The text, with late values from `resolve`.
    ///
    /// # Errors
    /// The template does not render, or `resolve` fails: its error is then part of the problem's text.
    pub fn render<E: std::fmt::Display>(
        &self,
        resolve: &mut dyn FnMut(&Value) -> Result<serde_json::Value, E>,
    ) -> Result<String, RenderError> {
        match self {
            Self::Known(text) => Ok(text.clone()),
            Self::Late {
                template,
                source,
                vars,
            } => {
                let mut map = serde_json::Map::new();
                for (name, value) in vars {
                    let json = value.to_json(resolve).map_err(|error| RenderError {
                        place: Span::file(template.as_str()),
                        kind: RenderProblem::Other,
                        problem: format!("variable `{name}`: {error}"),
                    })?;
                    map.insert(name.clone(), json);
                }
                render(template, source, &serde_json::Value::Object(map))
            }
        }
    }
}
