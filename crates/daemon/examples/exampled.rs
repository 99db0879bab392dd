//! A small daemon to begin an agent with: it records once a minute how full the disk of this host is. CONTRIBUTING.md explains it.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use daemon::child::Child;
use daemon::health::{Beat, Health};
use daemon::{config, files, log, shutdown, systemd};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

/// The daemon's own configuration. The file is optional.
const CONFIGURATION: &str = "/etc/pf9/exampled.yaml";
/// What the daemon writes. systemd makes the directory (`RuntimeDirectory`).
const RECORD: &str = "/run/exampled/disk";
/// Pause between two rounds.
const INTERVAL: Duration = Duration::from_secs(60);

/// What the configuration may contain.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Configuration {
    log: log::Log,
}

fn main() -> ExitCode {
    let configured = config::read::<Configuration>(Path::new(CONFIGURATION));
    let (configuration, problem) = match configured {
        Ok(configuration) => (configuration, None),
        Err(error) => (Configuration::default(), Some(error)),
    };
    log::start("EXAMPLED_LOG", &configuration.log);
    if let Some(error) = problem {
        tracing::error!("could not read its configuration, so the defaults are used: {error:#}");
    }
    // One thread is enough: the daemon mostly waits.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(run()),
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("could not {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    let signals = shutdown::listen()?;
    let health = Health::default();
    let beat = health.part("the rounds", INTERVAL * 3);
    systemd::feed_watchdog(signals.shutdown.clone(), health)?;
    systemd::ready();
    rounds(&signals.shutdown, &beat).await;
    beat.finish();
    Ok(())
}

/// Makes rounds until the daemon is asked to end.
async fn rounds(shutdown: &CancellationToken, beat: &Beat) {
    while !shutdown.is_cancelled() {
        // A round and the pause after it take less than this.
        beat.within(INTERVAL * 3);
        if let Err(error) = round(shutdown).await {
            tracing::warn!("could not {error:#}");
        }
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

async fn round(shutdown: &CancellationToken) -> Result<()> {
    let child = Child {
        argv: ["df", "--output=pcent", "/"].map(str::to_owned).to_vec(),
        limit: Duration::from_secs(30),
        grace: Duration::from_secs(5),
        cancel: shutdown.clone(),
    };
    let mut last = String::new();
    let ended = child.run(|line| last = line).await?;
    if ended.code != Some(0) {
        bail!("ask how full the disk is: {}", ended.errors.trim());
    }
    files::replace(Path::new(RECORD), last.as_bytes(), 0o644)
}
