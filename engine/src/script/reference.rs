//! Generates the reference page of the language from the table that the script engine uses.

use std::fmt::Write as _;

use super::vocabulary::{
    CHECK_POLICY, FUNCTIONS, Modifier, Param, REQUIREMENT_POLICY, STEP_POLICY, Word, WordKind,
};
use super::words::WORDS;

/// Sections of the page: heading, introduction, kind of words, and the modifiers that these words share.
const SECTIONS: &[(&str, &str, WordKind, &[Modifier])] = &[
    (
        "The phase",
        "Each file begins with it.",
        WordKind::Header,
        &[],
    ),
    (
        "Resources",
        "Each describes how one thing should be. The step looks at the thing first and changes it only if it differs; the \
         change is reverted when a later step of the phase fails.",
        WordKind::Resource,
        STEP_POLICY,
    ),
    (
        "Checks",
        "They come last in a file and are read-only.",
        WordKind::Check,
        CHECK_POLICY,
    ),
    (
        "Requirements",
        "All of them are evaluated before anything on the host is changed.",
        WordKind::Requirement,
        REQUIREMENT_POLICY,
    ),
];

/// The types of arguments that need an explanation.
const TYPES: &[(&str, &str)] = &[
    (
        "text",
        "in quotes, or in backticks if it contains `${…}`; not empty, and without control characters such as a line feed, except in the content of files, in the arguments of commands and in `.expect`",
    ),
    (
        "path",
        "a text: an absolute path without `.`, `..`, `//` and a `/` at its end",
    ),
    (
        "mode",
        "a text: permission bits in octal digits with a leading zero, such as `\"0644\"`",
    ),
    (
        "duration",
        "a text: whole numbers with units, such as `\"500ms\"`, `\"30s\"`, `\"5m\"` or `\"1h 30m\"`; longer than zero",
    ),
    (
        "size",
        "a text: a whole number with the unit K, M, G or T in powers of 1024, such as `\"512M\"`",
    ),
    ("address", "a text: an IPv4 or IPv6 address"),
    ("port", "a whole number from 1 to 65535"),
    (
        "list",
        "items in brackets, such as `[\"a\", \"b\"]`; one item needs brackets, too; at least one item, unless the type says that it may be empty",
    ),
    (
        "map",
        "names and values, such as `#{ name: \"value\" }`; at least one",
    ),
    (
        "step",
        "what a word for a resource returns; `let config = template(…);` gives it a name",
    ),
    (
        "closure",
        "steps that are written inside the word, such as `|| { cgroup(\"kubepods\").absent(); }`",
    ),
];

/// The page in Markdown, as it is checked in at `phases/REFERENCE.md`.
#[must_use]
pub fn reference() -> String {
    let mut page = String::from(
        "# The words of phase scripts\n\n\
         Generated from the table in `engine/src/script/words/`; a test keeps the two the same \
         (`UPDATE_GENERATED=1 cargo test -p behaviour --test scripts`).\n\n\
         A script describes and changes nothing: it is read once, into a plan. A word begins the phase, a step, a check \
         or a requirement, and the modifiers after it, one per line, set its options. The types of a modifier's \
         arguments are in parentheses after it. `host`, `cluster`, `role` and `kube` hold facts and settings that are \
         known before; an unknown key is an error. [docs/role.md](../docs/role.md) lists the keys, and the filters of \
         templates.\n\n## Types of arguments\n\n",
    );
    for (name, meaning) in TYPES {
        let _ = writeln!(page, "- {name}: {meaning}");
    }
    for (heading, about, role, shared) in SECTIONS {
        let _ = write!(page, "\n## {heading}\n\n{about}\n");
        if !shared.is_empty() {
            page.push_str("\nAll of them take:\n\n");
            modifiers(&mut page, shared);
        }
        for one in WORDS.iter().filter(|word| word.kind() == *role) {
            word(&mut page, one);
        }
    }
    page.push_str("\n## Late values and lanes\n\n");
    for (name, params, doc) in FUNCTIONS {
        let _ = writeln!(
            page,
            "- `{}`{}: {doc}",
            signature(name, params),
            types(params)
        );
    }
    page
}

fn word(page: &mut String, word: &Word) {
    let _ = write!(
        page,
        "\n### `{}`\n\n{}\n",
        signature(word.name, word.params),
        word.doc
    );
    for param in word.params {
        let _ = write!(page, "\n- `{}`: {}", param.name, param.arg.short());
    }
    if !word.params.is_empty() {
        page.push('\n');
    }
    let _ = write!(
        page,
        "\n```rhai\n{}\n```\n",
        word.example.replace(").", ")\n    .")
    );
    if !word.modifiers.is_empty() {
        page.push('\n');
        modifiers(page, word.modifiers);
    }
    if !word.rollback.is_empty() {
        let _ = write!(page, "\nOn rollback: {}\n", lowered(word.rollback));
    }
}

fn modifiers(page: &mut String, list: &[Modifier]) {
    for modifier in list {
        let again = if modifier.repeatable {
            " May be repeated."
        } else {
            ""
        };
        let _ = writeln!(
            page,
            "- `.{}`{}: {}{again}",
            signature(modifier.name, modifier.params),
            types(modifier.params),
            modifier.doc
        );
    }
}

/// `name(first, second)`.
fn signature(name: &str, params: &[Param]) -> String {
    let params: Vec<&str> = params.iter().map(|param| param.name).collect();
    format!("{name}({})", params.join(", "))
}

/// The types of the parameters in parentheses; nothing without parameters.
fn types(params: &[Param]) -> String {
    let types: Vec<String> = params.iter().map(|param| param.arg.short()).collect();
    if types.is_empty() {
        String::new()
    } else {
        format!(" ({})", types.join("; "))
    }
}

/// A sentence with a lower-case first letter, to follow a colon.
fn lowered(sentence: &str) -> String {
    let mut letters = sentence.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_lowercase().chain(letters).collect()
    })
}
