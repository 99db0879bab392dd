//! Small files that are replaced atomically: after a crash a file has its old content or the new one.

use std::fs::{File, Permissions};
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

pub use atomic_files::{removed, sync_directory};
use tempfile::TempPath;

/// What the mode of a secret may not allow: anything to the group and to others.
const OTHERS: u32 = 0o077;
/// Longer than any write takes: for [`sweep`] in a directory that other processes may be writing to.
pub const ABANDONED: Duration = Duration::from_secs(600);

/// Writes `content` to a temporary file beside `path`, with these permissions, and renames it over `path` once it is on
/// disk. A reader of `path` sees the old content or the new, never a part.
///
/// # Errors
/// The directory is not there, is not writable, or has no room; `path` is as before.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    atomic_files::replace(path, content, mode).with_context(|| format!("write {}", path.display()))
}

/// A file beside `path` with this content and these permissions, and a name that no other process uses. It is removed when it is dropped; after a power cut, [`sweep`] does it.
///
/// # Errors
/// As [`replace`].
pub fn beside(path: &Path, content: &[u8], mode: u32) -> Result<TempPath> {
    let written = || -> std::io::Result<TempPath> {
        let mut file = atomic_files::beside(path)?;
        file.write_all(content)?;
        file.as_file()
            .set_permissions(Permissions::from_mode(mode))?;
        Ok(file.into_temp_path())
    };
    written().with_context(|| format!("write a file beside {}", path.display()))
}

/// Checks that [`replace`] can begin: `path` is no directory, and a file can be made beside it. Leaves nothing there.
///
/// # Errors
/// It cannot.
pub fn can_replace(path: &Path) -> Result<()> {
    if path.is_dir() {
        bail!("write {}: it is a directory", path.display());
    }
    let made = atomic_files::beside(path).map(drop);
    made.with_context(|| format!("write {}", path.display()))
}

/// Removes temporary files that [`replace`] left in a directory at a power cut. Files younger than `abandoned` stay, because they may still
/// be written: pass [`ABANDONED`], or zero if only the caller writes there.
///
/// # Errors
/// The directory cannot be listed, or a file in it cannot be removed.
pub fn sweep(directory: &Path, abandoned: Duration) -> Result<()> {
    let list = || format!("list {}", directory.display());
    let mut failed = None;
    for entry in std::fs::read_dir(directory).with_context(list)? {
        let entry = entry.with_context(list)?;
        let ours = atomic_files::is_temporary(&entry.file_name());
        if !ours || !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        // A file from the future was written before the clock was set back.
        let written = match entry.metadata().and_then(|said| said.modified()) {
            // Renamed by its writer, or removed by another sweep.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            written => written,
        };
        let age = written.map(|written| written.elapsed());
        if !matches!(age, Ok(Ok(age)) if age < abandoned) {
            let path = entry.path();
            let swept = removed(std::fs::remove_file(&path));
            // If a file cannot be removed, the others are removed all the same.
            failed = failed.or(swept
                .with_context(|| format!("remove {}", path.display()))
                .err());
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Reads a file of at most `limit` bytes; `None` if it is not there. A pipe or a device is refused, because a reader might wait for its
/// other end.
///
/// # Errors
/// It cannot be read, is no file, or is larger.
pub fn read(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    let Some(file) = open(path)? else {
        return Ok(None);
    };
    atomic_files::read(file, limit)
        .map(Some)
        .map_err(|error| anyhow::anyhow!("read {}: {error}", path.display()))
}

/// Reads a secret: a file that only its owner may read, of at most `limit` bytes; `None` if it is not there.
///
/// # Errors
/// As [`read`]; or the group or others may read it.
pub fn read_private(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    let Some(file) = open(path)? else {
        return Ok(None);
    };
    let metadata = file
        .metadata()
        .with_context(|| format!("look at {}", path.display()))?;
    let mode = metadata.permissions().mode();
    if mode & OTHERS != 0 {
        bail!(
            "read {}: its mode is {:04o}, so other users may use what is in it; `chmod 600` it, and replace the secret if they may have read it",
            path.display(),
            mode & 0o7777
        );
    }
    atomic_files::read(file, limit)
        .map(Some)
        .map_err(|error| anyhow::anyhow!("read {}: {error}", path.display()))
}

/// Reads the first line, of at most `limit` bytes and without its end, of a file of any size; `None` if it is not there.
///
/// # Errors
/// It cannot be read, is no file, or its first line is longer or has no end.
pub fn first_line(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    let Some(file) = open(path)? else {
        return Ok(None);
    };
    let mut line = Vec::new();
    BufReader::new(file.take(limit))
        .read_until(b'\n', &mut line)
        .with_context(|| format!("read {}", path.display()))?;
    if line.pop() != Some(b'\n') {
        bail!(
            "read {}: its first line has no end within {limit} bytes",
            path.display()
        );
    }
    Ok(Some(line))
}

fn open(path: &Path) -> Result<Option<File>> {
    match atomic_files::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        opened => opened
            .map(Some)
            .with_context(|| format!("open {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use traced::{RENAMES, SYNCS, is, position};

    use super::*;

    #[test]
    fn that_a_file_can_be_replaced_is_known_before() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a");
        can_replace(&path).expect("it can be made");
        assert!(!path.exists());
        let left = std::fs::read_dir(directory.path()).expect("it is there");
        assert_eq!(left.count(), 0, "nothing is left");
        can_replace(&path.join("b")).expect_err("there is no such directory");
        can_replace(directory.path()).expect_err("it is a directory");
    }

    #[test]
    fn a_file_is_synced_before_the_rename_and_the_rename_before_success() {
        let test = "files::tests::a_file_is_synced_before_the_rename_and_the_rename_before_success";
        let Some(calls) = traced::calls(test) else {
            let path = traced::directory().join("state.json");
            replace(&path, b"content", 0o600).expect("it is written");
            return;
        };
        let of_new = |names: &[&str], call: &str| {
            let (name, paths) = call.split_once(' ').unwrap_or((call, ""));
            names.contains(&name) && paths.starts_with(".new-")
        };
        let written = position(&calls, |call| of_new(&["write"], call), "write");
        let synced = position(&calls, |call| of_new(SYNCS, call), "fsync of the file");
        let renamed = position(&calls, |call| is(call, RENAMES, "state.json"), "rename");
        let named = position(
            &calls,
            |call| is(call, &["fsync"], "."),
            "fsync of the directory",
        );
        assert!(
            written < synced && synced < renamed && renamed < named,
            "{calls:#?}"
        );
    }

    #[test]
    fn sweeps_at_the_same_time_do_not_fail() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        for number in 0..1000 {
            std::fs::write(path.join(format!(".new-{number:06}")), "").expect("it is written");
        }
        std::thread::scope(|threads| {
            let sweeps = [0, 1].map(|_| threads.spawn(|| sweep(path, Duration::ZERO)));
            for one in sweeps {
                one.join().expect("no panic").expect("it is swept");
            }
        });
        assert_eq!(std::fs::read_dir(path).expect("it is there").count(), 0);
    }

    #[test]
    fn a_file_is_replaced_atomically_with_its_permissions() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("state.json");
        replace(&path, b"one", 0o640).expect("it is written");
        replace(&path, b"two", 0o600).expect("it is written again");
        assert_eq!(read(&path, 3).expect("it is read"), Some(b"two".to_vec()));
        let mode = path.metadata().expect("it is there").permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        let left: Vec<_> = directory.path().read_dir().expect("a listing").collect();
        assert_eq!(left.len(), 1, "no temporary file is left");
    }

    #[test]
    fn old_temporary_files_are_removed_and_new_ones_stay() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        let now = std::time::SystemTime::now();
        for (name, written) in [
            (".new-000old", now - ABANDONED * 2),
            (".new-0ahead", now + ABANDONED * 2),
            (".new-0young", now),
            ("state.json", now - ABANDONED * 2),
            (".new-of-others", now - ABANDONED * 2),
            (".new-elsewhere", now - ABANDONED * 2),
        ] {
            let file = File::create(at(name)).expect("it is made");
            file.set_modified(written).expect("its time is set");
        }
        std::fs::create_dir(at(".new-folder")).expect("it is made");
        sweep(directory.path(), ABANDONED).expect("it is swept");
        let entries = directory.path().read_dir().expect("a listing");
        let mut left: Vec<_> = entries
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        left.sort();
        let stay = [
            ".new-0young",
            ".new-elsewhere",
            ".new-folder",
            ".new-of-others",
            "state.json",
        ];
        assert_eq!(left, stay);
        sweep(directory.path(), Duration::ZERO).expect("it is swept");
        assert!(!at(".new-0young").exists(), "only the caller writes there");
        assert!(sweep(&at("nowhere"), ABANDONED).is_err());
    }

    #[test]
    fn large_files_are_refused_and_missing_files_are_none() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("large");
        assert_eq!(read(&path, 1).expect("no file is no error"), None);
        replace(&path, b"four", 0o600).expect("it is written");
        assert!(read(&path, 3).is_err());
    }

    #[test]
    fn a_secret_that_others_may_read_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("secret");
        assert_eq!(read_private(&path, 9).expect("no file is no error"), None);
        for mode in [0o640, 0o604, 0o620, 0o601] {
            replace(&path, b"secret", mode).expect("it is written");
            let error = read_private(&path, 9).expect_err("others may use it");
            assert!(
                error
                    .to_string()
                    .contains(&format!("its mode is {mode:04o}")),
                "{error}"
            );
        }
        replace(&path, b"secret", 0o400).expect("it is written");
        let found = read_private(&path, 9).expect("only its owner may");
        assert_eq!(found.as_deref(), Some(&b"secret"[..]));
        assert!(read_private(&path, 3).is_err());
    }

    #[test]
    fn a_pipe_without_a_writer_blocks_no_reader() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).expect("a pipe");
        let error = read(&path, 10).expect_err("it is not a file");
        let error = format!("{error:#}");
        assert!(error.contains("it is not a regular file"), "{error}");
    }
}
