//! `nodelet pki`: how a host joins a cluster, and how nodes get their certificates.
//!
//! `key` is for the host that joins; `issue` (for a worker), `export` (for another master) and `sign` are for a master. `made_file` has what
//! `issue` and `export` share, and `certs send` with them.
//!
//! Not here: the join file and the decisions (`kubernetes` of the engine), and the signatures (`exec::kubernetes`). Start with `issue`.

pub(in crate::commands) mod export;
pub(in crate::commands) mod issue;
pub(in crate::commands) mod key;
pub(in crate::commands) mod made_file;
pub(in crate::commands) mod sign;

use anyhow::Result;

use crate::cli::PkiCommand;
use crate::output::exit::Exit;

pub(crate) async fn pki(command: &PkiCommand) -> Result<Exit> {
    match command {
        PkiCommand::Key(args) => key::key(args),
        PkiCommand::Issue(args) => issue::issue(args).await,
        PkiCommand::Export(args) => export::export(args).await,
        PkiCommand::Sign(args) => sign::sign(args).await,
    }
}
