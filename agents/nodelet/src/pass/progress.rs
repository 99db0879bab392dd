//! What a pass reports while it runs, and how it is found out which phase checks wait for.

use std::time::Duration;

use engine::exec::ChecksInProgress;
use engine::model::PhaseName;
use serde::{Deserialize, Serialize};

use crate::output::say;

/// Interval in which the phase is reported whose checks have not ended.
const TELL: Duration = Duration::from_millis(500);

/// What a pass reports while it runs: the phase whose checks it waits for. One JSON line each, before the line with the result of the
/// pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Progress {
    pub(crate) checking: PhaseName,
}

/// Reports the phase that `work` waits for, as a line of a pass.
pub(super) async fn tell_progress<T>(
    in_progress: ChecksInProgress,
    work: impl Future<Output = T>,
) -> T {
    let tell = |checking| {
        if let Ok(line) = serde_json::to_string(&Progress { checking }) {
            say(&format!("{line}\n"));
        }
    };
    follow_checks(in_progress, TELL, tell, work).await
}

/// Gives the phase that `work` waits for to `tell`, whenever it is another phase than before. If `work` ends before `first`, `tell` is not
/// called.
pub(crate) async fn follow_checks<T>(
    in_progress: ChecksInProgress,
    first: Duration,
    mut tell: impl FnMut(PhaseName),
    work: impl Future<Output = T>,
) -> T {
    let mut work = std::pin::pin!(work);
    let mut said = None;
    let mut pause = first;
    loop {
        let tick = tokio::time::sleep(pause);
        tokio::select! {
            result = &mut work => return result,
            () = tick => {}
        }
        pause = TELL;
        let Some(checking) = in_progress.first() else {
            continue;
        };
        if said.as_ref() == Some(&checking) {
            continue;
        }
        said = Some(checking.clone());
        tell(checking);
    }
}
