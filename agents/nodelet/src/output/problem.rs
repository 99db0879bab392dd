//! A problem of the input, with fields for programs: `--json` reports it. People get text, which quotes the place.

use engine::env::EnvError;
use engine::model::Diagnostic;
use serde::Serialize;

/// Input that is refused, with every problem of its kind.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub(crate) struct Refused {
    pub(crate) what: String,
    /// Texts of one or more lines, for people; no secrets.
    pub(crate) problems: Vec<String>,
    /// The same problems in fields, for programs.
    pub(crate) items: Vec<Problem>,
}

/// One problem. A field that is not known is `null`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Problem {
    /// The code of a mistake in a role.
    code: Option<&'static str>,
    /// The file of the role or of the settings.
    file: Option<String>,
    /// The line, from 1.
    line: Option<usize>,
    /// The column in characters, from 1.
    column: Option<usize>,
    /// What is wrong, without the place.
    message: String,
    /// What to do about it.
    help: Option<String>,
}

impl Problem {
    /// A problem of which only the text is known.
    pub(crate) fn of_text(text: &str) -> Self {
        Self {
            message: text.trim_end().to_owned(),
            ..Self::default()
        }
    }
}

impl From<&Diagnostic> for Problem {
    fn from(diagnostic: &Diagnostic) -> Self {
        let span = &diagnostic.span;
        Self {
            code: Some(diagnostic.code),
            file: Some(span.file.to_string()),
            line: known(span.line),
            column: known(span.column),
            message: diagnostic.message.clone(),
            help: diagnostic.help.clone(),
        }
    }
}

impl From<&EnvError> for Problem {
    fn from(error: &EnvError) -> Self {
        let place = error.place();
        let number = |number: u32| usize::try_from(number).ok();
        let text = error.to_string();
        let text = match place {
            Some(place) => text.strip_prefix(&format!("{place}: ")).unwrap_or(&text),
            None => text.as_str(),
        };
        let help = match error {
            EnvError::NoValue { help, .. } | EnvError::InvalidValue { help, .. } => help.clone(),
            EnvError::UnknownKey { closest, .. } => {
                closest.map(|name| format!("did you mean `{name}`?"))
            }
            _ => None,
        };
        // The text for people ends with the help.
        let message = help
            .as_ref()
            .and_then(|help| text.strip_suffix(&format!("; {help}")))
            .unwrap_or(text);
        Self {
            code: None,
            file: place.map(|place| place.path.display().to_string()),
            line: place.and_then(|place| place.line).and_then(number),
            column: place.and_then(|place| place.column).and_then(number),
            message: message.to_owned(),
            help,
        }
    }
}

/// A line or column; 0 means that only the place around it is known.
fn known(number: usize) -> Option<usize> {
    (number > 0).then_some(number)
}

#[cfg(test)]
mod tests {
    use engine::env::KubeEnv;
    use engine::model::Span;

    use super::*;

    #[test]
    fn a_mistake_in_a_role_has_all_fields() {
        let span = Span::new("phases/etcd.rhai", 3, 5);
        let diagnostic = Diagnostic::new("P0301", span, "`mode` takes text").help("add quotes");
        let expected = Problem {
            code: Some("P0301"),
            file: Some("phases/etcd.rhai".to_owned()),
            line: Some(3),
            column: Some(5),
            message: "`mode` takes text".to_owned(),
            help: Some("add quotes".to_owned()),
        };
        assert_eq!(Problem::from(&diagnostic), expected);
        let whole = Diagnostic::new("P0601", Span::file("role.yaml"), "it is empty");
        let whole = Problem::from(&whole);
        assert_eq!((whole.line, whole.column, whole.help), (None, None, None));
    }

    #[test]
    fn a_wrong_setting_has_its_place_and_its_help_in_fields_of_their_own() {
        let text = b"ROLE: master\nMASTER_IP: 172.30.0.11\nMTU_SIZ: 1400\n";
        let files = vec![("settings.yaml".to_owned(), text.to_vec())];
        let errors = KubeEnv::resolve_with_override(files, None).expect_err("there is no such key");
        let problems: Vec<Problem> = errors.iter().map(Problem::from).collect();
        let [problem] = problems.as_slice() else {
            panic!("{problems:?}");
        };
        assert_eq!(problem.file.as_deref(), Some("settings.yaml"));
        assert_eq!(problem.line, Some(3));
        assert_eq!(problem.message, "unknown key `MTU_SIZ`");
        assert_eq!(problem.help.as_deref(), Some("did you mean `MTU_SIZE`?"));
    }
}
