//! `cargo xtask bench`: nodelet measured, beside `kubeadm` of the same source on hosts of the same image. It tells figures and whether targets
//! are met; nothing fails for being slow.
//!
//! `bringup`, `join`, `plans`, `repairs`, `node_routes` and `tunnels` measure the parts that `--only` names; `figures` compares figures with targets and prints them. Not
//! here: the faults that are repaired (`lab::fault`). Start with `bringup`.

mod bringup;
mod figures;
mod hosts;
mod join;
mod node_routes;
mod peer;
mod plans;
mod repairs;
mod synthetic;
mod tunnels;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use lab::topology::down;
use lab::{Cache, Setup};

use crate::machine::{Machine, refuse_changes, wait_until_quiet};
use crate::nodelet::{self, Profile};
use crate::repository::checkout;
use crate::temporary_lab::with_labs;
use figures::{Figure, Target};

pub(crate) use node_routes::{Arguments as NodeRoutesArguments, run as run_node_routes};

/// Where `--write` puts the figures.
const PAGE: &str = "docs/benchmarks.md";
/// Figures of fewer repetitions are not published: times of kubeadm have clusters, and the spread has to show.
const PUBLISHED: u8 = 7;

/// The options of `bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How often everything is measured. Ratios are those of the medians; a limit holds for the largest value.
    #[arg(long, default_value_t = PUBLISHED, value_name = "COUNT", value_parser = clap::value_parser!(u8).range(1..=50))]
    repetitions: u8,
    /// Measure only this part.
    #[arg(long, value_enum)]
    only: Option<Part>,
    /// Write the figures to docs/benchmarks.md; parts that were not measured stay as they are there. Needs a quiet machine, which it
    /// waits for: no other lab and a load average below a half. Needs at least seven repetitions.
    #[arg(long)]
    write: bool,
}

/// A part of the page, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Bring-up, second apply and clean, on lab hosts.
    Hosts,
    /// A worker, and the second and third master, that join a cluster of lab hosts.
    Join,
    /// Planning, which needs no host.
    Plans,
    /// What nodeletd repairs, on lab hosts.
    Repairs,
    /// The routes to the pods of 5,000 nodes, in a network namespace.
    NodeRoutes,
    /// pf9-comms beside other programs that carry connections in TLS, on loopback.
    Comms,
}

impl Part {
    fn title(self) -> &'static str {
        match self {
            Self::Hosts => "Bring-up and clean",
            Self::Join => "Joining a cluster",
            Self::Plans => "Planning",
            Self::Repairs => "Repairs",
            Self::NodeRoutes => "Routes to 5,000 nodes",
            Self::Comms => "Tunnels of pf9-comms",
        }
    }

    /// How it is measured.
    fn about(self) -> &'static str {
        match self {
            Self::Hosts => HOSTS,
            Self::Join => JOIN,
            Self::Plans => PLANS,
            Self::Repairs => REPAIRS,
            Self::NodeRoutes => NODE_ROUTES,
            Self::Comms => COMMS,
        }
    }

    /// What is measured.
    fn ours(self) -> &'static str {
        match self {
            Self::Comms => "pf9-comms",
            _ => "nodelet",
        }
    }

    /// Who is measured beside it.
    fn peer(self) -> &'static str {
        match self {
            Self::Hosts | Self::Join | Self::Plans | Self::Repairs => "kubeadm",
            Self::NodeRoutes => "plain program",
            Self::Comms => "best peer",
        }
    }

    fn needs_labs(self) -> bool {
        match self {
            Self::Hosts | Self::Join | Self::Repairs => true,
            Self::Plans | Self::NodeRoutes | Self::Comms => false,
        }
    }

    /// The figures, and what else is to be shown below them.
    fn measure(self, nodelet: &Path, repetitions: usize) -> Result<(Vec<Figure>, String)> {
        let figures = match self {
            Self::Comms => return tunnels::measure(repetitions),
            Self::Hosts => {
                on_hosts(|setup, run| bringup::measure(setup, nodelet, run, repetitions))
            }
            Self::Join => on_hosts(|setup, run| join::measure(setup, nodelet, run, repetitions)),
            Self::Plans => plans::measure(nodelet, repetitions),
            Self::NodeRoutes => node_routes::measure(repetitions),
            Self::Repairs => {
                on_hosts(|setup, run| repairs::measure(setup, nodelet, run, repetitions))
            }
        };
        Ok((figures?, String::new()))
    }
}

impl Arguments {
    /// Refuses to publish what fewer repetitions than [`PUBLISHED`] say.
    fn check(&self) -> Result<()> {
        if self.write && self.repetitions < PUBLISHED {
            bail!(
                "--write needs at least {PUBLISHED} repetitions, and {} were asked for",
                self.repetitions
            );
        }
        Ok(())
    }

    fn measures(&self, part: Part) -> bool {
        self.only.is_none_or(|only| only == part)
    }

    fn command(&self) -> String {
        let only = self.only.and_then(|part| part.to_possible_value());
        let only = only.map(|part| format!(" --only {}", part.get_name()));
        format!(
            "cargo xtask bench --repetitions {}{}{}",
            self.repetitions,
            only.unwrap_or_default(),
            if self.write { " --write" } else { "" }
        )
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    arguments.check()?;
    if arguments.write {
        refuse_changes()?;
    }
    let mut measured = Part::value_variants().iter();
    if measured.any(|part| arguments.measures(*part) && part.needs_labs()) {
        find_labs(arguments.write)?;
    }
    // What takes minutes is done before the machine has to be quiet.
    let nodelet = match arguments.only {
        Some(Part::Comms) => PathBuf::new(),
        _ => nodelet::build(Profile::Release)?,
    };
    if arguments.measures(Part::NodeRoutes) {
        node_routes::build()?;
    }
    if arguments.measures(Part::Comms) {
        tunnels::build()?;
    }
    let repetitions = usize::from(arguments.repetitions);
    let parts = Part::value_variants().iter();
    for part in parts.filter(|part| arguments.measures(**part)) {
        if arguments.write {
            wait_until_quiet()?;
        }
        let machine = Machine::now();
        let (figures, more) = part.measure(&nodelet, repetitions)?;
        let whose = (part.ours(), part.peer());
        let section = format!(
            "{}\n{}\n{}\n{}\n{more}",
            part.about(),
            machine.describe(&arguments.command()),
            figures::medians(&figures, whose),
            figures::repetitions(&figures, whose)
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

/// Other labs slow the bench. With `quiet`, there must be none.
fn find_labs(quiet: bool) -> Result<()> {
    let others: Vec<String> = down::labs(&Cache::locate()?)?.into_iter().collect();
    if !others.is_empty() {
        if quiet {
            bail!(
                "--write needs a quiet machine, and these labs exist: {}; take them down with `cargo xtask down --lab NAME`",
                others.join(", ")
            );
        }
        println!(
            "These labs run beside the bench and may slow it: {}.",
            others.join(", ")
        );
    }
    Ok(())
}

fn on_hosts(measure: impl FnOnce(&Setup, &str) -> Result<Vec<Figure>>) -> Result<Vec<Figure>> {
    let cache = Cache::locate()?;
    let setup = Setup::run(&cache)?;
    let run = format!("bench-{}", process::id());
    with_labs(setup, &run, |setup| measure(setup, &run))
}

fn verdict(figures: &[Figure]) -> String {
    let count = |met| figures.iter().filter(|figure| figure.met() == met).count();
    let missed: Vec<&str> = figures
        .iter()
        .filter(|figure| figure.met() == Some(false))
        .map(|figure| figure.name.as_str())
        .collect();
    // A target that was not measured is not met.
    let unmeasured: Vec<&str> = figures
        .iter()
        .filter(|figure| figure.target != Target::None && figure.met().is_none())
        .map(|figure| figure.name.as_str())
        .collect();
    let (met, without) = (count(Some(true)), count(None) - unmeasured.len());
    let missed = match missed.as_slice() {
        [] => "none missed".to_owned(),
        missed => format!("missed: {}", missed.join("; ")),
    };
    let unmeasured = match unmeasured.as_slice() {
        [] => String::new(),
        unmeasured => format!(" not measured: {};", unmeasured.join("; ")),
    };
    format!("Targets: {met} met, {missed};{unmeasured} {without} figures have none.")
}

/// The page with this section replaced and the other sections unchanged.
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
Each section names the command that measured it; `cargo xtask bench --write` writes all but those that name a soak. nodelet is a release build. The
peer is `kubeadm` 1.20.2, built from the same Debian source as the role's Kubernetes; a section with another peer says so. A figure belongs to the commit that stands above it: later commits have changed the
code, and were measured only where a section says so.

Rows show the median with minimum and maximum, and below all values. What was seen once stands in a table of its own. kubeadm's times have clusters: a node
becomes Ready with a status report, and registration backs off. The fast cluster of a row are its smallest values up to the first gap of more than a second (as printed) between two
neighbours, or all values where there is no such gap; the number of values in it stands beside its median. Ratios are our median divided by kubeadm's median, and
by the median of its fast cluster. A ratio's target is judged by the fast cluster; any other limit is judged by our largest value. A row
without a target says so. The load average shows whether the machine was quiet.
";

const HOSTS: &str = "\
Every repetition has a lab of its own with seven hosts of the same image. All have a running docker and conntrack, socat, ipset and the CNI
plugins installed. They are measured one after the other, each switched off when it is done, and the order rotates. All but two have the role's
configuration of docker: the stock one, and one where nodelet configures and restarts docker as part of its command. Before the first repetition nodelet and kubeadm
each bring a host up that is not counted.
`plan` and `init --dry-run` are measured before the bring-up, on nodelet's and kubeadm's host with preloaded images only.
There programs are in memory when the bring-up begins; the other five hosts, stock kubeadm's among them, begin without it.

Three moments are taken on the host, from the start of the command. Node Ready: the API server says so to a question that is asked each tenth of a second from its
first answer on. First pod Running: a pod that tolerates the master's taint is created as soon as the API server accepts it, with the same manifest on all hosts
and an image that docker has already; it is asked for as often. Command finished: `nodelet apply` or `kubeadm init` has ended. nodelet waits at its end until the node is
Ready and pods can be created; kubeadm does not wait for its node. curl asks, for kubectl would take processor time from what it measures.

Node Ready has four parts, and rows show them without a target: until kubelet starts (systemd says when), until the API server's container starts (docker says when), until it
answers, and until the node is Ready. In the last three, programs of the same build do the work on both hosts: what those take bounds the ratio of node Ready from below.

Images are preloaded, or come from archives: then `nodelet apply` loads them, three at a time beside its other steps and kube-proxy's when the node has its subnet, and on
kubeadm's host `docker load`, three archives at a time, is part of the measured command. Processor time is that of the host without the questions.

kubeadm's kubelet has the unit, the flags and the configuration of our kubelet, read from a host that nodelet brought up: among them
`nodeStatusUpdateFrequency: 4s` and `AWS_EC2_METADATA_DISABLED=true`, without which kubelet asks for cloud credentials and waits six seconds on a network that drops
such packets. Its controller-manager and scheduler have those of our flags that make a start faster (`--kube-api-burst`, `--authentication-skip-lookup`), and its keys are of
elliptic curves as ours are (`PublicKeysECDSA`), which are made faster than RSA's. In kubelet's settings only paths of files that kubeadm makes differ. It has no DNS add-on,
which the role does not bring either, and a CNI file with the node's subnet in it. Stock kubeadm has kubelet's unit and flags as upstream packages them and docker as Debian
ships it, on the same network, with the same CNI file, and with the role's thresholds of eviction, version of etcd and conntrack settings, which the lab needs.

The control planes are those of two products. The role's API server writes an audit log and encrypts Secrets, which kubeadm's does not. kubeadm runs each part in a static pod
of its own with its own probes, and etcd in one too; the role runs etcd in a container of docker and the rest in one static pod.

The largest difference is this. kubeadm's controller-manager gives nodes their pod subnets, and that part of it (`nodeipam`) delays all its other controllers
by ten seconds: the first pod waits for them. nodelet has turned it off and gives the subnets itself. kubeadm has nothing else that would, and a second node of its cluster would get no
subnet without it. A line of its own shows kubeadm without it all the same.

`clean --purge` and `reset` begin when the first pod has been removed. `clean --purge` is what `kubeadm reset` does: the cluster's data and its authorities go too.
`init --dry-run` is kubeadm's nearest equivalent of a plan; it leaves files, `plan` does not.
";

const JOIN: &str = "\
Every repetition has a lab of its own with two clusters of four hosts: ours and kubeadm's, one after the other with the same virtual IP, and who begins changes.
The hosts of the first cluster are switched off before the second one begins. Images are preloaded, docker has the role's configuration, and kubelet has our settings, as
in the section above. kubeadm has its own API server's port, and the rest of what is said there about the two control planes holds, too.

The first master is brought up and not measured. Then a worker joins, then a second master, then a third one. What a join needs is made before the measured command
begins: our join file, kubeadm's token and its uploaded certificates (`--upload-certs`). kubeadm is not asked to verify the authority's hash.
keepalived of kubeadm's masters is installed and runs with the intervals of ours before the command begins; ours is installed and started within `nodelet apply`.
nodeletd runs on our masters, because it signs the certificates of nodes. A join begins when the machine is at rest, or after 90 s: then what nodeletd does
first on the master before, such as the first backup of etcd, is over.

Ready is taken on the host, from the start of `nodelet apply` or `kubeadm join`: the API server at the virtual IP says that the node is Ready. It says so in a request that
stays open and gets each change of the node (`?watch=true`); a request that ends, after ten seconds at most, is made again a tenth of a second later. On a master, its own API
server must then answer `/readyz`, and its own member of etcd `/health`, which a learner does not. They are asked each tenth of a second. The words are the same for both
programs. Processor time is that of the host without the questions.
";

const PLANS: &str = "\
Planning needs no host: `plan` plays the role on a host that a file describes. The synthetic roles have ten steps in each phase, and each
phase needs the one before it. Peak memory has a floor of a few MB, which is that of the process that measures. kubeadm has no part in it.
";

const REPAIRS: &str = "\
At least seven repetitions, the hosts in turn; what was seen once is listed below.

A master with a virtual IP that nodeletd keeps, at the usual interval of a minute between passes: an event is acted on at once, the rest by the next
pass. Times are taken on the host, from the fault until the host is whole and stays so for a second; what that means is beside each fault
(`lab/src/fault.rs`). Only `docker-killed`, `etcd-removed` and `rebooted` are caused on kubeadm's hosts, too. kubeadm's master also recovers by itself from other faults, which is
not measured: kubelet restarts an API server or an etcd that hangs (liveness probes) and a kube-proxy that was removed. Both are asked the same questions, equally often, with one
exception: after a reboot ours is also asked for nodeletd, and kubeadm's for kubelet.
After a reboot, a Ready node counts only if kubelet has reported it since the boot.
kubeadm's host has our kubelet's settings and the role's configuration of docker, which lets containers outlive dockerd and ends them at a shutdown; stock kubeadm and stock docker
have rows of their own. When dockerd dies, systemd starts it again on each host, and nodelet does nothing: that row compares configurations, and has
no target. When the virtual IP is deleted, keepalived sets it again, and nodelet does nothing: that row has no target, either. A kubelet that was stopped stays stopped on
kubeadm's host.

At a shutdown kubelet's unit, which both hosts have, ends the API server before docker ends the rest; without this both would wait for it for ten seconds. The pod that
the faults of the bridge need runs on our host alone. It ends at SIGTERM; a pod that does not makes each of these repairs two seconds longer.
";

const NODE_ROUTES: &str = "\
One network namespace on the machine, without a lab, has a link and a fake API server (HTTP on loopback) with 5,000 nodes as Kubernetes 1.20 shows them, with 50 images each.
The resource `node_routes` of a release build looks and converges there as a step does. A check finds 4,999 routes as planned. A change begins when the watch reports that a
node has another address, and ends when the route was changed and looked at again. First, all routes are made in an empty table. The list is always read in pages of 500 nodes.

The peer is the least that any program has to do: it parses the same pages as plain JSON (`serde_json`), and gives the same routes to `ip -batch`, or reads them back with
`ip -json route show`. It looks once where nodelet looks before and after a change, and it has no regard for routes of others or for nodes with a problem. It is no
product, so ratios have no target; the limit is half of the ten seconds that nodelet allows for a list.
";

const COMMS: &str = "\
All on loopback of one machine: a service, an ingress (HAProxy, TLS 1.3, P-256, mutual certificates), and one tunnel at a time.
Each repetition measures all tunnels one after the other, and who begins changes. The peers are nginx (`stream`), HAProxy and stunnel as Debian ships them, each with what its
manual recommends for such a tunnel (`xtask/src/bench/tunnels/programs.rs`): a buffer holds a record of TLS (16 KiB, the recommended size of HAProxy), small packets are not delayed, sessions are
resumed, there are as many threads or workers as processors, and certificate and name of the plane are verified. pf9-comms has buffers of 64 KiB while something is on its way; a second nginx has
them, too. pf9-comms is a release build with two threads, and keeps spare connections as it always does. All offer the curve P-256 first, which is that of the plane.

Processor time is that of the tunnel alone, user and system, its workers included. A GB is carried in one direction at a time, over one connection or over eight. Messages of
1 KiB go there and back on one connection. A connection carries one byte there and back and ends; the ingress counts whether sessions were resumed, and a second one refuses to. Memory is what
the tunnel has more than before, after so many connections have carried a byte and are silent; a tunnel is started anew for it.

The target is our median by that of the best peer of the same row. For programs without a tunnel, the last table has what the service itself takes.
";

/// What stands in place of figures that this method has not measured.
#[cfg(test)]
const UNMEASURED: &str = "Not measured yet with this method";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_section_leaves_other_sections() {
        let page = rewritten("", Part::Plans, "plans, first");
        let page = rewritten(&page, Part::Hosts, "hosts");
        let page = rewritten(&page, Part::Plans, "plans, again\n");
        assert!(page.starts_with("# Benchmarks\n\nEach section"), "{page}");
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

    /// A method that changes takes its old figures along: the page describes the method that measured what stands below.
    #[test]
    fn the_page_describes_the_present_method() {
        let page = fs::read_to_string(checkout().join(PAGE)).expect("the page is checked in");
        assert!(page.starts_with(&format!("# Benchmarks\n\n{INTRODUCTION}")));
        for part in Part::value_variants() {
            let heading = format!("\n## {}\n\n", part.title());
            let (_, section) = page.split_once(&heading).expect(&heading);
            let figures = section.strip_prefix(part.about());
            let figures = figures.unwrap_or_else(|| panic!("{heading} has another method"));
            let says = |words: &str| figures.trim_start().starts_with(words);
            assert!(
                says(UNMEASURED) || says("- date: "),
                "{heading} has no figures, and does not say so"
            );
        }
    }

    #[test]
    fn few_repetitions_are_not_published() {
        let mut arguments = Arguments {
            repetitions: 6,
            only: None,
            write: true,
        };
        arguments.check().expect_err("too few");
        arguments.write = false;
        arguments.check().expect("they may be looked at");
        arguments.write = true;
        arguments.repetitions = 7;
        arguments.check().expect("enough");
    }
}
