//! `nodelet check`.

use anyhow::Result;
use engine::exec::{PhaseHealth, Recording};
use engine::host::live::LiveHost;
use engine::report;

use super::run::{lost_ledger, refuse_another_role_if_readable, unchanged};
use crate::cli::RunArgs;
use crate::commands::report::plan::nothing;
use crate::inputs;
use crate::output::exit::Exit;
use crate::output::say;
use crate::process::limits::Limits;

pub(crate) async fn check(args: &RunArgs) -> Result<Exit> {
    let host = LiveHost::new();
    let inputs = inputs::read(&args.role, &host).await?;
    // With fixed settings that have changed, a check would say nothing about this host.
    unchanged(&args.role, &host, &inputs).await?;
    if inputs.are_of_no_role() && !args.role.json {
        return Ok(nothing(&args.role));
    }
    // A check of another role would report all resources of the host's own role as orphans.
    if !inputs.are_of_no_role() {
        refuse_another_role_if_readable("check", &inputs, &host).await?;
    }
    let selection = args.phases.selection();
    selection.validate(&inputs.plan)?;
    Limits::for_good(inputs.settings()).await;
    let ignored_events = Recording::default();
    let mut runner = inputs.runner(&host, &ignored_events);
    runner.selection = selection;
    let health = runner.check().await;
    if args.role.json {
        say(&format!("{:#}\n", serde_json::to_value(&health)?));
    } else {
        say(&report::conditions(&health));
    }
    // The conditions have been printed. A lost ledger is still an error: commands that change the host would refuse.
    lost_ledger(&inputs, &host).await?;
    let healthy = health.iter().all(PhaseHealth::all_conditions_hold);
    Ok(if healthy { Exit::Ok } else { Exit::Pending })
}
