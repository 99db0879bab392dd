//! `cargo xtask lab`: `fault` breaks a host on purpose, `shell` is `cargo xtask shell`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use lab::{Cache, Fault, Host, command};

use crate::labs::shell::{self, Shell};
use crate::labs::up::roles::Role;

/// How long to wait for the repair. A host that is not healthy by then is not being repaired.
const REPAIRED: Duration = Duration::from_secs(180);

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Lab {
    /// Break a host with one of the suites' faults, and report when it is healthy again; without a name, list the faults.
    Fault(Arguments),
    /// Open a shell on a lab host, or run a command there.
    Shell(Shell),
}

/// The options of `lab fault`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The fault's name.
    name: Option<String>,
    /// The lab's name.
    #[arg(long, default_value = "default")]
    lab: String,
    /// The host, any of the lab; the first master that runs, if not named.
    #[arg(long)]
    host: Option<String>,
    /// Break the host, and do not wait for its repair.
    #[arg(long)]
    no_wait: bool,
    /// Only remove what an earlier fault of this name left behind (a disk, a clock), for example after `--no-wait`.
    #[arg(long, requires = "name", conflicts_with = "no_wait")]
    clear: bool,
}

impl Lab {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        match self {
            Self::Fault(arguments) => arguments.run(),
            Self::Shell(arguments) => arguments.run(),
        }
    }
}

impl Arguments {
    fn run(&self) -> Result<ExitCode> {
        let Some(name) = &self.name else {
            for fault in Fault::all() {
                println!("{:<24} {}", fault.name, fault.about);
            }
            return Ok(ExitCode::SUCCESS);
        };
        let fault = Fault::named(name)?;
        let host = shell::host(&self.lab, self.host.as_deref())?;
        let vip = lab::Lab::open(&Cache::locate()?, &self.lab)?
            .vip()
            .to_string();
        if self.clear {
            fault.clear(&host, &vip)?;
            return Ok(ExitCode::SUCCESS);
        }
        let master = shell::host(&self.lab, None)?;
        fault.prepare_cluster(&master, &host)?;
        fault.prepare(&host, &vip)?;
        if !fault.is_whole(&host, &vip)? {
            bail!("the host is not healthy before the fault; `nodelet check` on it says why");
        }
        if !self.no_wait {
            refuse_unless_kept(&host)?;
        }
        let is_worker = Role::of(host.name()) == Role::Worker;
        let master = if is_worker { &master } else { &host };
        fault.cause_with(master, &host, &vip)?;
        println!("{}: {}", fault.name, fault.about);
        if is_worker && !fault.operator_on_worker.is_empty() {
            println!(
                "nothing repairs a worker after it; on the host, `{}` does",
                fault.operator_on_worker
            );
            return Ok(ExitCode::SUCCESS);
        }
        if self.no_wait {
            return Ok(ExitCode::SUCCESS);
        }
        let began = Instant::now();
        let repaired = command::poll(REPAIRED, || {
            fault.is_whole(&host, &vip).unwrap_or(false).then_some(())
        });
        let took = began.elapsed().as_secs_f64();
        match repaired {
            Some(()) => {
                println!("healthy again after {took:.1} s");
                fault.clear(&host, &vip)?;
            }
            None => bail!(
                "not healthy again after {took:.0} s; does nodeletd run? (`systemctl start pf9-nodeletd` on the host)"
            ),
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Refuses a host that nodeletd would not repair.
fn refuse_unless_kept(host: &Host) -> Result<()> {
    const NEXT: &str = "`cargo xtask up --set KUBE_SERVICE_STATE=true` lets nodeletd keep the hosts at their role; `--no-wait` breaks this one without a repair";
    let output = host.exec(&["nodelet", "status", "--json"])?;
    let view: serde_json::Value = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("nodeletd does not answer on the host: {NEXT}"))?;
    if view["desired"] != "true" {
        bail!("nodeletd only observes this host, because KUBE_SERVICE_STATE is not true: {NEXT}");
    }
    Ok(())
}
