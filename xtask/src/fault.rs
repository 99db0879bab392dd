//! `cargo xtask lab`: `fault` breaks a host on purpose, `shell` is `cargo xtask shell`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use lab::{Cache, Fault, Host, command};

use crate::enter::{self, Shell};

/// A fault that nobody mends takes longer.
const WHOLE: Duration = Duration::from_secs(180);

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Lab {
    /// Break a host in one of the ways that the suites know, and tell when it is whole again; without a name, list them.
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
    /// The host; the lab's first one if not named.
    #[arg(long)]
    host: Option<String>,
    /// Break it, and do not wait.
    #[arg(long)]
    no_wait: bool,
    /// Only take away what an earlier fault of this name brought and nobody waited for: a disk, a clock.
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
        let host = enter::host(&self.lab, self.host.as_deref())?;
        let vip = lab::Lab::open(&Cache::locate()?, &self.lab)?
            .vip()
            .to_string();
        if self.clear {
            fault.clear(&host, &vip)?;
            return Ok(ExitCode::SUCCESS);
        }
        fault.prepare(&host, &vip)?;
        if !fault.is_whole(&host, &vip)? {
            bail!("the host is not whole as it is; `nodelet check` there says what is wrong");
        }
        if !self.no_wait {
            is_held(&host)?;
        }
        fault.strike(&host, &vip)?;
        println!("{}: {}", fault.name, fault.about);
        if self.no_wait {
            return Ok(ExitCode::SUCCESS);
        }
        let began = Instant::now();
        let whole = command::poll(WHOLE, || {
            fault.is_whole(&host, &vip).unwrap_or(false).then_some(())
        });
        let took = began.elapsed().as_secs_f64();
        match whole {
            Some(()) => {
                println!("whole again after {took:.1} s");
                fault.clear(&host, &vip)?;
            }
            None => bail!(
                "not whole again after {took:.0} s; does nodeletd run? (`systemctl start pf9-nodeletd` on the host)"
            ),
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Refuses where nobody would mend what is broken.
fn is_held(host: &Host) -> Result<()> {
    const NEXT: &str = "`cargo xtask up --set KUBE_SERVICE_STATE=true` makes a master that nodeletd keeps; `--no-wait` breaks this one and leaves it so";
    let output = host.exec(&["nodelet", "status", "--json"])?;
    let view: serde_json::Value = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("nodeletd does not answer there: {NEXT}"))?;
    if view["desired"] != "true" {
        bail!("nodeletd only looks on there, as KUBE_SERVICE_STATE says: {NEXT}");
    }
    Ok(())
}
