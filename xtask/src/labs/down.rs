//! `cargo xtask down`: take labs down, or one host of a lab; the cache stays unless asked for.

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use lab::topology::down;
use lab::{Cache, Host, Lab};

use crate::labs::shell::first_running;
use crate::labs::up::members;
use crate::labs::up::roles::{Role, even_number, node_name};

/// The options of `down`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The lab's name.
    #[arg(long, default_value = "default", conflicts_with = "all")]
    lab: String,
    /// Only this host: its node leaves the cluster, and the other hosts stay. A master also leaves etcd, and stays if etcd would lose its quorum.
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

/// Takes one host down. It leaves the cluster first. If the cluster does not answer, a worker is removed all the same, and a master stays: the
/// others would go on counting its vote.
fn one(cache: &Cache, name: &str, host: &str) -> Result<ExitCode> {
    let mut lab = Lab::open(cache, name)?;
    let leaving = lab.host(host)?;
    let mut masters = Role::Master.hosts(lab.hosts());
    masters.retain(|master| master.name() != host);
    let left = masters.len();
    match Role::of(host) {
        Role::Worker => {
            if let Err(error) = worker_leaves(&lab, masters, &leaving) {
                println!("{error:#}");
            }
        }
        Role::Master => {
            is_not_the_last(name, host, left)?;
            master_leaves(&lab, masters, &leaving)?;
        }
    }
    lab.remove_host(host)?;
    println!("Took down the host `{host}` of the lab `{name}`.");
    if Role::of(host) == Role::Master
        && let Some(note) = even_number(left)
    {
        println!("note: {note}");
    }
    Ok(ExitCode::SUCCESS)
}

fn is_not_the_last(lab: &str, host: &str, left: usize) -> Result<()> {
    if left == 0 {
        bail!(
            "`{host}` is the only master, and a lab goes with its last master: `cargo xtask down --lab {lab}` takes down all of it"
        );
    }
    Ok(())
}

fn worker_leaves(lab: &Lab, masters: Vec<Host>, worker: &Host) -> Result<()> {
    let master = first_running(masters).context("no master of the lab runs")?;
    let chosen = lab.choices(master.name());
    members::worker_leaves(&master, &node_name(&chosen, worker))
}

fn master_leaves(lab: &Lab, others: Vec<Host>, master: &Host) -> Result<()> {
    let other = first_running(others).with_context(|| {
        format!(
            "no other master of the lab runs, so `{}` cannot leave; `cargo xtask up --lab {}` starts them",
            master.name(),
            lab.name()
        )
    })?;
    let chosen = lab.choices(other.name());
    members::master_leaves(&other, &node_name(&chosen, master))
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
    fn one_host_can_be_taken_down_but_not_the_last_master() {
        let line = |words: &[&str]| Line::try_parse_from(["down"].iter().chain(words));
        for host in ["worker-1", "master-2"] {
            let one = line(&["--lab", "x", "--host", host]).expect("words");
            assert_eq!(one.arguments.host.as_deref(), Some(host));
        }
        line(&["--all", "--host", "worker-1"]).expect_err("all, and one");
        line(&["--cache", "--host", "worker-1"]).expect_err("labs remain");
        is_not_the_last("x", "master-1", 2).expect("two others are left");
        let refused = is_not_the_last("x", "master-1", 0).expect_err("it is the only one");
        let refused = refused.to_string();
        assert!(refused.contains("cargo xtask down --lab x`"), "{refused}");
        let directory = tempfile::tempdir().expect("a directory");
        one(&Cache::at(directory.path()), "x", "master-1").expect_err("there is no such lab");
    }
}
