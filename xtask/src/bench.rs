//! `cargo xtask bench`: nodelet measured, beside `kubeadm` of the same source on the same hosts. It tells figures and whether targets
//! are met; nothing fails for being slow.

mod bringup;
mod figures;
mod hosts;
mod peer;
mod plans;
mod synthetic;

use std::fs;
use std::path::Path;
use std::process::{self, ExitCode};

use anyhow::{Context, Result};
use clap::ValueEnum;
use lab::{Cache, Setup, down};

use crate::machine::Machine;
use crate::nodelet::Profile;
use crate::transient::with_labs;
use crate::{checkout, nodelet};
use figures::Figure;

/// Where `--write` puts the figures.
const PAGE: &str = "docs/benchmarks.md";

/// The options of `bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How often everything is measured; the medians count.
    #[arg(long, default_value_t = 5, value_name = "COUNT", value_parser = clap::value_parser!(u8).range(1..=50))]
    repetitions: u8,
    /// Measure this part alone.
    #[arg(long, value_enum)]
    only: Option<Part>,
    /// Write the figures to docs/benchmarks.md.
    #[arg(long, conflicts_with = "only")]
    write: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Bring-up, second apply and clean, on lab hosts.
    Hosts,
    /// Planning, which needs no host.
    Plans,
}

impl Arguments {
    fn measures(&self, part: Part) -> bool {
        self.only.is_none_or(|only| only == part)
    }

    fn command(&self) -> String {
        format!("cargo xtask bench --repetitions {}", self.repetitions)
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let nodelet = nodelet::build(Profile::Release)?;
    let machine = Machine::now();
    let repetitions = usize::from(arguments.repetitions);
    let mut figures = Vec::new();
    if arguments.measures(Part::Hosts) {
        figures.extend(on_hosts(&nodelet, repetitions)?);
    }
    if arguments.measures(Part::Plans) {
        figures.extend(plans::measure(&nodelet, repetitions)?);
    }
    let machine = machine.describe(&arguments.command());
    let tables = format!(
        "{}\n{}",
        figures::medians(&figures),
        figures::repetitions(&figures)
    );
    println!("\n{machine}\n{tables}\n{}", verdict(&figures));
    if arguments.write {
        let page = checkout().join(PAGE);
        fs::write(&page, render(&machine, &tables))
            .with_context(|| format!("cannot write {}", page.display()))?;
        println!("The figures are in {PAGE}.");
    }
    Ok(ExitCode::SUCCESS)
}

fn on_hosts(nodelet: &Path, repetitions: usize) -> Result<Vec<Figure>> {
    let cache = Cache::locate()?;
    let setup = Setup::run(&cache)?;
    let others: Vec<String> = down::labs(&cache)?.into_iter().collect();
    if !others.is_empty() {
        println!(
            "These labs stand beside the bench and may slow it: {}.",
            others.join(", ")
        );
    }
    let run = format!("bench-{}", process::id());
    with_labs(setup, &run, |setup| {
        bringup::measure(setup, nodelet, &run, repetitions)
    })
}

fn verdict(figures: &[Figure]) -> String {
    let missed: Vec<&str> = figures
        .iter()
        .filter(|figure| figure.met() == Some(false))
        .map(|figure| figure.name.as_str())
        .collect();
    if missed.is_empty() {
        "All targets are met.".to_owned()
    } else {
        format!("Missed: {}.", missed.join("; "))
    }
}

fn render(machine: &str, tables: &str) -> String {
    format!("# Benchmarks\n\n{INTRODUCTION}\n{machine}\n{tables}")
}

const INTRODUCTION: &str = "\
Written by `cargo xtask bench --write`. The peer is `kubeadm` 1.20.2, built from the same Debian source as the role's Kubernetes. nodelet
is a release build.

Every repetition has a lab of its own with four hosts of the same image. All have a running docker, the control plane's images loaded,
and conntrack, socat, ipset and the CNI plugins installed; all but one have the role's `daemon.json`, so that docker need not restart;
the one without shows what that costs. They are measured one after the other, each switched off when it is done, and nodelet and
kubeadm take turns at being first. Times are taken on the host, from the start of the command until `kubectl wait`, which runs beside it,
has seen the node Ready. `nodelet apply` goes on after that, until the controller-manager has made the account that pods need; that has
its own line. kubeadm is given what serves it best: no DNS add-on, which the role does not bring either, and a CNI file with the node's subnet
in it. With the role's very file, which leaves the subnet to the controller-manager, kubeadm's node is Ready later; that has its own line.
`init --dry-run` is kubeadm's nearest thing to a plan. `clean --purge` is what `kubeadm reset` does: the cluster's data and its
authorities go too. Unlike `reset` it leaves nothing; see [clean-slate.md](clean-slate.md).

Planning needs no host: `plan` plays the role on a host that a file describes. The synthetic roles have ten steps in each phase, and each
phase needs the one before it. Peak memory has a floor of a few MB, which is that of the process that measures.

Ratios are those of the medians; figures without a target are only told. The machine may do other things meanwhile, as the load average
shows: times vary with it, ratios of interleaved runs much less.
";
