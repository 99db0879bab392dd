//! `cargo xtask status`: the labs that exist, and the size of the cache.

use std::fmt::Write as _;
use std::io::{Write as _, stdout};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::Result;
use lab::topology::down;
use lab::{Cache, Lab, OuterDocker, command};

/// How long `du` may take.
const DU_TIMEOUT: Duration = Duration::from_secs(60);

pub(crate) fn run() -> Result<ExitCode> {
    let cache = Cache::locate()?;
    let docker = OuterDocker::of(&cache).docker();
    let names = down::labs(&cache)?;
    let mut text = String::new();
    if names.is_empty() {
        let _ = writeln!(text, "There is no lab. `cargo xtask up` makes one.");
    }
    for name in names {
        match Lab::open(&cache, &name) {
            Ok(lab) => {
                let _ = writeln!(text, "{name}  {}", lab.subnet());
                for host in lab.hosts() {
                    let state = docker.text(&[
                        "inspect",
                        "--format",
                        "{{.State.Status}}",
                        host.container(),
                    ]);
                    let state = state.unwrap_or_else(|_| "missing".to_owned());
                    let _ = writeln!(
                        text,
                        "  {}  {}  {}  {state}",
                        host.name(),
                        host.address(),
                        host.image().name()
                    );
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
