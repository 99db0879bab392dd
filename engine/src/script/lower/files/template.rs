//! Templates: which variables they use, and the text that they become.

use std::collections::BTreeMap;

use crate::model::{
    Diagnostic, FILTERS, RenderError, RenderProblem, Span, Text, Value, closest, render, variables,
};
use crate::script::lower::context::LoweringContext;
use crate::script::lower::options::Options;

/// A template with its variables: rendered now if all are known, kept for the step otherwise.
pub(in crate::script::lower) fn template(
    name: &str,
    options: &Options<'_>,
    context: &LoweringContext<'_>,
    findings: &mut Vec<Diagnostic>,
) -> Option<Text> {
    let place = format!("phases/templates/{name}");
    let Some(source) = context.templates.get(name) else {
        let mut finding = Diagnostic::new(
            "P0501",
            options.span("vars"),
            format!("there is no template `{name}` in phases/templates"),
        );
        let meant = closest(name, context.templates.keys().map(String::as_str));
        finding = finding.help(match meant {
            Some(meant) => format!("did you mean `{meant}`?"),
            None if name.ends_with(".tmpl") => format!("write the template into {place}"),
            None => format!("write the template into {place}.tmpl, and name it `{name}.tmpl` here: names of templates end with `.tmpl`"),
        });
        findings.push(finding);
        return None;
    };
    if let Some(finding) = foreign_encoding(&place, source) {
        findings.push(finding);
        return None;
    }
    let vars = options.map("vars").unwrap_or_default();
    let used = match variables(&place, source) {
        Ok(used) => used,
        Err(error) => {
            findings.push(unusable(error, source));
            return None;
        }
    };
    let mut fine = true;
    for name in &used {
        if !vars.contains_key(name) {
            fine = false;
            let line = source
                .lines()
                .position(|line| line.contains(name.as_str()))
                .map_or(0, |l| l + 1);
            let mut finding = Diagnostic::new(
                "P0503",
                Span::new(place.as_str(), line, 0),
                format!(
                    "the template uses the variable `{name}`, but the script does not give it at {}",
                    options.span("vars")
                ),
            );
            let meant = closest(name, vars.keys().map(String::as_str));
            finding = finding.help(match meant {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("add it there: .vars(#{{ {name}: … }})"),
            });
            findings.push(finding);
        }
    }
    for name in vars.keys() {
        if !used.contains(name) {
            fine = false;
            findings.push(
                Diagnostic::new(
                    "P0504",
                    options.span("vars"),
                    format!("`.vars` gives `{name}`, but the template {place} does not use it"),
                )
                .help(format!(
                    "remove `{name}` from `.vars`, or use it in the template: {{{{ {name} }}}}"
                )),
            );
        }
    }
    if !fine {
        return None;
    }
    text(&place, source, vars, findings)
}

/// A finding if a template begins with a byte order mark or ends lines as Windows does: the files made from it would, too.
fn foreign_encoding(place: &str, source: &str) -> Option<Diagnostic> {
    if source.starts_with('\u{feff}') {
        let message = "the template begins with a byte order mark, which would be in the file, too";
        return Some(
            Diagnostic::new("P0510", Span::new(place, 1, 0), message)
                .help("save it as UTF-8 without a byte order mark"),
        );
    }
    let before = source.split_once('\r')?.0;
    let line = before.matches('\n').count() + 1;
    let message = "the line contains a carriage return, which would be in the file, too";
    Some(
        Diagnostic::new("P0510", Span::new(place, line, 0), message)
            .help("save the template with the line ends of Linux (LF, not CRLF)"),
    )
}

fn text(
    place: &str,
    source: &str,
    vars: BTreeMap<String, Value>,
    findings: &mut Vec<Diagnostic>,
) -> Option<Text> {
    if vars.values().any(Value::is_late) {
        return Some(Text::Late {
            template: place.to_owned(),
            source: source.to_owned(),
            vars,
        });
    }
    let json = Value::Map(vars)
        .to_json(&mut |late| Err(late.to_string()))
        .expect("no variable is late");
    match render(place, source, &json) {
        Ok(text) => Some(Text::Known(text)),
        Err(error) => {
            findings.push(unusable(error, source));
            None
        }
    }
}

/// A finding for a template that cannot be rendered.
fn unusable(error: RenderError, source: &str) -> Diagnostic {
    let line = error.place.line.checked_sub(1);
    let line = line.and_then(|line| source.lines().nth(line));
    let help = what_to_do(error.kind, line.unwrap_or_default());
    Diagnostic::new("P0502", error.place, error.problem).help(help)
}

/// Help for a problem of this kind in this line.
fn what_to_do(problem: RenderProblem, line: &str) -> String {
    match problem {
        RenderProblem::UnknownFilter => format!("the filters are {}", FILTERS.join(", ")),
        RenderProblem::Undefined => {
            let is_of_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.');
            let is_field =
                |word: &&str| word.contains('.') && word.starts_with(char::is_alphabetic);
            let fields = line.split(|c: char| !is_of_name(c)).filter(is_field);
            let fields: Vec<String> = fields.map(|word| format!("`{word}`")).collect();
            if fields.is_empty() {
                "compare the names in this line with those that `.vars` gives".to_owned()
            } else {
                format!(
                    "compare the fields in this line with the values that `.vars` gives: {}",
                    fields.join(", ")
                )
            }
        }
        RenderProblem::TooDeep => "nest fewer tags and brackets in each other".to_owned(),
        RenderProblem::Syntax => {
            "each `{% if … %}` needs its `{% endif %}`, each `{% for … %}` its `{% endfor %}`, and each `{{` its `}}`"
                .to_owned()
        }
        RenderProblem::TooLarge => {
            "make a shorter list in the script, and pass it with `.vars`".to_owned()
        }
        RenderProblem::Other => {
            "compute the value in the script and pass it with `.vars`, or join a list: `[a, b]|join`"
                .to_owned()
        }
    }
}
