//! What a directory contains: its names, and the removal of everything that was not there before the role.
//!
//! For the resource (`files::directory`), for its undo (`undo`), and for what a run records before its first effect. Start with [`names`].

use std::path::Path;

use crate::host::{EntryKind, Host};
use crate::resource::ResourceResult;

/// The directory that every new ext4 file system contains.
const LOST_AND_FOUND: &str = "lost+found";

/// The names in a directory except these.
pub(in crate::resource) async fn other_entries(
    host: &dyn Host,
    path: &Path,
    spared: &[String],
) -> ResourceResult<Vec<String>> {
    let mut names = host.list(path).await?;
    names.retain(|name| name != LOST_AND_FOUND && !spared.contains(name));
    Ok(names)
}

/// The names in a directory; `None` if there is no directory.
pub(crate) async fn names(host: &dyn Host, path: &Path) -> ResourceResult<Option<Vec<String>>> {
    match host.entry(path).await? {
        Some(entry) if entry.kind == EntryKind::Directory => {
            Ok(Some(other_entries(host, path, &[]).await?))
        }
        _ => Ok(None),
    }
}

/// Removes everything in a directory except these names. The directory stays.
pub(in crate::resource) async fn clear(
    host: &dyn Host,
    path: &Path,
    spared: &[String],
) -> ResourceResult<()> {
    if host.entry(path).await?.is_none() {
        return Ok(());
    }
    for name in other_entries(host, path, spared).await? {
        let path = path.join(name);
        host.unmount_below(&path).await?;
        host.remove_tree(&path).await?;
    }
    Ok(())
}
