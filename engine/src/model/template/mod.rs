//! Renders templates strictly, and within limits of work and memory.
//!
//! A template comes with a role, so it is input from outside. `grammar.rs` allows only syntax that cannot make text longer
//! without a filter; the filters here, the printed text and the operations of a rendering have limits.
//!
//! Not here: which variables a script gives to a template (`script::lower::files`). Start with [`render`].

pub(crate) mod grammar;
pub(crate) mod systemd;
pub(crate) mod text;

pub use text::{RenderError, RenderProblem, Text};

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use minijinja::value::{Kwargs, Value as Jinja};
use minijinja::{Error, ErrorKind};

use super::Span;

/// Most operations of a rendering: the same number as of a script.
const OPERATIONS: u64 = 200_000;
/// Most text of the filters and the output of a rendering together, in bytes.
const TEXT: usize = 4 << 20;

/// The filters that templates can use.
pub const FILTERS: &[&str] = &[
    "base64",
    "exec_word",
    "join",
    "replace",
    "tojson",
    "unit_quoted",
    "upper",
];

/// Renders a template strictly: an unknown variable is an error.
///
/// # Errors
/// The template does not parse or render, or passes a limit; the place names the template's line.
pub fn render(
    template: &str,
    source: &str,
    vars: &serde_json::Value,
) -> Result<String, RenderError> {
    let shape = grammar::inspect(template, source)?;
    let environment = environment();
    let compiled = environment
        .template_from_named_str(template, source)
        .map_err(|error| refused(template, &error))?;
    let mut page = Page::default();
    compiled
        .render_captured_to(minijinja::value::Serde(vars), &mut page)
        .map_err(|error| refused(template, &error))?;
    if page.full {
        // Only fixed text is not counted when it is printed, and only a loop prints more of it than the file contains.
        return Err(RenderError {
            place: Span::new(template, shape.first_loop.unwrap_or(1), 0),
            kind: RenderProblem::TooLarge,
            problem: TooMuchText.to_string(),
        });
    }
    String::from_utf8(page.bytes).map_err(|error| RenderError {
        place: Span::file(template),
        kind: RenderProblem::Other,
        problem: error.to_string(),
    })
}

/// The variables that a template uses and that a script must give.
///
/// # Errors
/// The template does not parse.
pub fn variables(
    template: &str,
    source: &str,
) -> Result<std::collections::BTreeSet<String>, RenderError> {
    grammar::inspect(template, source)?;
    let environment = environment();
    let compiled = environment
        .template_from_named_str(template, source)
        .map_err(|error| refused(template, &error))?;
    Ok(compiled.undeclared_variables(false).into_iter().collect())
}

/// How templates are written: `{{ }}`, `{% %}`, lines with nothing but a tag leave no trace.
pub(crate) fn syntax() -> minijinja::syntax::SyntaxConfig {
    minijinja::syntax::SyntaxConfig::builder()
        .keep_trailing_newline(true)
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build()
        .expect("the usual delimiters do not clash")
}

/// An error of the template library with its place.
pub(crate) fn refused(template: &str, error: &Error) -> RenderError {
    RenderError {
        place: Span::new(template, error.line().unwrap_or(0), 0),
        kind: kind(error),
        problem: describe(error),
    }
}

/// A new environment for each rendering, because its filters share the rendering's budget. It has no functions, no
/// tests, and none of the library's filters: several of those make text of any length.
fn environment() -> minijinja::Environment<'static> {
    let mut environment = minijinja::Environment::empty();
    environment.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
    environment.set_syntax(syntax());
    environment.set_recursion_limit(50);
    environment.set_fuel(Some(OPERATIONS));
    let budget = Budget::default();
    let printed = budget.clone();
    environment.set_formatter(move |out, state, value| {
        // An undefined value gets here only from an `if` without `else`, which prints nothing.
        if !value.is_undefined() {
            printed.text(value)?;
        }
        minijinja::escape_formatter(out, state, value)
    });
    let base64 = budget.clone();
    environment.add_filter("base64", move |value: &Jinja| {
        use base64::Engine as _;
        let text = base64.text(value)?;
        base64.made(base64::engine::general_purpose::STANDARD.encode(text))
    });
    let join = budget.clone();
    environment.add_filter("join", move |list: &Jinja, between: Option<&str>| {
        join.join(list, between.unwrap_or_default())
    });
    let replace = budget.clone();
    environment.add_filter("replace", move |text: &str, old: &str, new: &str| {
        let times = text.matches(old).count();
        // Charged before the text is made: the replacement may be as long as the text itself.
        replace.charge(times.saturating_mul(new.len()).saturating_add(text.len()))?;
        Ok::<_, Error>(text.replace(old, new))
    });
    let tojson = budget.clone();
    environment.add_filter("tojson", move |value: &Jinja| {
        tojson.text(value)?;
        // Called without the argument for indentation, which has no limit.
        minijinja::filters::tojson(
            value,
            None,
            std::iter::empty::<(String, Jinja)>().collect::<Kwargs>(),
        )
    });
    let exec_word = budget.clone();
    environment.add_filter("exec_word", move |value: &Jinja| {
        exec_word.made(systemd::exec_word(&exec_word.text(value)?))
    });
    let unit_quoted = budget.clone();
    environment.add_filter("unit_quoted", move |value: &Jinja| {
        unit_quoted.made(systemd::quoted(&unit_quoted.text(value)?))
    });
    environment.add_filter("upper", move |text: &str| budget.made(text.to_uppercase()));
    environment
}

/// How much more text a rendering may make.
#[derive(Clone)]
struct Budget(Arc<AtomicUsize>);

impl Default for Budget {
    fn default() -> Self {
        Self(Arc::new(AtomicUsize::new(TEXT)))
    }
}

impl Budget {
    fn charge(&self, bytes: usize) -> Result<(), Error> {
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(bytes)
            })
            .map(|_| ())
            .map_err(|_| too_much_text())
    }

    fn made(&self, text: String) -> Result<String, Error> {
        self.charge(text.len()).map(|()| text)
    }

    /// A value as it is printed. Printing stops when the budget ends, because a short list can contain a long text many times.
    fn text(&self, value: &Jinja) -> Result<String, Error> {
        if value.is_undefined() {
            return Err(Error::from(ErrorKind::UndefinedError));
        }
        let mut paid = Paid {
            budget: self,
            text: String::new(),
        };
        match write!(paid, "{value}") {
            Ok(()) => Ok(paid.text),
            Err(_) => Err(too_much_text()),
        }
    }

    fn join(&self, list: &Jinja, between: &str) -> Result<String, Error> {
        let mut joined = String::new();
        for (index, item) in list.try_iter()?.enumerate() {
            if index > 0 {
                self.charge(between.len())?;
                joined.push_str(between);
            }
            joined.push_str(&self.text(&item)?);
        }
        Ok(joined)
    }
}

/// Text; each piece is charged to the budget before it is stored.
struct Paid<'a> {
    budget: &'a Budget,
    text: String,
}

impl std::fmt::Write for Paid<'_> {
    fn write_str(&mut self, piece: &str) -> std::fmt::Result {
        self.budget
            .charge(piece.len())
            .map_err(|_| std::fmt::Error)?;
        self.text.push_str(piece);
        Ok(())
    }
}

/// The output of a rendering. Text over the limit is dropped, because an error from here would have no line.
#[derive(Default)]
struct Page {
    bytes: Vec<u8>,
    full: bool,
}

impl std::io::Write for &mut Page {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.full |= self.bytes.len() + bytes.len() > TEXT;
        if !self.full {
            self.bytes.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A rendering passes the limit [`TEXT`].
#[derive(Debug, thiserror::Error)]
#[error("it makes more than {} MiB of text", TEXT >> 20)]
struct TooMuchText;

fn too_much_text() -> Error {
    Error::from(ErrorKind::InvalidOperation).with_source(TooMuchText)
}

/// The kind of an error of the template library.
fn kind(error: &Error) -> RenderProblem {
    let cause = std::error::Error::source(error);
    match error.kind() {
        ErrorKind::UnknownFilter => RenderProblem::UnknownFilter,
        ErrorKind::UndefinedError => RenderProblem::Undefined,
        ErrorKind::OutOfFuel => RenderProblem::TooLarge,
        _ if cause.is_some_and(|cause| cause.is::<TooMuchText>()) => RenderProblem::TooLarge,
        // The library has no kind for its limits of nesting: only its text names them.
        _ if error
            .detail()
            .is_some_and(|detail| detail.contains("recursion limit")) =>
        {
            RenderProblem::TooDeep
        }
        ErrorKind::SyntaxError => RenderProblem::Syntax,
        _ => RenderProblem::Other,
    }
}

fn describe(error: &Error) -> String {
    let mut text = match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, _) => {
            return format!(
                "it takes more than {OPERATIONS} operations: is there a loop in a loop?"
            );
        }
        (ErrorKind::UndefinedError, None) => {
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

    fn problem(source: &str) -> String {
        let many: Vec<u32> = (0..12).collect();
        let vars = serde_json::json!({"a": "x".repeat(200_000), "many": many, "n": {"m": 1}});
        render("t.tmpl", source, &vars)
            .map(|text| text.len())
            .expect_err(source)
            .to_string()
    }

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

    #[test]
    fn filters_do_what_phases_need() {
        let vars = serde_json::json!({"id": "me", "size": "10m", "n": {"k": "<'1'>", "l": [1]}});
        let text = render(
            "t",
            "{{ [id, 7]|join(':')|base64 }} {{ size|upper|replace('M', 'Mi') }} {{ n|tojson }} {{ [id]|join }}\n",
            &vars,
        )
        .expect("it renders");
        assert_eq!(
            text,
            "bWU6Nw== 10Mi {\"k\": \"\\u003c\\u00271\\u0027\\u003e\", \"l\": [1]} me\n"
        );
        let missing = render("t", "{{ [nme]|join }}", &vars).expect_err("nme is not given");
        assert!(missing.problem.contains("is not there"), "{missing}");
    }

    #[test]
    fn each_problem_has_its_kind() {
        let many: Vec<u32> = (0..12).collect();
        let vars = serde_json::json!({"a": "x".repeat(200_000), "many": many});
        let nested = [
            "{% for x in many %}".repeat(12),
            "{{ x }}".to_owned(),
            "{% endfor %}".repeat(12),
        ]
        .concat();
        let brackets = format!("{{{{ {}a }}}}", "(".repeat(200));
        for (source, kind) in [
            ("{{ a|shout }}", RenderProblem::UnknownFilter),
            ("{{ recursion }}", RenderProblem::Undefined),
            (&brackets, RenderProblem::TooDeep),
            ("{% if a %}", RenderProblem::Syntax),
            ("{{ a|replace('x', a) }}", RenderProblem::TooLarge),
            (
                "{% for x in many %}{% for y in many %}{{ a }}{% endfor %}{% endfor %}",
                RenderProblem::TooLarge,
            ),
            (&nested, RenderProblem::TooLarge),
            ("{{ a * 2 }}", RenderProblem::Other),
        ] {
            let error = render("t", source, &vars).expect_err(source);
            assert_eq!(error.kind, kind, "{error}");
        }
    }

    #[test]
    fn each_filter_of_the_list_exists() {
        let vars = serde_json::json!({"a": "x"});
        for filter in FILTERS {
            // One of them lacks its arguments here, which is another error.
            let problem = match render("t", &format!("{{{{ a|{filter} }}}}"), &vars) {
                Ok(_) => String::new(),
                Err(error) => error.problem,
            };
            assert!(!problem.contains("unknown filter"), "{filter}: {problem}");
        }
    }

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "a bound on the renderer, which no plan can see"
    )]
    fn unbounded_growth_is_refused_with_line_and_limit() {
        let started = std::time::Instant::now();
        let nested = [
            "{% for x in many %}".repeat(12),
            "{{ x }}".to_owned(),
            "{% endfor %}".repeat(12),
        ]
        .concat();
        for (source, says) in [
            ("\n{{ a|indent(2000000000) }}", ":2: unknown filter"),
            ("{{ '%2000000000d'|format(1) }}", ":1: unknown filter"),
            (
                "\n\n{{ a|replace('x', a) }}",
                ":3: invalid operation: it makes more than 4 MiB",
            ),
            (
                "{{ a|replace('', 'xxxx')|replace('', 'xxxx')|replace('', 'xxxx') }}",
                "more than 4 MiB",
            ),
            (
                "\n{{ [a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a]|tojson }}",
                ":2: invalid operation: it makes more than 4 MiB",
            ),
            (
                "{{ [a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a]|join|base64 }}",
                "more than 4 MiB",
            ),
            (
                "{{ [a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a]|base64 }}",
                "more than 4 MiB",
            ),
            (
                "{% for x in many %}\n{% for y in many %}\n{{ a }}{% endfor %}{% endfor %}",
                ":3: invalid operation: it makes more than 4 MiB",
            ),
            (
                &format!(
                    "\n{{% for x in many %}}{{% for y in many %}}{}{{% endfor %}}{{% endfor %}}",
                    "x".repeat(200_000)
                ),
                ":2: it makes more than 4 MiB",
            ),
            (&nested, ":1: it takes more than 200000 operations"),
            (
                "\n{{ 'y' * 100000 }}",
                ":2: `*` is not an operator of templates",
            ),
            ("{% set b = a ~ a %}", "`~` is not an operator"),
            ("{% set b = a + a %}", "`+` is not an operator"),
            ("{{ 2 ** 3 }}", "`**` is not an operator"),
            ("{{ a[:5] }}", "a slice"),
            ("{{ range(2000000000) }}", "a call"),
            ("{% set b %}{{ a }}{{ a }}{% endset %}", "`set` without `=`"),
            ("{% filter upper %}{{ a }}{% endfilter %}", "`filter`"),
            ("{% for x in many recursive %}{% endfor %}", "`recursive`"),
            (
                &format!("\n{{{{ 1{} }}}}", "-1".repeat(100_000)),
                ":2: a tag of more than 256 words",
            ),
            (
                &format!("{{{{ n{} }}}}", ".m".repeat(100_000)),
                "a tag of more than 256 words",
            ),
            (
                &format!("{{{{ {}a }}}}", "(".repeat(100_000)),
                "a tag of more than 256 words",
            ),
            (&format!("{{{{ {}a }}}}", "(".repeat(200)), "recursion"),
            (
                &format!("{{% if a %}}{}{{% endif %}}", "{% elif a %}".repeat(20_000)),
                "`elif`",
            ),
            (&"{% if a %}".repeat(20_000), "recursion"),
        ] {
            let told = problem(source);
            let head: String = source.chars().take(60).collect();
            assert!(told.contains(says), "{head}: {told}");
            assert!(told.contains("t.tmpl:"), "{head}: {told}");
        }
        // The time of all cases together. The limits are counts, so this holds on a slow machine, too.
        assert!(started.elapsed().as_secs() < 10, "{:?}", started.elapsed());
    }
}
