//! Files that change.

use std::io::{Error, ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use engine::kubernetes::join_file::JOIN_FILE;
use futures::StreamExt as _;
use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask};
use nix::errno::Errno;
use sha2::{Digest as _, Sha256};

use super::trigger::Triggers;
use crate::pass::WatchList;

/// Most directories that are watched.
const DIRECTORIES: usize = 256;
/// Interval of new attempts to watch directories that could not be watched.
const POLL_INTERVAL: Duration = Duration::from_secs(5);
/// Longest join file that is compared with the one before, in bytes. A longer one is refused when it is read.
const JOIN_FILE_LIMIT: u64 = 1024 * 1024;

pub(super) async fn listen(targets: WatchList, triggers: Triggers) -> Result<()> {
    let inotify = Inotify::init().context("start inotify")?;
    let mask = WatchMask::CLOSE_WRITE
        | WatchMask::MOVED_TO
        | WatchMask::MOVED_FROM
        | WatchMask::DELETE
        | WatchMask::ATTRIB
        | WatchMask::DELETE_SELF
        | WatchMask::MOVE_SELF;
    let mut watched: Vec<(WatchDescriptor, PathBuf)> = Vec::new();
    let settings = targets.settings;
    let mut missing: Vec<PathBuf> = targets.directories;
    missing.truncate(DIRECTORIES);
    let mut watches = inotify.watches();
    // Returns how many more directories are watched now.
    let mut watch = |missing: &mut Vec<PathBuf>, watched: &mut Vec<_>| {
        let before = missing.len();
        missing.retain(|directory| match watches.add(directory, mask) {
            Ok(watch) => {
                watched.push((watch, directory.clone()));
                false
            }
            Err(error) => {
                // A missing directory may be made later. A directory for which the kernel has no room does not keep others from being
                // watched.
                if error.kind() != ErrorKind::NotFound {
                    let directory = directory.display();
                    triggers.warn_once(format!(
                        "could not watch {directory}: {error}{}",
                        next(&error)
                    ));
                }
                true
            }
        });
        before - missing.len()
    };
    watch(&mut missing, &mut watched);
    let mut events = inotify
        .into_event_stream(vec![0; 16 * 1024])
        .context("read inotify's events")?;
    let mut interval = tokio::time::interval(POLL_INTERVAL);
    loop {
        let event = tokio::select! {
            event = events.next() => match event {
                Some(event) => event.context("read inotify's events")?,
                None => return Ok(()),
            },
            // New directories are watched from now on. It is unknown what was changed in them before.
            _ = interval.tick() => {
                if watch(&mut missing, &mut watched) > 0 {
                    triggers.add("directories were made".to_owned());
                }
                continue;
            }
        };
        if event.mask.contains(EventMask::Q_OVERFLOW) {
            triggers.add("many files changed".to_owned());
            continue;
        }
        let Some((_, directory)) = watched.iter().find(|(watch, _)| *watch == event.wd) else {
            continue;
        };
        let gone = event
            .mask
            .intersects(EventMask::DELETE_SELF | EventMask::MOVE_SELF | EventMask::IGNORED);
        let is_written = event
            .mask
            .intersects(EventMask::CLOSE_WRITE | EventMask::MOVED_TO);
        let name = event.name.unwrap_or_default();
        if !is_ours_in_the_making(Path::new(&name)) {
            let path = directory.join(&name);
            let event = format!("file {}", path.display());
            if is_written
                && path == Path::new(JOIN_FILE)
                && triggers.has_changed("join file", digest(&path))
            {
                triggers.add_for_join_file(event);
            } else if *directory == settings {
                triggers.add_for_settings(event);
            } else {
                triggers.add(event);
            }
        }
        if gone {
            // The next call watches the directory that is there then.
            return Ok(());
        }
    }
}

/// The digest of a file; empty if it cannot be read. A file that is written again with the same content has not changed.
fn digest(path: &Path) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut content = Vec::new();
        let file = std::fs::File::open(path)?;
        file.take(JOIN_FILE_LIMIT).read_to_end(&mut content)?;
        Ok(content)
    };
    let content = read().ok();
    let digest = content.map(|content| engine::model::hex(&Sha256::digest(content)));
    digest.unwrap_or_default()
}

/// Names of temporary files that are renamed over the real ones.
fn is_ours_in_the_making(name: &Path) -> bool {
    let name = name.to_string_lossy();
    [".nodelet-", ".new-"]
        .iter()
        .any(|start| name.starts_with(start))
}

/// What to do where the kernel gives no more watches (`inotify_add_watch(2)`).
fn next(error: &Error) -> &'static str {
    if error.raw_os_error() == Some(Errno::ENOSPC as i32) {
        " (raise `sysctl fs.inotify.max_user_watches`)"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    /// Writes into a directory until it is noticed.
    async fn is_noticed(directory: &Path, triggers: &Triggers) {
        let file = directory.join("file");
        let name = format!("file {}", file.display());
        let noticed = async {
            while !triggers.take().contains(&name) {
                std::fs::write(&file, "x").expect("it is written");
                let _ = tokio::time::timeout(Duration::from_millis(20), triggers.wait()).await;
            }
        };
        let noticed = tokio::time::timeout(SOON, noticed).await;
        noticed.expect("it is noticed");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_watch_does_not_prevent_other_watches() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        // The kernel refuses the name of the last one, which is too long.
        let (well, later, never) = (path("well"), path("later"), path(&"n".repeat(300)));
        std::fs::create_dir(&well).expect("it is made");
        let targets = WatchList {
            directories: vec![never, well.clone(), later.clone()],
            ..WatchList::default()
        };
        let triggers = Triggers::default();
        let listening = tokio::spawn(listen(targets, triggers.clone()));
        is_noticed(&well, &triggers).await;
        std::fs::create_dir(&later).expect("it is made");
        is_noticed(&later, &triggers).await;
        is_noticed(&well, &triggers).await;
        assert!(!listening.is_finished(), "no event in between is lost");
        listening.abort();
    }
}
