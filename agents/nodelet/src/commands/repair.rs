//! `nodelet repair`: what nodeletd does about a host that is not as it should be, for people.

use anyhow::Result;
use engine::exec::{
    Event, EventSink, Outcome, Recording, Runner, Selection, Verb, failed_phases, left_over_phases,
    restart_set,
};
use engine::host::live::LiveHost;
use engine::ledger::Ledger;
use tokio_util::sync::CancellationToken;

use super::clean::take_off;
use super::run::{exit, note_identity, prepare};
use super::say;
use crate::cli::{RepairArgs, RoleArgs};
use crate::exit::Exit;
use crate::inputs::{self, Inputs};
use crate::{output, signals};

pub(crate) async fn repair(args: &RepairArgs) -> Result<Exit> {
    let host = LiveHost::new();
    let named = Selection {
        only: args.phases.clone(),
        ..Selection::default()
    };
    let (inputs, _lock) = prepare("repair", &args.role, &named, &host).await?;
    let (failed, left_over) = if args.phases.is_empty() {
        // Also where somebody has decided already: the host may have come to itself, or have been mended, meanwhile.
        let unheard = Recording::default();
        let health = runner(&inputs, &host, &unheard).check().await;
        (failed_phases(&health), left_over_phases(&health))
    } else {
        let phases = named.phases(&inputs.plan).into_iter();
        (phases.map(|phase| phase.name.clone()).collect(), Vec::new())
    };
    let set = match args.left_over {
        true => Vec::new(),
        false => restart_set(&inputs.plan, &failed),
    };
    if set.is_empty() && (left_over.is_empty() || args.afresh) {
        if !args.role.json {
            say("nothing to repair: every check holds or cannot be made\n");
        }
        return Ok(Exit::Ok);
    }
    let sink = output::sink(args.role.json);
    let cancel = signals::cancel_on_signal()?;
    let outcome = if args.afresh {
        afresh(&args.role, &inputs, &host, sink.as_ref(), &cancel).await?
    } else {
        let mut runner = runner(&inputs, &host, sink.as_ref());
        runner.cancel = cancel;
        let outcome = runner.restart(&set, &left_over).await?;
        note_identity(outcome, &inputs)?;
        outcome
    };
    Ok(exit(outcome))
}

/// Takes everything off and brings it up again, under one lock: nobody comes in between. Not where it could not come up again.
async fn afresh(
    role: &RoleArgs,
    inputs: &Inputs,
    host: &LiveHost,
    sink: &dyn EventSink,
    cancel: &CancellationToken,
) -> Result<Outcome> {
    Ledger::has_room(host, Verb::Apply).await?;
    let mut before = runner(inputs, host, sink);
    before.afresh = true;
    let problems = before.misfits().await?;
    if !problems.is_empty() {
        sink.emit(Event::PreflightFailed { problems });
        return Ok(Outcome::Refused);
    }
    // What could not be taken off is told; a start is tried all the same.
    if take_off(role, host, sink, cancel, false).await? == Outcome::Interrupted {
        return Ok(Outcome::Interrupted);
    }
    // The host is another one now.
    let inputs = inputs::read(role, host).await?;
    let mut runner = runner(&inputs, host, sink);
    runner.cancel = cancel.clone();
    let outcome = runner.apply().await?;
    note_identity(outcome, &inputs)?;
    Ok(outcome)
}

fn runner<'a>(inputs: &'a Inputs, host: &'a LiveHost, events: &'a dyn EventSink) -> Runner<'a> {
    Runner::new(&inputs.plan, host, &inputs.facts, &inputs.secrets, events)
}
