//! `cargo xtask up`: from nothing to a Ready node.

use std::io::{IsTerminal, stdout};
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};
use std::{env, fs};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use lab::package::{self, ROLE};
use lab::{Cache, Config, Host, HostSpec, Image, Lab, Setup};

use crate::checkout;
use crate::enter::kubectl_words;

const READY: Duration = Duration::from_secs(300);

/// The options of `up`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The lab's name. Several may stand side by side.
    #[arg(long, default_value = "default")]
    lab: String,
    /// The host's name.
    #[arg(long, default_value = "master-1", value_name = "NAME")]
    host: String,
    /// What the host has before the role comes to it.
    #[arg(long, value_enum, default_value_t = Kind::Bare)]
    image: Kind,
    /// Give the API server a virtual address.
    #[arg(long)]
    vip: bool,
    /// A value for the operator's configuration; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    values: Vec<String>,
    /// Make what labs are made of, and no lab.
    #[arg(long)]
    only_setup: bool,
    /// Bring up the host and install the role, but do not apply it.
    #[arg(long)]
    no_apply: bool,
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
    if Lab::stands(&cache, &arguments.lab) && !arguments.only_setup {
        bail!(
            "the lab `{0}` stands already; take it down with `cargo xtask down --lab {0}` or use another `--lab`",
            arguments.lab
        );
    }
    let setup = Setup::run(&cache)?;
    if arguments.only_setup {
        println!(
            "The set-up is complete; it is kept in {}.",
            cache.root().display()
        );
        return Ok(ExitCode::SUCCESS);
    }
    let nodelet = build_nodelet()?;
    let spec = HostSpec {
        name: arguments.host.clone(),
        image: arguments.image.into(),
    };
    let lab = Lab::create(
        &cache,
        &arguments.lab,
        &[spec],
        &[package::payload_mount(&setup.payload)],
    )?;
    let host = lab.host(&arguments.host)?;
    println!(
        "Lab `{}`: host {} runs at {} after {:.0} s.",
        lab.name(),
        host.name(),
        host.address(),
        began.elapsed().as_secs_f64()
    );
    package::install(
        &host,
        checkout(),
        &nodelet,
        &config(arguments, &lab, &host)?,
    )?;
    if arguments.no_apply {
        println!(
            "The role is installed; apply it with `cargo xtask shell --lab {} -- nodelet apply --role {ROLE}`.",
            lab.name()
        );
        return Ok(ExitCode::SUCCESS);
    }
    apply(&lab, &host)?;
    wait_until_ready(&host)?;
    explain(&lab, &host, began)
}

fn config(arguments: &Arguments, lab: &Lab, host: &Host) -> Result<Config> {
    let mut config = Config::master(lab.name(), host.address(), arguments.vip.then(|| lab.vip()));
    arguments
        .values
        .iter()
        .try_for_each(|pair| config.set_pair(pair))?;
    Ok(config)
}

/// Builds nodelet in the user's own target directory, and tells where it is.
fn build_nodelet() -> Result<PathBuf> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let build = [
        "build",
        "--package",
        "nodelet",
        "--bin",
        "nodelet",
    ];
    let status = Command::new(&cargo)
        .args(build)
        .current_dir(checkout())
        .status()
        .context("cannot start cargo")?;
    if !status.success() {
        bail!("nodelet does not build");
    }
    let output = Command::new(&cargo)
        .args(["metadata", "--format-version", "1", "--no-deps"])
        .current_dir(checkout())
        .output()
        .context("cannot start cargo")?;
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).context("cargo's metadata is no JSON")?;
    let target = metadata["target_directory"]
        .as_str()
        .context("cargo's metadata names no target directory")?;
    let program = PathBuf::from(target).join("debug/nodelet");
    fs::metadata(&program).with_context(|| format!("cargo made no {}", program.display()))?;
    Ok(program)
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

/// Asks the API server, not nodelet, whether the node is Ready.
fn wait_until_ready(host: &Host) -> Result<()> {
    let timeout = format!("--timeout={}s", READY.as_secs());
    let words = kubectl_words(&["wait", "--for=condition=Ready", "node", "--all", &timeout]);
    let output = host.exec_within(&words, None, READY + Duration::from_secs(10))?;
    if !output.status.success() {
        bail!(
            "the node is not Ready: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
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
