//! `nodelet certs rotate`: replace an authority, a step at a time.

use std::path::Path;

use anyhow::{Result, bail};
use engine::exec::{Recording, Selection, authorities, overlay_host, rotating};
use engine::host::ClusterAccess;
use engine::host::live::LiveHost;
use engine::model::Outcome;
use engine::plan::Plan;
use engine::report::Review;
use engine::resource::ResourceError;
use engine::resource::pki::{ENCRYPTION, Rotation, encryption_key_ids, stored_prefix};

use crate::cli::{LOCAL_ADMIN, RotateArgs, RotateStep};
use crate::commands::report::plan::lines;
use crate::commands::run::{exit, prepare};
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
    if args.dry_run {
        let inputs = inputs::read(&args.role, &host).await?;
        return predict(args, step, &inputs, &host).await;
    }
    let (inputs, _lock) = prepare("rotate", &args.role, &Selection::default(), &host).await?;
    let plan = planned(args, step, &inputs)?;
    let sink = output::sink(args.role.json);
    let cancel = signals::cancel_on_signal()?;
    let runner = |plan| {
        let mut runner = inputs.runner_of(plan, &inputs.secrets, &host, sink.as_ref());
        runner.cancel = cancel.clone();
        runner
    };
    runner(&inputs.plan)
        .check_stage(&args.authority, step)
        .await?;
    runner(&inputs.plan)
        .check_rollout(&args.authority, step)
        .await?;
    if args.authority == ENCRYPTION && step == Rotation::Finish {
        none_with_the_previous_key(&host).await?;
    }
    let outcome = runner(&plan).rotate().await?;
    if args.authority == ENCRYPTION && step == Rotation::Switch && outcome == Outcome::Converged {
        let access = ClusterAccess::with(Path::new(LOCAL_ADMIN));
        let written = runner(&plan).rewrite_secrets(&access).await?;
        none_with_the_previous_key(&host).await?;
        if !args.role.json {
            say(&format!("{written} Secrets are stored with the new key\n"));
        }
        return Ok(exit(outcome));
    }
    if outcome != Outcome::Converged || step != Rotation::Switch {
        return Ok(exit(outcome));
    }
    let due = runner(&inputs.plan).due().await;
    for component in due.components {
        let outcome = runner(&inputs.plan).renew(component).await?;
        if outcome != Outcome::Converged {
            return Ok(exit(outcome));
        }
    }
    // A problem is reported when all other components are renewed.
    let rest = due.problems.into_iter().next();
    rest.map_or(Ok(Exit::Ok), |problem| Err(problem.into()))
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

fn planned(args: &RotateArgs, step: Rotation, inputs: &Inputs) -> Result<Plan> {
    let Some(plan) = rotating(&inputs.plan, &args.authority, step) else {
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
    let plan = planned(args, step, inputs)?;
    let recording = Recording::default();
    let overlay = overlay_host(host, &plan).await;
    let runner = inputs.runner_of(&plan, &inputs.secrets, &overlay, &recording);
    runner.check_stage(&args.authority, step).await?;
    runner.dry_run().await?;
    let events = recording.events();
    let review = Review::of(&events);
    if args.role.json {
        lines(&events);
    } else {
        say(&review.diff());
    }
    Ok(match review.totals().pending() {
        _ if !review.complete() => Exit::Failed,
        0 => Exit::Ok,
        _ => Exit::Pending,
    })
}
