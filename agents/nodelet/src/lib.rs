//! Two programs. `nodelet` plans, applies, checks and stops a role on this host; `nodeletd` holds the host at its role.
//!
//! `nodelet` is a thin edge: arguments, files and signals come in here, the engine does the work, and events become text
//! or JSON. Results go to standard output, everything else to standard error. Exit codes are in [`exit`].
//!
//! `nodeletd` changes nothing on the host itself: it decides what has to be done and when, and runs `nodelet` for it, as an operator
//! would ([`nodeletd`](mod@nodeletd)).

mod bound;
mod cli;
mod commands;
mod etcd;
mod exit;
mod identity;
mod inputs;
mod limits;
mod lock;
mod nodeletd;
mod output;
mod pass;
mod priority;
mod private_state;
mod settled;
mod signals;
mod trouble;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::Parser as _;
use tracing_subscriber::EnvFilter;

use cli::{Cli, Command, EtcdCommand};
use exit::{Exit, WrongUsage};
use trouble::Trouble;

/// Runs `nodeletd` with the arguments of this process.
#[must_use]
pub fn nodeletd() -> ExitCode {
    nodeletd::main()
}

/// Prints the parser's message: the error for wrong arguments, or the help or version that was asked for.
pub(crate) fn tell_usage(error: &clap::Error) -> Exit {
    let printed = error.print();
    if error.use_stderr() {
        return Exit::Usage;
    }
    match printed {
        // A reader that closes the pipe needs no more.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            trouble::say(&format!(
                "could not write the help to standard output: {error}"
            ));
            Exit::Failed
        }
        _ => Exit::Ok,
    }
}

/// Runs `nodelet` with the arguments of this process.
#[must_use]
pub fn command_line() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // The parser's own status for a usage error is 2, which here means "changes pending".
            return tell_usage(&error).into();
        }
    };
    let cgroup = match &cli.command {
        Command::Pass(args) => args.cgroup.as_slice(),
        Command::Etcd(EtcdCommand::Backup(args)) => args.cgroup.as_slice(),
        _ => &[],
    };
    if let Err(error) = commands::join_cgroup(cgroup) {
        // Go on without the limit: without status passes, nodeletd would repair nothing.
        trouble::say(&format!(
            "nodelet: could not {error:#}; going on with lowered priority"
        ));
        priority::lower();
    }
    let filter = EnvFilter::try_from_env("NODELET_LOG")
        .unwrap_or_else(|_| EnvFilter::new("warn,kube_client=off"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        // The subscriber would print such an error to standard error, and panic if that cannot be written.
        .log_internal_errors(false)
        .init();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            trouble::say(&format!("nodelet: could not start its threads: {error}"));
            return Exit::Failed.into();
        }
    };
    let result = runtime.block_on(async {
        if let Some(verb) = cli.command.with_facts_of_another_host() {
            return Err(WrongUsage(format!(
                "{verb} on a host that a file describes: --facts is for `nodelet plan`"
            ))
            .into());
        }
        match &cli.command {
            Command::Plan(args) => commands::plan(args).await,
            Command::Diff(args) => commands::diff(args).await,
            Command::Apply(args) => commands::apply(args).await,
            Command::Check(args) => commands::check(args).await,
            Command::Stop(args) => commands::stop(args).await,
            Command::Status(args) => commands::status(args).await,
            Command::Pause(args) => commands::pause(args).await,
            Command::Resume => commands::resume().await,
            Command::Drain(args) => commands::drain(args).await,
            Command::Repair(args) => commands::repair(args).await,
            Command::Pass(args) => commands::pass(args).await,
            Command::PodSubnets(args) => commands::pod_subnets(args).await,
            Command::Clean(args) => commands::clean(args).await,
            Command::Recover(args) => commands::recover(args).await,
            Command::Certs(args) => commands::certs(args).await,
            Command::Phases(args) => commands::phases(args).await,
            Command::Etcd(command) => commands::etcd(command).await,
            Command::Facts => commands::facts().await,
            Command::History(args) => commands::history(args).await,
            Command::Why(args) => commands::why(args).await,
        }
    });
    // Waits for threads that can end; a call that cannot be cancelled delays the end for a moment only.
    runtime.shutdown_timeout(std::time::Duration::from_millis(500));
    let exit = match result {
        Ok(exit) => exit,
        Err(error) => {
            Trouble::of(&error).tell(cli.command.json());
            exit::of(&error)
        }
    };
    match output::failure() {
        Some(error) => {
            trouble::say(&format!(
                "nodelet: could not write its result to standard output: {error}"
            ));
            Exit::Failed.into()
        }
        None => exit.into(),
    }
}
