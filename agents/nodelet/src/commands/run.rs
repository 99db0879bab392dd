//! `nodelet apply` and `nodelet stop`: the commands that change the host.

use anyhow::{Result, bail};
use engine::exec::{Recording, Runner, Selection};
use engine::host::live::LiveHost;
use engine::ledger::{Ledger, LedgerError};
use engine::model::Outcome;

use crate::bound::bound_to;
use crate::cli::{RoleArgs, RunArgs};
use crate::exit::{Exit, WrongUsage};
use crate::identity::Identity;
use crate::inputs::{self, Inputs, NO_ROLE};
use crate::lock::Lock;
use crate::settled::last_good;
use crate::{output, signals};

pub(crate) async fn apply(args: &RunArgs) -> Result<Exit> {
    let host = LiveHost::new();
    let selection = args.phases.selection();
    let (inputs, _lock) = prepare("apply", &args.role, &selection, &host).await?;
    let sink = output::sink(args.role.json);
    let mut runner = Runner::new(
        &inputs.plan,
        &host,
        &inputs.facts,
        &inputs.secrets,
        sink.as_ref(),
    );
    runner.selection = selection;
    if let Some(missing) = runner.not_standing().await? {
        return Err(missing.into());
    }
    runner.cancel = signals::cancel_on_signal()?;
    let outcome = runner.apply().await?;
    note_identity(outcome, &inputs);
    Ok(exit(outcome))
}

/// Records the identity that the host is bound to from now on. Called after the run, because a refused run writes nothing, not even this
/// record. Values that a clean released are recorded again. If the record cannot be written, the run has still succeeded: a warning says
/// so.
pub(super) fn note_identity(outcome: Outcome, inputs: &Inputs) {
    if outcome != Outcome::Refused
        && Identity::recorded().as_ref() != Some(&inputs.identity)
        && let Err(error) = inputs.identity.write()
    {
        tracing::warn!("{}: {error:#}", Identity::NOT_NOTED);
    }
}

/// There is no role to apply.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum NoRole {
    #[error("{verb} a role: {}", NO_ROLE)]
    Waits { verb: String },
    /// With ROLE none, an apply would take back the whole role, which the operator has not asked for.
    #[error(
        "{verb} a role: ROLE is none, and {role} is on this host; set it back, or take the role off with `nodelet clean`"
    )]
    Stands { verb: String, role: String },
}

impl NoRole {
    /// `standing` is the role that the ledger says is on this host.
    fn told(verb: &str, standing: Option<String>) -> Self {
        let verb = verb.to_owned();
        match standing {
            Some(role) => Self::Stands { verb, role },
            None => Self::Waits { verb },
        }
    }
}

pub(crate) async fn stop(args: &RunArgs) -> Result<Exit> {
    let host = LiveHost::new();
    let selection = args.phases.selection();
    let (inputs, _lock) = prepare("stop", &args.role, &selection, &host).await?;
    let sink = output::sink(args.role.json);
    let mut runner = Runner::new(
        &inputs.plan,
        &host,
        &inputs.facts,
        &inputs.secrets,
        sink.as_ref(),
    );
    runner.selection = selection;
    runner.cancel = signals::cancel_on_signal()?;
    Ok(exit(runner.stop().await?))
}

/// Everything that can be refused is refused here, before anything is touched.
pub(super) async fn prepare(
    verb: &str,
    args: &RoleArgs,
    selection: &Selection,
    host: &LiveHost,
) -> Result<(Inputs, Lock)> {
    refuse_unfit(verb, args)?;
    let lock = Lock::take(verb)?;
    let inputs = inputs::read(args, host).await?;
    unchanged(args, host, &inputs).await?;
    if inputs.are_of_no_role() {
        let standing = Ledger::standing_role_in(&Ledger::read(host).await?);
        return Err(NoRole::told(verb, standing).into());
    }
    selection.validate(&inputs.plan)?;
    has_ledger(&inputs, host).await?;
    Ok((inputs, lock))
}

/// Refuses a command that cannot change this host: one with a facts file, or without root.
pub(super) fn refuse_unfit(verb: &str, args: &RoleArgs) -> Result<()> {
    if args.facts.is_some() {
        bail!(WrongUsage(format!(
            "{verb} on a host that a file describes: --facts is for `nodelet plan`"
        )));
    }
    if !nix::unistd::Uid::effective().is_root() {
        bail!("{verb} a role: only root can; try again with sudo");
    }
    Ok(())
}

/// Refuses a host where the role is installed and the ledger does not know it: nothing that is done there could be taken back.
pub(super) async fn has_ledger(inputs: &Inputs, host: &LiveHost) -> Result<()> {
    let unheard = Recording::default();
    let runner = Runner::new(&inputs.plan, host, &inputs.facts, &inputs.secrets, &unheard);
    match runner.lost_ledger().await {
        Some(lost) => Err(lost.into()),
        None => Ok(()),
    }
}

/// The same for commands that change nothing: they go on if they may not read the ledger.
pub(super) async fn lost_ledger(inputs: &Inputs, host: &LiveHost) -> Result<()> {
    match has_ledger(inputs, host).await {
        Err(error) if matches!(error.downcast_ref(), Some(LedgerError::Host { .. })) => Ok(()),
        looked => looked,
    }
}

/// The inputs of the role that is on this host. If the settings already have ROLE none, or cannot be used, these are the last good
/// settings.
pub(super) async fn standing_inputs(args: &RoleArgs, host: &LiveHost) -> Result<Inputs> {
    let inputs = match inputs::read(args, host).await {
        Ok(inputs) if !inputs.are_of_no_role() => return Ok(inputs),
        inputs => inputs,
    };
    match last_good(args, host).await {
        Ok((_, last)) if !last.are_of_no_role() => Ok(last),
        _ => inputs,
    }
}

/// Refuses changes of settings that cannot change while the role is on the host.
pub(super) async fn unchanged(args: &RoleArgs, host: &LiveHost, inputs: &Inputs) -> Result<()> {
    if let Some(stands) = bound_to(args, host).await?
        && let Some(changed) = stands.changed_by(&inputs.identity)
    {
        return Err(changed.into());
    }
    Ok(())
}

pub(super) fn exit(outcome: Outcome) -> Exit {
    match outcome {
        Outcome::Converged | Outcome::Stopped | Outcome::Predicted | Outcome::Cleaned => Exit::Ok,
        Outcome::Interrupted => Exit::Pending,
        Outcome::Failed | Outcome::Refused => Exit::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_a_role_is_told_what_to_do() {
        let waits = NoRole::told("apply", None).to_string();
        assert!(waits.contains("apply a role: ROLE is none"), "{waits}");
        assert!(waits.contains("`ROLE: master`"), "{waits}");
        let stands = NoRole::told("repair", Some("pf9-kube 1.20.2".to_owned())).to_string();
        assert!(
            stands.contains("pf9-kube 1.20.2 is on this host"),
            "{stands}"
        );
        assert!(stands.contains("`nodelet clean`"), "{stands}");
    }
}
