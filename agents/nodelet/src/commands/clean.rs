//! `nodelet clean`: makes the host as it was before the role.

use anyhow::{Result, bail};
use engine::exec::{self, EventSink, Recording};
use engine::host::Host;
use engine::host::live::LiveHost;
use engine::ledger::{Ledger, RECOVER, Record};
use engine::model::Outcome;
use tokio_util::sync::CancellationToken;

use super::run::{exit, has_ledger, installed_inputs, only_root, refuse_if_reapplied};
use crate::cli::{CleanArgs, RoleArgs};
use crate::inputs::Inputs;
use crate::inputs::identity::Identity;
use crate::output;
use crate::output::exit::Exit;
use crate::process::lock::Lock;
use crate::process::{cgroup, signals};

pub(crate) async fn clean(args: &CleanArgs) -> Result<Exit> {
    only_root("clean this host")?;
    refuse_if_reapplied("clean this host", "clean").await?;
    let _lock = Lock::take("clean")?;
    let host = LiveHost::new();
    let cancel = signals::cancel_on_signal()?;
    let sink = output::sink(args.role.json);
    let purpose = if args.purge {
        CleanPurpose::Purge
    } else {
        CleanPurpose::Leave
    };
    let outcome = remove_role(&args.role, &host, sink.as_ref(), &cancel, purpose).await?;
    cgroup::remove_unused(cgroup::MOUNT);
    Ok(exit(outcome))
}

/// What a clean is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CleanPurpose {
    /// The host may become something else afterwards.
    Leave,
    /// The cluster's data is removed as well, so the host may join any cluster.
    Purge,
    /// The host comes up again as what it was.
    Rebuild,
}

/// Stops what runs, takes the role off, and releases the host from the identity that it was bound to, unless it is to come up again with
/// it.
pub(super) async fn remove_role(
    role: &RoleArgs,
    host: &LiveHost,
    sink: &dyn EventSink,
    cancel: &CancellationToken,
    purpose: CleanPurpose,
) -> Result<Outcome> {
    let records = Ledger::read(host).await;
    let inputs = installed_inputs(role, host).await;
    if let Ok(inputs) = &inputs {
        has_ledger_to_clean(inputs, host).await?;
    }
    let records = records?;
    has_all_to_clean(&records, host).await?;
    let live = Ledger::live_in(&records);
    if live.iter().any(|live| !live.keep) {
        stop(inputs.as_ref(), host, sink, cancel).await;
    }
    let outcome = exec::clean(host, sink, cancel, purpose == CleanPurpose::Purge).await?;
    if let (Outcome::Cleaned, Ok(inputs)) = (outcome, &inputs) {
        is_gone(inputs, host).await?;
    }
    match (outcome, purpose) {
        // Nothing of the cluster is left, so the host is bound to nothing.
        (Outcome::Cleaned, CleanPurpose::Purge) => Identity::forget()?,
        (Outcome::Cleaned, CleanPurpose::Leave) => Identity::release()?,
        _ => {}
    }
    Ok(outcome)
}

/// Refuses a clean if the ledger was lost: it would take back a part of the role at most.
async fn has_ledger_to_clean(inputs: &Inputs, host: &LiveHost) -> Result<()> {
    let Err(lost) = has_ledger(inputs, host).await else {
        return Ok(());
    };
    let remaining = installed(inputs, host, true).await;
    Err(lost.context(if remaining.is_empty() {
        "clean this host: nothing was reverted".to_owned()
    } else {
        format!(
            "clean this host: nothing was reverted, and this is on it: {}",
            remaining.join(", ")
        )
    }))
}

/// Refuses an empty ledger on a host with containers or kubeconfigs of any role. This needs no plan, so it also works without settings or
/// a role package.
async fn has_all_to_clean(records: &[Record], host: &dyn Host) -> Result<()> {
    match Ledger::contradicted_by_host(host, records).await {
        Some(lost) => Err(anyhow::Error::from(lost).context(
            "clean this host: nothing was reverted; restore this host's settings and role package first, because a recovery needs them",
        )),
        None => Ok(()),
    }
}

/// Fails if something of the role is left after a clean: the ledger did not know it.
async fn is_gone(inputs: &Inputs, host: &LiveHost) -> Result<()> {
    let left = installed(inputs, host, false).await;
    if left.is_empty() {
        return Ok(());
    }
    bail!(
        "clean this host: what the ledger knows was reverted, but it did not know {}, which are still there; {RECOVER}, then clean again",
        left.join(", ")
    );
}

/// The parts of the role that are on this host beyond doubt; with `files` also its files, which may have been there before the role.
async fn installed(inputs: &Inputs, host: &LiveHost, files: bool) -> Vec<String> {
    let ignored_events = Recording::default();
    let runner = inputs.runner(host, &ignored_events);
    runner.installed(files).await
}

/// For the cluster's sake: evicts the pods, and stops what runs in order. The clean itself needs only the ledger, so it continues if
/// the role or the settings are gone.
async fn stop(
    inputs: Result<&Inputs, &anyhow::Error>,
    host: &LiveHost,
    sink: &dyn EventSink,
    cancel: &CancellationToken,
) {
    let inputs = match inputs {
        Ok(inputs) => inputs,
        Err(error) => {
            tracing::warn!(
                error = engine::model::chain(error.as_ref()).join(": "),
                "cleaning without a stop: the role cannot be planned"
            );
            return;
        }
    };
    let mut runner = inputs.runner(host, sink);
    runner.cancel = cancel.clone();
    match runner.stop_for_clean().await {
        Ok(Outcome::Failed) => {
            tracing::warn!("the stop left something running; the clean continues")
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(
            error = engine::model::chain(&error).join(": "),
            "cleaning without a stop"
        ),
    }
}
