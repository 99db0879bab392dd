//! The project's own commands: the lab (`up`, `down`, `status`, `shell`, `kubectl`), the tests (`test`, `ci`, `soak`) and the
//! figures (`bench`).
//!
//! Not here: what a lab is made of (the crate `lab`), and the tests themselves (`tests/`). Start with [`Command`]: each of its variants names
//! the module that does the work.

mod bench;
mod labs;
mod machine;
mod nodelet;
mod repository;
mod resource_usage;
mod soak;
mod temporary_lab;
mod test;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Set up a lab, look into it, take it down; run the tests; measure.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bring up a Kubernetes master on a lab host, and other masters and workers beside it, with everything they need. Run it again to
    /// apply what changed.
    Up(labs::up::Arguments),
    /// Take labs down, or one host, and leave nothing behind.
    Down(labs::down::Arguments),
    /// Show the labs, their hosts, and the cache.
    Status(labs::status::Arguments),
    /// Open a shell on a lab host, or run a command there.
    Shell(labs::shell::Shell),
    /// Run kubectl against a lab's cluster.
    Kubectl(labs::shell::Kubectl),
    /// Break a lab host on purpose, or open a shell there.
    #[command(subcommand)]
    Lab(labs::fault::Lab),
    /// Run the checks and tests. A failure does not stop the others; the end of the output names all failures.
    #[command(alias = "ci")]
    Test(test::Arguments),
    /// Run the suites that take minutes each: clean slate, interruptions with kill -9, predictions on real hosts.
    Soak(soak::Arguments),
    /// Measure nodelet, and kubeadm from the same source on hosts of the same image, and report whether the targets are met.
    Bench(bench::Arguments),
    /// Measure the routes to the pods of many nodes, in a network namespace of its own; `bench` uses it.
    #[command(hide = true)]
    NodeRoutesRun(bench::NodeRoutesArguments),
    /// Run a program once and print its seconds and its peak memory; `bench` uses it.
    #[command(hide = true)]
    Measured(resource_usage::Arguments),
}

fn run(command: &Command) -> Result<ExitCode> {
    match command {
        Command::Up(arguments) => labs::up::run(arguments),
        Command::Down(arguments) => labs::down::run(arguments),
        Command::Status(arguments) => labs::status::run(arguments),
        Command::Shell(arguments) => arguments.run(),
        Command::Kubectl(arguments) => arguments.run(),
        Command::Lab(arguments) => arguments.run(),
        Command::Test(arguments) => test::run(arguments),
        Command::Soak(arguments) => soak::run(arguments),
        Command::Bench(arguments) => bench::run(arguments),
        Command::NodeRoutesRun(arguments) => bench::run_node_routes(arguments),
        Command::Measured(arguments) => resource_usage::run(arguments),
    }
}

fn main() -> ExitCode {
    run(&Arguments::parse().command).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
