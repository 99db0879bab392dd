//! `nodelet apply` and `nodelet stop`: the commands that change the host.

use anyhow::{Result, bail};
use engine::exec::{Outcome, Runner, Selection};
use engine::host::live::LiveHost;

use crate::cli::{RoleArgs, RunArgs};
use crate::exit::{Exit, WrongUsage};
use crate::identity::Identity;
use crate::inputs::{self, Inputs};
use crate::lock::Lock;
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
    note_identity(outcome, &inputs)?;
    Ok(exit(outcome))
}

/// Notes what the host stands with from now on. After the run: a host that is refused is not touched, not even for this. What a
/// clean has ended is noted anew.
pub(super) fn note_identity(outcome: Outcome, inputs: &Inputs) -> Result<()> {
    if outcome != Outcome::Refused && Identity::recorded()?.as_ref() != Some(&inputs.identity) {
        inputs.identity.write()?;
    }
    Ok(())
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
    if args.facts.is_some() {
        bail!(WrongUsage(format!(
            "{verb} on a host that a file describes: --facts is for `nodelet plan`"
        )));
    }
    if !nix::unistd::Uid::effective().is_root() {
        bail!("{verb} a role: only root can; try again with sudo");
    }
    let lock = Lock::take(verb)?;
    let inputs = inputs::read(args, host).await?;
    selection.validate(&inputs.plan)?;
    unchanged(&inputs)?;
    Ok((inputs, lock))
}

/// Refuses settings that cannot change while the host stands.
pub(super) fn unchanged(inputs: &Inputs) -> Result<()> {
    if let Some(stands) = Identity::recorded()?
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
