//! Images that are being loaded. Docker writes their layers without waiting for the disk, but waits for the disk when it writes its own
//! records of them. After a power cut docker may list an image whose programs are empty files. So a mark is on the disk from before a load
//! until all of the image is on the disk, and an image with a mark counts as missing.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::host::Attributes;
use crate::host::live::files::atomic;
use crate::model::STATE;

const PREFIX: &str = "loading-";
/// Bound on a mark.
const LIMIT: u64 = 64 * 1024;

/// A load that has begun and is not known to have ended.
#[derive(Debug, Serialize, Deserialize)]
struct Mark {
    archive: PathBuf,
    /// The images in the archive, as far as it lists them.
    references: Vec<String>,
}

/// Notes that an archive is about to be loaded. Returns the images that an interrupted earlier load of it may have left incomplete.
pub(in crate::host::live) fn begin(
    archive: &Path,
    references: &[String],
) -> io::Result<Vec<String>> {
    begin_in(Path::new(STATE), archive, references)
}

pub(in crate::host::live) fn begin_in(
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

/// Notes that the load is complete: first syncs what docker has written to the disk, then removes the mark.
pub(in crate::host::live) fn end(archive: &Path, docker_root: &Path) -> io::Result<()> {
    end_in(Path::new(STATE), archive, docker_root)
}

pub(in crate::host::live) fn end_in(
    directory: &Path,
    archive: &Path,
    docker_root: &Path,
) -> io::Result<()> {
    nix::unistd::syncfs(File::open(docker_root)?)?;
    remove_if_exists(&place(directory, archive))
}

/// Notes that an image has been removed, so an incomplete load of it no longer matters.
pub(in crate::host::live) fn forget(reference: &str) -> io::Result<()> {
    for (place, mark) in marks(Path::new(STATE)) {
        if mark.references.iter().any(|one| one == reference) {
            remove_if_exists(&place)?;
        }
    }
    Ok(())
}

/// Whether a load of this image was interrupted.
pub(in crate::host::live) fn is_half(reference: &str) -> bool {
    is_half_in(Path::new(STATE), reference)
}

fn is_half_in(directory: &Path, reference: &str) -> bool {
    let mut marks = marks(directory);
    marks.any(|(_, mark)| mark.references.iter().any(|one| one == reference))
}

fn place(directory: &Path, archive: &Path) -> PathBuf {
    let digest = Sha256::digest(archive.as_os_str().as_encoded_bytes());
    directory.join(format!("{PREFIX}{}", &crate::model::hex(&digest)[..16]))
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

/// A mark is written whole or not at all; a file that cannot be parsed is not ours.
fn read(place: &Path) -> Option<Mark> {
    let said = fs::symlink_metadata(place).ok()?;
    if !said.is_file() || said.len() > LIMIT {
        return None;
    }
    serde_json::from_slice(&fs::read(place).ok()?).ok()
}

fn remove_if_exists(place: &Path) -> io::Result<()> {
    atomic_files::removed(fs::remove_file(place))?;
    atomic::sync_directory(atomic::parent(place)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_incomplete_during_its_load() {
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
        remove_if_exists(&place(state, archive)).expect("it goes");
        assert!(!is_half_in(state, "etcd:1"));
        fs::write(state.join("loading-rubbish"), "rubbish").expect("written");
        assert!(!is_half_in(state, "etcd:1"));
    }
}
