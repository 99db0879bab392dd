//! The management plane: hosts are enrolled, get certificates, and reach its services through one port.
//!
//! [`mod@secret`] reads secrets, [`config`] reads and checks the configuration, [`database`] has hosts and tokens, [`authority`] signs. [`token`], [`mod@host`] and [`enrolment`] say
//! who gets a certificate, [`message_queue`] gives hosts their users, [`ingress`] is HAProxy before all of it. [`server`] runs, and `commands`
//! is what operators do.
//!
//! Not here: what the services behind the ingress do, and the host's side (`agents/comms`). Start with [`enrolment`].

pub mod authority;
mod commands;
pub mod config;
pub mod database;
pub mod enrolment;
pub mod host;
pub mod ingress;
pub mod message_queue;
pub mod secret;
pub mod server;
pub mod token;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Parser as _;
use config::Configuration;
use daemon::command;
use nix::sys::stat::Mode;
use token::BoundTo;

/// The environment variable that overrides the filter of the log.
const LOG_VARIABLE: &str = "PF9_PLANE_LOG";
/// Shortest and longest life of a token.
const SHORTEST_TOKEN: Duration = Duration::from_secs(1);
const LONGEST_TOKEN: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The arguments of the program.
#[derive(Debug, clap::Parser)]
#[command(
    name = "planectl",
    version,
    about = "The management plane: enrols hosts, and keeps the ingress that they reach"
)]
struct Arguments {
    /// The configuration.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        default_value = "/etc/pf9/plane.yaml"
    )]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Makes the authority, the database and HAProxy's configuration. What is there stays.
    Init,
    /// Runs until it is asked to end.
    Serve,
    /// Prints the fingerprint of the root, which `pf9-comms enroll` needs.
    Fingerprint,
    /// Tokens with which hosts are enrolled.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Hosts.
    #[command(subcommand)]
    Host(HostCommand),
    /// The machines on which HAProxy and `planectl serve` run.
    #[command(subcommand)]
    Ingress(IngressCommand),
}

#[derive(Debug, clap::Subcommand)]
enum TokenCommand {
    /// Makes one and prints it.
    Create {
        #[command(flatten)]
        bound_to: BoundToArguments,
        /// How long it can be used.
        #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = token_life)]
        expires: Duration,
        /// Write it to this file, which only its owner may read.
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
    /// Shows all, without their secrets.
    List,
    /// Deletes one that was not used.
    Delete {
        /// As `planectl token list` shows it.
        id: String,
    },
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct BoundToArguments {
    /// For the host with this name, also if it was enrolled before.
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    /// For a new host of this group.
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
}

#[derive(Debug, clap::Subcommand)]
enum HostCommand {
    /// Shows all.
    List,
    /// Revokes the certificates of one, and ends its connections.
    Revoke {
        /// Its name or id.
        name: String,
        /// It is the id. Needed if it is the name of another host, too.
        #[arg(long)]
        id: bool,
    },
}

#[derive(Debug, clap::Subcommand)]
enum IngressCommand {
    /// Shows all.
    List,
    /// Forgets one that does not run any more, so that a revocation does not wait for it.
    Forget {
        /// As `planectl ingress list` shows it.
        name: String,
    },
}

fn token_life(text: &str) -> Result<Duration, String> {
    let life = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    // The database has whole seconds.
    if !(SHORTEST_TOKEN..=LONGEST_TOKEN).contains(&life) {
        return Err("it is not between a second and 30 days".to_owned());
    }
    Ok(life)
}

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // What this program writes has secrets: the database, keys.
    nix::sys::stat::umask(Mode::from_bits_truncate(0o077));
    let is_server = matches!(arguments.command, Command::Serve);
    if is_server {
        // Also if the configuration is wrong, its errors are logged.
        let log = daemon::config::read::<Configuration>(&arguments.config)
            .unwrap_or_default()
            .log;
        daemon::log::start(LOG_VARIABLE, &log);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(run(&arguments)),
        Err(error) => Err(error.into()),
    };
    match ended {
        Err(error) if is_server => {
            tracing::error!("could not {error:#}");
            ExitCode::FAILURE
        }
        ended => command::exit_code("planectl", ended),
    }
}

async fn run(arguments: &Arguments) -> Result<()> {
    let path = &arguments.config;
    match &arguments.command {
        Command::Init => commands::init(path).await,
        Command::Serve => server::run(path).await,
        Command::Fingerprint => commands::fingerprint(path),
        Command::Token(TokenCommand::Create {
            bound_to,
            expires,
            to,
        }) => {
            let bound_to = match (&bound_to.host, &bound_to.group) {
                (Some(name), _) => BoundTo::Host(name.clone()),
                (None, Some(name)) => BoundTo::Group(name.clone()),
                (None, None) => bail!("make a token: --host or --group is needed"),
            };
            commands::create_token(path, &bound_to, *expires, to.as_ref()).await
        }
        Command::Token(TokenCommand::List) => commands::list_tokens(path).await,
        Command::Token(TokenCommand::Delete { id }) => commands::delete_token(path, id).await,
        Command::Host(HostCommand::List) => commands::list_hosts(path).await,
        Command::Host(HostCommand::Revoke { name, id }) => commands::revoke(path, name, *id).await,
        Command::Ingress(IngressCommand::List) => commands::list_ingresses(path).await,
        Command::Ingress(IngressCommand::Forget { name }) => {
            commands::forget_ingress(path, name).await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_lives_for_a_second_to_30_days() {
        for text in ["1s", "1h", "30days"] {
            token_life(text).expect(text);
        }
        for text in ["0s", "999ms", "30days 1s", "1", ""] {
            token_life(text).expect_err(text);
        }
    }
}
