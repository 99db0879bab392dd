//! `nodeletd`: holds this host at its role.
//!
//! ```text
//!  settings ──▶ pass (a child, in the status cgroup) ──▶ decide ──▶ change (a child) ──▶ kube_status, events
//!                 ▲                                        pure                              │
//!                 └── time, or an event (docker, systemd, files, links, node), or a request ◀──┘
//! ```
//!
//! The daemon is small and changes nothing by itself: `worker` runs `nodelet pass`, `repair`, `apply`, `clean` and `stop`,
//! `decide` says when. What must outlive it is in `kube_status` and `state`. Beside the loop, `timers` runs
//! backups, `cluster_work` runs what masters do for other nodes: pod subnets, certificates, labels, and `supervisor::masters` keeps the list of
//! masters; on a worker `supervisor::trust` follows a replacement of the cluster's authority.
//!
//! Not here: how a pass is made (`pass`), and what a change does (`commands`, and the engine). Start with `supervisor`: its loop uses all
//! other parts.

pub(crate) mod api;
mod single_instance;
mod state;
mod status;
mod supervisor;

pub(crate) mod cluster_work;
pub(crate) mod timers;
mod watch;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use daemon::files::ABANDONED;
use daemon::health::Health;
use daemon::{config, log, shutdown, systemd};
use serde::Deserialize;

use status::kube_status::StatusFile;
use supervisor::worker::Worker;
use supervisor::{StateFiles, Supervisor};

pub(crate) use status::view::{View, unix_now};

/// Holds this host at its role: checks it, restarts what failed, and, if that does not help, cleans it and starts from the first phase.
///
/// The settings are read at every pass; if a file is invalid, the last good settings stay in force. See `nodelet status`.
#[derive(Debug, Parser)]
#[command(name = "nodeletd", version, max_term_width = 100)]
struct Arguments {
    /// Role: the name of an installed one (in /opt/pf9/roles), or a path, which contains a slash.
    #[arg(long, value_name = "NAME|PATH", default_value = "pf9-kube")]
    role: String,

    /// Settings: a YAML file, or a directory of them, of which later ones win.
    #[arg(long, value_name = "PATH", default_value = "/etc/pf9/nodelet")]
    config: PathBuf,

    /// The daemon's own configuration: YAML with `log.filter` (info, debug, … or tracing's directives) and `log.format` (text,
    /// json). The file is optional, and is read only at the start.
    #[arg(long, value_name = "PATH", default_value = "/etc/pf9/nodeletd.yaml")]
    own_config: PathBuf,

    /// Make one pass, do what follows from it, and end.
    #[arg(long)]
    once: bool,
}

/// What `--own-config` may say.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Configuration {
    log: log::Log,
}

/// Runs `nodeletd` with the arguments of this process.
#[must_use]
pub(crate) fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            return crate::output::error_report::tell_usage(&error).into();
        }
    };
    let configured = config::read::<Configuration>(&arguments.own_config);
    let (configuration, wrong) = match configured {
        Ok(configuration) => (configuration, None),
        Err(error) => (Configuration::default(), Some(error)),
    };
    log::start("NODELETD_LOG", &configuration.log);
    if let Some(error) = wrong {
        // nodeletd runs all the same, with the defaults.
        tracing::error!("could not read its configuration, so the defaults are used: {error:#}");
    }
    // One thread is enough: the daemon mostly waits.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(run(arguments));
            runtime.shutdown_background();
            result
        }
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("could not {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Removes temporary files that a power cut has left beside the status and beside the state. One instance of nodeletd runs, and only it writes beside the status; nodelet may be writing
/// beside the state.
fn sweep(status: &Path, state: &Path) {
    for (file, abandoned) in [(status, Duration::ZERO), (state, ABANDONED)] {
        let directory = file.parent().filter(|directory| directory.is_dir());
        let swept = directory.map(|directory| daemon::files::sweep(directory, abandoned));
        if let Some(Err(error)) = swept {
            tracing::warn!("could not {error:#}");
        }
    }
}

async fn run(arguments: Arguments) -> Result<()> {
    if !nix::unistd::Uid::effective().is_root() {
        bail!("hold this host at its role: only root can");
    }
    let instance_lock = single_instance::acquire().await?;
    tokio::spawn(instance_lock.guard());
    let signals = shutdown::listen()?;
    let worker = Worker {
        nodelet: sibling()?,
        role: arguments.role,
        config: arguments.config,
        shutdown: signals.shutdown.clone(),
        warned: Arc::default(),
        cluster_problems: Arc::default(),
    };
    let state_files = StateFiles {
        status: StatusFile::at(PathBuf::from(status::kube_status::PATH)),
        state: state::path(),
        disk: state::disk::Disk::live(),
    };
    sweep(state_files.status.path(), &state_files.state);
    let health = Health::default();
    let (supervisor, handles) = Supervisor::new(
        worker.clone(),
        state_files,
        signals.shutdown.clone(),
        signals.reload,
        &health,
    );
    let timers = (!arguments.once).then(|| {
        let beat = health.part("the timers", timers::ROUND);
        tokio::spawn(timers::run(worker.clone(), handles.view.clone(), beat))
    });
    let shutdown = signals.shutdown.clone();
    tokio::spawn(api::serve(worker, handles, health.clone(), shutdown));
    systemd::feed_watchdog(signals.shutdown.clone(), health.clone())?;
    systemd::ready();
    // At shutdown it returns by itself, at a safe point of a change that is under way.
    supervisor.run(arguments.once).await;
    systemd::stopping();
    if let Some(timers) = timers {
        signals.shutdown.cancel();
        // A backup that is under way removes its container first.
        let _ = timers.await;
    }
    let ended = health.ended();
    if !ended.is_empty() {
        bail!("go on without {}, which ended by itself", ended.join(", "));
    }
    Ok(())
}

/// The `nodelet` program in our directory.
fn sibling() -> Result<PathBuf> {
    let own = std::env::current_exe().context("find the path of nodeletd")?;
    let nodelet = own.with_file_name("nodelet");
    if !nodelet.is_file() {
        bail!(
            "find nodelet: {} is not there; install both programs side by side",
            nodelet.display()
        );
    }
    Ok(nodelet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_power_cut_has_left_goes_where_only_nodeletd_writes() {
        let directory = tempfile::tempdir().expect("a directory");
        let place = |name: &str| directory.path().join(name);
        std::fs::create_dir(place("state")).expect("a directory");
        let (left, beside_state) = (place(".new-abcdef"), place("state/.new-abcdef"));
        for path in [&left, &beside_state] {
            std::fs::write(path, "half").expect("it is written");
        }
        sweep(&place("kube_status"), &place("state/nodeletd.json"));
        assert!(!left.exists());
        assert!(beside_state.exists(), "nodelet may be writing it");
    }
}
