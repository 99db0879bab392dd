//! `nodelet cluster status`: the state of the whole cluster, as this master sees it.
//!
//! ```text
//! settings ──▶ gather (nodes, etcd, virtual IP, certificates, requests, backups) ──▶ assess ──▶ text, JSON or metrics
//! ```
//!
//! `gather` asks everything at the same time where it can; each question has a deadline, and what does not answer becomes an unknown part.
//! `problems` decides what is wrong, and is pure. Not here: the state of this host's phases (`report::status`). Start with `observed`.

mod backups;
mod certificates;
mod etcd;
mod gather;
mod metrics;
mod nodes;
mod observed;
mod problems;
#[cfg(test)]
mod tests;
mod text;
mod virtual_ip;

use std::path::Path;

use anyhow::{Result, bail};
use engine::host::live::LiveHost;

use self::etcd::LiveEtcd;
use self::gather::gather;
use self::observed::Target;
use super::run::only_root;
use crate::cli::{ClusterStatusArgs, LOCAL_ADMIN};
use crate::inputs;
use crate::output::exit::Exit;
use crate::output::say;

/// Shows the state of the cluster. Cancel safe: it changes nothing.
pub(in crate::commands) async fn status(args: &ClusterStatusArgs) -> Result<Exit> {
    only_root("show the state of the cluster")?;
    let host = LiveHost::new();
    let settings = inputs::settings(&args.role, &host).await?;
    only_master(
        &settings
            .get("ROLE")
            .map(ToString::to_string)
            .unwrap_or_default(),
    )?;
    let target = Target::of(&settings, Path::new(LOCAL_ADMIN))?;
    let status = gather(&host, &LiveEtcd, &target).await;
    if args.role.json {
        say(&format!("{:#}\n", serde_json::to_value(&status)?));
    } else if args.metrics {
        say(&metrics::text(&status));
    } else {
        say(&text::screen(&status));
    }
    Ok(status.exit())
}

/// # Errors
/// This host is no master: it has no etcd, and may not read everything.
fn only_master(role: &str) -> Result<()> {
    match role {
        "master" => Ok(()),
        "" => bail!(
            "show the state of the cluster: this host has no role; run the command on a master"
        ),
        role => bail!(
            "show the state of the cluster: this host is a {role}; run the command on a master"
        ),
    }
}
