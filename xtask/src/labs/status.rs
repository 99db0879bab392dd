//! `cargo xtask status`: the labs that exist, and the size of the cache.

use std::fmt::Write as _;
use std::io::{Write as _, stdout};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Result, bail};
use lab::topology::down;
use lab::{Cache, Docker, Host, Lab, OuterDocker, command};

/// How long `du` may take.
const DU_TIMEOUT: Duration = Duration::from_secs(60);

/// The options of `status`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only this lab.
    #[arg(long)]
    lab: Option<String>,
    /// Only hosts of this name.
    #[arg(long)]
    host: Option<String>,
}

impl Arguments {
    fn shows_lab(&self, name: &str) -> bool {
        self.lab.as_deref().is_none_or(|lab| lab == name)
    }

    fn shows_host(&self, name: &str) -> bool {
        self.host.as_deref().is_none_or(|host| host == name)
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let cache = Cache::locate()?;
    let docker = OuterDocker::of(&cache).docker();
    let mut names = down::labs(&cache)?;
    names.retain(|name| arguments.shows_lab(name));
    if let Some(lab) = &arguments.lab
        && names.is_empty()
    {
        bail!("there is no lab `{lab}`");
    }
    let mut text = String::new();
    if names.is_empty() {
        let _ = writeln!(text, "There is no lab. `cargo xtask up` makes one.");
    }
    let mut shown = 0;
    for name in names {
        match Lab::open(&cache, &name) {
            Ok(lab) => {
                let hosts = lab.hosts();
                let hosts: Vec<&Host> = hosts
                    .iter()
                    .filter(|host| arguments.shows_host(host.name()))
                    .collect();
                if hosts.is_empty() && arguments.host.is_some() {
                    continue;
                }
                shown += hosts.len();
                let _ = writeln!(text, "{name}  {}", lab.subnet());
                for host in hosts {
                    let _ = writeln!(text, "{}", line(&docker, host));
                }
            }
            Err(_) => {
                let _ = writeln!(
                    text,
                    "{name}  half-built; remove it with `cargo xtask down --lab {name}`"
                );
            }
        }
    }
    if let Some(host) = &arguments.host
        && shown == 0
    {
        bail!("no lab has a host `{host}`");
    }
    let _ = writeln!(
        text,
        "Outer docker: {}",
        if docker.answers() {
            docker.socket().display().to_string()
        } else {
            "not running".to_owned()
        }
    );
    let mut du = Command::new("du");
    du.args(["-sh"]).arg(cache.root());
    // It fails if a file vanishes meanwhile, and prints the size all the same.
    let size = command::output(&du, None, DU_TIMEOUT);
    let size = size.map(|output| {
        let text = String::from_utf8_lossy(&output.stdout);
        text.split_whitespace().next().unwrap_or("0").to_owned()
    });
    let _ = writeln!(
        text,
        "Cache: {} ({})",
        cache.root().display(),
        size.unwrap_or_else(|_| "size unknown".to_owned())
    );
    // It is no error if the reader has closed the pipe.
    let _ = stdout().write_all(text.as_bytes());
    Ok(ExitCode::SUCCESS)
}

/// The line about a host.
fn line(docker: &Docker, host: &Host) -> String {
    let state = docker.text(&["inspect", "--format", "{{.State.Status}}", host.container()]);
    let state = state.unwrap_or_else(|_| "missing".to_owned());
    format!(
        "  {}  {}  {}  {state}",
        host.name(),
        host.address(),
        host.image().name()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labs_and_hosts_are_shown_by_name() {
        let all = Arguments {
            lab: None,
            host: None,
        };
        assert!(all.shows_lab("x") && all.shows_host("master-1"));
        let one = Arguments {
            lab: Some("x".to_owned()),
            host: Some("worker-1".to_owned()),
        };
        assert!(one.shows_lab("x") && !one.shows_lab("y"));
        assert!(one.shows_host("worker-1") && !one.shows_host("worker-10"));
    }
}
