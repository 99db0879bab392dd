//! The restore test of a snapshot: etcd's own program restores it into a temporary directory, a temporary etcd starts on that copy, and its
//! keys are counted.
//!
//! `scratch_container` runs etcd in containers that are removed afterwards. Not here: the comparison with the cluster (`verify`). Start
//! with this file.

pub(in crate::etcd) mod scratch_container;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use engine::exec::scratch;
use tokio::time::Instant;

use crate::etcd::client::api::Etcd;
use crate::etcd::restore_test::scratch_container::{Mounted, TemporaryContainer};

/// Where the copy is made; emptied before and afterwards.
const WORK: &str = scratch::DIRECTORY;
/// Timeout for reading each key and value of a store of 8 GiB at half a CPU.
const READ: Duration = Duration::from_secs(240);
/// Timeout for the restore: hashing and rewriting a store of 8 GiB at half a CPU.
const RESTORE: Duration = Duration::from_secs(600);
/// Timeout for an etcd on the copy to answer: it reads all keys first.
const START: Duration = Duration::from_secs(120);
/// etcd 3.4 accepts a unix socket only in the form of an address (HOST:PORT), and creates the socket in its working directory.
const LISTEN: &str = "restore-test:1";
/// Its name as a member of its own cluster.
const NAME: &str = "restore-test";
/// The temporary etcd is its own only peer, on the container's own loopback.
const PEER: &str = "http://127.0.0.1:2380";

/// What a restored snapshot holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RestoredSnapshot {
    /// The revision at which it was taken.
    pub(crate) revision: i64,
    /// Keys at that revision.
    pub(crate) keys: u64,
    /// The UID of the namespace kube-system in it.
    pub(crate) cluster: Option<String>,
}

/// The revision at which the snapshot at `path` was taken, read with the programs of `image`. It is read before the restore, which may
/// take longer than the original etcd keeps a revision. The caller calls [`sweep`] afterwards.
///
/// # Cancel safety
/// As [`verify`].
pub(super) async fn revision(path: &Path, image: &str) -> Result<i64> {
    let temporary = TemporaryContainer::new(image)?;
    let (from, snapshot) = mounted(path)?;
    let status = [
        "etcdctl",
        "snapshot",
        "status",
        &snapshot,
        "--write-out",
        "json",
    ];
    temporary.start(&status, &[from]).await?;
    temporary.finish("read the snapshot", READ).await?;
    let said = temporary.last_log_lines().await;
    temporary.remove().await?;
    said_revision(&said)
        .with_context(|| format!("find the snapshot's revision in what etcdctl says: {said}"))
}

fn said_revision(said: &str) -> Option<i64> {
    let status = said.lines().find(|line| line.starts_with('{'))?;
    let status: serde_json::Value = serde_json::from_str(status).ok()?;
    status["revision"].as_i64()
}

/// The read-only mount of the snapshot's directory, and the path of the snapshot in the container.
fn mounted(path: &Path) -> Result<(Mounted, String)> {
    let directory = path.parent().context("find the snapshot's directory")?;
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .context("find the snapshot's name")?;
    let from = Mounted {
        source: directory.to_path_buf(),
        target: "/backup",
        read_only: true,
    };
    Ok((from, format!("/backup/{name}")))
}

/// Restores the snapshot at `path` and counts its keys, with the programs of `image`. The caller calls [`sweep`] before and afterwards,
/// also after an error.
///
/// # Cancel safety
/// When dropped, the container and the copy stay until [`sweep`].
pub(super) async fn verify(path: &Path, image: &str) -> Result<RestoredSnapshot> {
    let temporary = TemporaryContainer::new(image)?;
    let work = PathBuf::from(WORK);
    let (from, snapshot) = mounted(path)?;
    std::fs::create_dir_all(&work).with_context(|| format!("make {WORK}"))?;

    let into = Mounted {
        source: work.clone(),
        target: "/restore",
        read_only: false,
    };
    let cluster = format!("{NAME}={PEER}");
    let restore = [
        "etcdctl",
        "snapshot",
        "restore",
        &snapshot,
        "--data-dir",
        "/restore/data",
        "--name",
        NAME,
        "--initial-cluster",
        &cluster,
        "--initial-advertise-peer-urls",
        PEER,
    ];
    temporary.start(&restore, &[into.clone(), from]).await?;
    temporary.finish("restore the snapshot", RESTORE).await?;
    temporary.remove().await?;

    let listen = format!("unix://{LISTEN}");
    let serve = [
        "etcd",
        "--data-dir",
        "/restore/data",
        "--name",
        NAME,
        "--listen-client-urls",
        &listen,
        "--advertise-client-urls",
        &listen,
        "--listen-peer-urls",
        PEER,
        "--initial-advertise-peer-urls",
        PEER,
        "--initial-cluster",
        &cluster,
    ];
    temporary.start(&serve, &[into]).await?;
    count(&temporary, &work.join(LISTEN)).await
}

/// Waits until the restored etcd answers, and reads its revision, keys and cluster.
async fn count(temporary: &TemporaryContainer, socket: &Path) -> Result<RestoredSnapshot> {
    let until = Instant::now() + START;
    let mut pause = Duration::from_millis(50);
    loop {
        let answer = async {
            let etcd = Etcd::at_socket(socket.to_path_buf()).await?;
            let revision = etcd.revision().await?;
            anyhow::Ok((etcd, revision))
        };
        let error = match answer.await {
            Ok((etcd, revision)) => {
                return Ok(RestoredSnapshot {
                    revision,
                    keys: etcd.keys(revision).await?,
                    cluster: etcd.cluster().await?,
                });
            }
            Err(error) => error,
        };
        if let Some(why) = temporary.ended().await? {
            return Err(why).context("start an etcd on the restored snapshot");
        }
        if Instant::now() >= until {
            return Err(error).with_context(|| {
                format!(
                    "get an answer from the restored etcd within {} s",
                    START.as_secs()
                )
            });
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

/// Removes the container and the copy of a restore test.
///
/// # Errors
/// Docker does not answer, or a file cannot be removed.
pub(super) async fn sweep(image: &str) -> Result<()> {
    let container = match TemporaryContainer::new(image) {
        Ok(temporary) => temporary.remove().await,
        Err(error) => Err(error),
    };
    // The copy holds all the cluster's secrets, so it is removed even if docker fails.
    let copy = daemon::files::removed(std::fs::remove_dir_all(WORK));
    container.and(copy.with_context(|| format!("remove {WORK}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_revision_is_found_in_what_etcdctl_says() {
        let said = "a warning\n{\"hash\":1523370914,\"revision\":512,\"totalKey\":700,\"totalSize\":2048}\n";
        assert_eq!(said_revision(said), Some(512));
        assert_eq!(said_revision("{\"hash\":1}"), None);
        assert_eq!(said_revision("Error: nothing"), None);
    }
}
