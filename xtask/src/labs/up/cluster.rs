//! The cluster that hosts join beside the first master: other masters one after the other, because etcd takes one member at a time, and
//! workers a few at a time.

use std::collections::{BTreeSet, VecDeque};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};
use lab::package::{self, ROLE};
use lab::topology::Choices;
use lab::{Config, Host, Lab};

use super::members::{all_or, failure, say};
use super::program::{Daemon, validate};
use super::roles::{Role, node_name};

/// How many workers are brought up at a time: their programs have deadlines, and the machine has few processors.
const AT_A_TIME: usize = 2;
/// Time limit of one apply.
const APPLY: Duration = Duration::from_secs(1800);
/// What makes a host the first master. A value that was chosen for these is not for other hosts.
const OF_FIRST: [&str; 2] = ["ROLE", "ETCD_INITIAL_CLUSTER_STATE"];

/// The cluster that the other hosts join.
pub(super) struct Cluster<'a> {
    pub(super) lab: &'a Lab,
    pub(super) first: &'a Host,
    /// What was chosen for the first master. It holds for the others, too.
    pub(super) chosen: &'a Choices,
    /// Whether this call changes the settings of hosts that have some.
    pub(super) changes: bool,
    /// An image for workloads, a file for `docker load`.
    pub(super) toolbox: &'a Path,
}

impl Cluster<'_> {
    /// Writes settings on the hosts and applies nothing.
    ///
    /// # Errors
    /// A host cannot be written to; the others are written to all the same.
    pub(super) fn configure(&self, hosts: &[Host]) -> Result<()> {
        each(hosts, |host| {
            if !self.stays(host)? {
                package::configure(host, &config(self.chosen, self.lab, self.first, host))?;
            }
            Ok(())
        })
    }

    /// Whether the host has these choices already. An interrupted call has recorded none.
    fn stays(&self, host: &Host) -> Result<bool> {
        let has_them = !self.changes && self.lab.choices(host.name()) == *self.chosen;
        Ok(has_them && package::is_configured(host)?)
    }

    /// Lets masters join that have not, and applies the role on all of them, in their order.
    ///
    /// # Errors
    /// A master does not come up; the later ones are left as they are, because they could not join.
    pub(super) fn bring_masters_up(&self, masters: &[Host]) -> Result<()> {
        let mut known = BTreeSet::from([node_name(self.chosen, self.first)]);
        for host in masters {
            let named = |error: anyhow::Error| anyhow::anyhow!(failure(host, &error));
            self.bring_master_up(host, &known).map_err(named)?;
            known.insert(node_name(self.chosen, host));
        }
        if masters.is_empty() {
            return Ok(());
        }
        package::wait_for_masters(self.first, &known)
    }

    /// Brings one master up. `known` are the names of the nodes of those that are masters before.
    fn bring_master_up(&self, host: &Host, known: &BTreeSet<String>) -> Result<()> {
        if package::is_joined_master(host)? {
            say(host, "is a master of the cluster already");
        } else {
            package::wait_for_masters(self.first, known)?;
            package::join_master(self.first, host, &node_name(self.chosen, host))?;
            say(host, &format!("has a join file of {}", self.first.name()));
        }
        self.bring_up(host)?;
        package::remove_join_file(host)
    }

    /// Lets workers join that have not, and applies the role on all of them.
    ///
    /// # Errors
    /// A worker does not come up; the others are brought up all the same.
    pub(super) fn bring_workers_up(&self, workers: &[Host]) -> Result<()> {
        each(workers, |host| {
            let node = node_name(self.chosen, host);
            if package::is_joined(self.first, host, &node)? {
                say(host, "is in the cluster already");
            } else {
                package::join(self.first, host, &node)?;
                say(host, &format!("has a join file of {}", self.first.name()));
            }
            self.bring_up(host)
        })
    }

    /// Writes the settings unless they stay, applies the role, and lets nodeletd keep the host.
    fn bring_up(&self, host: &Host) -> Result<()> {
        let stays = self.stays(host)?;
        let config = config(self.chosen, self.lab, self.first, host);
        if !stays {
            validate(host, &config)?;
        }
        let daemon = Daemon::stop(host)?;
        if !stays {
            package::configure(host, &config)?;
        }
        let applied = self.apply(host);
        if applied.is_ok() {
            daemon.keep()?;
        } else {
            daemon.restore()?;
        }
        applied?;
        host.load_image(self.toolbox)
    }

    fn apply(&self, host: &Host) -> Result<()> {
        let words = ["nodelet", "apply", "--role", ROLE];
        let status = host.exec_lines(&words, APPLY, |line| say(host, line))?;
        if !status.success() {
            bail!(
                "nodelet failed; the host is left as it is: inspect it with `cargo xtask shell --lab {lab} {host}`, remove it with \
                 `cargo xtask down --lab {lab} --host {host}`",
                lab = self.lab.name(),
                host = host.name(),
            );
        }
        Ok(())
    }
}

/// The settings of a host: the lab's own, with what was chosen for all hosts.
pub(super) fn config(chosen: &Choices, lab: &Lab, first: &Host, host: &Host) -> Config {
    let vip = chosen.vip.then(|| lab.vip());
    match Role::of(host.name()) {
        Role::Master if host.is_added() => {
            let config = Config::joining_master(lab.name(), host.address(), vip);
            with_choices(config, chosen, &OF_FIRST)
        }
        Role::Master => {
            let config = Config::master(lab.name(), host.address(), vip);
            with_choices(config, chosen, &[])
        }
        Role::Worker => {
            let config = Config::worker(lab.name(), vip.unwrap_or(first.address()));
            with_choices(config, chosen, &OF_FIRST)
        }
    }
}

/// The settings with what was chosen, but for these keys.
fn with_choices(mut config: Config, chosen: &Choices, without: &[&str]) -> Config {
    for (key, value) in &chosen.settings {
        if !without.contains(&key.as_str()) {
            config.set(key, value);
        }
    }
    config
}

/// Does the work on every host, on a few at a time.
///
/// # Errors
/// It failed on some; the message names each of them.
fn each(hosts: &[Host], work: impl Fn(&Host) -> Result<()> + Sync) -> Result<()> {
    let waiting = Mutex::new(hosts.iter().collect::<VecDeque<&Host>>());
    let failures = Mutex::new(Vec::new());
    let next = || {
        let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.pop_front()
    };
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME.min(hosts.len()) {
            scope.spawn(|| {
                while let Some(host) = next() {
                    if let Err(error) = work(host) {
                        let mut failures = failures.lock().unwrap_or_else(PoisonError::into_inner);
                        failures.push(failure(host, &error));
                    }
                }
            });
        }
    });
    all_or(
        failures
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner),
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn a_later_host_has_the_choices_of_the_first_master_but_not_what_makes_it_the_first() {
        let settings = [
            ("MAX_PODS", "20"),
            ("ROLE", "master"),
            ("ETCD_INITIAL_CLUSTER_STATE", "new"),
        ];
        let chosen = Choices {
            vip: true,
            settings: BTreeMap::from(
                settings.map(|(key, value)| (key.to_owned(), value.to_owned())),
            ),
        };
        let (own, vip) = (
            Ipv4Addr::new(172, 30, 1, 12),
            Ipv4Addr::new(172, 30, 1, 100),
        );
        let worker = with_choices(Config::worker("x", vip), &chosen, &OF_FIRST).render();
        let master = Config::joining_master("x", own, Some(vip));
        let master = with_choices(master, &chosen, &OF_FIRST).render();
        for (text, role) in [(worker, "worker"), (master, "master")] {
            let role = format!("ROLE: \"{role}\"");
            for line in ["MASTER_IP: \"172.30.1.100\"", "MAX_PODS: \"20\"", &role] {
                assert!(text.lines().any(|found| found == line), "{line}\n{text}");
            }
            assert!(!text.contains("ETCD_INITIAL"), "{text}");
        }
        let first = with_choices(Config::master("x", own, Some(vip)), &chosen, &[]).render();
        assert!(
            first.contains("ETCD_INITIAL_CLUSTER_STATE: \"new\""),
            "{first}"
        );
    }
}
