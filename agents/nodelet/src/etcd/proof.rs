//! The proof of a snapshot: it is restored into a throw-away directory by etcd's own program, a throw-away etcd starts on
//! it, and what it holds is counted.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use engine::exec::throwaway;
use tokio::time::Instant;

use super::api::Etcd;
use super::throwaway::{Mounted, Throwaway};

/// Where the copy is made; emptied before and afterwards.
const WORK: &str = throwaway::DIRECTORY;
/// For one look at each key and value of a store of 8 GiB at half a CPU.
const READ: Duration = Duration::from_secs(240);
/// For the restore: hashing and rewriting a store of 8 GiB at half a CPU.
const RESTORE: Duration = Duration::from_secs(600);
/// For an etcd on it to answer: it reads all keys first.
const START: Duration = Duration::from_secs(120);
/// etcd 3.4 takes a unix socket only in the form of an address, and makes it in its working directory.
const LISTEN: &str = "proof:1";
/// The only peer it has is itself, on a loopback that is its own.
const PEER: &str = "http://127.0.0.1:2380";

/// What a restored snapshot holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held {
    /// The revision at which it was taken.
    pub(crate) revision: i64,
    /// Keys at that revision.
    pub(crate) keys: u64,
    /// The UID of the namespace kube-system in it.
    pub(crate) cluster: Option<String>,
}

/// The revision at which the snapshot at `path` was taken, as the programs of `image` read it: long before it is restored, for
/// the etcd that it was taken of does not keep a revision for long. The caller calls [`sweep`] afterwards.
///
/// # Cancel safety
/// As [`prove`].
pub(super) async fn revision(path: &Path, image: &str) -> Result<i64> {
    let throwaway = Throwaway::new(image)?;
    let (from, snapshot) = mounted(path)?;
    let status = [
        "etcdctl",
        "snapshot",
        "status",
        &snapshot,
        "--write-out",
        "json",
    ];
    throwaway.start(&status, &[from]).await?;
    throwaway.finish("read the snapshot", READ).await?;
    let said = throwaway.said().await;
    throwaway.remove().await?;
    said_revision(&said)
        .with_context(|| format!("find the snapshot's revision in what etcdctl says: {said}"))
}

fn said_revision(said: &str) -> Option<i64> {
    let status = said.lines().find(|line| line.starts_with('{'))?;
    let status: serde_json::Value = serde_json::from_str(status).ok()?;
    status["revision"].as_i64()
}

/// The directory of a snapshot, to be read alone, and where the snapshot is then.
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

/// Restores the snapshot at `path` and counts, with the programs of `image`. The caller calls [`sweep`] before and afterwards,
/// whatever came of it.
///
/// # Cancel safety
/// When dropped, the container and the copy stay until [`sweep`].
pub(super) async fn prove(path: &Path, image: &str) -> Result<Held> {
    let throwaway = Throwaway::new(image)?;
    let work = PathBuf::from(WORK);
    let (from, snapshot) = mounted(path)?;
    std::fs::create_dir_all(&work).with_context(|| format!("make {WORK}"))?;

    let into = Mounted {
        source: work.clone(),
        target: "/restore",
        read_only: false,
    };
    let cluster = format!("proof={PEER}");
    let restore = [
        "etcdctl",
        "snapshot",
        "restore",
        &snapshot,
        "--data-dir",
        "/restore/data",
        "--name",
        "proof",
        "--initial-cluster",
        &cluster,
        "--initial-advertise-peer-urls",
        PEER,
    ];
    throwaway.start(&restore, &[into.clone(), from]).await?;
    throwaway.finish("restore the snapshot", RESTORE).await?;
    throwaway.remove().await?;

    let listen = format!("unix://{LISTEN}");
    let serve = [
        "etcd",
        "--data-dir",
        "/restore/data",
        "--name",
        "proof",
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
    throwaway.start(&serve, &[into]).await?;
    count(&throwaway, &work.join(LISTEN)).await
}

/// Waits for the restored etcd and asks it.
async fn count(throwaway: &Throwaway, socket: &Path) -> Result<Held> {
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
                return Ok(Held {
                    revision,
                    keys: etcd.keys(revision).await?,
                    cluster: etcd.cluster().await?,
                });
            }
            Err(error) => error,
        };
        if let Some(why) = throwaway.ended().await? {
            return Err(why).context("start an etcd on the restored snapshot");
        }
        if Instant::now() >= until {
            return Err(error).with_context(|| {
                format!(
                    "get an answer of the restored etcd within {} s",
                    START.as_secs()
                )
            });
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

/// Takes away what a proof leaves.
///
/// # Errors
/// Docker does not answer, or a file cannot be removed.
pub(super) async fn sweep(image: &str) -> Result<()> {
    let container = match Throwaway::new(image) {
        Ok(throwaway) => throwaway.remove().await,
        Err(error) => Err(error),
    };
    // The copy holds all the cluster's secrets, so it goes whatever docker says.
    let copy = match std::fs::remove_dir_all(WORK) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {WORK}"))
        }
        _ => Ok(()),
    };
    container.and(copy)
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
