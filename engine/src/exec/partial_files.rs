//! Temporary files that a killed program has left beside the files that they were to become.

use crate::host::{Host, partial_file};
use crate::ledger::LiveUndo;
use crate::resource::ResourceResult;

/// Removes the temporary files of writes that were begun: the undos of such writes were recorded before.
pub(in crate::exec) async fn sweep(host: &dyn Host, begun: &[LiveUndo]) -> ResourceResult<()> {
    for path in begun.iter().filter_map(|live| live.undo.properties().file) {
        let left = partial_file(path);
        if host.entry(&left).await?.is_some() {
            host.remove(&left).await?;
        }
    }
    Ok(())
}
