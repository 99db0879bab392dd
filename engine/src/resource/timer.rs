//! A timer of nodeletd: when to run one of the things it knows how to run.
//!
//! On the host it is one file, which nodeletd reads; the clock, catching up and the record of runs are nodeletd's. A file
//! and no unit of systemd, because nodeletd has to know what else is going on before it begins.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::file::{Observed, PRIVATE};
use super::{Change, Context, FileSource, FileSpec, Receipt, Resource, ResourceResult};
use crate::plan::Text;

/// Where timers stand, a file each.
pub const TIMERS: &str = "/var/opt/pf9/nodelet/timers";
/// What a timer can run: `nodelet etcd backup`.
pub const RUNNABLE: &[&str] = &["etcd-backup"];

/// A timer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimerSpec {
    /// Its name, which is that of its file.
    pub name: String,
    /// When, in cron syntax, in the host's time.
    pub schedule: String,
    /// What; one of [`RUNNABLE`].
    pub run: String,
}

/// A timer as it stands on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimerFile {
    /// Form of the file; 1 is the only one.
    pub version: u32,
    /// When, in cron syntax.
    pub schedule: String,
    /// What.
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
