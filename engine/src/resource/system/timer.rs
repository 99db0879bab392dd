//! A timer of nodeletd: a schedule and one of the commands that nodeletd can run.
//!
//! On the host it is one file. nodeletd reads it, runs the command on time, makes up for missed runs and records the runs. It is
//! not a systemd timer, because nodeletd has to know what else is running before it starts the command.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::model::Text;
use crate::resource::files::file::{Observed, PRIVATE};
use crate::resource::{Change, Context, FileSource, FileSpec, Receipt, Resource, ResourceResult};

/// The directory of timers, one file each.
pub const TIMERS: &str = "/var/opt/pf9/nodelet/timers";
/// What a timer can run: `nodelet etcd backup`.
pub const RUNNABLE: &[&str] = &["etcd-backup"];

/// A timer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimerSpec {
    /// Its name, which is also the name of its file.
    pub name: String,
    /// The schedule in cron syntax, in the host's time zone.
    pub schedule: String,
    /// What to run; one of [`RUNNABLE`].
    pub run: String,
}

/// The file of a timer on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimerFile {
    /// Version of the file's format; only 1 exists.
    pub version: u32,
    /// The schedule in cron syntax.
    pub schedule: String,
    /// What to run.
    pub run: String,
}

/// The file of the timer of this name.
#[must_use]
pub fn timer_path(name: &str) -> PathBuf {
    Path::new(TIMERS).join(format!("{name}.json"))
}

impl TimerSpec {
    fn file(&self) -> FileSpec {
        let file = TimerFile {
            version: 1,
            schedule: self.schedule.clone(),
            run: self.run.clone(),
        };
        let text = serde_json::to_string_pretty(&file).expect("texts and a number are JSON");
        FileSpec {
            path: timer_path(&self.name),
            source: FileSource::Text(Text::Known(text + "\n")),
            attributes: PRIVATE,
            once: false,
            secret: false,
            unit: false,
        }
    }
}

#[async_trait]
impl Resource for TimerSpec {
    type Observed = Observed;

    fn label(&self) -> String {
        self.name.clone()
    }

    async fn observe(&self, cx: &Context<'_>) -> ResourceResult<Observed> {
        self.file().observe(cx).await
    }

    fn diff(&self, observed: &Observed) -> Option<Change> {
        self.file().diff(observed)
    }

    async fn converge(
        &self,
        observed: &Observed,
        change: &Change,
        cx: &Context<'_>,
        receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        self.file().converge(observed, change, cx, receipt).await
    }

    fn paths(&self) -> Vec<PathBuf> {
        vec![timer_path(&self.name)]
    }
}
