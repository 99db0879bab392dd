//! pf9-comms: the services of a host reach the management plane through its port 443.
//!
//! A local program connects to a loopback port. For each such connection, pf9-comms opens one TLS connection to the plane, with the
//! certificate of the host and the server name of that service, and passes bytes on in both directions.
//!
//! [`config`] reads and checks the configuration, [`identity`] the certificate, key and roots, which [`enroll`] gets from the plane. [`path`] reaches the plane, through a proxy if
//! there is one, [`tunnel`] carries one connection on one of the [`threads`], [`spares`] has some ready, [`listener`] accepts local ones, [`owner`] tells which user made them, [`permits`] counts them, [`activity`] what they carried; [`status`] shows it, and [`supervisor`]
//! starts, reloads and ends all of it.
//!
//! Not here: what services say to the plane, and the plane's own side. Start with [`supervisor`].

pub mod activity;
pub mod config;
pub mod enroll;
pub mod identity;
pub mod listener;
pub mod owner;
pub mod path;
pub mod permits;
pub mod spares;
pub mod status;
pub mod supervisor;
pub mod threads;
pub mod tunnel;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use clap::Parser as _;
use config::Configuration;
use daemon::command;

/// The configuration of the daemon.
pub const CONFIGURATION: &str = "/etc/pf9/comms.yaml";
/// The environment variable that overrides [`CONFIGURATION`].
const CONFIGURATION_VARIABLE: &str = "PF9_COMMS_CONFIG";
/// The environment variable that overrides the filter of the log.
const LOG_VARIABLE: &str = "PF9_COMMS_LOG";

/// The arguments of the program.
#[derive(Debug, clap::Parser)]
#[command(
    name = "pf9-comms",
    version,
    about = "Carries connections of local programs to the management plane"
)]
struct Arguments {
    /// Without one, the daemon runs.
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Gets a certificate for this host from the management plane, or a new one.
    Enroll(enroll::Arguments),
    /// Shows what the running daemon carries, and what goes wrong.
    Status {
        /// As JSON.
        #[arg(long, conflicts_with = "metrics")]
        json: bool,
        /// As metrics for Prometheus.
        #[arg(long)]
        metrics: bool,
        /// The socket of the daemon.
        #[arg(long, value_name = "PATH", default_value = config::SOCKET)]
        socket: PathBuf,
    },
}

/// Runs the program: the daemon until it is asked to end, or a command.
#[must_use]
pub fn main() -> ExitCode {
    match Arguments::parse().command {
        None => run_daemon(),
        Some(Command::Enroll(arguments)) => ended(enrol(&arguments)),
        Some(Command::Status {
            json,
            metrics,
            socket,
        }) => ended(show(&socket, json, metrics)),
    }
}

/// The exit code of a command.
fn ended(result: anyhow::Result<()>) -> ExitCode {
    command::exit_code("pf9-comms", result)
}

fn enrol(arguments: &enroll::Arguments) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let text = runtime.block_on(enroll::run(arguments, &configuration()));
    // A lookup of a name cannot be ended, and may take long.
    runtime.shutdown_background();
    command::print(&text?)
}

/// The path of the configuration.
fn configuration() -> PathBuf {
    let path = std::env::var_os(CONFIGURATION_VARIABLE);
    path.unwrap_or_else(|| CONFIGURATION.into()).into()
}

fn show(socket: &Path, json: bool, metrics: bool) -> anyhow::Result<()> {
    let status = status::read(socket)?;
    let text = match (json, metrics) {
        (true, _) => serde_json::to_string_pretty(&status)? + "\n",
        (false, true) => status::metrics(&status),
        (false, false) => status::text(&status, activity::seconds(SystemTime::now())),
    };
    command::print(&text)
}

fn run_daemon() -> ExitCode {
    let path = configuration();
    let path = path.as_path();
    // Also if the configuration is wrong, its errors are logged.
    let log = daemon::config::read::<Configuration>(path)
        .unwrap_or_default()
        .log;
    daemon::log::start(LOG_VARIABLE, &log);
    // Tunnels have threads of their own. The supervisor runs on this one, and the listeners on another one: they do not wait for its files.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    let ended = match runtime {
        Ok(runtime) => {
            let ended = runtime.block_on(supervisor::run(path));
            // A lookup of a name cannot be ended, and may take long.
            runtime.shutdown_background();
            ended
        }
        Err(error) => Err(error.into()),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("could not {error:#}");
            ExitCode::FAILURE
        }
    }
}
