//! What is in the way of a directory. A facts file has it as text: `a file`, or `a file (/where/it/is)`.

use std::fmt;
use std::str::FromStr;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::host::EntryKind;

/// The kind of an entry that is not a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ObstacleKind {
    /// A regular file.
    File,
    /// A symbolic link.
    Link,
    /// A socket.
    Socket,
    /// A device or a pipe.
    Device,
}

impl ObstacleKind {
    const ALL: [Self; 4] = [Self::File, Self::Link, Self::Socket, Self::Device];

    /// The kind of an entry. `None` for a directory.
    pub(super) fn of(entry: &EntryKind) -> Option<Self> {
        match entry {
            EntryKind::Directory => None,
            EntryKind::File(_) => Some(Self::File),
            EntryKind::Symlink(_) => Some(Self::Link),
            EntryKind::Socket => Some(Self::Socket),
            EntryKind::Other => Some(Self::Device),
        }
    }

    /// Its name, in messages and in facts files.
    fn name(self) -> &'static str {
        match self {
            Self::File => "a file",
            Self::Link => "a link",
            Self::Socket => "a socket",
            Self::Device => "a device",
        }
    }
}

/// What is in the way of a directory, and where it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Obstacle {
    /// What it is.
    pub kind: ObstacleKind,
    /// Its path, if it is above the directory's path and not at this path itself.
    pub above: Option<String>,
}

impl Obstacle {
    /// Whether the directory may exist all the same.
    #[must_use]
    pub fn may_lead_to_directory(&self) -> bool {
        match self.kind {
            ObstacleKind::Link => true,
            ObstacleKind::File | ObstacleKind::Socket | ObstacleKind::Device => false,
        }
    }
}

impl From<ObstacleKind> for Obstacle {
    /// At the path itself.
    fn from(kind: ObstacleKind) -> Self {
        Self { kind, above: None }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.name())?;
        match &self.above {
            Some(path) => write!(f, " ({path})"),
            None => Ok(()),
        }
    }
}

impl FromStr for Obstacle {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let place = text.strip_suffix(')');
        let (name, above) = match place.and_then(|text| text.split_once(" (")) {
            Some((name, path)) => (name, Some(path.to_owned())),
            None => (text, None),
        };
        let mut kinds = ObstacleKind::ALL.into_iter();
        match kinds.find(|kind| kind.name() == name) {
            Some(kind) => Ok(Self { kind, above }),
            None => Err(format!(
                "{text:?} is not `a file`, `a link`, `a socket` or `a device`, with or without a path in parentheses"
            )),
        }
    }
}

impl Serialize for Obstacle {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Obstacle {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(FromText)
    }
}

/// Reads an obstacle from its text. The error of a visitor has the position of the text.
struct FromText;

impl Visitor<'_> for FromText {
    type Value = Obstacle;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("what is in the way of a directory")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Obstacle, E> {
        text.parse().map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_entry_that_is_no_directory_is_read_as_it_is_written() {
        for (entry, text) in [
            (EntryKind::File(1), "a file"),
            (EntryKind::Symlink("/srv".to_owned()), "a link"),
            (EntryKind::Socket, "a socket"),
            (EntryKind::Other, "a device"),
        ] {
            let kind = ObstacleKind::of(&entry).expect("it is no directory");
            for (above, place) in [(None, ""), (Some("/srv/a (b)"), " (/srv/a (b))")] {
                let obstacle = Obstacle {
                    kind,
                    above: above.map(str::to_owned),
                };
                let written = obstacle.to_string();
                assert_eq!(written, format!("{text}{place}"));
                let read: Result<Obstacle, String> = written.parse();
                assert_eq!(read, Ok(obstacle));
            }
        }
        assert_eq!(ObstacleKind::of(&EntryKind::Directory), None);
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "file", "a directory", "a file (/srv", "A link"] {
            let read: Result<Obstacle, String> = text.parse();
            let told = read.expect_err("it is refused");
            assert!(told.contains(text) && told.contains("`a socket`"), "{told}");
        }
    }

    #[test]
    fn only_a_link_may_lead_to_a_directory() {
        let leads: Vec<ObstacleKind> = ObstacleKind::ALL
            .into_iter()
            .filter(|kind| Obstacle::from(*kind).may_lead_to_directory())
            .collect();
        assert_eq!(leads, [ObstacleKind::Link]);
    }
}
