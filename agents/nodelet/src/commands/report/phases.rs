//! `nodelet phases`.

use anyhow::Result;
use engine::host::live::LiveHost;
use engine::report;
use serde_json::json;

use crate::cli::TargetArgs;
use crate::inputs;
use crate::output::exit::Exit;
use crate::output::say;

pub(crate) async fn phases(args: &TargetArgs) -> Result<Exit> {
    let host = LiveHost::new();
    let inputs = inputs::read_for(args, &host).await?;
    if args.role.json {
        let phases: Vec<_> = inputs
            .plan
            .phases
            .iter()
            .map(|phase| json!({ "name": phase.name, "about": phase.about, "skipped": phase.skipped }))
            .collect();
        say(&format!("{:#}\n", json!(phases)));
    } else {
        say(&report::phases(&inputs.plan));
    }
    Ok(Exit::Ok)
}
