//! Quotes values for systemd's unit files, so that no value becomes another option, a specifier or a variable.
//!
//! Source: systemd.service(5), "Command lines"; systemd.syntax(7), "Quoting"; systemd.exec(5), `Environment=`.

/// A word of a command line, in which `$` and `%` stand for themselves. A word without special characters stays as it is.
pub(crate) fn exec_word(text: &str) -> String {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-_=./,:@+".contains(&b);
    if !text.is_empty() && text.bytes().all(is_plain) {
        return text.to_owned();
    }
    format!("\"{}\"", quoted(&text.replace('$', "$$")))
}

/// Text between double quotes in a unit file where `$` has no meaning, for example in an assignment of `Environment=`.
pub(crate) fn quoted(text: &str) -> String {
    let mut word = String::new();
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                word.push('\\');
                word.push(c);
            }
            '%' => word.push_str("%%"),
            '\n' => word.push_str("\\n"),
            c if c.is_control() => word.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => word.push(c),
        }
    }
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_one_word_and_nothing_else() {
        for (text, word) in [
            ("--v=2", "--v=2"),
            ("", "\"\""),
            ("--a=b c", "\"--a=b c\""),
            ("--a=%i$HOME", "\"--a=%%i$$HOME\""),
            (
                "a\"\nExecStartPre=/bin/true\n#",
                "\"a\\\"\\nExecStartPre=/bin/true\\n#\"",
            ),
            ("back\\slash", "\"back\\\\slash\""),
            ("\u{7}", "\"\\u0007\""),
        ] {
            assert_eq!(exec_word(text), word, "{text:?}");
        }
        assert_eq!(quoted("a%b$c\"d"), "a%%b$c\\\"d");
    }
}
