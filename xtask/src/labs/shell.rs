//! `cargo xtask shell` and `cargo xtask kubectl`: commands that the user runs on a lab host.

use std::io::{IsTerminal, stdin, stdout};
use std::process::ExitCode;

use anyhow::{Context, Result};
use lab::{Cache, Host, Lab};

const KUBECONFIG: &str = "/etc/pf9/kube.d/kubeconfigs/admin.yaml";

/// The exit code of an interrupted program, as shells have it.
const INTERRUPTED: u8 = 130;

/// The options of `shell`.
#[derive(Debug, clap::Args)]
pub(crate) struct Shell {
    /// The lab's name.
    #[arg(long, default_value = "default")]
    lab: String,
    /// The host; the lab's first one if not named.
    host: Option<String>,
    /// A command to run in place of a shell.
    #[arg(last = true)]
    command: Vec<String>,
}

/// The options of `kubectl`.
#[derive(Debug, clap::Args)]
pub(crate) struct Kubectl {
    /// The lab's name.
    #[arg(long, default_value = "default")]
    lab: String,
    /// The host to run on; the lab's first one if not named.
    #[arg(long)]
    host: Option<String>,
    /// Arguments for kubectl, after `--`.
    #[arg(last = true)]
    words: Vec<String>,
}

impl Shell {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let words = if self.command.is_empty() {
            vec!["bash", "--login"]
        } else {
            strings(&self.command)
        };
        shell(&host(&self.lab, self.host.as_deref())?, &words)
    }
}

impl Kubectl {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        shell(
            &host(&self.lab, self.host.as_deref())?,
            &kubectl_words(&strings(&self.words)),
        )
    }
}

/// The words that run kubectl on a host. It is the role's kubectl, not another one on PATH.
pub(crate) fn kubectl_words<'a>(words: &[&'a str]) -> Vec<&'a str> {
    let kubectl = "/opt/pf9/roles/pf9-kube/current/payload/bin/kubectl";
    [kubectl, "--kubeconfig", KUBECONFIG]
        .into_iter()
        .chain(words.iter().copied())
        .collect()
}

fn strings(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

pub(crate) fn host(lab: &str, name: Option<&str>) -> Result<Host> {
    let lab = Lab::open(&Cache::locate()?, lab)?;
    match name {
        Some(name) => lab.host(name),
        None => lab
            .hosts()
            .into_iter()
            .next()
            .context("the lab has no host"),
    }
}

/// Runs a command on the host with our standard streams, and returns its exit code. If we are interrupted, the command is ended as
/// well.
fn shell(host: &Host, words: &[&str]) -> Result<ExitCode> {
    let status = host.shell(words, stdin().is_terminal() && stdout().is_terminal())?;
    let Some(status) = status else {
        return Ok(ExitCode::from(INTERRUPTED));
    };
    Ok(status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .map_or(ExitCode::FAILURE, ExitCode::from))
}
