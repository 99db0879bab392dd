//! Which file with a successor a step takes.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A file with the successor that another master has made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SentSuccessor {
    /// Where it is.
    pub path: PathBuf,
    /// The id that the successor has to have: that of the file that was checked. `None` accepts each one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}
