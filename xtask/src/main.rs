//! The project's own commands: the lab (`up`, `down`, `status`, `shell`, `kubectl`), the tests (`test`, `ci`, `soak`) and the
//! figures (`bench`).

mod bench;
mod down;
mod enter;
mod fault;
mod machine;
mod measured;
mod nodelet;
mod soak;
mod status;
mod test;
mod transient;
mod up;

use std::env;
use std::path::Path;
use std::process::{self, ExitCode};

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
    /// Bring up a Kubernetes master on a lab host, with everything it needs. Run it again to apply what changed.
    Up(up::Arguments),
    /// Take labs down and leave nothing behind.
    Down(down::Arguments),
    /// Show the labs, their hosts, and the cache.
    Status,
    /// Open a shell on a lab host, or run a command there.
    Shell(enter::Shell),
    /// Run kubectl against a lab's cluster.
    Kubectl(enter::Kubectl),
    /// Break a lab host on purpose, or open a shell there.
    #[command(subcommand)]
    Lab(fault::Lab),
    /// Run the checks and tests. A failure does not stop the others; the end of the output names all failures.
    #[command(alias = "ci")]
    Test(test::Arguments),
    /// Run the suites that take minutes each: clean slate, interruptions with kill -9, predictions on real hosts.
    Soak(soak::Arguments),
    /// Measure nodelet, and kubeadm from the same source on the same hosts, and report whether the targets are met.
    Bench(bench::Arguments),
    /// Run a program once and print its seconds and its peak memory; `bench` uses it.
    #[command(hide = true)]
    Measured(measured::Arguments),
}

/// The root of the checkout this program was built from.
fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
}

/// The cargo that built this program, in the checkout.
fn cargo() -> process::Command {
    let program = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = process::Command::new(program);
    command.current_dir(checkout());
    command
}

fn run(command: &Command) -> Result<ExitCode> {
    match command {
        Command::Up(arguments) => up::run(arguments),
        Command::Down(arguments) => down::run(arguments),
        Command::Status => status::run(),
        Command::Shell(arguments) => arguments.run(),
        Command::Kubectl(arguments) => arguments.run(),
        Command::Lab(arguments) => arguments.run(),
        Command::Test(arguments) => test::run(arguments),
        Command::Soak(arguments) => soak::run(arguments),
        Command::Bench(arguments) => bench::run(arguments),
        Command::Measured(arguments) => measured::run(arguments),
    }
}

fn main() -> ExitCode {
    run(&Arguments::parse().command).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
