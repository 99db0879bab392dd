//! `nodelet history`.

use anyhow::{Context as _, Result, bail};
use engine::host::live::LiveHost;
use engine::ledger::{History, Ledger};
use engine::report;

use crate::cli::{HistoryArgs, RoleArgs};
use crate::commands::run::{installed_inputs, lost_ledger};
use crate::output::exit::Exit;
use crate::output::say;

pub(crate) async fn history(args: &HistoryArgs) -> Result<Exit> {
    let host = LiveHost::new();
    let records = Ledger::read(&host)
        .await
        .context("tell the history of this host")?;
    let mut history = History::of(&records);
    if history.runs.is_empty()
        && let Ok(inputs) = installed_inputs(&RoleArgs::usual(), &host).await
    {
        // On a host where the role is installed, an empty ledger means that it was lost.
        lost_ledger(&inputs, &host).await?;
    }
    if let Some(number) = args.run {
        history.runs.retain(|run| run.run == number);
        if history.runs.is_empty() {
            bail!("show run {number}: the ledger has no such run; see `nodelet history`");
        }
    }
    let first = history.runs.len().saturating_sub(args.last);
    history.runs.drain(..first);
    if args.json {
        say(&format!("{:#}\n", serde_json::to_value(&history)?));
    } else if args.run.is_some() {
        say(&report::run_in_full(&history.runs[0]));
    } else {
        say(&report::history(&history));
    }
    Ok(Exit::Ok)
}
