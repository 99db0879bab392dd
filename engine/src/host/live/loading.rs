//! Images that are being loaded. Docker writes their layers without waiting for the disk, and its own records of them with: after a
//! power cut it may show an image whose programs are empty files. So a mark stands on the disk from before a load until
//! everything is on it, and an image with a mark is none.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::atomic;
use crate::exec::STATE;
use crate::host::Attributes;

const PREFIX: &str = "loading-";
/// Bound on a mark.
const LIMIT: u64 = 64 * 1024;

/// A load that has begun and is not known to have come to its end.
#[derive(Debug, Serialize, Deserialize)]
struct Mark {
    archive: PathBuf,
    /// What the archive brings, as far as it says so.
    references: Vec<String>,
}

/// Notes that an archive is about to be loaded. Gives what an earlier load of it, which was cut, may have left half.
pub(super) fn begin(archive: &Path, references: &[String]) -> io::Result<Vec<String>> {
    begin_in(Path::new(STATE), archive, references)
}

pub(super) fn begin_in(
    directory: &Path,
    archive: &Path,
    references: &[String],
) -> io::Result<Vec<String>> {
    let place = place(directory, archive);
    let half = read(&place).map_or_else(Vec::new, |mark| mark.references);
    let mark = Mark {
        archive: archive.to_owned(),
        references: references.to_vec(),
    };
    fs::create_dir_all(directory)?;
    atomic::write(&place, &serde_json::to_vec(&mark)?, Attributes::root(0o600))?;
    Ok(half)
}

/// Notes that all of it is there: first what docker has written is brought to the disk, then the mark goes.
pub(super) fn end(archive: &Path, docker_root: &Path) -> io::Result<()> {
    end_in(Path::new(STATE), archive, docker_root)
}

pub(super) fn end_in(directory: &Path, archive: &Path, docker_root: &Path) -> io::Result<()> {
    nix::unistd::syncfs(File::open(docker_root)?)?;
    gone(&place(directory, archive))
}

/// Notes that an image has been removed: what may have been half of it is no more.
pub(super) fn forget(reference: &str) -> io::Result<()> {
    for (place, mark) in marks(Path::new(STATE)) {
        if mark.references.iter().any(|one| one == reference) {
            gone(&place)?;
        }
    }
    Ok(())
}

/// Whether a load that brings this image was cut.
pub(super) fn is_half(reference: &str) -> bool {
    is_half_in(Path::new(STATE), reference)
}

fn is_half_in(directory: &Path, reference: &str) -> bool {
    let mut marks = marks(directory);
    marks.any(|(_, mark)| mark.references.iter().any(|one| one == reference))
}

fn place(directory: &Path, archive: &Path) -> PathBuf {
    let digest = Sha256::digest(archive.as_os_str().as_encoded_bytes());
    directory.join(format!("{PREFIX}{}", &crate::plan::hex(&digest)[..16]))
}

fn marks(directory: &Path) -> impl Iterator<Item = (PathBuf, Mark)> {
    let entries = fs::read_dir(directory).ok().into_iter().flatten();
    let places = entries.flatten().map(|entry| entry.path()).filter(|path| {
        let name = path.file_name().unwrap_or_default();
        name.to_string_lossy().starts_with(PREFIX)
    });
    places
        .filter_map(|place| Some((read(&place)?, place)))
        .map(|(mark, place)| (place, mark))
}

/// A mark is written whole or not at all; what cannot be understood is none of ours.
fn read(place: &Path) -> Option<Mark> {
    let said = fs::symlink_metadata(place).ok()?;
    if !said.is_file() || said.len() > LIMIT {
        return None;
    }
    serde_json::from_slice(&fs::read(place).ok()?).ok()
}

fn gone(place: &Path) -> io::Result<()> {
    match fs::remove_file(place) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => atomic::sync_directory(atomic::parent(place)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_half_from_the_beginning_of_a_load_until_its_end() {
        let directory = tempfile::tempdir().expect("a directory");
        let state = directory.path();
        let archive = Path::new("/payload/images/etcd.tar");
        let brings = ["etcd:1".to_owned()];
        assert!(!is_half_in(state, "etcd:1"));
        let left = begin_in(state, archive, &brings).expect("it is noted");
        assert!(left.is_empty(), "nothing was cut before");
        assert!(is_half_in(state, "etcd:1") && !is_half_in(state, "pause:1"));
        let left = begin_in(state, archive, &brings).expect("it is noted");
        assert_eq!(left, brings, "the first load never came to its end");
        gone(&place(state, archive)).expect("it goes");
        assert!(!is_half_in(state, "etcd:1"));
        fs::write(state.join("loading-rubbish"), "rubbish").expect("written");
        assert!(!is_half_in(state, "etcd:1"));
    }
}
