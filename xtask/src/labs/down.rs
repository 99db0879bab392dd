//! `cargo xtask down`: take labs down, or one worker of a lab; the cache stays unless asked for.

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use lab::topology::down;
use lab::{Cache, Host, Lab};

use crate::labs::up::workers::{self, is_worker};

/// The options of `down`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The lab's name.
    #[arg(long, default_value = "default", conflicts_with = "all")]
    lab: String,
    /// Only this worker: its node leaves the cluster, and the other hosts stay.
    #[arg(long, value_name = "HOST", conflicts_with_all = ["all", "cache"])]
    host: Option<String>,
    /// All labs.
    #[arg(long)]
    all: bool,
    /// The cache too: the next `up` builds everything again.
    #[arg(long)]
    cache: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let cache = Cache::locate()?;
    if let Some(host) = &arguments.host {
        return one(&cache, &arguments.lab, host);
    }
    if arguments.all {
        let names: Vec<String> = down::all(&cache)?.into_iter().collect();
        println!(
            "{}",
            if names.is_empty() {
                "There was no lab.".to_owned()
            } else {
                format!("Took down: {}.", names.join(", "))
            }
        );
    } else if down::lab(&cache, &arguments.lab)? {
        println!("Took down the lab `{}`.", arguments.lab);
    } else {
        println!("There is no lab `{}`.", arguments.lab);
    }
    let left: Vec<String> = down::labs(&cache)?.into_iter().collect();
    if !left.is_empty() {
        println!("Labs that remain: {}.", left.join(", "));
    }
    if arguments.cache {
        down::cache(&cache)?;
        println!("Removed the cache {}.", cache.root().display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Takes one worker down. The node leaves the cluster first; if the cluster does not answer, the host is removed all the same.
fn one(cache: &Cache, name: &str, host: &str) -> Result<ExitCode> {
    if !is_worker(host) {
        bail!(
            "`{host}` is no worker, and a lab goes with its master: `cargo xtask down --lab {name}` takes down all of it"
        );
    }
    let mut lab = Lab::open(cache, name)?;
    let worker = lab.host(host)?;
    let hosts = lab.hosts();
    let master = hosts
        .iter()
        .find(|host| !is_worker(host.name()))
        .context("the lab has no master")?;
    if let Err(error) = leave(&lab, master, &worker) {
        println!("{error:#}");
    }
    lab.remove_host(host)?;
    println!("Took down the host `{host}` of the lab `{name}`.");
    Ok(ExitCode::SUCCESS)
}

fn leave(lab: &Lab, master: &Host, worker: &Host) -> Result<()> {
    let chosen = lab.choices(master.name());
    workers::leave(master, &workers::node_name(&chosen, worker))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    #[test]
    fn one_worker_can_be_taken_down_and_a_master_only_with_its_lab() {
        let line = |words: &[&str]| Line::try_parse_from(["down"].iter().chain(words));
        let worker = line(&["--lab", "x", "--host", "worker-1"]).expect("words");
        assert_eq!(worker.arguments.host.as_deref(), Some("worker-1"));
        line(&["--all", "--host", "worker-1"]).expect_err("all, and one");
        line(&["--cache", "--host", "worker-1"]).expect_err("labs remain");
        let directory = tempfile::tempdir().expect("a directory");
        let refused = one(&Cache::at(directory.path()), "x", "master-1");
        let refused = refused.expect_err("it is the master").to_string();
        assert!(refused.contains("cargo xtask down --lab x"), "{refused}");
    }
}
