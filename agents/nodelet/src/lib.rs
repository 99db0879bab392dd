//! Two programs. `nodelet` plans, applies, checks and stops a role on this host; `nodeletd` holds the host at its role.
//!
//! `nodelet` is a thin edge: arguments, files and signals come in here, the engine does the work, and events become text
//! or JSON. Results go to standard output, everything else to standard error. Exit codes are in [`output::exit`].
//!
//! `nodeletd` changes nothing on the host itself: it decides what has to be done and when, and runs `nodelet` for it, as an operator
//! would ([`nodeletd`](mod@nodeletd)).
//!
//! Not here: what a plan is, and how it is carried out (the crate `engine`). Start with [`command_line`]; `commands::run` has `nodelet
//! apply`, and `nodeletd::supervisor` has the loop of the daemon.

mod inputs;
mod output;
mod process;

mod cli;
mod commands;
mod etcd;
mod nodeletd;
mod pass;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::Parser as _;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use tracing_subscriber::EnvFilter;

use cli::{Cli, Command, EtcdCommand, TimerVerb};
use output::error_report::ErrorReport;
use output::exit::Exit;

/// Runs `nodeletd` with the arguments of this process.
#[must_use]
pub fn nodeletd() -> ExitCode {
    nodeletd::main()
}

/// Adds to the error about `--facts`, if it is one, which commands have the option.
fn add_tip_about_facts(error: &mut clap::Error) {
    const TIP: &str = "--facts is for `nodelet plan`, `nodelet diff` and `nodelet phases`, which can plan for another host; all other commands work on this host";
    let is_facts =
        |named: &ContextValue| matches!(named, ContextValue::String(name) if name == "--facts");
    if error.kind() == ErrorKind::UnknownArgument
        && error.get(ContextKind::InvalidArg).is_some_and(is_facts)
    {
        let tips = ContextValue::StyledStrs(vec![TIP.into()]);
        error.insert(ContextKind::Suggested, tips);
    }
}

/// Runs `nodelet` with the arguments of this process.
#[must_use]
pub fn command_line() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(mut error) => {
            add_tip_about_facts(&mut error);
            // The parser's own status for a usage error is 2, which here means "changes pending".
            return output::error_report::tell_usage(&error).into();
        }
    };
    let cgroup = match &cli.command {
        Command::Pass(args) => args.cgroup.as_slice(),
        Command::Etcd(EtcdCommand::Backup(args)) => args.cgroup.as_slice(),
        Command::Timer(TimerVerb::Run(args)) => args.cgroup.as_slice(),
        _ => &[],
    };
    if let Err(error) = commands::join_cgroup(cgroup) {
        // Go on without the limit: without status passes, nodeletd would repair nothing.
        output::error_report::say(&format!(
            "nodelet: could not {error:#}; going on with lowered priority"
        ));
        process::priority::lower();
    }
    // Not `daemon::log`: a person reads these lines on a terminal, with times and colours.
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
            output::error_report::say(&format!("nodelet: could not start its threads: {error}"));
            return Exit::Failed.into();
        }
    };
    let result = runtime.block_on(async {
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
            Command::Workers(args) => commands::workers(args).await,
            Command::Masters(args) => commands::masters(args).await,
            Command::Trust(args) => commands::trust(args).await,
            Command::Cluster(command) => commands::cluster(command).await,
            Command::Clean(args) => commands::clean(args).await,
            Command::Recover(args) => commands::recover(args).await,
            Command::Certs(args) => commands::certs(args).await,
            Command::Pki(command) => commands::pki(command).await,
            Command::Phases(args) => commands::phases(args).await,
            Command::Etcd(command) => commands::etcd(command).await,
            Command::Timer(verb) => commands::timer(verb).await,
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
            ErrorReport::of(&error).tell(cli.command.json());
            output::exit::of(&error)
        }
    };
    match output::failure() {
        Some(error) => {
            output::error_report::say(&format!(
                "nodelet: could not write its result to standard output: {error}"
            ));
            Exit::Failed.into()
        }
        None => exit.into(),
    }
}
