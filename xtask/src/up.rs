//! `cargo xtask up`: from nothing to a Ready node; on a lab that stands, what is new in the checkout.

use std::io::{IsTerminal, stdout};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use lab::package::{self, ROLE};
use lab::{Cache, Config, Host, HostSpec, Image, Lab, Mount, Setup, command, machine_mount};

use crate::enter::kubectl_words;
use crate::nodelet::Profile;
use crate::{checkout, nodelet};

const READY: Duration = Duration::from_secs(300);
/// How long an apply that somebody else started may take.
const OTHERS: Duration = Duration::from_secs(600);

/// The options of `up`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The lab's name. Several may stand side by side.
    #[arg(long, default_value = "default")]
    lab: String,
    /// The host's name.
    #[arg(long, default_value = "master-1", value_name = "NAME")]
    host: String,
    /// What a new host has before the role comes to it; `bare` if not named.
    #[arg(long, value_enum)]
    image: Option<Kind>,
    /// Make the new host a virtual machine: with a kernel of its own, and slower.
    #[arg(long, conflicts_with = "image")]
    vm: bool,
    /// Give the API server a virtual address.
    #[arg(long)]
    vip: bool,
    /// A value for the operator's configuration; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = pair)]
    values: Vec<String>,
    /// Make what labs are made of, and no lab.
    #[arg(long)]
    only_setup: bool,
    /// Bring up the host and install the role, but do not apply it.
    #[arg(long)]
    no_apply: bool,
}

/// A pair, looked at before anything is started.
fn pair(text: &str) -> Result<String> {
    Config::default().set_pair(text)?;
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
    let nodelet = nodelet::build(Profile::Dev)?;
    let stood = Lab::stands(&cache, &arguments.lab);
    let (lab, host) = if stood {
        reopen(arguments, &setup)?
    } else {
        create(arguments, &setup)?
    };
    println!(
        "Lab `{}`: host {} {} at {} after {:.0} s.",
        lab.name(),
        host.name(),
        if stood { "stands already" } else { "runs" },
        host.address(),
        began.elapsed().as_secs_f64()
    );
    wait_for_others(&host)?;
    package::install(&host, checkout(), &nodelet)?;
    if stood && !arguments.chooses() && package::is_configured(&host)? {
        println!("Its configuration stays; --vip and --set make a new one.");
    } else {
        package::configure(&host, &config(arguments, &lab, &host)?)?;
    }
    if arguments.no_apply {
        println!(
            "The role is installed; apply it with `cargo xtask shell --lab {} -- nodelet apply --role {ROLE}`.",
            lab.name()
        );
        return Ok(ExitCode::SUCCESS);
    }
    apply(&lab, &host)?;
    wait_until_ready(&host)?;
    // Something to run: a lab reaches no registry.
    host.load_image(&setup.toolbox)?;
    explain(&lab, &host, began)
}

impl Arguments {
    /// True if the user asked for a configuration of their own.
    fn chooses(&self) -> bool {
        self.vip || !self.values.is_empty()
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

/// What the hosts of a lab are to see of the machine.
fn mounts(image: Image, setup: &Setup) -> Result<Vec<Mount>> {
    let mut mounts = vec![package::payload_mount(&setup.payload)];
    if image == Image::Machine {
        mounts.push(machine_mount(&setup.machine()?));
    }
    Ok(mounts)
}

/// The lab as an earlier `up` left it, finished or not, if it still is what this one would make.
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

/// Waits for a nodelet that is at work on the host: an `up` that was cut off leaves the one it started.
fn wait_for_others(host: &Host) -> Result<()> {
    let works = || {
        host.exec(&["pgrep", "-x", "nodelet"])
            .is_ok_and(|found| found.status.success())
    };
    if !works() {
        return Ok(());
    }
    println!("A nodelet is at work on the host; waiting for it to end.");
    command::poll(OTHERS, || (!works()).then_some(())).with_context(|| {
        format!(
            "nodelet is still at work on the host `{}` after {} s",
            host.name(),
            OTHERS.as_secs()
        )
    })
}

fn config(arguments: &Arguments, lab: &Lab, host: &Host) -> Result<Config> {
    let mut config = Config::master(lab.name(), host.address(), arguments.vip.then(|| lab.vip()));
    arguments
        .values
        .iter()
        .try_for_each(|pair| config.set_pair(pair))?;
    Ok(config)
}

fn apply(lab: &Lab, host: &Host) -> Result<()> {
    let status = host.exec_streaming(
        &["nodelet", "apply", "--role", ROLE],
        stdout().is_terminal(),
    )?;
    if !status.success() {
        bail!(
            "nodelet failed on {host}; the host stands as it is: look with `cargo xtask shell --lab {lab} {host}`, \
             remove it with `cargo xtask down --lab {lab}`",
            host = host.name(),
            lab = lab.name(),
        );
    }
    Ok(())
}

/// Asks the API server, not nodelet, whether the node is Ready. One that has just got another address or certificate may take a
/// moment until it answers.
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

    #[test]
    fn a_value_without_its_form_is_refused_with_the_arguments() {
        let refused = Line::try_parse_from(["up", "--set", "MAX_PODS"]).expect_err("no pair");
        assert!(refused.to_string().contains("KEY=VALUE"), "{refused}");
        let line = Line::try_parse_from(["up", "--set", "MAX_PODS=20"]).expect("a pair");
        assert_eq!(line.arguments.values, ["MAX_PODS=20"]);
    }
}
