//! `nodelet clean`: the host as it was before the role came.

use anyhow::{Context as _, Result, bail};
use engine::exec::{self, EventSink, Outcome, Recording, Runner, STATE};
use engine::host::live::LiveHost;
use engine::ledger::Ledger;
use tokio_util::sync::CancellationToken;

use super::run::exit;
use crate::cli::{CleanArgs, RoleArgs};
use crate::exit::{Exit, WrongUsage};
use crate::identity::Identity;
use crate::inputs::{self, Inputs};
use crate::lock::Lock;
use crate::nodeletd::client;
use crate::settled::last_good;
use crate::{output, signals};

pub(crate) async fn clean(args: &CleanArgs) -> Result<Exit> {
    if args.role.facts.is_some() {
        bail!(WrongUsage(
            "clean a host that a file describes: --facts is for `nodelet plan`".to_owned()
        ));
    }
    if !nix::unistd::Uid::effective().is_root() {
        bail!("clean this host: only root can; try again with sudo");
    }
    unheld().await?;
    let _lock = Lock::take("clean")?;
    let host = LiveHost::new();
    let cancel = signals::cancel_on_signal()?;
    let sink = output::sink(args.role.json);
    let purpose = if args.purge {
        Purpose::Purge
    } else {
        Purpose::Leave
    };
    let outcome = take_off(&args.role, &host, sink.as_ref(), &cancel, purpose).await?;
    Ok(exit(outcome))
}

/// Refuses where nodeletd would bring the role up again at once, perhaps before anybody has moved the data away.
async fn unheld() -> Result<()> {
    const NEXT: &str = "`systemctl stop pf9-nodeletd` first, or set KUBE_SERVICE_STATE to false";
    let view = match client::status().await {
        Err(error) if error.is::<client::NotThere>() => return Ok(()),
        Err(error) => {
            return Err(error)
                .with_context(|| format!("see whether nodeletd holds this host; {NEXT}"));
        }
        Ok(view) => view,
    };
    if view.last_pass.is_none() {
        bail!("clean this host: nodeletd runs, and has not seen yet what it is to become; {NEXT}");
    }
    if view.desired == "true" && view.paused_until.is_none() {
        bail!(
            "clean this host: nodeletd holds it at its role and would bring it up again at once; {NEXT}, or `nodelet pause` for as long as it is to stay clean"
        );
    }
    Ok(())
}

/// What a clean is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The host may become something else afterwards.
    Leave,
    /// It may become anything: the cluster's data goes as well.
    Purge,
    /// It comes up again as what it was.
    Afresh,
}

/// Stops what runs, takes the role off, and frees the host of what it was bound to, unless it is to come up again as that.
pub(super) async fn take_off(
    role: &RoleArgs,
    host: &LiveHost,
    sink: &dyn EventSink,
    cancel: &CancellationToken,
    purpose: Purpose,
) -> Result<Outcome> {
    let live = Ledger::live_in(&Ledger::read(host).await?);
    if live.iter().any(|live| !live.keep) {
        stop(role, host, sink, cancel).await;
    } else if stands(role, host).await {
        bail!(
            "clean this host: the role runs here, but the ledger ({STATE}/ledger.jsonl) that says what was here before it is lost or empty; bring it back from a backup, or end what runs with `nodelet stop` and remove the rest by hand"
        );
    }
    let outcome = exec::clean(host, sink, cancel, purpose == Purpose::Purge).await?;
    match (outcome, purpose) {
        // Nothing of the cluster is left, so the host is nobody's.
        (Outcome::Cleaned, Purpose::Purge) => Identity::forget()?,
        (Outcome::Cleaned, Purpose::Leave) => Identity::loosen()?,
        _ => {}
    }
    Ok(outcome)
}

/// Whether the role runs on this host whatever the ledger says. Without good settings nobody can tell; there is nothing to
/// clean from either.
async fn stands(args: &RoleArgs, host: &LiveHost) -> bool {
    let Ok(inputs) = planned(args, host).await else {
        return false;
    };
    let unheard = Recording::default();
    Runner::new(&inputs.plan, host, &inputs.facts, &inputs.secrets, &unheard)
        .stands()
        .await
}

/// The role as it stands here. Somebody may have said already that this host is to be nothing: what it still is, the last good settings
/// say.
async fn planned(args: &RoleArgs, host: &LiveHost) -> Result<Inputs> {
    let inputs = inputs::read(args, host).await?;
    if inputs.are_of_no_role()
        && let Ok((_, last)) = last_good(args, host).await
    {
        return Ok(last);
    }
    Ok(inputs)
}

/// A courtesy to the cluster: what runs is handed over and ended in its order. The ledger alone suffices for the rest,
/// so a role or settings that are gone keep nobody from cleaning.
async fn stop(args: &RoleArgs, host: &LiveHost, sink: &dyn EventSink, cancel: &CancellationToken) {
    let inputs = match planned(args, host).await {
        Ok(inputs) => inputs,
        Err(error) => {
            tracing::warn!(
                error = exec::chain(error.as_ref()).join(": "),
                "cleaning without a stop: the role cannot be planned"
            );
            return;
        }
    };
    let mut runner = Runner::new(&inputs.plan, host, &inputs.facts, &inputs.secrets, sink);
    runner.cancel = cancel.clone();
    match runner.hand_over().await {
        Ok(Outcome::Failed) => {
            tracing::warn!("the stop left something running; cleaning all the same")
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(
            error = exec::chain(&error).join(": "),
            "cleaning without a stop"
        ),
    }
}
