//! `cargo xtask up`: from nothing to a Ready node, or to a cluster with other masters and workers. On an existing lab it applies what
//! changed in the checkout.
//!
//! With `--plane`: a management plane and a host that is enrolled there (`plane`).
//!
//! The first master comes up here. `roles` says what a host is by its name, `members` makes the other hosts, `cluster` lets them join, and
//! `program` handles nodelet and nodeletd on a host.

mod cluster;
pub(crate) mod members;
mod plane;
mod program;
pub(crate) mod roles;

use std::io::{IsTerminal, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use lab::package::{self, ROLE};
use lab::topology::Choices;
use lab::{Cache, Config, Host, HostSpec, Image, Lab, Mount, Setup, command, machine_mount};

use self::cluster::{Cluster, config};
use self::members::{has_others, has_several_masters};
use self::program::{Daemon, validate, wait_for_others};
use self::roles::{MOST_WORKERS, Role, even_number, node_name, number_of_masters};
use crate::labs::shell::{ADMIN, kubectl_words};
use crate::nodelet::{self, Profile};
use crate::repository::checkout;

const READY: Duration = Duration::from_secs(300);
/// The name of a lab, and of one with a management plane.
const DEFAULT_LAB: &str = "default";
const PLANE_LAB: &str = "plane";
/// The name of the first master's host.
const FIRST: &str = "master-1";
/// The setting that says what nodeletd does.
const STATE: &str = "KUBE_SERVICE_STATE";

/// The options of `up`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The lab's name. Several labs can exist at the same time.
    #[arg(long, default_value = DEFAULT_LAB)]
    lab: String,
    /// The name of the first master's host; `master-1` by default.
    #[arg(long, value_name = "NAME", value_parser = master_name)]
    host: Option<String>,
    /// How many masters the cluster has at least, 1, 3 or 5: hosts `master-2`, `master-3` and so on join the first one, one after the other,
    /// and nodeletd keeps all hosts at their role. Several masters need `--vip`. A later `up` adds the masters that are missing and removes
    /// none.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = number_of_masters)]
    masters: u8,
    /// How many workers the cluster has at least: hosts `worker-1`, `worker-2` and so on join the masters, and nodeletd keeps all hosts
    /// at their role. A later `up` adds the workers that are missing and removes none.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u8).range(..=i64::from(MOST_WORKERS)))]
    workers: u8,
    /// What is installed on a new host before the role; `bare` by default.
    #[arg(long, value_enum)]
    image: Option<Kind>,
    /// Make the new host a virtual machine: with a kernel of its own, and slower.
    #[arg(long, conflicts_with = "image")]
    vm: bool,
    /// Give the API server a virtual address. Like `--set`, the choice is kept until the lab is taken down.
    #[arg(long)]
    vip: bool,
    /// Undo an earlier `--vip`.
    #[arg(long, conflicts_with = "vip")]
    no_vip: bool,
    /// A value for the operator's configuration of all hosts; may be repeated. KUBE_SERVICE_STATE=true starts nodeletd, which keeps
    /// a host at its role.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = pair)]
    values: Vec<String>,
    /// Undo an earlier `--set` of this key; may be repeated.
    #[arg(long, value_name = "KEY")]
    unset: Vec<String>,
    /// Only run the set-up, and make no lab.
    #[arg(long)]
    only_setup: bool,
    /// Make a management plane with real servers and a host that is enrolled there, and no cluster. The lab is `plane` then, if `--lab` names no other.
    #[arg(long, conflicts_with_all = ["host", "masters", "workers", "image", "vm", "vip", "no_vip", "values", "unset", "only_setup", "program", "no_apply"])]
    plane: bool,
    /// Install this nodelet, and the nodeletd beside it, instead of building them from the checkout.
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Bring up the hosts and install the role, but do not apply it.
    #[arg(long)]
    no_apply: bool,
}

/// Checks the form of a pair before anything is started.
fn pair(text: &str) -> Result<String> {
    Config::pair(text)?;
    Ok(text.to_owned())
}

/// Refuses the names of workers, which `--workers` makes.
fn master_name(text: &str) -> Result<String> {
    match Role::of(text) {
        Role::Master => Ok(text.to_owned()),
        Role::Worker => {
            bail!(
                "it names a worker; `--host` names the first master, and `--workers N` makes workers"
            )
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    /// Debian with docker.
    Bare,
    /// Debian without a container runtime.
    Nodocker,
}

impl From<Kind> for Image {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Bare => Self::Bare,
            Kind::Nodocker => Self::NoDocker,
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let began = Instant::now();
    let cache = Cache::locate()?;
    let setup = Setup::run(&cache)?;
    if arguments.only_setup {
        println!(
            "The set-up is complete; it is kept in {}.",
            cache.root().display()
        );
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.plane {
        let name = match arguments.lab.as_str() {
            DEFAULT_LAB => PLANE_LAB,
            name => name,
        };
        plane::run(name, &setup, began)?;
        return Ok(ExitCode::SUCCESS);
    }
    let nodelet = match &arguments.program {
        Some(program) => program.clone(),
        None => nodelet::build(Profile::Dev)?,
    };
    let stood = Lab::exists(&cache, &arguments.lab);
    let (mut lab, host, chosen) = if stood {
        reopen(arguments, &setup)?
    } else {
        create(arguments, &setup)?
    };
    println!(
        "Lab `{}`: host {} {} at {} after {:.0} s.",
        lab.name(),
        host.name(),
        if stood { "exists already" } else { "runs" },
        host.address(),
        began.elapsed().as_secs_f64()
    );
    let masters = members::hosts(&mut lab, &host, Role::Master, arguments.masters)?;
    let workers = members::hosts(&mut lab, &host, Role::Worker, arguments.workers)?;
    // The first master alone has no quorum.
    masters.iter().try_for_each(Host::ensure_running)?;
    let others = [masters.as_slice(), workers.as_slice()].concat();
    let changes = arguments.chooses() || chosen != lab.choices(host.name());
    members::prepared_during(&others, &nodelet, || {
        let stays = stood && !changes && package::is_configured(&host)?;
        let mut first = First {
            lab: &mut lab,
            host: &host,
            chosen: &chosen,
        };
        first.bring_up(&nodelet, stays, arguments.no_apply)
    })?;
    let cluster = Cluster {
        lab: &lab,
        first: &host,
        chosen: &chosen,
        changes,
        toolbox: &setup.toolbox,
    };
    if arguments.no_apply {
        cluster.configure(&others)?;
        record(&mut lab, &others, &chosen)?;
        println!(
            "The role is installed; apply it with `cargo xtask shell --lab {} -- nodelet apply --role {ROLE}`.",
            lab.name()
        );
        return Ok(ExitCode::SUCCESS);
    }
    // An image for workloads: a lab reaches no registry.
    host.load_image(&setup.toolbox)?;
    cluster.bring_masters_up(&masters)?;
    cluster.bring_workers_up(&workers)?;
    record(&mut lab, &others, &chosen)?;
    let hosts: Vec<&Host> = std::iter::once(&host).chain(&others).collect();
    if !others.is_empty() {
        wait_until_ready(&host, &nodes(&chosen, &hosts))?;
    }
    explain(&lab, &hosts, began)?;
    if let Some(note) = even_number(masters.len() + 1) {
        println!("\nnote: {note}");
    }
    Ok(ExitCode::SUCCESS)
}

/// Records what the hosts have.
fn record(lab: &mut Lab, hosts: &[Host], chosen: &Choices) -> Result<()> {
    hosts
        .iter()
        .try_for_each(|host| lab.choose(host.name(), chosen.clone()))
}

/// The first master of a lab, while `up` brings it up.
struct First<'a> {
    lab: &'a mut Lab,
    host: &'a Host,
    chosen: &'a Choices,
}

impl First<'_> {
    /// Installs the role, writes the settings unless they stay, and applies the role.
    fn bring_up(&mut self, nodelet: &Path, stays: bool, no_apply: bool) -> Result<()> {
        let (host, chosen) = (self.host, self.chosen);
        wait_for_others(host)?;
        package::install(host, checkout(), nodelet)?;
        let config = config(chosen, self.lab, host, host);
        if !stays {
            validate(host, &config)?;
        }
        let daemon = Daemon::stop(host)?;
        if stays {
            println!(
                "Its configuration is unchanged; --vip, --no-vip, --set and --unset change it."
            );
        } else {
            package::configure(host, &config)?;
            self.lab.choose(host.name(), chosen.clone())?;
        }
        if no_apply {
            return daemon.restore();
        }
        let applied =
            apply(self.lab, host).and_then(|()| wait_until_ready(host, &nodes(chosen, &[host])));
        if applied.is_ok() && keeps(chosen) {
            daemon.keep()?;
        } else {
            daemon.restore()?;
        }
        applied
    }
}

/// The names of the hosts' nodes.
fn nodes(chosen: &Choices, hosts: &[&Host]) -> Vec<String> {
    hosts.iter().map(|host| node_name(chosen, host)).collect()
}

/// What a lab has, or gets, beside its first master.
#[derive(Clone, Copy, Debug, Default)]
struct Others {
    any: bool,
    masters: bool,
}

impl Arguments {
    /// What a new lab gets.
    fn others(&self) -> Others {
        Others {
            any: self.masters > 1 || self.workers > 0,
            masters: self.masters > 1,
        }
    }

    /// True if this call changes the configuration.
    fn chooses(&self) -> bool {
        self.vip || self.no_vip || !self.values.is_empty() || !self.unset.is_empty()
    }

    /// The choices of earlier calls, with the changes of this call. A lab with several hosts has one choice more: on its masters nodeletd
    /// signs the certificates of workers, gives nodes pod subnets, keeps the routes to them, and keeps the list of masters.
    fn choices(&self, mut earlier: Choices, others: Others) -> Result<Choices> {
        earlier.vip = (earlier.vip || self.vip) && !self.no_vip;
        if others.masters && !earlier.vip {
            bail!(
                "several masters need a virtual IP, so that the cluster is reached while one of them is down: `--vip`"
            );
        }
        for key in &self.unset {
            if earlier.settings.remove(key).is_none() {
                bail!(
                    "no earlier `up` of this lab set {key}, so --unset {key} has nothing to undo"
                );
            }
        }
        for text in &self.values {
            let (key, value) = Config::pair(text)?;
            earlier.settings.insert(key.to_owned(), value.to_owned());
        }
        if others.any {
            let state = earlier.settings.entry(STATE.to_owned());
            let state = state.or_insert_with(|| "true".to_owned());
            if state != "true" {
                bail!(
                    "{STATE} is {state}, so nodeletd would change nothing on the first master; other hosts need one that nodeletd keeps at \
                     its role: `--set {STATE}=true`"
                );
            }
        }
        Ok(earlier)
    }

    /// The image that the user asked for.
    fn image(&self) -> Option<Image> {
        let machine = self.vm.then_some(Image::Machine);
        machine.or_else(|| self.image.map(Image::from))
    }
}

fn create(arguments: &Arguments, setup: &Setup) -> Result<(Lab, Host, Choices)> {
    let chosen = arguments.choices(Choices::default(), arguments.others())?;
    let name = arguments.host.as_deref().unwrap_or(FIRST);
    let spec = HostSpec {
        name: name.to_owned(),
        image: arguments.image().unwrap_or(Image::Bare),
    };
    let mounts = mounts(spec.image, setup)?;
    let lab = Lab::create(&setup.cache, &arguments.lab, &[spec], &mounts)?;
    let host = lab.host(name)?;
    Ok((lab, host, chosen))
}

/// The first master of a lab that is there already: the one with which the cluster began, if it was not taken down.
fn first(lab: &Lab, named: Option<&str>) -> Result<Host> {
    if let Some(name) = named {
        return lab.host(name);
    }
    let masters = Role::Master.hosts(lab.hosts());
    let began = masters.iter().find(|host| !host.is_added());
    let first = began.or(masters.first()).cloned();
    first.context("the lab has no master")
}

/// The directories of the machine that the hosts of a lab mount.
fn mounts(image: Image, setup: &Setup) -> Result<Vec<Mount>> {
    let mut mounts = vec![package::payload_mount(&setup.payload)];
    if image == Image::Machine {
        mounts.push(machine_mount(&setup.machine()?));
    }
    Ok(mounts)
}

/// The lab that an earlier `up` made, finished or not. Fails if this `up` would make another one.
fn reopen(arguments: &Arguments, setup: &Setup) -> Result<(Lab, Host, Choices)> {
    let lab = Lab::open(&setup.cache, &arguments.lab)?;
    let host = first(&lab, arguments.host.as_deref())?;
    let again = format!("take it down with `cargo xtask down --lab {}`", lab.name());
    if lab.mounts() != mounts(host.image(), setup)? {
        bail!(
            "the lab `{}` was made with an older payload or virtual machine; {again}",
            lab.name()
        );
    }
    if let Some(image) = arguments.image()
        && host.image() != image
    {
        bail!(
            "the host `{}` was made from the image `{}`; {again}",
            host.name(),
            host.image().name()
        );
    }
    let others = Others {
        any: has_others(&lab, arguments.masters, arguments.workers),
        masters: has_several_masters(&lab, arguments.masters),
    };
    let chosen = arguments.choices(lab.choices(host.name()), others)?;
    host.ensure_running()?;
    Ok((lab, host, chosen))
}

/// Whether nodeletd is to keep the host at its role.
fn keeps(chosen: &Choices) -> bool {
    chosen
        .settings
        .get(STATE)
        .is_some_and(|state| state == "true")
}

fn apply(lab: &Lab, host: &Host) -> Result<()> {
    let status = host.exec_streaming(
        &["nodelet", "apply", "--role", ROLE],
        stdout().is_terminal(),
    )?;
    if !status.success() {
        bail!(
            "nodelet failed on {host}; the host is left as it is: inspect it with `cargo xtask shell --lab {lab} {host}`, \
             remove it with `cargo xtask down --lab {lab}`",
            host = host.name(),
            lab = lab.name(),
        );
    }
    Ok(())
}

/// Asks the API server, not nodelet, whether these nodes are Ready. An API server that has just got another address or certificate may
/// need a moment until it answers.
fn wait_until_ready(master: &Host, nodes: &[String]) -> Result<()> {
    let of_nodes: Vec<String> = nodes.iter().map(|node| format!("node/{node}")).collect();
    let words = ["wait", "--for=condition=Ready", "--timeout=20s"].into_iter();
    let words: Vec<&str> = words.chain(of_nodes.iter().map(String::as_str)).collect();
    let words = kubectl_words(ADMIN, &words);
    let mut last = String::new();
    command::poll(READY, || {
        let output = master.exec_within(&words, None, Duration::from_secs(30));
        last = match output {
            Ok(output) if output.status.success() => return Some(()),
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => format!("{error:#}"),
        };
        None
    })
    .with_context(|| {
        format!(
            "not Ready after {} s: {}: {last}",
            READY.as_secs(),
            nodes.join(", ")
        )
    })
}

fn explain(lab: &Lab, hosts: &[&Host], began: Instant) -> Result<()> {
    let [host, others @ ..] = hosts else {
        bail!("the lab has no host")
    };
    let nodes = host.text(&kubectl_words(ADMIN, &["get", "nodes", "-o", "wide"]))?;
    let are_ready = if others.is_empty() {
        "The node is Ready".to_owned()
    } else {
        format!("All {} nodes are Ready", hosts.len())
    };
    println!(
        "\n{are_ready}, {:.0} s after `up` began.\n{nodes}\n",
        began.elapsed().as_secs_f64()
    );
    let of = if lab.name() == "default" {
        String::new()
    } else {
        format!(" --lab {}", lab.name())
    };
    println!("  cargo xtask kubectl{of} -- get pods -A    ask the cluster");
    for host in hosts {
        println!(
            "  cargo xtask shell{of} {}             look around on the host",
            host.name()
        );
    }
    println!("  cargo xtask down{of}                       take it all down");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn line(words: &[&str]) -> Result<Line, clap::Error> {
        Line::try_parse_from(["up"].iter().chain(words))
    }

    fn choices(earlier: &Choices, words: &[&str]) -> Result<Choices> {
        let arguments = line(words).expect("words").arguments;
        arguments.choices(earlier.clone(), arguments.others())
    }

    #[test]
    fn earlier_choices_stay_until_they_are_taken_back() {
        let first = choices(&Choices::default(), &["--vip", "--set", "MAX_PODS=20"]);
        let first = first.expect("choices");
        let second = choices(&first, &["--set", "KUBE_SERVICE_STATE=true"]).expect("choices");
        assert!(second.vip && keeps(&second) && !keeps(&first));
        assert_eq!(second.settings["MAX_PODS"], "20");
        assert_eq!(choices(&second, &[]).expect("nothing new"), second);
        let third = choices(&second, &["--no-vip", "--unset", "MAX_PODS"]).expect("choices");
        assert!(!third.vip && keeps(&third) && third.settings.len() == 1);
        choices(&third, &["--unset", "MAX_PODS"]).expect_err("it is not set");
        let changed = choices(&third, &["--set", "KUBE_SERVICE_STATE=ignore"]).expect("choices");
        assert!(!keeps(&changed));
    }

    #[test]
    fn workers_need_a_master_that_nodeletd_keeps() {
        let with = choices(&Choices::default(), &["--workers", "2", "--vip"]).expect("choices");
        assert!(with.vip && keeps(&with));
        let before = choices(&Choices::default(), &["--set", "KUBE_SERVICE_STATE=ignore"]);
        let before = before.expect("a master alone may have it");
        let refused = choices(&before, &["--workers", "1"]).expect_err("no nodeletd would sign");
        assert!(refused.to_string().contains("KUBE_SERVICE_STATE=true"));
        let changed = ["--workers", "1", "--set", "KUBE_SERVICE_STATE=true"];
        assert!(keeps(&choices(&before, &changed).expect("both")));
        // A lab keeps its workers, also if a later call names none.
        let arguments = line(&["--unset", "KUBE_SERVICE_STATE"])
            .expect("words")
            .arguments;
        assert_eq!(arguments.workers, 0);
        let others = Others {
            any: true,
            masters: false,
        };
        assert!(keeps(&arguments.choices(with, others).expect("choices")));
    }

    #[test]
    fn several_masters_need_a_virtual_ip() {
        let refused = choices(&Choices::default(), &["--masters", "3"]).expect_err("no address");
        assert!(refused.to_string().contains("`--vip`"), "{refused}");
        let three = choices(&Choices::default(), &["--masters", "3", "--vip"]).expect("choices");
        assert!(three.vip && keeps(&three));
        choices(&three, &["--masters", "3", "--no-vip"]).expect_err("it is taken back");
        // A lab keeps its masters, also if a later call names none.
        let others = Others {
            any: true,
            masters: true,
        };
        let arguments = line(&["--no-vip"]).expect("words").arguments;
        assert_eq!(arguments.masters, 1);
        arguments
            .choices(three.clone(), others)
            .expect_err("they are there");
        let one = arguments.choices(three, Others::default());
        assert!(!one.expect("one master").vip);
    }

    #[test]
    fn the_numbers_of_hosts_and_the_masters_name_are_checked_first() {
        assert_eq!(
            line(&["--workers", "5"]).expect("five").arguments.workers,
            5
        );
        assert_eq!(line(&[]).expect("none").arguments.workers, 0);
        assert_eq!(
            line(&["--masters", "5"]).expect("five").arguments.masters,
            5
        );
        for bad in [
            ["--workers", "6"],
            ["--workers", "-1"],
            ["--workers", "many"],
            ["--masters", "2"],
            ["--masters", "7"],
        ] {
            line(&bad).expect_err(bad[1]);
        }
        let refused = line(&["--host", "worker-1"]).expect_err("it is no master");
        assert!(refused.to_string().contains("--workers N"), "{refused}");
        line(&["--host", "cp-1", "--workers", "1"]).expect("a master");
    }

    #[test]
    fn a_value_without_its_form_is_refused_with_the_arguments() {
        let refused = line(&["--set", "MAX_PODS"]).expect_err("no pair");
        assert!(refused.to_string().contains("KEY=VALUE"), "{refused}");
        let line = line(&["--set", "MAX_PODS=20"]).expect("a pair");
        assert_eq!(line.arguments.values, ["MAX_PODS=20"]);
    }
}
