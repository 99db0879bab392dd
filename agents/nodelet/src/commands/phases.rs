//! `nodelet phases`.

use anyhow::Result;
use engine::host::live::LiveHost;
use engine::report;
use serde_json::json;

use super::say;
use crate::cli::RoleArgs;
use crate::exit::Exit;
use crate::inputs;

pub(crate) async fn phases(args: &RoleArgs) -> Result<Exit> {
    let host = LiveHost::new();
    let inputs = inputs::read(args, &host).await?;
    if args.json {
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
