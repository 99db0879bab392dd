//! Checks of all YAML from outside (settings, facts, `role.yaml`) before the parser reads it.
//!
//! It finds nesting that is too deep (`yaml_limits`), a byte order mark, a second document, a key that a map has twice, and positions of keys
//! and values. Not here: parsing, and what the documents mean; that is in `env::source`, `facts::fixture` and `role::manifest`. Start with `too_deep`.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

pub(crate) use yaml_limits::{MAX_BRACKETS, too_deep};

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

/// One segment of the path to a value in a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Segment {
    /// The key of a map.
    Key(&'static str),
    /// The index of a list, counted from 0.
    Index(usize),
}

/// The text form of a path, for example `disks[1].mode`.
pub(crate) fn path_text(path: &[Segment]) -> String {
    let mut text = String::new();
    for segment in path {
        match segment {
            Segment::Key(key) if text.is_empty() => text.push_str(key),
            Segment::Key(key) => {
                text.push('.');
                text.push_str(key);
            }
            Segment::Index(index) => {
                let _ = write!(text, "[{index}]");
            }
        }
    }
    text
}

/// A position in a document. Line and column are counted from 1.
///
/// The parser gives positions only with errors. So a search fails on purpose at its target, with [`stop`] or with [`TARGET`] as what it
/// expects there. [`Position::of_stop`] then takes the position from the text of the error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    /// The line.
    pub(crate) line: usize,
    /// The column.
    pub(crate) column: usize,
}

/// The last words of an error with which a search stops at its target. The position follows them.
const TARGET: &str = "the target of a search";

/// The error with which a search stops at its target.
pub(crate) fn stop<E: Error>() -> E {
    E::custom(TARGET)
}

impl Position {
    /// The position at which a search has stopped. `None` for other errors.
    ///
    /// It is read from the text of the error, because a visitor does not have the parser's own type of error.
    pub(crate) fn of_stop(error: &impl fmt::Display) -> Option<Self> {
        let message = error.to_string();
        let (_, place) = message.rsplit_once(TARGET)?;
        if place.is_empty() {
            // The parser leaves out the position of the first character.
            return Some(Self { line: 1, column: 1 });
        }
        let (line, column) = place.strip_prefix(" at line ")?.split_once(" column ")?;
        Some(Self {
            line: line.parse().ok()?,
            column: column.parse().ok()?,
        })
    }
}

/// The line of the value at a path, counted from 1. `None` if there is no such value.
pub(crate) fn line_of(text: &str, path: &[Segment]) -> Option<usize> {
    let found = Find(path).deserialize(serde_yaml::Deserializer::from_str(text));
    Some(Position::of_stop(&found.err()?)?.line)
}

/// Refuses a map with the same key twice, with the place of the second one. For a struct the parser would give the place of the map.
pub(crate) fn refuse_duplicates(text: &str) -> Result<(), serde_yaml::Error> {
    UniqueKeys.deserialize(serde_yaml::Deserializer::from_str(text))
}

/// Follows a path to its value, and stops there. A value that is neither a map nor a list is an error that names [`TARGET`] as expected.
struct Find<'p>(&'p [Segment]);

impl<'de> DeserializeSeed<'de> for Find<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Find<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(TARGET)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((Segment::Key(wanted), rest)) = self.0.split_first() else {
            return Err(stop());
        };
        while let Some(key) = map.next_key::<String>()? {
            if key == *wanted {
                map.next_value_seed(Find(rest))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Some((Segment::Index(wanted), rest)) = self.0.split_first() else {
            return Err(stop());
        };
        for _ in 0..*wanted {
            items.next_element::<IgnoredAny>()?;
        }
        items.next_element_seed(Find(rest))?;
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }
}

/// Any value whose maps have each key once.
struct UniqueKeys;

impl<'de> DeserializeSeed<'de> for UniqueKeys {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for UniqueKeys {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_none<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = BTreeSet::new();
        while map.next_key_seed(NewKey(&mut seen))?.is_some() {
            map.next_value_seed(Self)?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(Self)?.is_some() {}
        Ok(())
    }
}

/// A key that its map did not have so far.
struct NewKey<'s>(&'s mut BTreeSet<String>);

impl<'de> DeserializeSeed<'de> for NewKey<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for NewKey<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<(), E> {
        if self.0.insert(key.to_owned()) {
            Ok(())
        } else {
            Err(E::custom(format!("the key `{key}` is there twice")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_there_twice_is_reported_with_its_line() {
        let told = |text: &str| {
            let refused = refuse_duplicates(text).expect_err("a key is there twice");
            (refused.to_string(), refused.location().map(|at| at.line()))
        };
        let (text, line) = told("# facts\na: 1\nb: [x]\na: 2\n");
        assert!(text.contains("the key `a` is there twice"), "{text}");
        assert_eq!(line, Some(4));
        let (_, line) = told("a:\n- b: 1\n  c: ~\n- b: 1\n  b: 2.5\n");
        assert_eq!(line, Some(5));
        refuse_duplicates("a: {b: 1}\nb: [true, -1, 0x10, x]\n").expect("each is there once");
    }

    #[test]
    fn a_value_is_found_by_its_path() {
        let text = "a: 1\nlist:\n- b: {c: x}\n- d: 1\n  b:\n    c: y\nlast: 1\n";
        let path = |index| {
            [
                Segment::Key("list"),
                Segment::Index(index),
                Segment::Key("b"),
                Segment::Key("c"),
            ]
        };
        assert_eq!(line_of(text, &path(0)), Some(3));
        assert_eq!(line_of(text, &path(1)), Some(6));
        assert_eq!(line_of(text, &path(2)), None);
        assert_eq!(line_of(text, &[Segment::Key("last")]), Some(7));
        let map_of_second = [Segment::Key("list"), Segment::Index(1), Segment::Key("b")];
        assert_eq!(line_of(text, &map_of_second), Some(6), "it is a map");
        assert_eq!(line_of(text, &[Segment::Key("list")]), Some(3), "a list");
        assert_eq!(line_of(text, &[Segment::Key("none")]), None);
        assert_eq!(path_text(&path(1)), "list[1].b.c");
    }

    #[test]
    fn a_text_like_a_position_does_not_change_the_position() {
        let imitation = format!("a: 1\nb: \"{TARGET} at line 9 column 9\"\n");
        assert_eq!(line_of(&imitation, &[Segment::Key("b")]), Some(2));
    }

    #[test]
    fn only_a_search_that_has_stopped_has_a_position() {
        let at = |line, column| Some(Position { line, column });
        let told = |text: &str| Position::of_stop(&text);
        assert_eq!(told(TARGET), at(1, 1));
        assert_eq!(told(&format!("{TARGET} at line 3 column 5")), at(3, 5));
        assert_eq!(told(&format!("a.b: {TARGET} at line 3 column 5")), at(3, 5));
        for other in [
            "repetition limit exceeded",
            "did not find expected key at line 3 column 5",
            "the target of a search at position 7",
        ] {
            assert_eq!(told(other), None, "{other}");
        }
    }

    #[test]
    fn the_second_document_is_found() {
        assert_eq!(second_document("# a\n---\nA: 1\n---\nB: 2\n"), Some(4));
        assert_eq!(second_document("A: 1\n--- \nB: 2\n"), Some(2));
        assert_eq!(second_document("# a\n---\nA: 1\n"), None);
    }
}
