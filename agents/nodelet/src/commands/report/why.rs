//! `nodelet why`.

use anyhow::{Context as _, Result};
use engine::exec::{Planned, Recording};
use engine::host::live::LiveHost;
use engine::ledger::{Ledger, Why};
use engine::report;

use crate::cli::WhyArgs;
use crate::commands::run::{installed_inputs, lost_ledger};
use crate::output::exit::Exit;
use crate::output::say;

pub(crate) async fn why(args: &WhyArgs) -> Result<Exit> {
    let host = LiveHost::new();
    let records = Ledger::read(&host)
        .await
        .with_context(|| format!("explain {}", args.resource))?;
    let why = Why::of(&records, &args.resource);
    let planned = match why.is_known() {
        true => None,
        false => planned(args, &host).await?,
    };
    if args.role.json {
        let mut value = serde_json::to_value(&why)?;
        value["planned"] = serde_json::to_value(&planned)?;
        say(&format!("{value:#}\n"));
    } else {
        say(&report::why(&why, planned.as_deref()));
    }
    let is_planned = planned.is_some_and(|planned| !planned.is_empty());
    Ok(if why.is_known() || is_planned {
        Exit::Ok
    } else {
        Exit::Failed
    })
}

/// What the plan says about the resource; `None` if the role cannot be planned.
async fn planned(args: &WhyArgs, host: &LiveHost) -> Result<Option<Vec<Planned>>> {
    let inputs = match installed_inputs(&args.role, host).await {
        Ok(inputs) => inputs,
        Err(error) => {
            tracing::warn!("the plan cannot be looked at: could not {error:#}");
            return Ok(None);
        }
    };
    lost_ledger(&inputs, host).await?;
    let ignored_events = Recording::default();
    let runner = inputs.runner(host, &ignored_events);
    Ok(Some(runner.planned(&args.resource).await))
}
