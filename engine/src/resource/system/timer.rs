//! A timer of nodeletd: a schedule, and what nodeletd runs then: one of its own commands, or a program of the role's package.
//!
//! On the host it is one file. nodeletd reads it, runs the command on time, makes up for missed runs and records the runs. It is
//! not a systemd timer, because nodeletd has to know what else is running before it starts the command.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::host::{CommandOutput, CommandSpec, Host};
use crate::model::{PhaseName, Text};
use crate::resource::files::file::{Observed, PRIVATE};
use crate::resource::{
    Change, Checksums, Context, FileSource, FileSpec, Owner, Receipt, Resource, ResourceResult,
};

/// The directory of timers, one file each.
pub const TIMERS: &str = "/var/opt/pf9/nodelet/timers";
/// The commands of nodelet itself that a timer can run: `nodelet etcd backup`.
pub const RUNNABLE: &[&str] = &["etcd-backup"];

/// A timer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimerSpec {
    /// Its name, which is also the name of its file.
    pub name: String,
    /// The schedule in cron syntax, in the host's time zone.
    pub schedule: String,
    /// What to run; one of [`RUNNABLE`], or empty if a program of the role is to run.
    pub run: String,
    /// The program of the role to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<TimerCommand>,
}

/// A program of the role's package that a timer runs. Programs of other packages are refused, because they have no checksum here; a
/// program of the role may start them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimerCommand {
    /// The phase that has the timer. While it does nothing on this host, or fails, the program does not run.
    pub phase: PhaseName,
    /// Program and arguments; no secrets.
    pub argv: Vec<String>,
    /// Bound on one run, in seconds.
    pub seconds: u64,
    /// The checksums by which the program is verified before each run; `None` for a package without checksums.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksums: Option<Checksums>,
}

impl TimerCommand {
    /// Bound on one run in seconds, if the script gives none.
    pub const USUAL: u64 = 10 * 60;
    /// Longest bound on one run in seconds: other timers wait for it.
    pub const LONGEST: u64 = 30 * 60;

    /// Bound on one run.
    #[must_use]
    pub fn bound(&self) -> Duration {
        Duration::from_secs(self.seconds.min(Self::LONGEST))
    }

    /// Verifies the program and runs it once. Its whole process group is killed at the deadline, and when the future is dropped.
    ///
    /// # Errors
    /// The program is not the one that was packed, ends with another status than 0, or does not end in time.
    pub async fn run(&self, host: &dyn Host) -> ResourceResult<CommandOutput> {
        if let (Some(checksums), Some(program)) = (&self.checksums, self.argv.first()) {
            checksums.verify(host, Path::new(program)).await?;
        }
        let command = CommandSpec::new(self.argv.clone()).timeout(self.bound());
        Ok(host.run_ok(&command).await?)
    }
}

/// The file of a timer on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimerFile {
    /// Version of the file's format; only 1 exists.
    pub version: u32,
    /// The schedule in cron syntax.
    pub schedule: String,
    /// What to run, if it is one of [`RUNNABLE`].
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub run: String,
    /// The program to run otherwise. Earlier versions of nodeletd refuse such a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<TimerCommand>,
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
            command: self.command.clone(),
        };
        let text = serde_json::to_string_pretty(&file).expect("texts and numbers are JSON");
        FileSpec {
            path: timer_path(&self.name),
            source: FileSource::Text(Text::Known(text + "\n")),
            attributes: PRIVATE,
            owner: Owner::default(),
            create_only: false,
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

    fn diff(&self, observed: &Observed, absent: bool) -> Option<Change> {
        self.file().diff(observed, absent)
    }

    async fn converge(
        &self,
        observed: &Observed,
        cx: &Context<'_>,
        receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        self.file().converge(observed, cx, receipt).await
    }

    fn paths(&self) -> Vec<PathBuf> {
        vec![timer_path(&self.name)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;
    use crate::resource::change::content_digest;

    const PROGRAM: &str = "/opt/pf9/roles/r/current/payload/bin/prune";
    const SUMS: &str = "/opt/pf9/roles/r/current/SHA256SUMS";

    /// The command, and a host with its package.
    fn packed() -> (TimerCommand, FakeHost) {
        let sums = format!("{}  payload/bin/prune\n", content_digest(b"good"));
        let command = TimerCommand {
            phase: "example".parse().expect("a name"),
            argv: vec![PROGRAM.to_owned(), "--all".to_owned()],
            seconds: 60,
            checksums: Some(Checksums {
                file: SUMS.into(),
                sha256: content_digest(sums.as_bytes()),
            }),
        };
        let host = FakeHost::new()
            .with_file(PROGRAM, "good")
            .with_file(SUMS, sums);
        (command, host)
    }

    #[tokio::test]
    async fn a_program_runs_only_as_it_was_packed() {
        let (command, host) = packed();
        command.run(&host).await.expect("it is as packed");
        host.with_world_mut(|world| world.file(PROGRAM, "another"));
        let error = command.run(&host).await.expect_err("it was changed");
        assert!(error.to_string().contains(PROGRAM), "{error}");
    }

    #[test]
    fn a_file_of_an_earlier_version_is_read_and_written_as_it_was() {
        let text = r#"{"version":1,"schedule":"0 3 * * *","run":"etcd-backup"}"#;
        let file: TimerFile = serde_json::from_str(text).expect("it is read");
        assert_eq!(serde_json::to_string(&file).expect("it is JSON"), text);
        let text = r#"{"name":"a","schedule":"0 3 * * *","run":"etcd-backup"}"#;
        let spec: TimerSpec = serde_json::from_str(text).expect("it is read");
        assert_eq!(serde_json::to_string(&spec).expect("it is JSON"), text);
    }

    #[test]
    fn the_file_of_a_timer_holds_its_program() {
        let (command, _) = packed();
        let spec = TimerSpec {
            name: "prune".to_owned(),
            schedule: "0 3 * * *".to_owned(),
            run: String::new(),
            command: Some(command),
        };
        let FileSource::Text(Text::Known(text)) = spec.file().source else {
            panic!("its text is known");
        };
        let file: TimerFile = serde_json::from_str(&text).expect("it is JSON");
        assert_eq!((file.run.as_str(), file.command), ("", spec.command));
    }
}
