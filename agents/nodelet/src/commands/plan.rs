//! `nodelet plan` and `nodelet diff`: what an apply would do. Neither takes the lock, neither writes anything.
//!
//! Against this host the plan is played on an overlay, which reads the host and keeps every change to itself; with
//! `--facts` on a simulated host.

use anyhow::Result;
use engine::exec::{Event, EventSink as _, Recording, Runner, overlay_host, simulated_host};
use engine::host::Host;
use engine::host::live::LiveHost;
use engine::plan::Plan;
use engine::report::{self, JsonReport, Review};
use engine::resource::{MaskedSecrets, SecretStore};

use super::say;
use crate::cli::{PhaseArgs, PlanArgs, RoleArgs, RunArgs};
use crate::exit::Exit;
use crate::inputs::{self, Inputs};
use crate::output::Out;

pub(crate) async fn plan(args: &PlanArgs) -> Result<Exit> {
    let host = LiveHost::new();
    let inputs = read(&args.role, &args.phases, &host).await?;
    if args.role.json && !args.dry_run {
        return Ok(json(&inputs, &args.phases));
    }
    if args.full {
        return Ok(full(&inputs, &args.phases));
    }
    let events = predict(&args.role, &args.phases, &inputs, &host).await?;
    let review = Review::of(&events);
    if args.role.json {
        lines(&events);
    } else {
        say(&review.plan());
    }
    Ok(if review.complete() {
        Exit::Ok
    } else {
        Exit::Failed
    })
}

pub(crate) async fn diff(args: &RunArgs) -> Result<Exit> {
    let host = LiveHost::new();
    let inputs = read(&args.role, &args.phases, &host).await?;
    let events = predict(&args.role, &args.phases, &inputs, &host).await?;
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

async fn read(role: &RoleArgs, phases: &PhaseArgs, host: &LiveHost) -> Result<Inputs> {
    let inputs = inputs::read(role, host).await?;
    phases.selection().validate(&inputs.plan)?;
    Ok(inputs)
}

/// The events of a dry run: on a simulated host where a file describes it, on an overlay of this one otherwise.
async fn predict(
    role: &RoleArgs,
    phases: &PhaseArgs,
    inputs: &Inputs,
    host: &LiveHost,
) -> Result<Vec<Event>> {
    if role.facts.is_some() {
        let simulated = simulated_host(&inputs.facts, &inputs.plan);
        return dry_run(phases, inputs, &simulated, &MaskedSecrets).await;
    }
    let overlay = overlay_host(host, &inputs.plan).await;
    dry_run(phases, inputs, &overlay, &inputs.secrets).await
}

async fn dry_run(
    phases: &PhaseArgs,
    inputs: &Inputs,
    host: &dyn Host,
    secrets: &dyn SecretStore,
) -> Result<Vec<Event>> {
    let recording = Recording::default();
    let mut runner = Runner::new(&inputs.plan, host, &inputs.facts, secrets, &recording);
    runner.selection = phases.selection();
    runner.dry_run().await?;
    Ok(recording.events())
}

fn lines(events: &[Event]) {
    let report = JsonReport::new(Out::new());
    for event in events {
        report.emit(event.clone());
    }
}

/// Plan and digest as one value.
fn json(inputs: &Inputs, phases: &PhaseArgs) -> Exit {
    let phases = phases.selection().phases(&inputs.plan);
    let value = serde_json::json!({
        "digest": inputs.plan.digest(),
        "plan": Plan {
            phases: phases.into_iter().cloned().collect(),
            ..inputs.plan.clone()
        },
    });
    say(&format!("{value:#}\n"));
    Exit::Ok
}

/// Every step with all it says.
fn full(inputs: &Inputs, phases: &PhaseArgs) -> Exit {
    let plan = &inputs.plan;
    say(&format!(
        "plan of {} for {} {}: {} phases, {}\n\n",
        plan.role,
        plan.node,
        plan.host,
        plan.phases.len(),
        &plan.digest()[..12]
    ));
    for phase in phases.selection().phases(plan) {
        say(&format!("{}\n", report::plan(phase)));
    }
    Exit::Ok
}
