//! `nodelet masters`: writes the list of masters as etcd has it, and applies the phases that read it. nodeletd runs it. `nodelet apply` does the
//! same on a master that joins.
//!
//! Both happen under one lock, so that no repair finds the new list and the old settings of keepalived: a repair would restart keepalived, and
//! an apply only reloads it.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context as _, Result};
use engine::exec::Selection;
use engine::host::Files as _;
use engine::host::live::LiveHost;
use engine::kubernetes::masters::{
    MasterEntry, even_voters, is_outdated, members, settle, write_pending,
};
use engine::plan::Plan;
use tokio_util::sync::CancellationToken;

use crate::cli::{MastersArgs, RoleArgs};
use crate::commands::run::{exit, only_root, prepare_locked};
use crate::inputs::Inputs;
use crate::output;
use crate::output::exit::Exit;
use crate::output::{error_report, say};
use crate::process::lock::Lock;
use crate::process::signals;

/// The phases whose steps depend on the other masters, and a file that the last one has made once it is set up.
const PHASES: [&str; 2] = ["vrrp-firewall", "keepalived"];
const SET_UP: &str = "/etc/keepalived/keepalived.conf";

/// What this command does, for error messages.
const VERB: &str = "update the list of masters";

pub(crate) async fn masters(args: &MastersArgs) -> Result<Exit> {
    only_root(VERB)?;
    let host = LiveHost::new();
    let lock = Lock::take("masters")?;
    let found = members(&host, args.address).await.context(VERB)?;
    // A damaged list is replaced.
    if !is_outdated(&host, &found).await {
        return Ok(Exit::Ok);
    }
    write(&args.role, &found, &host).await?;
    // Phases that are not set up read the list when they are.
    let set_up = host.entry(Path::new(SET_UP)).await.context(VERB)?;
    let exit = match set_up {
        Some(_) => {
            let cancel = signals::cancel_on_signal()?;
            apply(&args.role, &host, &lock, &cancel).await?
        }
        None => Exit::Ok,
    };
    // Otherwise the mark stays, and the next call applies the phases again.
    if exit == Exit::Ok {
        settle(&host).await.context(VERB)?;
    }
    Ok(exit)
}

/// The address of a master beside others whose keepalived is not set up; `None` if its plan has no phase that reads the list. The plan knows the
/// masters of the join file only, or those of an interrupted join, and others may have joined since. keepalived and the packet filter would not
/// believe those, and two masters would hold the virtual IP.
pub(crate) async fn joining_address(inputs: &Inputs, host: &LiveHost) -> Result<Option<IpAddr>> {
    let Some(address) = inputs.facts.address else {
        return Ok(None);
    };
    let mut masters = inputs.facts.masters.iter();
    let is_alone = masters.all(|one| one.address == address);
    if is_alone || planned(&inputs.plan).is_empty() {
        return Ok(None);
    }
    let set_up = host.entry(Path::new(SET_UP)).await.context(VERB)?;
    Ok(set_up.is_none().then_some(address))
}

/// All phases of the plan but those that read the list.
pub(crate) fn phases_without_list(plan: &Plan) -> Vec<String> {
    let names = plan.phases.iter().map(|phase| phase.name.as_str());
    let others = names.filter(|name| !PHASES.contains(name));
    others.map(str::to_owned).collect()
}

/// Writes the list as this host's own member of etcd has it, and applies the phases that read it with a new plan.
pub(crate) async fn apply_with_list(
    role: &RoleArgs,
    address: IpAddr,
    host: &LiveHost,
    lock: &Lock,
    cancel: &CancellationToken,
) -> Result<Exit> {
    let found = members(host, address).await.context(VERB)?;
    write(role, &found, host).await?;
    let exit = apply(role, host, lock, cancel).await?;
    if exit == Exit::Ok {
        settle(host).await.context(VERB)?;
    }
    Ok(exit)
}

/// Writes the list, and tells it.
async fn write(role: &RoleArgs, found: &[MasterEntry], host: &LiveHost) -> Result<()> {
    write_pending(host, found).await.context(VERB)?;
    if !role.json {
        say(&format!("the masters are {}\n", shown(found)));
    }
    if let Some(note) = even_voters(found) {
        error_report::say(&format!("nodelet: note: {note}"));
    }
    Ok(())
}

/// Applies the phases that read the list.
async fn apply(
    role: &RoleArgs,
    host: &LiveHost,
    lock: &Lock,
    cancel: &CancellationToken,
) -> Result<Exit> {
    let all = Selection::default();
    let inputs = prepare_locked("apply", role, &all, host, lock).await?;
    let only = planned(&inputs.plan);
    if only.is_empty() {
        return Ok(Exit::Ok);
    }
    let sink = output::sink(role.json);
    let mut runner = inputs.runner(host, sink.as_ref());
    runner.selection.only = only;
    runner.cancel = cancel.clone();
    Ok(exit(runner.apply().await?))
}

/// The names of those of [`PHASES`] that this host has.
fn planned(plan: &Plan) -> Vec<String> {
    let has = |name: &&str| plan.phase(name).is_some_and(|it| it.skipped.is_none());
    PHASES.into_iter().filter(has).map(str::to_owned).collect()
}

/// The masters by name, each with its address.
fn shown(masters: &[MasterEntry]) -> String {
    let shown = masters.iter().map(|master| {
        let learner = if master.voter { "" } else { ", learner" };
        format!("{} ({}{learner})", master.name, master.address)
    });
    shown.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::plan::PlannedPhase;

    /// The packet filter believes a new master before keepalived speaks to it. With an IPv6 virtual IP there is only keepalived.
    #[test]
    fn the_phases_that_read_the_list_are_applied_in_order() {
        let phase = |name: &str, skipped: bool| PlannedPhase {
            skipped: skipped.then(|| "its condition is false".to_owned()),
            ..PlannedPhase::bare(name.parse().expect("a name"))
        };
        let of = |firewall, keepalived| {
            planned(&Plan::bare(vec![
                phase("etcd", false),
                phase("vrrp-firewall", firewall),
                phase("keepalived", keepalived),
            ]))
        };
        let before = phases_without_list(&Plan::bare(vec![
            phase("etcd", false),
            phase("vrrp-firewall", false),
            phase("keepalived", true),
            phase("drain", false),
        ]));
        assert_eq!(before, ["etcd", "drain"]);
        assert_eq!(of(false, false), PHASES);
        assert_eq!(of(true, false), ["keepalived"]);
        assert_eq!(of(true, true), [""; 0]);
    }

    #[test]
    fn masters_are_shown_with_their_addresses() {
        let entry = |name: &str, address: &str, voter| MasterEntry {
            name: name.to_owned(),
            address: address.parse().expect("an address"),
            etcd_id: None,
            voter,
        };
        let masters = [
            entry("cp-1", "172.30.0.11", true),
            entry("cp-2", "172.30.0.12", false),
        ];
        assert_eq!(
            shown(&masters),
            "cp-1 (172.30.0.11), cp-2 (172.30.0.12, learner)"
        );
    }
}
