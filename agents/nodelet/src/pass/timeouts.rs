//! How long a status pass waits for what it asks.

use std::time::Duration;

/// Timeout for the directory of backups, the container runtime or the API server to answer.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);
/// Time for the other checks to end after one has failed: enough for those that answer at all.
pub(super) const SETTLE: Duration = Duration::from_millis(250);
