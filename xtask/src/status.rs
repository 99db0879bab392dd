//! `cargo xtask status`: what stands, and what the cache costs.

use std::process::{Command, ExitCode};

use anyhow::Result;
use lab::{Cache, Lab, Outer, down};

pub(crate) fn run() -> Result<ExitCode> {
    let cache = Cache::locate()?;
    let docker = Outer::of(&cache).docker();
    let names = down::labs(&cache)?;
    if names.is_empty() {
        println!("No lab stands. `cargo xtask up` makes one.");
    }
    for name in names {
        match Lab::open(&cache, &name) {
            Ok(lab) => {
                println!("{name}  {}", lab.subnet());
                for host in lab.hosts() {
                    let state = docker.text(&[
                        "inspect",
                        "--format",
                        "{{.State.Status}}",
                        host.container(),
                    ]);
                    let state = state.unwrap_or_else(|_| "missing".to_owned());
                    println!(
                        "  {}  {}  {}  {state}",
                        host.name(),
                        host.address(),
                        host.image().name()
                    );
                }
            }
            Err(_) => {
                println!("{name}  half-built; remove it with `cargo xtask down --lab {name}`")
            }
        }
    }
    println!(
        "Outer docker: {}",
        if docker.answers() {
            docker.socket().display().to_string()
        } else {
            "not running".to_owned()
        }
    );
    let size = Command::new("du").args(["-sh"]).arg(cache.root()).output();
    let size = size.map(|output| {
        String::from_utf8_lossy(&output.stdout)
            .split_whitespace()
            .next()
            .unwrap_or("0")
            .to_owned()
    });
    println!(
        "Cache: {} ({})",
        cache.root().display(),
        size.unwrap_or_else(|_| "size unknown".to_owned())
    );
    Ok(ExitCode::SUCCESS)
}
