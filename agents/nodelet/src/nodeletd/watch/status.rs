//! Changes and removal of the status file by other processes.

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use inotify::{EventMask, Inotify, WatchMask};

use super::trigger::Triggers;
use crate::nodeletd::status::kube_status::StatusFile;

pub(super) async fn listen(file: StatusFile, triggers: Triggers) -> Result<()> {
    let path = file.path();
    let directory = path.parent().context("watch a file without a directory")?;
    let inotify = Inotify::init().context("start inotify")?;
    let mask = WatchMask::CLOSE_WRITE
        | WatchMask::MOVED_TO
        | WatchMask::MOVED_FROM
        | WatchMask::DELETE
        | WatchMask::DELETE_SELF
        | WatchMask::MOVE_SELF;
    inotify
        .watches()
        .add(directory, mask)
        .with_context(|| format!("watch {}", directory.display()))?;
    let mut events = inotify
        .into_event_stream(vec![0; 4096])
        .context("read inotify's events")?;
    while let Some(event) = events.next().await {
        let event = event.context("read inotify's events")?;
        let gone = event
            .mask
            .intersects(EventMask::DELETE_SELF | EventMask::MOVE_SELF | EventMask::IGNORED);
        // Our own writes are no event.
        if (gone || event.name.as_deref() == path.file_name()) && !file.is_as_written() {
            triggers.add(format!("file {}", path.display()));
        }
        if gone {
            // The next call watches the directory that is there then.
            return Ok(());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::nodeletd::status::kube_status::KubeStatus;

    const SOON: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn only_foreign_writes_trigger_a_pass() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = StatusFile::at(directory.path().join("kube_status"));
        let write = |attempt| {
            let status = KubeStatus {
                pf9_kube_start_attempt: attempt,
                ..KubeStatus::default()
            };
            file.write(&status).expect("it is written");
        };
        write(0);
        let triggers = Triggers::default();
        let listening = tokio::spawn(listen(file.clone(), triggers.clone()));
        // The file is watched once a foreign write is noticed; earlier writes may be missed.
        let foreign = async {
            while triggers.take().is_empty() {
                std::fs::write(file.path(), "rubbish").expect("it is written");
                let _ = tokio::time::timeout(Duration::from_millis(20), triggers.wait()).await;
            }
        };
        tokio::time::timeout(SOON, foreign)
            .await
            .expect("it is noticed");
        write(1);
        write(2);
        let woken = tokio::time::timeout(Duration::from_millis(200), triggers.wait()).await;
        assert!(woken.is_err(), "{:?}", triggers.take());
        std::fs::remove_file(file.path()).expect("it is removed");
        tokio::time::timeout(SOON, triggers.wait())
            .await
            .expect("it is noticed");
        listening.abort();
    }
}
