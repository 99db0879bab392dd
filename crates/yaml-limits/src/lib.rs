//! What is looked at before a YAML parser reads a document: how deep its brackets are nested.
//!
//! Not here: the size of a document, which those who read the file limit. Start with [`too_deep`].

#![forbid(unsafe_code)]

/// Deepest nesting of brackets that is passed to the parser: the parser's work grows with the square of the depth.
pub const MAX_BRACKETS: usize = 32;

/// The line in which brackets are nested deeper than [`MAX_BRACKETS`], counted from 1.
///
/// Every bracket counts, also in quotes and comments: no real file comes near the limit. So closing ones in quotes hide others from a document
/// that is made for it; that costs the parser time only, and who reads a file limits its size.
#[must_use]
pub fn too_deep(document: &[u8]) -> Option<usize> {
    let (mut line, mut depth) = (1, 0_usize);
    for byte in document {
        match byte {
            b'\n' => line += 1,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_BRACKETS {
            return Some(line);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_with_the_deepest_brackets_is_found() {
        let found = |text: String| too_deep(text.as_bytes());
        assert_eq!(found(format!("a: 1\nb: {}", "[".repeat(32))), None);
        assert_eq!(found(format!("a: 1\nb: {}", "{".repeat(33))), Some(2));
        assert_eq!(found("[]".repeat(1000)), None);
        assert_eq!(found("[\n".repeat(40)), Some(33));
    }
}
