//! Files that change.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use futures::StreamExt as _;
use inotify::{EventMask, Inotify, WatchMask};

use super::{Interests, Wake};

/// Directories watched at most.
const DIRECTORIES: usize = 256;

pub(super) async fn listen(interests: Interests, wake: Wake) -> Result<()> {
    let inotify = Inotify::init().context("start inotify")?;
    let mask = WatchMask::CLOSE_WRITE
        | WatchMask::MOVED_TO
        | WatchMask::MOVED_FROM
        | WatchMask::DELETE
        | WatchMask::ATTRIB
        | WatchMask::DELETE_SELF
        | WatchMask::MOVE_SELF;
    let mut watched: Vec<(inotify::WatchDescriptor, PathBuf)> = Vec::new();
    let mut missing = Vec::new();
    for directory in interests.directories.iter().take(DIRECTORIES) {
        match inotify.watches().add(directory, mask) {
            Ok(watch) => watched.push((watch, directory.clone())),
            Err(_) => missing.push(directory.clone()),
        }
    }
    if watched.is_empty() {
        bail!("watch files: none of their directories is there");
    }
    let mut events = inotify
        .into_event_stream(vec![0; 16 * 1024])
        .context("read inotify's events")?;
    let mut look = tokio::time::interval(std::time::Duration::from_secs(5));
    loop {
        let event = tokio::select! {
            event = events.next() => match event {
                Some(event) => event.context("read inotify's events")?,
                None => return Ok(()),
            },
            // Directories that come to be are watched from then on.
            _ = look.tick() => {
                if missing.iter().any(|directory| directory.is_dir()) {
                    return Ok(());
                }
                continue;
            }
        };
        if event.mask.contains(EventMask::Q_OVERFLOW) {
            wake.hint("many files changed".to_owned());
            continue;
        }
        let Some((_, directory)) = watched.iter().find(|(watch, _)| *watch == event.wd) else {
            continue;
        };
        let gone = event
            .mask
            .intersects(EventMask::DELETE_SELF | EventMask::MOVE_SELF | EventMask::IGNORED);
        let name = event.name.unwrap_or_default();
        if !is_ours_in_the_making(Path::new(&name)) {
            wake.hint(format!("file {}", directory.join(&name).display()));
        }
        if gone {
            // Watch what stands there next.
            return Ok(());
        }
    }
}

/// Names of temporary files that are renamed over the real ones.
fn is_ours_in_the_making(name: &Path) -> bool {
    let name = name.to_string_lossy();
    [".nodelet-", ".new-"]
        .iter()
        .any(|start| name.starts_with(start))
}
