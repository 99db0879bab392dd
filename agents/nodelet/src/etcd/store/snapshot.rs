//! A snapshot as etcd sends it and as it lies on disk: a database, followed by the SHA-256 of it.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use engine::kubernetes::etcd_backup::Content;
use futures::{Stream, TryStreamExt as _};
use sha2::{Digest as _, Sha256};
use tokio::fs::OpenOptions;
use tokio::io::AsyncWriteExt as _;

use crate::etcd::client::api::{Etcd, etcd_error};
use crate::etcd::client::messages::SnapshotResponse;

/// Bytes of the hash at the end.
const HASH: usize = 32;
/// The database consists of whole sectors of this many bytes.
const SECTOR: u64 = 512;
/// Longest wait for the next piece.
const STALL: Duration = Duration::from_secs(30);

/// Hashes the bytes of a snapshot as they come. At the end it tells whether the last 32 bytes are the hash of all bytes before them.
#[derive(Default)]
struct Follower {
    size: u64,
    file_hash: Sha256,
    database: Sha256,
    /// The last 32 bytes so far: at the end, they are the hash.
    tail: Vec<u8>,
}

impl Follower {
    fn take(&mut self, piece: &[u8]) {
        self.size += piece.len() as u64;
        self.file_hash.update(piece);
        self.tail.extend_from_slice(piece);
        if let Some(known) = self.tail.len().checked_sub(HASH) {
            self.database.update(&self.tail[..known]);
            self.tail.drain(..known);
        }
    }

    /// # Errors
    /// Completes "could not use a snapshot: …".
    fn end(self) -> Result<Content> {
        if self.size == 0 {
            bail!("it is empty");
        }
        if self.size % SECTOR != HASH as u64 {
            bail!(
                "it is cut: a file of {} bytes cannot be a complete database with a hash at its end",
                self.size
            );
        }
        if self.database.finalize().as_slice() != self.tail {
            bail!("it is damaged: its content does not match the hash at its end");
        }
        Ok(Content {
            size: self.size,
            sha256: engine::model::hex(&self.file_hash.finalize()),
        })
    }
}

/// Takes a snapshot of `etcd` into a new file that only root can read, and returns once the file would survive a power cut.
///
/// # Cancel safety
/// When dropped, a part of the file stays.
pub(in crate::etcd) async fn take(etcd: &Etcd, path: &Path) -> Result<Content> {
    let file = create(path).await?;
    write(etcd.snapshot().await?, file, path).await
}

/// Makes a new file that only root can read.
async fn create(path: &Path) -> Result<tokio::fs::File> {
    // tokio does file operations in threads of their own: a disk that does not answer blocks only such a thread.
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .await
        .with_context(|| format!("make {}", path.display()))
}

/// Writes the pieces of a snapshot to its file, and the file to the disk.
async fn write(
    mut pieces: impl Stream<Item = std::result::Result<SnapshotResponse, tonic::Status>> + Unpin,
    mut file: tokio::fs::File,
    path: &Path,
) -> Result<Content> {
    let mut follower = Follower::default();
    loop {
        let next = tokio::time::timeout(STALL, pieces.try_next())
            .await
            .with_context(|| {
                format!(
                    "receive the snapshot: nothing for {} s after {} bytes",
                    STALL.as_secs(),
                    follower.size
                )
            })?
            .map_err(|status| etcd_error(&status))
            .context("receive the snapshot")?;
        let Some(piece) = next else { break };
        follower.take(&piece.blob);
        file.write_all(&piece.blob)
            .await
            .with_context(|| format!("write {}", path.display()))?;
    }
    file.flush()
        .await
        .with_context(|| format!("write {}", path.display()))?;
    file.sync_all()
        .await
        .with_context(|| format!("write {} to the disk", path.display()))?;
    follower.end().context("use the snapshot as it came")
}

/// Reads a snapshot from disk and compares it with its own hash.
///
/// # Errors
/// It cannot be read, or is empty, cut or damaged; the error says which.
pub(in crate::etcd) fn inspect(path: &Path) -> Result<Content> {
    let mut file = File::open(path).context("read it")?;
    let mut follower = Follower::default();
    let mut piece = vec![0; 256 * 1024];
    loop {
        let length = file.read(&mut piece).context("read it")?;
        if length == 0 {
            return follower.end();
        }
        follower.take(&piece[..length]);
    }
}

#[cfg(test)]
pub(in crate::etcd) mod tests {
    use traced::{SYNCS, is, position};

    use super::*;

    /// A file that has the form of a snapshot, with a database of `sectors` sectors.
    pub(in crate::etcd) fn formed(sectors: usize, filled_with: u8) -> Vec<u8> {
        let database = vec![filled_with; sectors * 512];
        let hash = Sha256::digest(&database);
        [database, hash.to_vec()].concat()
    }

    fn problem_of(content: &[u8]) -> String {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("s.db");
        std::fs::write(&path, content).expect("it is written");
        match inspect(&path) {
            Ok(content) => format!("{} {}", content.size, &content.sha256[..8]),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn damage_is_named() {
        let good = formed(16, 7);
        let file_hash = engine::model::hex(&Sha256::digest(&good));
        assert_eq!(problem_of(&good), format!("8224 {}", &file_hash[..8]));
        assert_eq!(problem_of(b""), "it is empty");
        assert!(problem_of(&good[..good.len() - 1]).contains("it is cut"));
        assert!(problem_of(&good[..4096]).contains("it is cut"));
        // Cut so that the length fits.
        assert!(problem_of(&good[..4096 + 32]).contains("it is damaged"));
        for at in [0, 5000, good.len() - 1] {
            let mut flipped = good.clone();
            flipped[at] ^= 0x10;
            assert!(
                problem_of(&flipped).contains("it is damaged"),
                "bit at {at}"
            );
        }
    }

    #[tokio::test]
    async fn a_snapshot_is_synced_before_it_counts_as_taken() {
        let test = "etcd::store::snapshot::tests::a_snapshot_is_synced_before_it_counts_as_taken";
        let Some(calls) = traced::calls(test) else {
            let path = traced::directory().join("s.db");
            let file = create(&path).await.expect("it is made");
            let piece = SnapshotResponse {
                remaining_bytes: 0,
                blob: formed(1, 7),
            };
            let pieces = futures::stream::iter([Ok(piece)]);
            write(pieces, file, &path).await.expect("it is whole");
            return;
        };
        let written = position(&calls, |call| is(call, &["write"], "s.db"), "write");
        let synced = position(&calls, |call| is(call, SYNCS, "s.db"), "fsync of the file");
        assert!(written < synced, "{calls:#?}");
    }

    #[test]
    fn pieces_of_any_length_are_the_same_snapshot() {
        let good = formed(3, 1);
        for length in [1, 7, 31, 32, 33, 512, 5000] {
            let mut follower = Follower::default();
            good.chunks(length).for_each(|piece| follower.take(piece));
            assert_eq!(
                follower.end().expect("it is whole").size,
                3 * 512 + 32,
                "{length}"
            );
        }
    }
}
