//! `cargo xtask shell` and `cargo xtask kubectl`: commands that the user runs on a lab host.

use std::io::{IsTerminal, stdin, stdout};
use std::process::ExitCode;

use anyhow::{Context, Result};
use lab::{Cache, Host, Lab};

use crate::labs::up::roles::Role;

/// The administrator's kubeconfig on a master.
pub(crate) const ADMIN: &str = "/etc/pf9/kube.d/kubeconfigs/admin.yaml";
/// What a worker has: its kubelet may read nodes, and the objects of its own pods.
const KUBELET: &str = "/etc/pf9/kube.d/kubeconfigs/kubelet.yaml";

/// The exit code of an interrupted program, as shells have it.
const INTERRUPTED: u8 = 130;

/// The options of `shell`.
#[derive(Debug, clap::Args)]
pub(crate) struct Shell {
    /// The lab's name.
    #[arg(long, default_value = "default")]
    lab: String,
    /// The host; the first master that runs, if not named.
    host: Option<String>,
    /// The same as an option.
    #[arg(long = "host", value_name = "HOST", conflicts_with = "host")]
    of: Option<String>,
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
    /// The host to run on; the first master that runs, if not named. With a virtual IP, its kubectl asks whichever master holds this. A worker
    /// has only the rights of its kubelet.
    #[arg(long)]
    host: Option<String>,
    /// Arguments for kubectl, after `--`.
    #[arg(last = true)]
    words: Vec<String>,
}

impl Shell {
    /// The host that the user named.
    fn named(&self) -> Option<&str> {
        self.of.as_deref().or(self.host.as_deref())
    }

    pub(crate) fn run(&self) -> Result<ExitCode> {
        let words = if self.command.is_empty() {
            vec!["bash", "--login"]
        } else {
            strings(&self.command)
        };
        shell(&host(&self.lab, self.named())?, &words)
    }
}

impl Kubectl {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let host = host(&self.lab, self.host.as_deref())?;
        let words = strings(&self.words);
        shell(&host, &kubectl_words(kubeconfig(host.name()), &words))
    }
}

/// The kubeconfig that the host of this name has.
fn kubeconfig(host: &str) -> &'static str {
    match Role::of(host) {
        Role::Worker => KUBELET,
        Role::Master => ADMIN,
    }
}

/// The words that run kubectl on a host with this kubeconfig. It is the role's kubectl, not another one on PATH.
pub(crate) fn kubectl_words<'a>(kubeconfig: &'a str, words: &[&'a str]) -> Vec<&'a str> {
    let kubectl = "/opt/pf9/roles/pf9-kube/current/payload/bin/kubectl";
    [kubectl, "--kubeconfig", kubeconfig]
        .into_iter()
        .chain(words.iter().copied())
        .collect()
}

fn strings(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

/// The host of this name; without a name, the first master that runs.
///
/// # Errors
/// There is no such lab or host, or no master runs.
pub(crate) fn host(lab: &str, name: Option<&str>) -> Result<Host> {
    let lab = Lab::open(&Cache::locate()?, lab)?;
    if let Some(name) = name {
        return lab.host(name);
    }
    let masters = Role::Master.hosts(lab.hosts());
    first_running(masters).with_context(|| {
        format!(
            "no master of the lab `{lab}` runs; `cargo xtask up --lab {lab}` starts its hosts",
            lab = lab.name()
        )
    })
}

/// The first of these hosts that runs.
pub(crate) fn first_running(hosts: Vec<Host>) -> Option<Host> {
    let mut hosts = hosts.into_iter();
    hosts.find(|host| host.runs().unwrap_or(false))
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

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        shell: Shell,
    }

    #[test]
    fn a_host_is_named_in_place_or_by_its_option() {
        let named = |words: &[&str]| {
            let line = Line::try_parse_from(["shell"].iter().chain(words));
            line.map(|line| (line.shell.named().map(str::to_owned), line.shell.command))
        };
        for words in [
            &["worker-1", "--", "true"][..],
            &["--host", "worker-1", "--", "true"],
        ] {
            let (host, command) = named(words).expect("words");
            assert_eq!(host.as_deref(), Some("worker-1"));
            assert_eq!(command, ["true"]);
        }
        assert_eq!(named(&["--", "true"]).expect("words").0, None);
        named(&["worker-1", "--host", "worker-2"]).expect_err("two hosts");
    }

    #[test]
    fn kubectl_runs_with_what_the_host_has() {
        assert_eq!(kubectl_words(kubeconfig("worker-1"), &["get"])[2], KUBELET);
        for master in ["master-1", "master-3", "cp-1"] {
            assert_eq!(kubectl_words(kubeconfig(master), &["get"])[2], ADMIN);
        }
    }
}
