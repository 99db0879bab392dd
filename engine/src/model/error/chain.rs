//! Errors as text.

/// An error and its causes, outermost first. A cause is left out if the error before it already quotes it.
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    let mut at = Some(error);
    while let Some(error) = at {
        let text = printable(&error.to_string());
        if !texts.last().is_some_and(|last| last.contains(&text)) {
            texts.push(text);
        }
        at = error.source();
    }
    texts
}

/// Escapes control characters: they move a terminal's cursor or break a line, and file names may contain them.
fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() && character != '\t' {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}
