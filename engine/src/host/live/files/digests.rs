//! Checksums of large files. A checksum is remembered as long as the file's inode, size and times are the same as when it was read.
//!
//! A pass compares all files of a role package once a minute; they are hundreds of megabytes large. Remembered checksums are good for this
//! comparison only: a file that is about to be used is read again. A record that is damaged or not ours is replaced.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::host::live::blocking::if_there;
use crate::model::STATE;

/// How much of a file is read at once.
const PIECE: usize = 256 * 1024;
/// A smaller file is read each time.
const LARGE: u64 = 1024 * 1024;
/// The record, in the engine's state.
const RECORD: &str = "digests.json";
/// Bound on the record, and on the files in it.
const LIMIT: u64 = 1024 * 1024;
const MOST: usize = 1000;
/// Resolution of file times. A file that changed this recently may change again and keep the same times.
const SETTLED_SECONDS: i64 = 2;

/// A file as it was when it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct FileStat {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct DigestRecord(BTreeMap<PathBuf, (FileStat, String)>);

impl FileStat {
    fn of(file: &Metadata) -> Self {
        Self {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }
}

/// Reads a file piece by piece; what is no file is an error.
pub(in crate::host::live) fn digest(path: &Path) -> io::Result<Option<String>> {
    let Some(mut file) = if_there(atomic_files::open(path))? else {
        return Ok(None);
    };
    hash(&mut file).map(Some)
}

/// Like [`digest()`], but takes the remembered checksum if the file is unchanged.
pub(in crate::host::live) fn remembered(path: &Path) -> io::Result<Option<String>> {
    remembered_in(Path::new(STATE), path)
}

fn remembered_in(state: &Path, path: &Path) -> io::Result<Option<String>> {
    let Some(mut file) = if_there(atomic_files::open(path))? else {
        return Ok(None);
    };
    let stat = FileStat::of(&file.metadata()?);
    if stat.size < LARGE {
        return hash(&mut file).map(Some);
    }
    let mut record = read(state).unwrap_or_default();
    if let Some((before, sha256)) = record.0.get(path)
        && *before == stat
    {
        return Ok(Some(sha256.clone()));
    }
    let began = now();
    let sha256 = hash(&mut file)?;
    let is_settled = stat.changed.0 + SETTLED_SECONDS < began;
    if is_settled && FileStat::of(&file.metadata()?) == stat && state.is_dir() {
        record.0.retain(|path, _| path.exists());
        if record.0.len() < MOST {
            record.0.insert(path.to_owned(), (stat, sha256.clone()));
            // Without the record the file is read again.
            if let Err(error) = write(state, &record) {
                tracing::debug!("checksums are not remembered: {error}");
            }
        }
    }
    Ok(Some(sha256))
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(0))
}

fn hash(file: &mut File) -> io::Result<String> {
    let (mut hash, mut piece) = (Sha256::new(), vec![0; PIECE]);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(crate::model::hex(&hash.finalize())),
            length => hash.update(&piece[..length]),
        }
    }
}

/// The record, if it is ours and whole.
fn read(state: &Path) -> Option<DigestRecord> {
    let file = atomic_files::open(&state.join(RECORD)).ok()?;
    let its = file.metadata().ok()?;
    let is_ours = its.uid() == nix::unistd::geteuid().as_raw() && its.mode() & 0o077 == 0;
    if !is_ours || its.size() > LIMIT {
        return None;
    }
    serde_json::from_reader(file.take(LIMIT)).ok()
}

/// Does not wait for the disk: a record that a power cut damages is replaced.
fn write(state: &Path, record: &DigestRecord) -> io::Result<()> {
    let path = state.join(RECORD);
    let mut temporary = atomic_files::beside(&path)?;
    temporary.write_all(&serde_json::to_vec(record)?)?;
    temporary.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::Duration;

    use super::*;

    fn filled(path: &Path, byte: u8, length: u64) {
        let length = usize::try_from(length).expect("it fits");
        fs::write(path, vec![byte; length]).expect("it is written");
        let hour_ago = SystemTime::now() - Duration::from_secs(3600);
        let file = File::options().write(true).open(path).expect("a file");
        file.set_modified(hour_ago).expect("its times are set");
    }

    /// Writes a record with this digest for the file as it is now.
    fn write_record(state: &Path, path: &Path, sha256: &str) {
        let stat = FileStat::of(&fs::metadata(path).expect("it is there"));
        let mut record = DigestRecord::default();
        record.0.insert(path.to_owned(), (stat, sha256.to_owned()));
        write(state, &record).expect("it is written");
    }

    #[test]
    fn an_unchanged_file_is_not_read_again_and_a_changed_one_is() {
        let state = tempfile::tempdir().expect("a directory");
        let (state, path) = (state.path(), state.path().join("large"));
        filled(&path, 1, LARGE);
        let one = digest(&path).expect("it is read").expect("it is there");
        assert_eq!(
            remembered_in(state, &path).expect("it is read"),
            Some(one.clone())
        );
        write_record(state, &path, "as before");
        let asked = || {
            remembered_in(state, &path)
                .expect("it is read")
                .expect("it is there")
        };
        assert_eq!(asked(), "as before");
        // Size and modification time are the same; the inode's change time differs.
        filled(&path, 2, LARGE);
        assert_ne!(asked(), "as before");
        assert_ne!(asked(), one);
        fs::remove_file(&path).expect("it goes");
        assert_eq!(remembered_in(state, &path).expect("it is looked for"), None);
    }

    #[test]
    fn a_record_that_is_damaged_or_open_to_others_is_not_used() {
        let state = tempfile::tempdir().expect("a directory");
        let (state, path) = (state.path(), state.path().join("large"));
        filled(&path, 1, LARGE);
        let is = digest(&path).expect("it is read");
        write_record(state, &path, "forged");
        let mode = |mode| fs::set_permissions(state.join(RECORD), Permissions::from_mode(mode));
        mode(0o666).expect("it is opened");
        assert_eq!(remembered_in(state, &path).expect("it is read"), is);
        fs::write(state.join(RECORD), "{").expect("it is cut");
        assert_eq!(remembered_in(state, &path).expect("it is read"), is);
    }

    #[test]
    fn a_digest_is_that_of_the_whole_file() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("large");
        let content = vec![7; 3 * PIECE + 5];
        std::fs::write(&path, &content).expect("a file of our own");
        let expected = crate::model::hex(&Sha256::digest(&content));
        assert_eq!(digest(&path).expect("it is read"), Some(expected));
        assert_eq!(digest(&folder.path().join("none")).expect("told"), None);
        digest(folder.path()).expect_err("a directory has none");
    }

    #[test]
    fn new_and_small_files_are_not_cached() {
        let state = tempfile::tempdir().expect("a directory");
        for length in [LARGE, LARGE - 1] {
            let path = state.path().join(format!("file-{length}"));
            filled(&path, 1, length);
            // Its inode's time of change is now.
            let _ = remembered_in(state.path(), &path).expect("it is read");
        }
        assert!(!state.path().join(RECORD).exists());
    }
}
