//! The record of the preconditions that were met on this host.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::STATE;

/// The content of the record.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct PreflightRecord {
    /// Version of this form.
    pub(crate) version: u32,
    /// Digests of the requirements that were met.
    pub(crate) met: BTreeSet<String>,
}

/// The file that records which preconditions were met.
pub(crate) fn path() -> PathBuf {
    Path::new(STATE).join("preflight.json")
}

/// Digests of the preconditions that were met, from the text of that file; empty if the text cannot be read.
pub(crate) fn met(text: &str) -> BTreeSet<String> {
    let record: Option<PreflightRecord> = serde_json::from_str(text).ok();
    record.map(|record| record.met).unwrap_or_default()
}

/// The text of that file.
pub(crate) fn text(met: &BTreeSet<String>) -> Vec<u8> {
    serde_json::to_vec_pretty(&PreflightRecord {
        version: 1,
        met: met.clone(),
    })
    .expect("a set of texts is JSON")
}
