//! Checks of all YAML from outside (settings, facts, `role.yaml`) before the parser reads it.
//!
//! It finds nesting that is too deep, a byte order mark and a second document. Not here: parsing, and what the documents mean; that is in
//! `env::source`, `facts::fixture` and `role::manifest`. Start with `too_deep`.

/// Deepest nesting of brackets that is passed to the parser: the parser's work grows with the square of the depth.
pub(crate) const MAX_BRACKETS: usize = 32;

/// The line in which brackets are nested deeper than [`MAX_BRACKETS`], counted from 1.
///
/// Every bracket counts, also in quotes and comments: no real file comes near the limit.
pub(crate) fn too_deep(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    for (line, content) in text.lines().enumerate() {
        for byte in content.bytes() {
            match byte {
                b'[' | b'{' => depth += 1,
                b']' | b'}' => depth = depth.saturating_sub(1),
                _ => continue,
            }
            if depth > MAX_BRACKETS {
                return Some(line + 1);
            }
        }
    }
    None
}

/// The text without the byte order mark that some editors put at its start. The parser would read the mark as a document.
pub(crate) fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// The line of the second document's `---`, counted from 1.
pub(crate) fn second_document(text: &str) -> Option<usize> {
    let mut begun = false;
    for (line, content) in text.lines().enumerate() {
        if content.starts_with("---") && begun {
            return Some(line + 1);
        }
        begun |= !content.trim_start().is_empty()
            && !content.trim_start().starts_with('#')
            && !content.starts_with('%');
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excessive_depth_is_reported_with_its_line() {
        assert_eq!(too_deep(&format!("a: 1\nb: {}", "[".repeat(32))), None);
        assert_eq!(too_deep(&format!("a: 1\nb: {}", "{".repeat(33))), Some(2));
        assert_eq!(too_deep(&"[]".repeat(1000)), None);
    }

    #[test]
    fn the_second_document_is_found() {
        assert_eq!(second_document("# a\n---\nA: 1\n---\nB: 2\n"), Some(4));
        assert_eq!(second_document("A: 1\n--- \nB: 2\n"), Some(2));
        assert_eq!(second_document("# a\n---\nA: 1\n"), None);
    }
}
