//! `cargo xtask up`: from nothing to a Ready node. On an existing lab it applies what changed in the checkout.

use std::io::{IsTerminal, stdout};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use lab::package::{self, ROLE};
use lab::topology::Choices;
use lab::{Cache, Config, Host, HostSpec, Image, Lab, Mount, Setup, command, machine_mount};

use crate::labs::shell::kubectl_words;
use crate::nodelet::{self, Profile};
use crate::repository::checkout;

const READY: Duration = Duration::from_secs(300);
/// How long to wait for an apply that runs on the host already.
const OTHERS: Duration = Duration::from_secs(600);
/// nodeletd's unit, and the time limit for its start or stop: before it stops, a change reaches its next safe point.
const NODELETD: &str = "pf9-nodeletd.service";
const DAEMON: Duration = Duration::from_secs(150);
/// How long nodeletd may take to read its settings.
const HELD: Duration = Duration::from_secs(60);
/// The file with the settings while nodelet validates them.
const CANDIDATE: &str = "/run/nodelet-lab-settings.yaml";

/// The options of `up`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The lab's name. Several labs can exist at the same time.
    #[arg(long, default_value = "default")]
    lab: String,
    /// The host's name.
    #[arg(long, default_value = "master-1", value_name = "NAME")]
    host: String,
    /// What is installed on a new host before the role; `bare` by default.
    #[arg(long, value_enum)]
    image: Option<Kind>,
    /// Make the new host a virtual machine: with a kernel of its own, and slower.
    #[arg(long, conflicts_with = "image")]
    vm: bool,
    /// Give the API server a virtual address. Like `--set`, the choice is kept for this host until the lab is taken down.
    #[arg(long)]
    vip: bool,
    /// Undo an earlier `--vip`.
    #[arg(long, conflicts_with = "vip")]
    no_vip: bool,
    /// A value for the operator's configuration; may be repeated. KUBE_SERVICE_STATE=true starts nodeletd, which keeps the host at
    /// its role.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = pair)]
    values: Vec<String>,
    /// Undo an earlier `--set` of this key; may be repeated.
    #[arg(long, value_name = "KEY")]
    unset: Vec<String>,
    /// Only run the set-up, and make no lab.
    #[arg(long)]
    only_setup: bool,
    /// Install this nodelet, and the nodeletd beside it, instead of building them from the checkout.
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Bring up the host and install the role, but do not apply it.
    #[arg(long)]
    no_apply: bool,
}

/// Checks the form of a pair before anything is started.
fn pair(text: &str) -> Result<String> {
    Config::pair(text)?;
    Ok(text.to_owned())
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
    let nodelet = match &arguments.program {
        Some(program) => program.clone(),
        None => nodelet::build(Profile::Dev)?,
    };
    let stood = Lab::exists(&cache, &arguments.lab);
    let (mut lab, host) = if stood {
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
    wait_for_others(&host)?;
    package::install(&host, checkout(), &nodelet)?;
    let chosen = arguments.choices(lab.choices(host.name()))?;
    let stays = stood && !arguments.chooses() && package::is_configured(&host)?;
    let config = config(&chosen, &lab, &host);
    if !stays {
        validate(&host, &config)?;
    }
    let daemon = Daemon::stop(&host)?;
    if stays {
        println!("Its configuration is unchanged; --vip, --no-vip, --set and --unset change it.");
    } else {
        package::configure(&host, &config)?;
        lab.choose(host.name(), chosen.clone())?;
    }
    if arguments.no_apply {
        daemon.restore()?;
        println!(
            "The role is installed; apply it with `cargo xtask shell --lab {} -- nodelet apply --role {ROLE}`.",
            lab.name()
        );
        return Ok(ExitCode::SUCCESS);
    }
    let applied = apply(&lab, &host).and_then(|()| wait_until_ready(&host));
    if applied.is_ok() && keeps(&chosen) {
        daemon.keep()?;
    } else {
        daemon.restore()?;
    }
    applied?;
    // An image for workloads: a lab reaches no registry.
    host.load_image(&setup.toolbox)?;
    explain(&lab, &host, began)
}

impl Arguments {
    /// True if this call changes the configuration.
    fn chooses(&self) -> bool {
        self.vip || self.no_vip || !self.values.is_empty() || !self.unset.is_empty()
    }

    /// The choices of earlier calls, with the changes of this call.
    fn choices(&self, mut earlier: Choices) -> Result<Choices> {
        earlier.vip = (earlier.vip || self.vip) && !self.no_vip;
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
        Ok(earlier)
    }

    /// The image that the user asked for.
    fn image(&self) -> Option<Image> {
        let machine = self.vm.then_some(Image::Machine);
        machine.or_else(|| self.image.map(Image::from))
    }
}

fn create(arguments: &Arguments, setup: &Setup) -> Result<(Lab, Host)> {
    let spec = HostSpec {
        name: arguments.host.clone(),
        image: arguments.image().unwrap_or(Image::Bare),
    };
    let mounts = mounts(spec.image, setup)?;
    let lab = Lab::create(&setup.cache, &arguments.lab, &[spec], &mounts)?;
    let host = lab.host(&arguments.host)?;
    Ok((lab, host))
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
fn reopen(arguments: &Arguments, setup: &Setup) -> Result<(Lab, Host)> {
    let lab = Lab::open(&setup.cache, &arguments.lab)?;
    let host = lab.host(&arguments.host)?;
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
    host.ensure_running()?;
    Ok((lab, host))
}

/// Waits for a nodelet that runs on the host: an interrupted `up` leaves the one it started.
fn wait_for_others(host: &Host) -> Result<()> {
    let works = || {
        host.exec(&["pgrep", "-x", "nodelet"])
            .is_ok_and(|found| found.status.success())
    };
    if !works() {
        return Ok(());
    }
    println!("nodelet runs on the host already; waiting for it to end.");
    command::poll(OTHERS, || (!works()).then_some(())).with_context(|| {
        format!(
            "nodelet still runs on the host `{}` after {} s",
            host.name(),
            OTHERS.as_secs()
        )
    })
}

fn config(chosen: &Choices, lab: &Lab, host: &Host) -> Config {
    let mut config = Config::master(lab.name(), host.address(), chosen.vip.then(|| lab.vip()));
    for (key, value) in &chosen.settings {
        config.set(key, value);
    }
    config
}

/// Lets nodelet validate settings before they are written: it reads them, plans with them, and changes nothing.
fn validate(host: &Host, config: &Config) -> Result<()> {
    host.put(config.render().as_bytes(), CANDIDATE, 0o600)?;
    let output = host.exec(&[
        "nodelet", "plan", "--full", "--role", ROLE, "--config", CANDIDATE,
    ]);
    host.text(&["rm", CANDIDATE])?;
    let output = output?;
    if output.status.success() {
        return Ok(());
    }
    bail!(
        "nodelet refuses these settings, so they were not written:\n{}",
        String::from_utf8_lossy(&output.stderr).trim()
    )
}

/// Whether nodeletd is to keep the host at its role.
fn keeps(chosen: &Choices) -> bool {
    chosen
        .settings
        .get("KUBE_SERVICE_STATE")
        .is_some_and(|state| state == "true")
}

/// nodeletd on a host. It is stopped while `up` changes the host, and uses the new program when it is started again.
struct Daemon<'a> {
    host: &'a Host,
    ran: bool,
}

impl<'a> Daemon<'a> {
    fn stop(host: &'a Host) -> Result<Self> {
        let active = host.exec(&["systemctl", "is-active", "--quiet", NODELETD])?;
        let daemon = Self {
            host,
            ran: active.status.success(),
        };
        if daemon.ran {
            println!("nodeletd runs on the host; it is stopped until this is done.");
            daemon.systemctl(&["stop"])?;
        }
        Ok(daemon)
    }

    /// Starts nodeletd again if it ran before.
    fn restore(&self) -> Result<()> {
        if self.ran {
            self.systemctl(&["start"])?;
        }
        Ok(())
    }

    /// Starts it, now and after each boot, and waits until it holds the host at its role.
    fn keep(&self) -> Result<()> {
        self.systemctl(&["enable", "--now"])?;
        let mut last = String::new();
        command::poll(HELD, || {
            let output = self.host.exec(&["nodelet", "status", "--json"]).ok()?;
            let view: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
            last = format!("desired {}, doing {}", view["desired"], view["doing"]);
            (view["desired"] == "true").then_some(())
        })
        .with_context(|| {
            format!(
                "nodeletd does not hold the host at its role after {} s: {last}",
                HELD.as_secs()
            )
        })?;
        println!("nodeletd keeps the host from now on.");
        Ok(())
    }

    fn systemctl(&self, verb: &[&str]) -> Result<()> {
        let words: Vec<&str> = ["systemctl"]
            .iter()
            .chain(verb)
            .copied()
            .chain([NODELETD])
            .collect();
        let output = self.host.exec_within(&words, None, DAEMON)?;
        command::check(&output, || {
            format!("`{}` failed on {}", words.join(" "), self.host.name())
        })
    }
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

/// Asks the API server, not nodelet, whether the node is Ready. An API server that has just got another address or certificate may
/// need a moment until it answers.
fn wait_until_ready(host: &Host) -> Result<()> {
    let words = kubectl_words(&[
        "wait",
        "--for=condition=Ready",
        "node",
        "--all",
        "--timeout=20s",
    ]);
    let mut last = String::new();
    command::poll(READY, || {
        let output = host.exec_within(&words, None, Duration::from_secs(30));
        last = match output {
            Ok(output) if output.status.success() => return Some(()),
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => format!("{error:#}"),
        };
        None
    })
    .with_context(|| format!("the node is not Ready after {} s: {last}", READY.as_secs()))
}

fn explain(lab: &Lab, host: &Host, began: Instant) -> Result<ExitCode> {
    let nodes = host.text(&kubectl_words(&["get", "nodes", "-o", "wide"]))?;
    println!(
        "\nThe node is Ready, {:.0} s after `up` began.\n{nodes}\n",
        began.elapsed().as_secs_f64()
    );
    let of = if lab.name() == "default" {
        String::new()
    } else {
        format!(" --lab {}", lab.name())
    };
    println!("  cargo xtask kubectl{of} -- get pods -A    ask the cluster");
    println!(
        "  cargo xtask shell{of} {}             look around on the host",
        host.name()
    );
    println!("  cargo xtask down{of}                       take it all down");
    Ok(ExitCode::SUCCESS)
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

    fn choices(earlier: &Choices, words: &[&str]) -> Result<Choices> {
        let line = Line::try_parse_from(["up"].iter().chain(words)).expect("words");
        line.arguments.choices(earlier.clone())
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
    fn a_value_without_its_form_is_refused_with_the_arguments() {
        let refused = Line::try_parse_from(["up", "--set", "MAX_PODS"]).expect_err("no pair");
        assert!(refused.to_string().contains("KEY=VALUE"), "{refused}");
        let line = Line::try_parse_from(["up", "--set", "MAX_PODS=20"]).expect("a pair");
        assert_eq!(line.arguments.values, ["MAX_PODS=20"]);
    }
}
