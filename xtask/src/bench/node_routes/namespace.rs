//! The process in the network namespace: makes a link, serves the nodes, and runs the measured program for each of both.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use lab::command;

use super::server::ApiServer;

/// Bound on one run of the program.
const LIMIT: Duration = Duration::from_secs(120);
/// Bound on one small command.
const SMALL: Duration = Duration::from_secs(20);
/// The link on whose network the nodes are.
const LINK: &str = "\
ip link set lo up && ip link add eth0 type veth peer name peer0 && ip address add 172.30.0.11/16 dev eth0 && \
ip link set peer0 up && ip link set eth0 up";
/// Removes our routes (`engine::host::ROUTE_PROTOCOL`).
const FLUSH: &str = "ip route flush proto 92";

/// The options of `node-routes-run`, which `bench` calls.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A process outside of the namespace: a run in its namespace is refused.
    #[arg(long, value_name = "PID")]
    outside: u32,
    /// The program that is measured.
    #[arg(long, value_name = "FILE")]
    program: PathBuf,
    /// Who is measured, in this order.
    #[arg(required = true, value_parser = ["ours", "peer"])]
    order: Vec<String>,
}

/// Prints lines `WHO WHAT NUMBER`.
///
/// # Errors
/// The namespace is that of the machine, a command fails, or the program does.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    refuse_namespace_of(arguments.outside)?;
    shell(LINK).context("cannot make a link in the namespace")?;
    let server = ApiServer::start()?;
    for who in &arguments.order {
        server.reset();
        let mut program = Command::new(&arguments.program);
        program.args([who.as_str(), &server.url()]);
        let text = command::text(&program, LIMIT)?;
        for line in text.lines() {
            println!("{who} {line}");
        }
        shell(FLUSH).context("cannot remove the routes")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Thousands of routes on the machine itself would cut it off.
fn refuse_namespace_of(process: u32) -> Result<()> {
    let of = |process: &str| {
        let path = format!("/proc/{process}/ns/net");
        fs::read_link(&path).with_context(|| format!("cannot read {path}"))
    };
    if of("self")? == of(&process.to_string())? {
        bail!(
            "this is the machine's own network namespace; `bench --only node-routes` makes another one"
        );
    }
    Ok(())
}

fn shell(script: &str) -> Result<()> {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command::text(&command, SMALL).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_own_namespace_is_refused() {
        let refused = refuse_namespace_of(std::process::id()).expect_err("it is the same");
        assert!(refused.to_string().contains("own network namespace"));
        refuse_namespace_of(0).expect_err("there is no such process");
    }
}
