//! Files that a program which was killed has left half made, beside those that they were to become.

use crate::host::{Host, unfinished};
use crate::ledger::LiveUndo;
use crate::resource::ResourceResult;

/// Removes what is half made of the files that were begun: their inverses were written down before.
pub(super) async fn sweep(host: &dyn Host, begun: &[LiveUndo]) -> ResourceResult<()> {
    for path in begun.iter().filter_map(|live| live.undo.file()) {
        let left = unfinished(path);
        if host.entry(&left).await?.is_some() {
            host.remove(&left).await?;
        }
    }
    Ok(())
}
