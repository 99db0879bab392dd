//! `nodelet pass`: one status pass, as JSON for nodeletd.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use engine::host::live::LiveHost;

use crate::cli::PassArgs;
use crate::output::exit::Exit;
use crate::output::say;
use crate::pass::Pass;

/// Joins control groups by their `cgroup.procs`. Called before there is a second thread: in version 1 of control groups a
/// thread stays where it is.
pub(crate) fn join_cgroup(files: &[PathBuf]) -> Result<()> {
    for file in files {
        std::fs::write(file, "0")
            .with_context(|| format!("join the control group of {}", file.display()))?;
    }
    Ok(())
}

pub(crate) async fn pass(args: &PassArgs) -> Result<Exit> {
    let host = LiveHost::new();
    let pass = Pass::make(&args.role, &args.before.clone().unwrap_or_default(), &host).await?;
    say(&format!("{}\n", serde_json::to_string(&pass)?));
    Ok(Exit::Ok)
}
