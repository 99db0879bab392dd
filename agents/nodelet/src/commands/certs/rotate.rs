//! `nodelet certs rotate`: replace an authority, a step at a time.
//!
//! In a cluster of several masters each step is taken on each master, and shown to the others (`exec::Rollout`).

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use engine::exec::{
    InterruptedStep, Recording, Rollout, Runner, Selection, authorities, overlay_host, receiving,
    rotating,
};
use engine::host::live::LiveHost;
use engine::host::{ClusterAccess, Host};
use engine::model::Outcome;
use engine::plan::Plan;
use engine::report::Review;
use engine::resource::ResourceError;
use engine::resource::pki::{
    ENCRYPTION, Replacement, Rotation, SentSuccessor, Stage, encryption_key_ids, received_id,
    stored_prefix,
};

use super::others;
use crate::cli::{LOCAL_ADMIN, RotateArgs, RotateStep};
use crate::commands::report::plan::lines;
use crate::commands::run::{exit, prepare, unchanged};
use crate::etcd::Etcd;
use crate::inputs::{self, Inputs};
use crate::output::exit::Exit;
use crate::output::{self, say};
use crate::process::signals;

pub(crate) async fn rotate(args: &RotateArgs) -> Result<Exit> {
    let host = LiveHost::new();
    let step = match args.step {
        RotateStep::Begin => Rotation::Begin,
        RotateStep::Switch => Rotation::Switch,
        RotateStep::Finish => Rotation::Finish,
    };
    if args.from.is_some() && step != Rotation::Begin {
        bail!(
            "replace `{}`: only the step `begin` takes --from",
            args.authority
        );
    }
    if args.dry_run {
        let inputs = inputs::read(&args.role, &host).await?;
        // As the rotation itself.
        unchanged(&args.role, &host, &inputs).await?;
        return predict(args, step, &inputs, &host).await;
    }
    let (inputs, _lock) = prepare("rotate", &args.role, &Selection::default(), &host).await?;
    let plan = planned(args, step, &inputs, None)?;
    let access = ClusterAccess::with(Path::new(LOCAL_ADMIN));
    let sink = output::sink(args.role.json);
    let cancel = signals::cancel_on_signal()?;
    let runner = |plan| {
        let mut runner = inputs.runner_of(plan, &inputs.secrets, &host, sink.as_ref());
        runner.cancel = cancel.clone();
        runner.accepts_quorum_loss = args.accept_quorum_loss;
        runner
    };
    let interrupted = runner(&inputs.plan).interrupted_step().await?;
    if interrupted.is_some() {
        // First of all: etcd or the API server of this host may not work before.
        let outcome = complete(runner(&inputs.plan), args.role.json).await?;
        if outcome != Outcome::Converged {
            return Ok(exit(outcome));
        }
    }
    let mut rollout = others::rollout(&host, &inputs.plan, &args.authority).await?;
    let left = end_left(args, step, rollout.as_ref(), interrupted.as_ref(), &host).await?;
    if left.is_some() {
        // The command may also have been interrupted before all components had the result.
        let outcome = runner(&plan).rotate().await?;
        return match &mut rollout {
            Some(rollout) if outcome == Outcome::Converged => {
                show(args, step, rollout, &inputs.plan, &host).await
            }
            _ => Ok(exit(outcome)),
        };
    }
    let id = may_begin(args, step, rollout.as_ref(), &runner(&inputs.plan), &host).await?;
    let plan = planned(args, step, &inputs, id)?;
    if args.authority == ENCRYPTION && step == Rotation::Finish {
        none_with_the_previous_key(&host).await?;
    }
    if let Some(rollout) = &rollout
        && let Some(present) = claimant(args, step, &host).await?
    {
        rollout.claim(&host, &access, &present).await?;
    }
    let outcome = runner(&plan).rotate().await?;
    if outcome != Outcome::Converged {
        return Ok(exit(outcome));
    }
    if step == Rotation::Switch && args.authority != ENCRYPTION {
        let due = runner(&inputs.plan).due().await;
        for component in due.components {
            let outcome = runner(&inputs.plan).renew(component).await?;
            if outcome != Outcome::Converged {
                return Ok(exit(outcome));
            }
        }
        // A problem is reported when all other components are renewed.
        if let Some(problem) = due.problems.into_iter().next() {
            return Err(problem.into());
        }
    }
    if let Some(rollout) = &mut rollout {
        let shown = show(args, step, rollout, &inputs.plan, &host).await?;
        let present = Replacement::read(&host, &args.authority).await?;
        let uses = present.is_some_and(|present| rollout.masters_use_successor(&present));
        if args.authority != ENCRYPTION || step != Rotation::Switch || !uses {
            return Ok(shown);
        }
    }
    if args.authority == ENCRYPTION && step == Rotation::Switch {
        let written = runner(&plan).rewrite_secrets(&access).await?;
        none_with_the_previous_key(&host).await?;
        if !args.role.json {
            say(&format!("{written} Secrets are stored with the new key\n"));
        }
    }
    Ok(exit(outcome))
}

/// Completes a step that was interrupted, and says so.
async fn complete(runner: Runner<'_>, json: bool) -> Result<Outcome> {
    if !json {
        say(
            "an earlier step of a replacement was interrupted on this host: it is completed first\n",
        );
    }
    let outcome = runner.complete_step().await?;
    if !json && outcome != Outcome::Converged {
        say(
            "the interrupted step is not complete yet; once its cause is removed, take your step again: it goes on from here\n",
        );
    }
    Ok(outcome)
}

/// What `finish` still has to do for other nodes after this host has finished; `None` if this host has not finished, or if the step was not
/// interrupted.
async fn end_left(
    args: &RotateArgs,
    step: Rotation,
    rollout: Option<&Rollout>,
    interrupted: Option<&InterruptedStep>,
    host: &LiveHost,
) -> Result<Option<Vec<&'static str>>> {
    if step != Rotation::Finish {
        return Ok(None);
    }
    let Some(present) = Replacement::read(host, &args.authority).await? else {
        return Ok(None);
    };
    let access = ClusterAccess::with(Path::new(LOCAL_ADMIN));
    let left = match rollout {
        Some(rollout) => rollout.end_left(host, &access, &present).await?,
        None => Vec::new(),
    };
    // A host that shows nothing has only its ledger to know that it was this step.
    let is_its_end = present.stage == Stage::Settled
        && interrupted.is_some_and(|its| its.finishes(&args.authority));
    Ok((is_its_end || !left.is_empty()).then_some(left))
}

/// Refuses a step that is not the next one, on this host or on another one; gives the id of the successor in the file, if the step takes one
/// from there. Changes nothing.
async fn may_begin(
    args: &RotateArgs,
    step: Rotation,
    rollout: Option<&Rollout>,
    runner: &Runner<'_>,
    host: &LiveHost,
) -> Result<Option<String>> {
    let id = is_turn(args, step, rollout, runner, host).await?;
    runner.check_rollout(&args.authority, step).await?;
    Ok(id)
}

/// Refuses a step that does not come next on the nodes of the cluster; gives the id of the successor in the file. Changes nothing.
async fn is_turn(
    args: &RotateArgs,
    step: Rotation,
    rollout: Option<&Rollout>,
    runner: &Runner<'_>,
    host: &dyn Host,
) -> Result<Option<String>> {
    runner.check_stage(&args.authority, step).await?;
    if args.from.is_some() && rollout.is_none_or(Rollout::is_alone) {
        bail!(
            "replace `{}`: this host is the only master, so no other one has sent a successor",
            args.authority
        );
    }
    let present = Replacement::read(host, &args.authority).await?;
    let (Some(rollout), Some(present)) = (rollout, present) else {
        return Ok(None);
    };
    rollout.check(step, &present, args.from.is_some())?;
    let Some(path) = &args.from else {
        return Ok(None);
    };
    let Some(id) = received_id(host, &args.authority, path).await? else {
        // This host has it already. If the file is exchanged meanwhile, no other one is taken.
        let its = present.successor().unwrap_or(&present.uses);
        return Ok(Some(its.to_owned()));
    };
    rollout.check_received(&id)?;
    Ok(Some(id))
}

/// How far this host is, if this step makes a successor here: then it has to claim that.
async fn claimant(
    args: &RotateArgs,
    step: Rotation,
    host: &LiveHost,
) -> Result<Option<Replacement>> {
    if step != Rotation::Begin || args.from.is_some() {
        return Ok(None);
    }
    let present = Replacement::read(host, &args.authority).await?;
    Ok(present.filter(|present| present.stage == Stage::Settled))
}

/// Shows the other nodes how far this host is, and says what comes next.
async fn show(
    args: &RotateArgs,
    step: Rotation,
    rollout: &mut Rollout,
    plan: &Plan,
    host: &LiveHost,
) -> Result<Exit> {
    let access = ClusterAccess::with(Path::new(LOCAL_ADMIN));
    let present = rollout.show(host, &access).await?;
    // Another master may have taken its step since this one began: the last one publishes and ends it.
    if let Some(latest) = others::rollout(host, plan, &args.authority).await? {
        *rollout = latest;
    }
    rollout.publish(host, &access, &present).await?;
    // A master that joined meanwhile shows the end with the step `begin`.
    if (step == Rotation::Finish || args.from.is_some()) && rollout.is_over(&present) {
        rollout.end_claim(host, &access, &present).await?;
    }
    if !args.role.json {
        say(&others::text(rollout, &present));
    }
    Ok(Exit::Ok)
}

/// Fails unless every Secret is stored with the key that encrypts now: `finish` retires the previous key.
async fn none_with_the_previous_key(host: &LiveHost) -> Result<()> {
    let ids = encryption_key_ids(host).await?;
    let Some(id) = ids.first() else {
        bail!("replace the encryption key: there is none");
    };
    let etcd = Etcd::member().await?;
    let others = etcd.secrets_without_prefix(&stored_prefix(id)).await?;
    if others == 0 {
        return Ok(());
    }
    Err(ResourceError::Unmet {
        what: format!(
            "replace the encryption key: {others} Secrets are not stored with the new key {id}"
        ),
        next: "store them again: `nodelet certs rotate encryption switch`".to_owned(),
    }
    .into())
}

/// The plan with the step. `id` is that of the successor in the file, if it was checked.
fn planned(args: &RotateArgs, step: Rotation, inputs: &Inputs, id: Option<String>) -> Result<Plan> {
    let sent = |path: &PathBuf| SentSuccessor {
        path: path.clone(),
        id,
    };
    let plan = match args.from.as_ref().map(sent) {
        Some(sent) => receiving(&inputs.plan, &args.authority, sent),
        None => rotating(&inputs.plan, &args.authority, step),
    };
    let Some(plan) = plan else {
        bail!(
            "replace authority {}: this host makes no such authority; it is one of {}",
            args.authority,
            authorities(&inputs.plan).join(", ")
        );
    };
    Ok(plan)
}

/// Shows what the step would change, and changes nothing.
async fn predict(
    args: &RotateArgs,
    step: Rotation,
    inputs: &Inputs,
    host: &LiveHost,
) -> Result<Exit> {
    let plan = planned(args, step, inputs, None)?;
    let ignored = Recording::default();
    let runner = inputs.runner_of(&inputs.plan, &inputs.secrets, host, &ignored);
    let interrupted = runner.interrupted_step().await?;
    if interrupted.is_some()
        && let Some(exit) = predict_completion(args, inputs, host).await?
    {
        return Ok(exit);
    }
    let rollout = others::rollout(host, &inputs.plan, &args.authority).await?;
    let recording = Recording::default();
    let overlay = overlay_host(host, &plan).await;
    let runner = inputs.runner_of(&plan, &inputs.secrets, &overlay, &recording);
    let access = ClusterAccess::with(Path::new(LOCAL_ADMIN));
    let left = end_left(args, step, rollout.as_ref(), interrupted.as_ref(), host).await?;
    // An interrupted end is completed, though this host has finished.
    if left.is_none() {
        is_turn(args, step, rollout.as_ref(), &runner, host).await?;
    }
    if let Some(rollout) = &rollout
        && let Some(present) = claimant(args, step, host).await?
    {
        rollout.check_claim(host, &access, &present).await?;
    }
    runner.dry_run().await?;
    let left = left.unwrap_or_default();
    let events = recording.events();
    let review = Review::of(&events);
    if args.role.json {
        lines(&events);
    } else {
        say(&review.diff());
        if !left.is_empty() {
            let left = left.join(", ");
            say(&format!(
                "this host has finished; the step still has to: {left}\n"
            ));
        }
    }
    Ok(match review.totals().pending() {
        _ if !review.complete() => Exit::Failed,
        0 if left.is_empty() => Exit::Ok,
        _ => Exit::Pending,
    })
}

/// Shows what completes an interrupted step; `None` if nothing is left to complete. Changes nothing.
async fn predict_completion(
    args: &RotateArgs,
    inputs: &Inputs,
    host: &LiveHost,
) -> Result<Option<Exit>> {
    let recording = Recording::default();
    let overlay = overlay_host(host, &inputs.plan).await;
    let runner = inputs.runner_of(&inputs.plan, &inputs.secrets, &overlay, &recording);
    runner.predict_completion().await?;
    let events = recording.events();
    let review = Review::of(&events);
    let is_complete = review.complete();
    if is_complete && review.totals().pending() == 0 {
        return Ok(None);
    }
    if args.role.json {
        lines(&events);
    } else {
        say(&review.diff());
        say(
            "an earlier step of a replacement was interrupted on this host, and this completes it first; your step can be predicted only after that\n",
        );
    }
    Ok(Some(match is_complete {
        true => Exit::Pending,
        false => Exit::Failed,
    }))
}
