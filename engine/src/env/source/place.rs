//! The position of a value or a problem in a file. Every message of this module uses it; it does not depend on values.

use std::fmt;
use std::path::{Path, PathBuf};

/// A position in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file as the caller named it.
    pub path: PathBuf,
    /// The line, from 1; absent if the problem is the file itself.
    pub line: Option<u32>,
    /// The column in characters, from 1.
    pub column: Option<u32>,
}

impl Place {
    /// The file as a whole.
    pub fn file(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            line: None,
            column: None,
        }
    }

    /// A line of the file, from 1.
    pub fn line(path: &Path, line: usize) -> Self {
        Self {
            path: path.to_owned(),
            line: Some(count(line)),
            column: None,
        }
    }

    /// A line and a column of the file, both from 1.
    pub fn column(path: &Path, line: usize, column: usize) -> Self {
        Self {
            path: path.to_owned(),
            line: Some(count(line)),
            column: Some(count(column)),
        }
    }
}

/// Files have far fewer lines than this type can count; the small type keeps the errors small.
fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Prints `path:line:column`, as far as known.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if let Some(column) = self.column {
            write!(f, ":{column}")?;
        }
        Ok(())
    }
}

/// The source of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The table's default, or what it derives from other keys.
    Default,
    /// The caller, without a file (role parameters, fixtures).
    Given,
    /// A line of a file.
    File(Place),
}

impl Source {
    /// The position, if the value comes from a file.
    pub fn place(&self) -> Option<&Place> {
        match self {
            Self::File(place) => Some(place),
            Self::Default | Self::Given => None,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Given => f.write_str("given"),
            Self::File(place) => place.fmt(f),
        }
    }
}
