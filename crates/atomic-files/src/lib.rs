//! Files that are replaced atomically and read with a limit: one implementation for the engine, the daemons and the lab.
//!
//! After a crash a file has its old content or its new content, never a part of it.
//!
//! Not here: deadlines and fences against writes that hang (`host::live::files` of the engine). Start with [`replace`].

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::Path;

use nix::libc::O_NONBLOCK;
use tempfile::{Builder, NamedTempFile};

/// How random names of temporary files begin, and how many letters and digits follow.
const PREFIX: &str = ".new-";
const RANDOM: usize = 6;

/// Replaces or creates `path` through a temporary file with a random name. See [`commit`].
pub fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    commit(beside(path)?, path, content, mode, None, || Ok(()))
}

/// Makes an empty temporary file beside `path`, with a random name. Only its owner can read it.
pub fn beside(path: &Path) -> io::Result<NamedTempFile> {
    let mut builder = Builder::new();
    builder.prefix(PREFIX).rand_bytes(RANDOM);
    builder.tempfile_in(parent(path)?)
}

/// For a temporary file or link with the name of `temporary`, which the caller makes in the same directory (`tempfile_in`, `make_in`).
/// What a power cut left there is removed.
pub fn at(temporary: &Path) -> io::Result<Builder<'_, 'static>> {
    removed(fs::remove_file(temporary))?;
    let mut builder = Builder::new();
    let name = temporary.file_name().unwrap_or_default();
    builder.prefix(name).rand_bytes(0);
    Ok(builder)
}

/// Writes content, owner (user and group) and mode to a temporary file, brings it to the disk and renames it to `path`. The new name is on
/// the disk, too, when this returns. If a step up to `before_rename` fails, `path` is as before and the temporary file is removed.
pub fn commit(
    mut temporary: NamedTempFile,
    path: &Path,
    content: &[u8],
    mode: u32,
    owner: Option<(u32, u32)>,
    before_rename: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    temporary.write_all(content)?;
    let file = temporary.as_file();
    // The owner first: the kernel drops setuid bits when the owner changes.
    if let Some((user, group)) = owner {
        fchown(file, Some(user), Some(group))?;
    }
    file.set_permissions(Permissions::from_mode(mode))?;
    file.sync_all()?;
    before_rename()?;
    // This closes the file before the rename: the kernel starts no program that is open for writing.
    temporary.into_temp_path().persist(path)?;
    sync_directory(parent(path)?)
}

/// Whether [`replace`] gives such names to temporary files. After a power cut such files are left.
#[must_use]
pub fn is_temporary(name: &OsStr) -> bool {
    let random = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
    random.is_some_and(|random| {
        random.len() == RANDOM && random.bytes().all(|one| one.is_ascii_alphanumeric())
    })
}

/// The result of a removal: what was not there counts as removed.
pub fn removed(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Makes what happened to the names in a directory survive a power cut.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    match File::open(directory)?.sync_all() {
        // The kernel's own trees (cgroups) have nothing to sync.
        Err(error) if error.kind() == ErrorKind::InvalidInput => Ok(()),
        synced => synced,
    }
}

/// The directory that holds `path`.
pub fn parent(path: &Path) -> io::Result<&Path> {
    let parent = path.file_name().and(path.parent());
    let parent = parent.filter(|parent| !parent.as_os_str().is_empty());
    let problem = "an absolute path with a name at its end is needed";
    parent.ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, problem))
}

/// Opens a regular file. A pipe or a device is refused, because a reader might wait for its other end.
pub fn open(path: &Path) -> io::Result<File> {
    // Without O_NONBLOCK, opening a pipe without a writer would wait for ever. A regular file ignores the flag.
    let mut options = OpenOptions::new();
    let file = options.read(true).custom_flags(O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        let problem = "it is not a regular file";
        return Err(io::Error::new(ErrorKind::InvalidInput, problem));
    }
    Ok(file)
}

/// Reads the rest of a file. More than `limit` bytes are refused with [`ErrorKind::FileTooLarge`].
pub fn read(file: File, limit: u64) -> io::Result<Vec<u8>> {
    let (mut content, most) = (Vec::new(), limit.saturating_add(1));
    file.take(most).read_to_end(&mut content)?;
    if content.len() as u64 > limit {
        let problem = format!("it is larger than {limit} bytes");
        return Err(io::Error::new(ErrorKind::FileTooLarge, problem));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_rename_leaves_the_file_as_it_was() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a");
        let partial = directory.path().join(".a.part");
        replace(&path, b"before", 0o600).expect("it is written");
        fs::write(&partial, "left by a power cut").expect("it is written");
        let builder = at(&partial).expect("what was left is removed");
        let new = builder.tempfile_in(directory.path());
        let new = new.expect("a temporary file");
        assert_eq!(new.path(), partial);
        let refuse = || -> io::Result<()> { Err(ErrorKind::Interrupted.into()) };
        let refused = commit(new, &path, b"after", 0o600, None, refuse);
        let error = refused.expect_err("it is refused");
        assert_eq!(error.kind(), ErrorKind::Interrupted);
        assert_eq!(fs::read(&path).expect("it is there"), b"before");
        assert!(!partial.exists(), "the temporary file is removed");
    }

    #[test]
    fn a_temporary_file_is_known_by_its_name() {
        let directory = tempfile::tempdir().expect("a directory");
        let new = beside(&directory.path().join("a")).expect("a temporary file");
        assert!(is_temporary(new.path().file_name().expect("a name")));
        assert!(!is_temporary(OsStr::new("a")));
    }

    #[test]
    fn a_path_without_a_directory_or_a_name_is_refused() {
        for path in ["a", "/", "/..", ""] {
            let error = parent(Path::new(path)).expect_err(path);
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{path}");
        }
        let directory = parent(Path::new("/a/b")).expect("a directory");
        assert_eq!(directory, Path::new("/a"));
    }

    #[test]
    fn a_file_larger_than_the_limit_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a");
        replace(&path, b"four", 0o600).expect("it is written");
        let limited = |limit| read(open(&path).expect("it is opened"), limit);
        assert_eq!(limited(4).expect("it is read"), b"four");
        let error = limited(3).expect_err("it is larger");
        assert_eq!(error.kind(), ErrorKind::FileTooLarge);
        let error = open(directory.path()).expect_err("a directory");
        assert_eq!(error.to_string(), "it is not a regular file");
    }
}
