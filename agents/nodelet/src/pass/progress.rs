//! What a pass reports while it runs.

use std::time::Duration;

use engine::exec::ChecksInProgress;
use engine::model::PhaseName;
use serde::{Deserialize, Serialize};

use crate::output::say;

/// Interval in which a pass reports the phase whose checks it waits for.
const TELL: Duration = Duration::from_millis(500);

/// What a pass reports while it runs: the phase whose checks it waits for. One JSON line each, before the line with the result of the
/// pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Progress {
    pub(crate) checking: PhaseName,
}

/// Reports the phase that `work` waits for, whenever it is another phase than before. If `work` ends quickly, nothing is reported.
pub(super) async fn tell_progress<T>(
    in_progress: ChecksInProgress,
    work: impl Future<Output = T>,
) -> T {
    let mut work = std::pin::pin!(work);
    let mut said = None;
    loop {
        let tick = tokio::time::sleep(TELL);
        tokio::select! {
            result = &mut work => return result,
            () = tick => {}
        }
        let Some(checking) = in_progress.first() else {
            continue;
        };
        if said.as_ref() == Some(&checking) {
            continue;
        }
        said = Some(checking.clone());
        if let Ok(line) = serde_json::to_string(&Progress { checking }) {
            say(&format!("{line}\n"));
        }
    }
}
