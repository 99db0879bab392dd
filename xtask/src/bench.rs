//! `cargo xtask bench`: nodelet measured, beside `kubeadm` of the same source on the same hosts. It tells figures and whether targets
//! are met; nothing fails for being slow.

mod bringup;
mod figures;
mod hosts;
mod peer;
mod plans;
mod repairs;
mod synthetic;

use std::fmt::Write as _;
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
    /// Write the figures to docs/benchmarks.md; parts that were not measured stay as they are there.
    #[arg(long)]
    write: bool,
}

/// A part of the page, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Bring-up, second apply and clean, on lab hosts.
    Hosts,
    /// Planning, which needs no host.
    Plans,
    /// What nodeletd repairs, on lab hosts.
    Repairs,
}

impl Part {
    fn title(self) -> &'static str {
        match self {
            Self::Hosts => "Bring-up and clean",
            Self::Plans => "Planning",
            Self::Repairs => "Repairs",
        }
    }

    /// How it is measured.
    fn about(self) -> &'static str {
        match self {
            Self::Hosts => HOSTS,
            Self::Plans => PLANS,
            Self::Repairs => REPAIRS,
        }
    }

    fn measure(self, nodelet: &Path, repetitions: usize) -> Result<Vec<Figure>> {
        match self {
            Self::Hosts => {
                on_hosts(|setup, run| bringup::measure(setup, nodelet, run, repetitions))
            }
            Self::Plans => plans::measure(nodelet, repetitions),
            Self::Repairs => {
                on_hosts(|setup, run| repairs::measure(setup, nodelet, run, repetitions))
            }
        }
    }
}

impl Arguments {
    fn measures(&self, part: Part) -> bool {
        self.only.is_none_or(|only| only == part)
    }

    fn command(&self) -> String {
        let only = self.only.and_then(|part| part.to_possible_value());
        let only = only.map(|part| format!(" --only {}", part.get_name()));
        format!(
            "cargo xtask bench --repetitions {}{}",
            self.repetitions,
            only.unwrap_or_default()
        )
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let nodelet = nodelet::build(Profile::Release)?;
    let repetitions = usize::from(arguments.repetitions);
    let parts = Part::value_variants().iter();
    for part in parts.filter(|part| arguments.measures(**part)) {
        let machine = Machine::now();
        let figures = part.measure(&nodelet, repetitions)?;
        let section = format!(
            "{}\n{}\n{}\n{}",
            part.about(),
            machine.describe(&arguments.command()),
            figures::medians(&figures),
            figures::repetitions(&figures)
        );
        println!("\n{section}\n{}", verdict(&figures));
        if arguments.write {
            let page = checkout().join(PAGE);
            let before = fs::read_to_string(&page).unwrap_or_default();
            fs::write(&page, rewritten(&before, *part, &section))
                .with_context(|| format!("cannot write {}", page.display()))?;
            println!("The figures are in {PAGE}.");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn on_hosts(measure: impl FnOnce(&Setup, &str) -> Result<Vec<Figure>>) -> Result<Vec<Figure>> {
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
    with_labs(setup, &run, |setup| measure(setup, &run))
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

/// The page with this section anew, and the others as they were.
fn rewritten(page: &str, part: Part, section: &str) -> String {
    let mut text = format!("# Benchmarks\n\n{INTRODUCTION}");
    for its in Part::value_variants() {
        let heading = format!("## {}\n", its.title());
        let body = if *its == part {
            Some(section.trim())
        } else {
            let after = page.split_once(&heading).map(|(_, after)| after);
            after.map(|after| after.split("\n## ").next().unwrap_or_default().trim())
        };
        if let Some(body) = body {
            let _ = write!(text, "\n{heading}\n{body}\n");
        }
    }
    // What soaks have measured stands there, too.
    let ours = |section: &str| {
        let title = section.lines().next();
        Part::value_variants()
            .iter()
            .any(|its| title == Some(its.title()))
    };
    for section in page.split("\n## ").skip(1).filter(|section| !ours(section)) {
        let _ = write!(text, "\n## {}\n", section.trim());
    }
    text
}

const INTRODUCTION: &str = "\
Written by `cargo xtask bench --write`, part by part. The peer is `kubeadm` 1.20.2, built from the same Debian source as the role's
Kubernetes. nodelet is a release build.

Ratios are those of the medians; figures without a target are only told. The machine may do other things meanwhile, as the load average
shows: times vary with it, ratios of interleaved runs much less.
";

const HOSTS: &str = "\
Every repetition has a lab of its own with four hosts of the same image. All have a running docker, the control plane's images loaded,
and conntrack, socat, ipset and the CNI plugins installed; all but one have the role's `daemon.json`, so that docker need not restart;
the one without shows what that costs. They are measured one after the other, each switched off when it is done, and nodelet and
kubeadm take turns at being first. Times are taken on the host, from the start of the command until `kubectl wait`, which runs beside it,
has seen the node Ready. `nodelet apply` goes on after that, until the controller-manager has made the account that pods need; that has
its own line. kubeadm is given what serves it best: no DNS add-on, which the role does not bring either, and a CNI file with the node's subnet
in it. With the role's very file, which leaves the subnet to the controller-manager, kubeadm's node is Ready later; that has its own line.
`init --dry-run` is kubeadm's nearest thing to a plan. `clean --purge` is what `kubeadm reset` does: the cluster's data and its
authorities go too. Unlike `reset` it leaves nothing; see [clean-slate.md](clean-slate.md).
";

const PLANS: &str = "\
Planning needs no host: `plan` plays the role on a host that a file describes. The synthetic roles have ten steps in each phase, and each
phase needs the one before it. Peak memory has a floor of a few MB, which is that of the process that measures.
";

const REPAIRS: &str = "\
A master with a virtual IP that nodeletd keeps, at the usual interval of a minute between passes: what an event tells of is repaired at
once, the rest by the next pass. Times are taken on the host, from the fault until the host is whole and stays so for a second; what
that means is beside each fault (`lab/src/fault.rs`). What kubeadm's master comes back from by itself is measured there too, in turn, on
a host with docker as Debian ships it, and on one with the role's configuration of docker, which lets containers outlive dockerd. A kubelet
that was stopped stays stopped there. What has no peer and no target was measured once.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_written_and_the_others_stay() {
        let page = rewritten("", Part::Plans, "plans, first");
        let page = rewritten(&page, Part::Hosts, "hosts");
        let page = rewritten(&page, Part::Plans, "plans, again\n");
        assert!(page.starts_with("# Benchmarks\n\nWritten by"), "{page}");
        assert!(
            page.ends_with("\n## Bring-up and clean\n\nhosts\n\n## Planning\n\nplans, again\n"),
            "{page}"
        );
        let page = rewritten(
            &format!("{page}\n## At rest\n\nlittle\n"),
            Part::Hosts,
            "anew",
        );
        assert!(
            page.ends_with("\n\nanew\n\n## Planning\n\nplans, again\n\n## At rest\n\nlittle\n"),
            "{page}"
        );
    }
}
