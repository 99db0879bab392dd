//! Texts of requests in reasons and logs: a request may contain anything, so its texts are escaped and cut.

/// Characters that are shown.
const SHOWN: usize = 200;

/// A text of a request as reasons and logs show it: control characters and quotes escaped, at most 200 characters and `…`.
#[must_use]
pub fn shown(text: &str) -> String {
    let mut escaped = text.escape_debug();
    let mut short: String = escaped.by_ref().take(SHOWN).collect();
    if escaped.next().is_some() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shown_text_has_one_line_and_a_limit() {
        assert_eq!(shown("a\nb\u{1b}[1m"), "a\\nb\\u{1b}[1m");
        assert_eq!(shown(&"x".repeat(SHOWN)), "x".repeat(SHOWN));
        let long = shown(&"x".repeat(100_000));
        assert_eq!(long.chars().count(), SHOWN + 1);
        assert!(long.ends_with('…'));
    }
}
