//! The daemon's own configuration, apart from the settings of what it manages: one YAML file that may be missing.

use std::path::Path;

use anyhow::Result;
use serde::de::DeserializeOwned;
use yaml_limits::{MAX_BRACKETS, too_deep};

use crate::files;

/// Bound on the file, in bytes.
const LIMIT: u64 = 64 * 1024;

/// Reads a daemon's configuration. Defaults apply where the file says nothing, or if there is none.
///
/// # Errors
/// The file cannot be read, has brackets that are nested too deep, or has an unknown field or an invalid value. The message begins with `FILE:LINE:COLUMN` if it is about a
/// place in the file.
pub fn read<T: DeserializeOwned + Default>(path: &Path) -> Result<T> {
    let Some(content) = files::read(path, LIMIT)? else {
        return Ok(T::default());
    };
    if let Some(line) = too_deep(&content) {
        anyhow::bail!(
            "{}:{line}:1: brackets nested more than {MAX_BRACKETS} deep",
            path.display()
        );
    }
    // An empty file, or one of comments, says nothing.
    let parsed = serde_yaml::from_slice::<Option<T>>(&content);
    parsed
        .map(Option::unwrap_or_default)
        .map_err(|error| anyhow::anyhow!("{}", placed(path, &error)))
}

/// The error with its place first, as compilers write it.
fn placed(path: &Path, error: &serde_yaml::Error) -> String {
    let file = path.display();
    let Some(place) = error.location() else {
        return format!("{file}: {error}");
    };
    let (line, column) = (place.line(), place.column());
    let said = error.to_string();
    let said = said
        .strip_suffix(&format!(" at line {line} column {column}"))
        .unwrap_or(&said);
    format!("{file}:{line}:{column}: {said}")
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Wanted {
        color: String,
        wheels: u32,
    }

    fn said(text: &str) -> (PathBuf, Result<Wanted>) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("carriage.yaml");
        std::fs::write(&path, text).expect("it is written");
        (path.clone(), read(&path))
    }

    #[test]
    fn missing_keys_have_defaults() {
        let nowhere = read::<Wanted>(Path::new("/nowhere/carriage.yaml"));
        assert_eq!(nowhere.expect("it may be missing"), Wanted::default());
        for empty in ["", "# color: red\n"] {
            assert_eq!(said(empty).1.expect("it says nothing"), Wanted::default());
        }
        let wanted = said("wheels: 4\n").1.expect("it is right");
        assert_eq!((wanted.wheels, wanted.color.as_str()), (4, ""));
    }

    #[test]
    fn problems_are_reported_with_their_position() {
        let deep = format!("\n{}", "[".repeat(60_000));
        for (text, place) in [
            ("color: red\nwheel: 4\n", "2:1: unknown field `wheel`"),
            ("color: red\nwheels: many\n", "2:9: wheels: invalid type"),
            ("color: [\n", "1:8: color: invalid type: sequence"),
            (&deep, "2:1: brackets nested more than 32 deep"),
        ] {
            let (path, wrong) = said(text);
            let message = wrong.expect_err("it is wrong").to_string();
            let wanted = format!("{}:{place}", path.display());
            assert!(message.starts_with(&wanted), "{message}");
        }
        let long = "#".repeat(70_000);
        let message = said(&long).1.expect_err("it is long").to_string();
        assert!(message.contains("larger than"), "{message}");
    }
}
