//! Messages to the author of a script or role: a code, a place, what is wrong and what to do.

use std::collections::BTreeMap;
use std::sync::Arc;

use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceSpan};
use serde::Serialize;

use crate::model::Span;

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// Stable code; `P01` syntax, `P02` words, `P03` values, `P04` order, `P05` templates, `P06` role files.
    pub code: &'static str,
    /// Where.
    pub span: Span,
    /// What is wrong, a sentence without a full stop.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl Diagnostic {
    /// A finding without help.
    pub fn new(code: &'static str, span: Span, message: impl Into<String>) -> Self {
        Self {
            code,
            span,
            message: message.into(),
            help: None,
        }
    }

    /// The finding with a help text.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// One line: `file:line:column: code message (help)`.
    #[must_use]
    pub fn short(&self) -> String {
        let help = self
            .help
            .as_ref()
            .map(|help| format!(" ({help})"))
            .unwrap_or_default();
        format!("{}: {} {}{help}", self.span, self.code, self.message)
    }
}

/// Texts by file name, for quoting in diagnostics.
#[derive(Debug, Clone, Default)]
pub struct Sources(BTreeMap<String, Arc<str>>);

impl Sources {
    /// Adds a text.
    pub fn insert(&mut self, file: impl Into<String>, text: impl Into<Arc<str>>) {
        self.0.insert(file.into(), text.into());
    }

    /// The text of a file.
    #[must_use]
    pub fn get(&self, file: &str) -> Option<&Arc<str>> {
        self.0.get(file)
    }

    /// Renders findings with the source lines, the place underlined, without colours.
    #[must_use]
    pub fn render(&self, diagnostics: &[Diagnostic]) -> String {
        let theme = GraphicalTheme::unicode_nocolor();
        let handler = GraphicalReportHandler::new_themed(theme)
            .with_width(100)
            .with_links(false);
        let mut text = String::new();
        for diagnostic in diagnostics {
            let mut one = String::new();
            let rendered = match self.located(diagnostic) {
                Some((source, label)) => {
                    let mut report = report(diagnostic);
                    report = report.with_label(label);
                    let error = miette::Report::new(report).with_source_code(source);
                    handler.render_report(&mut one, error.as_ref())
                }
                None => {
                    let mut placed = diagnostic.clone();
                    placed.message = format!("{}: {}", diagnostic.span, diagnostic.message);
                    handler.render_report(&mut one, &report(&placed))
                }
            };
            match rendered {
                Ok(()) => text.push_str(one.trim_end()),
                Err(_) => text.push_str(&diagnostic.short()),
            }
            text.push_str("\n\n");
        }
        let trimmed: Vec<&str> = text.trim_end().lines().map(str::trim_end).collect();
        trimmed.join("\n") + "\n"
    }

    fn located(&self, diagnostic: &Diagnostic) -> Option<(NamedSource<String>, LabeledSpan)> {
        let span = &diagnostic.span;
        let text = self.0.get(span.file.as_ref())?;
        let line = span.line.checked_sub(1)?;
        let start: usize = text.split_inclusive('\n').take(line).map(str::len).sum();
        let content = text.lines().nth(line).unwrap_or_default();
        let skip = span.column.saturating_sub(1);
        let offset: usize = content.chars().take(skip).map(char::len_utf8).sum();
        let rest = &content[offset..];
        let word = rest
            .find(|c: char| !(c.is_alphanumeric() || c == '_'))
            .filter(|length| *length > 0)
            .unwrap_or_else(|| {
                rest.chars()
                    .next()
                    .map_or(0, char::len_utf8)
                    .max(rest.len().min(1))
            });
        let at = SourceSpan::new((start + offset).into(), word);
        let source = NamedSource::new(span.file.as_ref(), text.to_string());
        Some((
            source,
            LabeledSpan::new_with_span(Some("here".to_owned()), at),
        ))
    }
}

fn report(diagnostic: &Diagnostic) -> miette::MietteDiagnostic {
    let mut report =
        miette::MietteDiagnostic::new(diagnostic.message.clone()).with_code(diagnostic.code);
    if let Some(help) = &diagnostic.help {
        report = report.with_help(help.clone());
    }
    report
}

/// Longer names are not compared: the distance takes quadratic time and memory, and no known name is nearly as long.
const LONGEST: usize = 64;

/// The known name closest to `name`, if it is close enough for a suggestion.
pub fn closest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if name.len() > LONGEST {
        return None;
    }
    known
        .into_iter()
        .filter(|candidate| candidate.len() <= LONGEST)
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().max(name.len()) / 3 + 1)
        .min()
        .map(|(_, candidate)| candidate)
}
