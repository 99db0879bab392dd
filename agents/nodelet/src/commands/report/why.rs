//! `nodelet why`.

use anyhow::{Context as _, Result};
use engine::exec::Recording;
use engine::host::live::LiveHost;
use engine::ledger::{Ledger, Why};
use engine::report;

use crate::cli::WhyArgs;
use crate::commands::run::{installed_inputs, lost_ledger};
use crate::inputs::Inputs;
use crate::output::exit::Exit;
use crate::output::say;

pub(crate) async fn why(args: &WhyArgs) -> Result<Exit> {
    let host = LiveHost::new();
    let records = Ledger::read(&host)
        .await
        .with_context(|| format!("explain {}", args.resource))?;
    let mut why = Why::of(&records, &args.resource);
    let (mut planned, mut paths) = (None, Vec::new());
    if !why.is_known()
        && let Some(inputs) = planned_inputs(args, &host).await?
    {
        let ignored_events = Recording::default();
        let runner = inputs.runner(&host, &ignored_events);
        let mut steps = runner.planned(&args.resource).await;
        if steps.is_empty() {
            paths = runner.paths_named(&args.resource);
        }
        // The name of a file means the only path of the plan that ends with it.
        if let [path] = paths.as_slice() {
            why = Why::of(&records, path);
            steps = runner.planned(path).await;
        }
        planned = (!why.is_known()).then_some(steps);
    }
    if args.role.json {
        let mut value = serde_json::to_value(&why)?;
        value["planned"] = serde_json::to_value(&planned)?;
        if paths.len() > 1 {
            value["paths"] = serde_json::to_value(&paths)?;
        }
        say(&format!("{value:#}\n"));
    } else if paths.len() > 1 {
        say(&report::several_paths(&args.resource, &paths));
    } else {
        say(&report::why(&why, planned.as_deref()));
    }
    let is_planned = !paths.is_empty() || planned.is_some_and(|planned| !planned.is_empty());
    Ok(if why.is_known() || is_planned {
        Exit::Ok
    } else {
        Exit::Failed
    })
}

/// The inputs of the installed role; `None` if the role cannot be planned.
async fn planned_inputs(args: &WhyArgs, host: &LiveHost) -> Result<Option<Inputs>> {
    let inputs = match installed_inputs(&args.role, host).await {
        Ok(inputs) => inputs,
        Err(error) => {
            tracing::warn!("the plan cannot be looked at: could not {error:#}");
            return Ok(None);
        }
    };
    lost_ledger(&inputs, host).await?;
    Ok(Some(inputs))
}
