//! nodelet and nodeletd on a host while `up` changes it.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use lab::package::ROLE;
use lab::{Config, Host, command};

/// How long to wait for an apply that runs on the host already.
const OTHERS: Duration = Duration::from_secs(600);
/// nodeletd's unit, and the time limit for its start or stop: before it stops, a change reaches its next safe point.
const NODELETD: &str = "pf9-nodeletd.service";
const DAEMON: Duration = Duration::from_secs(150);
/// How long nodeletd may take to read its settings.
const HELD: Duration = Duration::from_secs(60);
/// The file with the settings while nodelet validates them.
const CANDIDATE: &str = "/run/nodelet-lab-settings.yaml";

/// Waits for a nodelet that runs on the host: an interrupted `up` leaves the one it started.
pub(super) fn wait_for_others(host: &Host) -> Result<()> {
    let works = || {
        host.exec(&["pgrep", "-x", "nodelet"])
            .is_ok_and(|found| found.status.success())
    };
    if !works() {
        return Ok(());
    }
    println!(
        "{}: nodelet runs on the host already; waiting for it to end.",
        host.name()
    );
    command::poll(OTHERS, || (!works()).then_some(())).with_context(|| {
        format!(
            "nodelet still runs on the host `{}` after {} s",
            host.name(),
            OTHERS.as_secs()
        )
    })
}

/// Lets nodelet validate settings before they are written: it reads them, plans with them, and changes nothing.
pub(super) fn validate(host: &Host, config: &Config) -> Result<()> {
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

/// nodeletd on a host. It is stopped while `up` changes the host, and uses the new program when it is started again.
pub(super) struct Daemon<'a> {
    host: &'a Host,
    ran: bool,
}

impl<'a> Daemon<'a> {
    pub(super) fn stop(host: &'a Host) -> Result<Self> {
        let active = host.exec(&["systemctl", "is-active", "--quiet", NODELETD])?;
        let daemon = Self {
            host,
            ran: active.status.success(),
        };
        if daemon.ran {
            println!(
                "{}: nodeletd runs on the host; it is stopped until this is done.",
                host.name()
            );
            daemon.systemctl(&["stop"])?;
        }
        Ok(daemon)
    }

    /// Starts nodeletd again if it ran before.
    pub(super) fn restore(&self) -> Result<()> {
        if self.ran {
            self.systemctl(&["start"])?;
        }
        Ok(())
    }

    /// Starts it, now and after each boot, and waits until it holds the host at its role.
    pub(super) fn keep(&self) -> Result<()> {
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
        println!("{}: nodeletd keeps the host from now on.", self.host.name());
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
