//! Processes of the role that a signal has stopped: they no longer answer, and no event reports this.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result};
use engine::host::live::stopped_processes;
use tokio::time::MissedTickBehavior;

use super::trigger::Triggers;
use crate::pass::WatchList;

/// Interval of the checks. A check reads a line for each process of the host.
const POLL_INTERVAL: Duration = Duration::from_secs(5);
/// Control groups of stopped processes that are remembered.
const REMEMBERED: usize = 1000;

pub(super) async fn listen(targets: WatchList, triggers: Triggers) -> Result<()> {
    let mut known = BTreeSet::new();
    let mut interval = tokio::time::interval(POLL_INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let stopped = tokio::task::spawn_blocking(stopped_processes).await;
        let stopped = stopped.context("look for stopped processes")?;
        let stopped = stopped.context("look for stopped processes")?;
        let groups: Vec<String> = stopped.into_iter().map(|its| its.groups).collect();
        for event in new_events(&groups, &targets.units, &mut known) {
            triggers.add(event);
        }
    }
}

/// Events of what is stopped now and was not at the last check. A pass finds out whether a container is one of the role.
fn new_events(groups: &[String], units: &[String], known: &mut BTreeSet<String>) -> Vec<String> {
    let mut stopped = BTreeSet::new();
    for part in groups.iter().flat_map(|group| group.lines()) {
        let whose = part.rsplit('/').next().unwrap_or_default();
        let unit = units
            .iter()
            .find(|unit| part.split('/').any(|p| p == *unit));
        let found = match unit {
            Some(unit) => unit.as_str(),
            None if is_container(whose) => whose,
            None => continue,
        };
        if stopped.len() < REMEMBERED {
            stopped.insert(found.to_owned());
        }
    }
    let new = stopped.difference(known);
    let new = new.map(|whose| format!("a process of {whose} is stopped"));
    let new = new.collect();
    *known = stopped;
    new
}

/// Whether a control group is named after the id of a container: 64 digits, alone or as `docker-ID.scope`.
fn is_container(name: &str) -> bool {
    let name = name.strip_suffix(".scope").unwrap_or(name);
    let id = name.rsplit('-').next().unwrap_or_default();
    id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stop_is_reported_once() {
        let units = ["docker.service".to_owned()];
        let id = "0123456789abcdef".repeat(4);
        let docker = "5:cpu:/system.slice/docker.service\n0::/\n".to_owned();
        let container = format!("5:cpu:/kubepods/burstable/pod7/{id}\n");
        let scope = format!("0::/system.slice/docker-{id}.scope\n");
        let other = "0::/user.slice/user-0.slice/session-1.scope\n".to_owned();
        let mut known = BTreeSet::new();
        let mut events_for = |groups: &[&String]| {
            let groups: Vec<String> = groups.iter().map(|group| (*group).clone()).collect();
            new_events(&groups, &units, &mut known)
        };
        assert_eq!(events_for(&[&other]), [""; 0]);
        let of_docker = "a process of docker.service is stopped";
        assert_eq!(events_for(&[&docker, &other]), [of_docker]);
        assert_eq!(events_for(&[&docker]), [""; 0]);
        let of_container = format!("a process of {id} is stopped");
        assert_eq!(events_for(&[&docker, &container]), [of_container]);
        assert_eq!(events_for(&[&scope]).len(), 1);
        assert_eq!(events_for(&[]), [""; 0]);
        assert_eq!(events_for(&[&docker]), [of_docker]);
    }
}
