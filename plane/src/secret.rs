//! Secrets in files.

use std::path::Path;

use anyhow::{Context as _, Result};

/// Largest one, in bytes.
const LARGEST: u64 = 64 * 1024;

/// The text of a file that only its owner may read, without white space at its ends.
///
/// # Errors
/// It is missing, empty or too large, or others may read it.
pub fn read(path: &Path) -> Result<String> {
    let found = daemon::files::read_private(path, LARGEST)?;
    let found = found.with_context(|| format!("read {}: there is no such file", path.display()))?;
    let text = String::from_utf8(found).ok();
    text.map(|text| text.trim().to_owned())
        .filter(|text| !text.is_empty())
        .with_context(|| format!("read {}: it has no text", path.display()))
}
