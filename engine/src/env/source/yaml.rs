//! Reads flat YAML maps with the position of every key. Called by `layers.rs`; does not know the table of keys.
//!
//! Each key is read by a visitor that keeps the text and then stops: the error has the position ([`Position`]), the key is
//! consumed, and reading goes on with its value. The positions are thus the parser's own, and correct with
//! quotes, comments, block scalars and flow style. A second pass reads the scalars as text, so that `1.20`
//! and `0755` stay as they were written.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::path::Path;

use serde::Deserialize as _;
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error as _, IgnoredAny, MapAccess, SeqAccess,
    Visitor,
};

use super::layers::MAX_KEYS_PER_FILE;
use super::place::Place;
use crate::env::error::EnvError;
use crate::yaml::{self, Position};

/// Most items in nested lists and maps that are skipped before the file is refused: with aliases a small file can have very many.
const MAX_NESTED_ITEMS: u32 = 10_000;

/// One `KEY: value` of a file.
#[derive(Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) place: Place,
    pub(crate) node: Node,
}

/// The value of a key.
#[derive(Debug, PartialEq)]
pub(crate) enum Node {
    /// Nothing, `~` or `null`.
    Null,
    /// A scalar as it was written, without quotes.
    Scalar(String),
    /// A list.
    Sequence,
    /// A map.
    Mapping,
}

/// The entries of a file in their order. An empty file has none.
pub(crate) fn entries(path: &Path, bytes: &[u8]) -> Result<Vec<Entry>, EnvError> {
    let text = std::str::from_utf8(bytes).map_err(|error| EnvError::NotUtf8 {
        place: Place::line(path, line_of(bytes, error.valid_up_to())),
    })?;
    let text = yaml::without_mark(text);
    refuse_controls(path, text)?;
    refuse_depth(path, text)?;
    let invalid = |error: serde_yaml::Error| invalid_yaml(path, &error);
    let mut documents = serde_yaml::Deserializer::from_str(text);
    let Some(first) = documents.next() else {
        return Ok(Vec::new());
    };
    let top = first.deserialize_any(TopVisitor).map_err(invalid)?;
    let keys = match top {
        Top::Map(keys) => keys,
        Top::Empty => return Ok(Vec::new()),
        Top::Other(found) => {
            return Err(EnvError::NotAMap {
                place: Place::file(path),
                found,
            });
        }
        Top::TooMany => {
            return Err(EnvError::TooManyKeys {
                place: Place::file(path),
                limit: MAX_KEYS_PER_FILE,
            });
        }
    };
    if documents.next().is_some() {
        return Err(EnvError::InvalidYaml {
            place: yaml::second_document(text)
                .map_or_else(|| Place::file(path), |line| Place::line(path, line)),
            message: "more than one document".to_owned(),
        });
    }
    let shapes: Vec<Shape> = keys.iter().map(|key| key.shape).collect();
    let mut nodes = serde_yaml::Deserializer::from_str(text)
        .deserialize_map(TextVisitor(&shapes))
        .map_err(invalid)?
        .into_iter();
    Ok(keys
        .into_iter()
        .map(|key| Entry {
            place: Place::column(path, key.position.line, key.position.column),
            key: key.text,
            node: nodes.next().unwrap_or(Node::Null),
        })
        .collect())
}

/// Refuses characters that YAML does not allow (1.1, 5.1). The parser would name the byte but not the line.
fn refuse_controls(path: &Path, text: &str) -> Result<(), EnvError> {
    let allowed = |c: char| {
        !c.is_control() && c <= '\u{fffd}'
            || matches!(c, '\t' | '\n' | '\r' | '\u{85}' | '\u{10000}'..)
    };
    for (line, content) in text.split('\n').enumerate() {
        if let Some((column, character)) = content.chars().enumerate().find(|(_, c)| !allowed(*c)) {
            return Err(EnvError::InvalidYaml {
                place: Place::column(path, line + 1, column + 1),
                message: format!(
                    "character U+{:04X} must be escaped inside double quotes",
                    u32::from(character)
                ),
            });
        }
    }
    Ok(())
}

fn refuse_depth(path: &Path, text: &str) -> Result<(), EnvError> {
    match yaml::too_deep(text.as_bytes()) {
        None => Ok(()),
        Some(line) => Err(EnvError::TooDeep {
            place: Place::line(path, line),
            limit: yaml::MAX_BRACKETS,
        }),
    }
}

fn line_of(bytes: &[u8], offset: usize) -> usize {
    1 + bytes[..offset]
        .iter()
        .filter(|byte| **byte == b'\n')
        .count()
}

/// The parser's message with its position at the front, where operators and editors expect it.
fn invalid_yaml(path: &Path, error: &serde_yaml::Error) -> EnvError {
    let message = error.to_string();
    match error.location() {
        Some(at) => EnvError::InvalidYaml {
            place: Place::column(path, at.line(), at.column()),
            message: message.replacen(
                &format!(" at line {} column {}", at.line(), at.column()),
                "",
                1,
            ),
        },
        None => EnvError::InvalidYaml {
            place: Place::file(path),
            message,
        },
    }
}

/// A key as the first pass finds it.
struct FoundKey {
    text: String,
    position: Position,
    shape: Shape,
}

#[derive(Clone, Copy)]
enum Shape {
    Null,
    Scalar,
    Sequence,
    Mapping,
}

enum Top {
    Empty,
    Map(Vec<FoundKey>),
    TooMany,
    Other(&'static str),
}

/// Visitor methods that read a scalar of any type without keeping it; their result is `$found`.
macro_rules! visit_scalars {
    ($found:expr) => {
        fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
            Ok($found)
        }
        fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
            Ok($found)
        }
        fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
            Ok($found)
        }
        fn visit_i128<E>(self, _: i128) -> Result<Self::Value, E> {
            Ok($found)
        }
        fn visit_u128<E>(self, _: u128) -> Result<Self::Value, E> {
            Ok($found)
        }
        fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
            Ok($found)
        }
        fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
            Ok($found)
        }
        // Only an application-specific tag arrives as an enum.
        fn visit_enum<A: EnumAccess<'de>>(self, _: A) -> Result<Self::Value, A::Error> {
            Err(A::Error::custom("tags are not supported"))
        }
    };
}

struct TopVisitor;

impl<'de> Visitor<'de> for TopVisitor {
    type Value = Top;

    visit_scalars!(Top::Other("one value"));

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_unit<E>(self) -> Result<Top, E> {
        Ok(Top::Empty)
    }

    // A file with only comments.
    fn visit_none<E>(self) -> Result<Top, E> {
        Ok(Top::Empty)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Top, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Top::Other("a list"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Top, A::Error> {
        let mut keys = Vec::new();
        let mut count = 0;
        let budget = Cell::new(MAX_NESTED_ITEMS);
        while let Some(key) = map.next_key_seed(KeySeed)? {
            let shape = map.next_value_seed(ShapeSeed(&budget))?;
            count += 1;
            if count <= MAX_KEYS_PER_FILE {
                keys.push(FoundKey { shape, ..key });
            }
        }
        Ok(if count > MAX_KEYS_PER_FILE {
            Top::TooMany
        } else {
            Top::Map(keys)
        })
    }
}

struct KeySeed;

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = FoundKey;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<FoundKey, D::Error> {
        let text = RefCell::new(None);
        let Err(error) = deserializer.deserialize_str(KeyProbe(&text)) else {
            return Err(D::Error::custom("a key that cannot be read"));
        };
        // Without a text, the parser has refused the key before the probe saw it: the key is a list or a map.
        let Some(text) = text.into_inner() else {
            return Err(D::Error::custom(
                "a list or a map as key, expected `KEY: value`",
            ));
        };
        let Some(position) = Position::of_stop(&error) else {
            return Err(error);
        };
        Ok(FoundKey {
            text,
            position,
            shape: Shape::Null,
        })
    }
}

/// Keeps the text of a key, and stops.
struct KeyProbe<'a>(&'a RefCell<Option<String>>);

impl Visitor<'_> for KeyProbe<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        self.0.replace(Some(text.to_owned()));
        Err(yaml::stop())
    }
}

/// Tells the shape of a key's value; holds how many nested items may still be skipped.
struct ShapeSeed<'a>(&'a Cell<u32>);

impl ShapeSeed<'_> {
    fn count_item<E: serde::de::Error>(&self) -> Result<(), E> {
        let left = self.0.get().checked_sub(1);
        self.0.set(
            left.ok_or_else(|| E::custom("too many nested items, expected `KEY: value` lines"))?,
        );
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for ShapeSeed<'_> {
    type Value = Shape;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Shape, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ShapeSeed<'_> {
    type Value = Shape;

    visit_scalars!(Shape::Scalar);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Shape, E> {
        Ok(Shape::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Shape, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {
            self.count_item()?;
        }
        Ok(Shape::Sequence)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shape, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
            self.count_item()?;
        }
        Ok(Shape::Mapping)
    }
}

/// The second pass: reads the scalars as text, with the shapes that the first pass found.
struct TextVisitor<'a>(&'a [Shape]);

impl<'de> Visitor<'de> for TextVisitor<'_> {
    type Value = Vec<Node>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the map of the first pass")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<Node>, A::Error> {
        let mut nodes = Vec::with_capacity(self.0.len());
        for shape in self.0 {
            map.next_key::<IgnoredAny>()?;
            nodes.push(match shape {
                Shape::Scalar => Node::Scalar(map.next_value_seed(RawText)?),
                Shape::Null => map.next_value::<IgnoredAny>().map(|_| Node::Null)?,
                Shape::Sequence => map.next_value::<IgnoredAny>().map(|_| Node::Sequence)?,
                Shape::Mapping => map.next_value::<IgnoredAny>().map(|_| Node::Mapping)?,
            });
        }
        Ok(nodes)
    }
}

struct RawText;

impl<'de> DeserializeSeed<'de> for RawText {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        String::deserialize(deserializer)
    }
}
