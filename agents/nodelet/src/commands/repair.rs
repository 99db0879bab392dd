//! `nodelet repair`: what nodeletd does about a host that is not as it should be, for people.

use anyhow::Result;
use engine::exec::{Recording, Runner, Selection, failed_phases, left_over_phases, restart_set};
use engine::host::live::LiveHost;

use super::run::{exit, prepare};
use super::say;
use crate::cli::RepairArgs;
use crate::exit::Exit;
use crate::{output, signals};

pub(crate) async fn repair(args: &RepairArgs) -> Result<Exit> {
    let host = LiveHost::new();
    let named = Selection {
        only: args.phases.clone(),
        ..Selection::default()
    };
    let (inputs, _lock) = prepare("repair", &args.role, &named, &host).await?;
    let (failed, left_over) = if args.phases.is_empty() {
        let unheard = Recording::default();
        let runner = Runner::new(
            &inputs.plan,
            &host,
            &inputs.facts,
            &inputs.secrets,
            &unheard,
        );
        let health = runner.check().await;
        (failed_phases(&health), left_over_phases(&health))
    } else {
        let phases = named.phases(&inputs.plan).into_iter();
        (phases.map(|phase| phase.name.clone()).collect(), Vec::new())
    };
    let set = restart_set(&inputs.plan, &failed);
    if set.is_empty() && left_over.is_empty() {
        if !args.role.json {
            say("nothing to repair: every check holds or cannot be made\n");
        }
        return Ok(Exit::Ok);
    }
    let sink = output::sink(args.role.json);
    let mut runner = Runner::new(
        &inputs.plan,
        &host,
        &inputs.facts,
        &inputs.secrets,
        sink.as_ref(),
    );
    runner.cancel = signals::cancel_on_signal()?;
    Ok(exit(runner.restart(&set, &left_over).await?))
}
