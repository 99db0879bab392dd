//! Temporary files that a killed program has left beside the files that they were to become.

use crate::host::{Host, partial_file};
use crate::resource::{ResourceResult, Undo};

/// Removes the temporary files of writes that were begun: the undos of such writes were recorded before.
pub(in crate::exec) async fn sweep<'a>(
    host: &dyn Host,
    begun: impl Iterator<Item = &'a Undo> + Send,
) -> ResourceResult<()> {
    for path in begun.filter_map(|undo| undo.properties().file) {
        let left = partial_file(path);
        if host.entry(&left).await?.is_some() {
            host.remove(&left).await?;
        }
    }
    Ok(())
}
