//! Verbs on units: queue a job, wait for its end, say why it failed.

use std::time::Duration;

use futures::StreamExt;
use zbus::{MessageStream, OwnedObjectPath};

use super::bus::is_unknown_unit;
use crate::host::live::LiveHost;
use crate::host::live::blocking::within;
use crate::host::{HostError, HostResult, Services};

/// How long a job may take: a little longer than systemd gives a unit that does not end (90 s) before it kills it.
const JOB: Duration = Duration::from_secs(105);

/// Lines of the journal in an error.
const LINES: usize = 5;

/// The result of a job.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::host::live) enum JobResult {
    /// The job was done.
    Done,
    /// There is no such unit.
    Unknown,
}

impl LiveHost {
    /// Queues a job with the manager's `method` and waits for its end. `verb` completes "failed to …".
    pub(in crate::host::live) async fn job(
        &self,
        verb: &str,
        method: &str,
        unit: &str,
    ) -> HostResult<JobResult> {
        let action = format!("{verb} {unit}");
        let result = within(JOB, || action.clone(), async {
            // Subscribes before the job is queued; otherwise a quick end of the job would be missed.
            let mut ends = self.bus.job_ends(&action).await?;
            let queued = match self.bus.ask(&action, method, &(unit, "replace")).await? {
                Err(error) if is_unknown_unit(&error) => return Ok(Err(error)),
                answer => answer,
            }
            .and_then(|answer| answer.body().deserialize::<OwnedObjectPath>());
            let job = queued.map_err(|error| HostError::service(&*action, error))?;
            end_of(&mut ends, &job, &action).await.map(Ok)
        })
        .await;
        match result {
            Ok(Ok(end)) if end == "done" => Ok(JobResult::Done),
            Ok(Ok(end)) => Err(self
                .explain(&action, &format!("its job ended with `{end}`"), unit)
                .await),
            Ok(Err(_)) => Ok(JobResult::Unknown),
            Err(HostError::Deadline { .. }) => {
                let waited = humantime::format_duration(JOB);
                Err(self
                    .explain(
                        &action,
                        &format!("its job did not end within {waited}"),
                        unit,
                    )
                    .await)
            }
            Err(error) => Err(error),
        }
    }

    /// An error that carries the unit's own result and the end of its journal.
    async fn explain(&self, action: &str, what: &str, unit: &str) -> HostError {
        let mut said = what.to_owned();
        if let Ok(state) = self.unit(unit).await {
            said += &format!("; the unit is {} ({})", state.active, state.sub);
        }
        if let Some(result) = self.unit_result(unit).await {
            said += &format!(", result {result}");
        }
        match self.unit_log(unit, LINES).await {
            Ok(log) if !log.trim().is_empty() => {
                said += &format!(
                    "; its journal ends with: {}",
                    log.trim().replace('\n', " | ")
                );
            }
            _ => said += &format!("; see `journalctl -u {unit}`"),
        }
        HostError::service(action, said)
    }
}

/// What a job ended with.
async fn end_of(
    ends: &mut MessageStream,
    job: &OwnedObjectPath,
    action: &str,
) -> HostResult<String> {
    let failed = |error: zbus::Error| HostError::service(action, error);
    while let Some(message) = ends.next().await {
        let message = message.map_err(failed)?;
        let (_, path, _, end): (u32, OwnedObjectPath, String, String) =
            message.body().deserialize().map_err(failed)?;
        if path == *job {
            return Ok(end);
        }
    }
    Err(HostError::service(
        action,
        "the system bus went away while its job was running",
    ))
}
