//! `nodelet drain`: evicts the node's pods, and leaves the node's own parts running.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use chrono::Utc;
use engine::exec::{Event, EventSink, Selection};
use engine::host::live::LiveHost;
use engine::host::{Cluster as _, ClusterAccess};
use engine::model::Outcome;
use engine::plan::PlannedPhase;
use engine::resource::{DrainSpec, Spec};

use super::run::{exit, prepare};
use crate::cli::DrainArgs;
use crate::commands::report::status::pause_for;
use crate::nodeletd::api::client;
use crate::output::exit::Exit;
use crate::output::{self, say};
use crate::process::signals;

/// The next step if a drain did not evict all pods.
const PODS_LEFT: &str = "some pods may be left, for the reasons above; `nodelet drain` waits for them again, `kubectl delete pod NAME --namespace NAMESPACE` ends a pod that a disruption budget protects\n";

/// Passes events on, and remembers whether a step of the stop failed: the stop continues after that, but the exit code has to show it.
struct FailureRecorder<'a> {
    sink: &'a dyn EventSink,
    failed: AtomicBool,
}

impl EventSink for FailureRecorder<'_> {
    fn emit(&self, event: Event) {
        if matches!(event, Event::StopFailed { .. }) {
            self.failed.store(true, Ordering::Relaxed);
        }
        self.sink.emit(event);
    }
}

pub(crate) async fn drain(args: &DrainArgs) -> Result<Exit> {
    let host = LiveHost::new();
    let everything = Selection::default();
    let (inputs, _lock) = prepare("drain", &args.role, &everything, &host).await?;
    let phases = || inputs.plan.phases.iter();
    let drains: Vec<&DrainSpec> = phases().flat_map(drain_steps).collect();
    if drains.is_empty() {
        bail!(
            "drain this node: the role {} has no phase that evicts pods",
            inputs.plan.role
        );
    }
    for drain in &drains {
        // A stop continues without an API server, but a drain needs one: fail here, before nodeletd is paused.
        is_cordoned(&host, drain).await?;
    }
    let cancel = signals::cancel_on_signal()?;
    // Without a pause, nodeletd would let pods come back at once. It begins nothing before the pause, because this command holds the
    // lock.
    let paused = Pause::for_drain(args.duration).await?;
    let sink = output::sink(args.role.json);
    let recorder = FailureRecorder {
        sink: sink.as_ref(),
        failed: AtomicBool::new(false),
    };
    let mut runner = inputs.runner(&host, &recorder);
    let names = phases().filter(|phase| drain_steps(phase).next().is_some());
    runner.selection = Selection {
        only: names.map(|phase| phase.name.to_string()).collect(),
        ..Selection::default()
    };
    runner.cancel = cancel;
    let outcome = match runner.stop().await {
        Ok(outcome) => outcome,
        Err(error) => {
            paused.undo().await;
            return Err(error.into());
        }
    };
    for drain in &drains {
        if !matches!(is_cordoned(&host, drain).await, Ok(true)) {
            paused.undo().await;
            if outcome == Outcome::Interrupted {
                return Ok(exit(outcome));
            }
            bail!(
                "drain this node: {} still takes pods, or its state cannot be read any more; see the errors above",
                drain.node
            );
        }
    }
    let has_failed = recorder.failed.load(Ordering::Relaxed);
    if !args.role.json {
        say(&next_steps(&paused, has_failed));
    }
    if has_failed {
        return Ok(Exit::Pending);
    }
    Ok(exit(outcome))
}

/// The next steps of an operator, and when pods come back.
fn next_steps(paused: &Pause, has_failed: bool) -> String {
    let pods_left = if has_failed { PODS_LEFT } else { "" };
    let come_back = match paused {
        Pause::NotRunning => {
            "nodeletd does not run here; pods come back with `nodelet apply`, unless an operator has cordoned the node\n"
        }
        Pause::Ours { .. } | Pause::Longer => {
            "pods come back with `nodelet resume`, or by themselves when the time is over, unless an operator has cordoned the node\n"
        }
    };
    format!("{pods_left}{come_back}")
}

/// How nodeletd was kept from letting pods come back.
enum Pause {
    /// nodeletd does not run here.
    NotRunning,
    /// By a pause for this drain. `before` is the shorter pause that it replaced: its end, in seconds since 1970, and its reason.
    Ours { before: Option<(i64, String)> },
    /// nodeletd was paused for longer already.
    Longer,
}

impl Pause {
    async fn for_drain(duration: Duration) -> Result<Self> {
        let view = match client::status().await {
            Err(error) if error.is::<client::NotThere>() => return Ok(Self::NotRunning),
            view => view.context("pause nodeletd for the drain")?,
        };
        let over = Utc::now() + duration;
        if view
            .paused_until
            .is_some_and(|until| until >= over.timestamp())
        {
            return Ok(Self::Longer);
        }
        pause_for(duration, "drained")
            .await
            .context("pause nodeletd for the drain")?;
        let before = view.paused_until.map(|until| (until, view.paused_because));
        Ok(Self::Ours { before })
    }

    /// Ends the pause of a drain that failed, so that nodeletd repairs the host again.
    async fn undo(self) {
        let Self::Ours { before } = self else {
            return;
        };
        let left = before.and_then(|(until, because)| {
            let left = u64::try_from(until - Utc::now().timestamp()).ok()?;
            (left > 0).then(|| (Duration::from_secs(left), because))
        });
        let undone = match left {
            Some((left, because)) => pause_for(left, &because).await,
            None => client::post("/v1/resume").await.map(drop),
        };
        if let Err(error) = undone {
            tracing::warn!("nodeletd stays paused until `nodelet resume`: could not {error:#}");
        }
    }
}

/// The drain steps in the stop of a phase.
pub(super) fn drain_steps(phase: &PlannedPhase) -> impl DoubleEndedIterator<Item = &DrainSpec> {
    phase.on_stop.iter().filter_map(|step| match &step.spec {
        Spec::Drain(drain) => Some(drain),
        _ => None,
    })
}

/// Whether the node takes no new pods.
///
/// # Errors
/// The API server does not answer, or has no such node.
async fn is_cordoned(host: &LiveHost, drain: &DrainSpec) -> Result<bool> {
    let access = ClusterAccess::with(&drain.kubeconfig);
    let node = host
        .node(&access, &drain.node)
        .await
        .context("ask the API server for the node")?;
    let Some(node) = node else {
        bail!("drain this node: the cluster has no node {}", drain.node);
    };
    Ok(node.unschedulable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_that_leaves_pods_has_a_next_step() {
        for (has_failed, lines) in [(true, 2), (false, 1)] {
            let text = next_steps(&Pause::Longer, has_failed);
            assert_eq!(text.lines().count(), lines, "{text}");
            assert_eq!(text.contains("`nodelet drain` waits"), has_failed, "{text}");
            assert!(text.contains("`nodelet resume`"), "{text}");
        }
    }
}
