//! Small files that are replaced atomically: after a crash a file has its old content or the new one.

use std::fs::{File, Permissions};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// How the names of temporary files begin, and how many letters and digits follow.
const NEW: &str = ".new-";
const RANDOM: usize = 6;
/// Longer than any write takes: for [`sweep`] in a directory that other processes may be writing to.
pub const ABANDONED: Duration = Duration::from_secs(600);

/// Writes `content` to a temporary file beside `path`, with these permissions, and renames it over `path` once it is on
/// disk. A reader of `path` sees the old content or the new, never a part.
///
/// # Errors
/// The directory is not there, is not writable, or has no room; `path` is as before.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let directory = path.parent().context("write a file without a directory")?;
    let write = || -> std::io::Result<()> {
        let mut file = tempfile::Builder::new()
            .prefix(NEW)
            .rand_bytes(RANDOM)
            .tempfile_in(directory)?;
        file.write_all(content)?;
        file.as_file()
            .set_permissions(Permissions::from_mode(mode))?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        File::open(directory)?.sync_all()
    };
    write().with_context(|| format!("write {}", path.display()))
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
        let name = entry.file_name();
        let random = name.to_str().and_then(|name| name.strip_prefix(NEW));
        let ours = random.is_some_and(|random| {
            random.len() == RANDOM && random.bytes().all(|one| one.is_ascii_alphanumeric())
        });
        if !ours || !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        // A file from the future was written before the clock was set back.
        let written = entry.metadata().and_then(|said| said.modified());
        let age = written.map(|written| written.elapsed());
        if !matches!(age, Ok(Ok(age)) if age < abandoned) {
            let path = entry.path();
            let removed = std::fs::remove_file(&path);
            // If a file cannot be removed, the others are removed all the same.
            failed = failed.or(removed
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
    let mut content = Vec::new();
    file.take(limit + 1)
        .read_to_end(&mut content)
        .with_context(|| format!("read {}", path.display()))?;
    if content.len() as u64 > limit {
        bail!("read {}: it is larger than {limit} bytes", path.display());
    }
    Ok(Some(content))
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
    let opened = File::options()
        .read(true)
        .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits())
        .open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("open {}", path.display())),
    };
    let is_file = file.metadata().is_ok_and(|said| said.is_file());
    if !is_file {
        bail!("read {}: it is no file", path.display());
    }
    Ok(Some(file))
}

#[cfg(test)]
mod tests {
    use traced::{RENAMES, SYNCS, is, position};

    use super::*;

    #[test]
    fn a_file_is_on_the_disk_before_it_has_its_name_and_its_name_before_it_is_told() {
        let test = "files::tests::a_file_is_on_the_disk_before_it_has_its_name_and_its_name_before_it_is_told";
        let Some(calls) = traced::calls(test) else {
            let path = traced::directory().join("state.json");
            replace(&path, b"content", 0o600).expect("it is written");
            return;
        };
        let of_new = |names: &[&str], call: &str| {
            let (name, paths) = call.split_once(' ').unwrap_or((call, ""));
            names.contains(&name) && paths.starts_with(NEW)
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
    fn a_file_is_replaced_whole_and_with_its_permissions() {
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
    fn what_the_power_cut_is_swept_and_what_is_written_now_is_not() {
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
    fn what_is_too_large_is_refused_and_what_is_not_there_is_none() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("large");
        assert_eq!(read(&path, 1).expect("no file is no error"), None);
        replace(&path, b"four", 0o600).expect("it is written");
        assert!(read(&path, 3).is_err());
    }

    #[test]
    fn a_pipe_without_a_writer_holds_up_nobody() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).expect("a pipe");
        let error = read(&path, 10).expect_err("it is no file");
        assert!(error.to_string().contains("it is no file"), "{error}");
    }
}
