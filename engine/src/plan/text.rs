//! Text that a plan puts into files: fixed, or rendered from a template.
//!
//! A template whose variables are all known is rendered while the plan is made, so the plan shows the very
//! bytes. One with late values keeps its source and is rendered by the step, in memory.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Span, Value};

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
    /// What is wrong.
    pub problem: String,
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

    /// The bytes, with late values as `resolve` gives them.
    ///
    /// # Errors
    /// The template does not render, or `resolve` fails: its error comes back in text form.
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
                        problem: format!("variable `{name}`: {error}"),
                    })?;
                    map.insert(name.clone(), json);
                }
                render(template, source, &serde_json::Value::Object(map))
            }
        }
    }
}

/// Renders a template strictly: an unknown variable is an error.
///
/// # Errors
/// The template does not parse or render; the place names the template's line.
pub fn render(
    template: &str,
    source: &str,
    vars: &serde_json::Value,
) -> Result<String, RenderError> {
    let environment = environment();
    let fail = |error: &minijinja::Error| RenderError {
        place: Span::new(template, error.line().unwrap_or(0), 0),
        problem: describe(error),
    };
    let compiled = environment
        .template_from_named_str(template, source)
        .map_err(|error| fail(&error))?;
    compiled
        .render(minijinja::value::Serde(vars))
        .map_err(|error| fail(&error))
}

/// Names a template uses that its author has to supply.
///
/// # Errors
/// The template does not parse.
pub fn variables(
    template: &str,
    source: &str,
) -> Result<std::collections::BTreeSet<String>, RenderError> {
    let environment = environment();
    let compiled = environment
        .template_from_named_str(template, source)
        .map_err(|error| RenderError {
            place: Span::new(template, error.line().unwrap_or(0), 0),
            problem: describe(&error),
        })?;
    Ok(compiled.undeclared_variables(false).into_iter().collect())
}

fn environment() -> minijinja::Environment<'static> {
    let mut environment = minijinja::Environment::new();
    environment.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
    let syntax = minijinja::syntax::SyntaxConfig::builder()
        .keep_trailing_newline(true)
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build()
        .expect("the usual delimiters do not clash");
    environment.set_syntax(syntax);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_recursion_limit(50);
    environment.add_filter("base64", |text: String| {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(text)
    });
    environment.add_filter("exec_word", |text: String| super::systemd::exec_word(&text));
    environment.add_filter("unit_quoted", |text: String| super::systemd::quoted(&text));
    environment
}

fn describe(error: &minijinja::Error) -> String {
    let mut text = match (error.kind(), error.detail()) {
        (minijinja::ErrorKind::UndefinedError, None) => {
            "a variable or field that this line uses is not there".to_owned()
        }
        (kind, None) => kind.to_string(),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
    };
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_variable_is_an_error_with_its_line() {
        let error = render(
            "etcd/etcd.env.tmpl",
            "A=1\nB={{ nme }}\n",
            &serde_json::json!({"name": "x"}),
        )
        .expect_err("nme is not given");
        assert_eq!(error.place.to_string(), "etcd/etcd.env.tmpl:2");
    }

    #[test]
    fn variables_are_listed() {
        let names = variables("t", "{% for p in peers %}{{ p }} {{ port }}{% endfor %}")
            .expect("it parses");
        assert_eq!(names.into_iter().collect::<Vec<_>>(), ["peers", "port"]);
    }
}
