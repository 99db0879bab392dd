//! Secrets in files.

use std::path::Path;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::RngCore as _;

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

/// As [`read`]. A file that is not there is made, with a new secret.
///
/// # Errors
/// As [`read`]; or it cannot be written.
pub fn read_or_make(path: &Path) -> Result<String> {
    let found = path.try_exists();
    let found = found.with_context(|| format!("look for {}", path.display()))?;
    if !found {
        let mut bytes = [0; 32];
        rand::rng().fill_bytes(&mut bytes);
        let text = STANDARD.encode(bytes) + "\n";
        daemon::files::replace(path, text.as_bytes(), 0o600)?;
    }
    read(path)
}
