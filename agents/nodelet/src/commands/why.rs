//! `nodelet why`.

use anyhow::{Context as _, Result};
use engine::host::live::LiveHost;
use engine::ledger::{Ledger, Why};
use engine::report;

use super::say;
use crate::cli::WhyArgs;
use crate::exit::Exit;

pub(crate) async fn why(args: &WhyArgs) -> Result<Exit> {
    let host = LiveHost::new();
    let records = Ledger::read(&host)
        .await
        .with_context(|| format!("explain {}", args.thing))?;
    let why = Why::of(&records, &args.thing);
    if args.json {
        say(&format!("{:#}\n", serde_json::to_value(&why)?));
    } else {
        say(&report::why(&why));
    }
    Ok(if why.is_known() {
        Exit::Ok
    } else {
        Exit::Failed
    })
}
