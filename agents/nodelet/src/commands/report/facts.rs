//! `nodelet facts`.

use anyhow::Result;
use engine::facts::FactQuery;
use engine::host::live::LiveHost;
use engine::ledger::Ledger;

use crate::inputs;
use crate::output::exit::Exit;
use crate::output::say;

pub(crate) async fn facts() -> Result<Exit> {
    let host = LiveHost::new();
    let mut facts = inputs::gather_facts(&host, &FactQuery::usual()).await?;
    match Ledger::read(&host).await {
        Ok(records) => facts.installed_role = Ledger::installed_role_in(&records),
        // A user who may not read the ledger gets all other facts.
        Err(error) => {
            let why = engine::model::chain(&error).join(": ");
            facts.unknown.insert("installed_role".to_owned(), why);
        }
    }
    // The content of files stays here: one of them may hold a proxy's password.
    say(&facts.without_files().to_yaml()?);
    Ok(Exit::Ok)
}
