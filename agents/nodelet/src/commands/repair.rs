//! `nodelet repair`: what nodeletd does about a host that is not as it should be, for people.

use anyhow::{Result, bail};
use engine::exec::{Recording, Runner, Selection, failed_phases, restart_set};
use engine::host::live::LiveHost;

use super::run::{exit, unchanged};
use super::say;
use crate::cli::RepairArgs;
use crate::exit::Exit;
use crate::lock::Lock;
use crate::{inputs, output, signals};

pub(crate) async fn repair(args: &RepairArgs) -> Result<Exit> {
    if args.role.facts.is_some() {
        bail!("repair a host that a file describes: --facts is for `nodelet plan`");
    }
    if !nix::unistd::Uid::effective().is_root() {
        bail!("repair this host: only root can; try again with sudo");
    }
    let _lock = Lock::take("repair")?;
    let host = LiveHost::new();
    let inputs = inputs::read(&args.role, &host).await?;
    let named = Selection {
        only: args.phases.clone(),
        ..Selection::default()
    };
    named.validate(&inputs.plan)?;
    unchanged(&inputs)?;
    let failed = if args.phases.is_empty() {
        let unheard = Recording::default();
        let runner = Runner::new(
            &inputs.plan,
            &host,
            &inputs.facts,
            &inputs.secrets,
            &unheard,
        );
        failed_phases(&runner.check().await)
    } else {
        let phases = named.phases(&inputs.plan).into_iter();
        phases.map(|phase| phase.name.clone()).collect()
    };
    let set = restart_set(&inputs.plan, &failed);
    if set.is_empty() {
        if !args.role.json {
            say("nothing to repair: every check holds or cannot be made\n");
        }
        return Ok(Exit::Ok);
    }
    let sink = output::sink(args.role.json);
    let mut runner = Runner::new(
        &inputs.plan,
        &host,
        &inputs.facts,
        &inputs.secrets,
        sink.as_ref(),
    );
    runner.cancel = signals::cancel_on_signal()?;
    Ok(exit(runner.restart(&set).await?))
}
