//! A file beside etcd's data that says: the member of this data has been added to the cluster and has never had a vote. So nothing is in
//! the data that the voters do not have, and it may be thrown away if the member is removed before its promotion, by a rollback for example.
//!
//! It is no part of a step's result: it stays with the data after a rollback and a clean, and goes with the data.

use std::path::{Path, PathBuf};

use crate::host::{Attributes, Host};
use crate::resource::files::file::PRIVATE;
use crate::resource::{Receipt, ResourceResult, create_parents_with};

/// etcd's directory has only this mode.
const DIRECTORY: Attributes = Attributes::root(0o700);

/// Where the marker is, in a data directory.
pub(super) fn path(data: &Path) -> PathBuf {
    data.join("member/nodelet-learner")
}

/// Where the id of the data is, in a data directory. The script of the phase (`etcd.rhai`) names the same file.
pub(super) fn identity(data: &Path) -> PathBuf {
    data.join("member/nodelet-data-id")
}

pub(super) async fn is_there(host: &dyn Host, data: &Path) -> ResourceResult<bool> {
    Ok(host.entry(&path(data)).await?.is_some())
}

pub(super) async fn set(
    host: &dyn Host,
    data: &Path,
    receipt: &mut Receipt<'_>,
) -> ResourceResult<()> {
    let path = path(data);
    create_parents_with(host, &path, |_| DIRECTORY, receipt).await?;
    Ok(host.write(&path, b"", PRIVATE).await?)
}

pub(super) async fn remove(host: &dyn Host, data: &Path) -> ResourceResult<()> {
    Ok(host.remove(&path(data)).await?)
}

/// Removes all data, and leaves the marker. The log goes last: while there is one the directory has data, so a removal that was interrupted
/// is continued and never taken for a disk that was emptied.
pub(super) async fn wipe(host: &dyn Host, data: &Path) -> ResourceResult<()> {
    let (marker, logs) = (path(data), data.join("member/wal"));
    let member = data.join("member");
    for name in host.list(&member).await? {
        let entry = member.join(name);
        if entry != marker && entry != logs {
            host.remove_tree(&entry).await?;
        }
    }
    Ok(host.remove_tree(&logs).await?)
}

/// Whether etcd has written data into the directory: a log, or a store. Beside the marker only a log counts, because etcd makes an empty store
/// before it knows whether it may join.
pub(crate) async fn has_data(host: &dyn Host, data: &Path) -> ResourceResult<bool> {
    let logs = data.join("member/wal");
    if host.entry(&logs).await?.is_some() {
        let names = host.list(&logs).await?;
        if names.iter().any(|name| name.ends_with(".wal")) {
            return Ok(true);
        }
    }
    let store = host.entry(&data.join("member/snap/db")).await?;
    Ok(store.is_some() && !is_there(host, data).await?)
}
