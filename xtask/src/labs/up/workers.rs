//! The workers of a lab's cluster: hosts beside the master that `up --workers` makes and lets join.
//!
//! While the master comes up, the workers boot and get the role's package. They join when its API server answers.

use std::collections::{BTreeSet, VecDeque};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lab::package::{self, ROLE};
use lab::topology::Choices;
use lab::{Config, Host, HostSpec, Lab};

use super::program::{Daemon, validate, wait_for_others};
use crate::repository::checkout;

/// What a worker's name begins with; a number follows.
const NAME: &str = "worker-";
/// Most workers of a lab. All hosts share the processors and the memory of this machine.
pub(super) const MOST: u8 = 5;
/// How many workers are brought up at a time: their programs have deadlines, and the machine has few processors.
const AT_A_TIME: usize = 2;
/// Time limit of one apply on a worker.
const APPLY: Duration = Duration::from_secs(1800);

/// Whether a host of this name is a worker.
pub(crate) fn is_worker(name: &str) -> bool {
    name.strip_prefix(NAME)
        .is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

/// Whether the lab has a worker.
pub(super) fn has_any(lab: &Lab) -> bool {
    lab.hosts().iter().any(|host| is_worker(host.name()))
}

/// The name of the host's node in the cluster.
pub(crate) fn node_name(chosen: &Choices, host: &Host) -> String {
    let by_address = chosen
        .settings
        .get("USE_HOSTNAME")
        .is_some_and(|value| value == "false");
    if by_address {
        host.address().to_string()
    } else {
        host.name().to_owned()
    }
}

/// The names of the workers that a lab lacks until it has as many as wanted: those with the lowest free numbers.
fn missing(hosts: &[&str], wanted: u8) -> Vec<String> {
    let existing: BTreeSet<&str> = hosts.iter().copied().filter(|one| is_worker(one)).collect();
    let lacking = usize::from(wanted).saturating_sub(existing.len());
    (1..=u32::from(MOST) + u32::from(wanted))
        .map(|number| format!("{NAME}{number}"))
        .filter(|name| !existing.contains(name.as_str()))
        .take(lacking)
        .collect()
}

/// The workers of the lab. Those that it lacks are made, with the image of the master; those that it has more than wanted stay.
///
/// # Errors
/// A host cannot be made.
pub(super) fn hosts(lab: &mut Lab, master: &Host, wanted: u8) -> Result<Vec<Host>> {
    let existing = lab.hosts();
    let names: Vec<&str> = existing.iter().map(Host::name).collect();
    let specs: Vec<HostSpec> = missing(&names, wanted)
        .into_iter()
        .map(|name| HostSpec {
            name,
            image: master.image(),
        })
        .collect();
    let mut workers: Vec<Host> = existing
        .into_iter()
        .filter(|host| is_worker(host.name()))
        .collect();
    for worker in &workers {
        say(worker, &format!("exists already at {}", worker.address()));
    }
    if !specs.is_empty() {
        let added = lab.add(&specs)?;
        for worker in &added {
            say(worker, &format!("boots at {}", worker.address()));
        }
        workers.extend(added);
    }
    Ok(workers)
}

/// Boots a worker and installs the role's package there; gives how long that took. It prints nothing as long as it need not wait for
/// another nodelet, because the master is shown meanwhile.
fn prepare(host: &Host, nodelet: &Path) -> Result<Duration> {
    let began = Instant::now();
    host.ensure_running()?;
    host.wait_until_running()?;
    wait_for_others(host)?;
    package::install(host, checkout(), nodelet)?;
    Ok(began.elapsed())
}

/// Does the work on the master while the workers are prepared.
///
/// # Errors
/// The work failed, or a worker cannot be prepared. An error of the master comes first, because the workers need it.
pub(super) fn prepared_during<T>(
    workers: &[Host],
    nodelet: &Path,
    master: impl FnOnce() -> Result<T>,
) -> Result<T> {
    thread::scope(|scope| {
        let threads: Vec<_> = workers
            .iter()
            .map(|worker| (worker, scope.spawn(|| prepare(worker, nodelet))))
            .collect();
        let done = master();
        let mut failures = Vec::new();
        for (worker, thread) in threads {
            let result = thread
                .join()
                .unwrap_or_else(|_| bail!("its thread has panicked"));
            match result {
                Ok(took) => say(
                    worker,
                    &format!("runs with the role's package, {:.0} s", took.as_secs_f64()),
                ),
                Err(error) => failures.push(failure(worker, &error)),
            }
        }
        let done = done?;
        all_or(failures)?;
        Ok(done)
    })
}

/// The cluster that the workers join.
pub(super) struct Cluster<'a> {
    pub(super) lab: &'a Lab,
    pub(super) master: &'a Host,
    /// What was chosen for the master. It holds for the workers, too.
    pub(super) chosen: &'a Choices,
    /// Whether this call changes the settings of hosts that have some.
    pub(super) changes: bool,
    /// An image for workloads, a file for `docker load`.
    pub(super) toolbox: &'a Path,
}

impl Cluster<'_> {
    /// Writes settings on the workers and applies nothing.
    ///
    /// # Errors
    /// A worker cannot be written to; the others are written to all the same.
    pub(super) fn configure(&self, workers: &[Host]) -> Result<()> {
        each(workers, |host| {
            if !self.stays(host)? {
                package::configure(host, &self.config())?;
            }
            Ok(())
        })
    }

    /// Whether the worker has these choices already. An interrupted call has recorded none.
    fn stays(&self, host: &Host) -> Result<bool> {
        let has_them = !self.changes && self.lab.choices(host.name()) == *self.chosen;
        Ok(has_them && package::is_configured(host)?)
    }

    /// Lets workers join that have not, and applies the role on all of them.
    ///
    /// # Errors
    /// A worker does not come up; the others are brought up all the same.
    pub(super) fn bring_up(&self, workers: &[Host]) -> Result<()> {
        each(workers, |host| self.bring_one_up(host))
    }

    fn bring_one_up(&self, host: &Host) -> Result<()> {
        let node = node_name(self.chosen, host);
        if package::is_joined(self.master, host, &node)? {
            say(host, "is in the cluster already");
        } else {
            package::join(self.master, host, &node)?;
            say(host, &format!("has a join file of {}", self.master.name()));
        }
        let stays = self.stays(host)?;
        let config = self.config();
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

    fn config(&self) -> Config {
        let api = if self.chosen.vip {
            self.lab.vip()
        } else {
            self.master.address()
        };
        worker_config(self.lab.name(), api, self.chosen)
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

/// The settings of a worker: the lab's own, with what was chosen for the master.
fn worker_config(lab: &str, api: std::net::Ipv4Addr, chosen: &Choices) -> Config {
    let mut config = Config::worker(lab, api);
    for (key, value) in chosen.settings.iter().filter(|(key, _)| *key != "ROLE") {
        config.set(key, value);
    }
    config
}

/// Does the work on every worker, on a few at a time.
///
/// # Errors
/// It failed on some; the message names each of them.
fn each(workers: &[Host], work: impl Fn(&Host) -> Result<()> + Sync) -> Result<()> {
    let waiting = Mutex::new(workers.iter().collect::<VecDeque<&Host>>());
    let failures = Mutex::new(Vec::new());
    let next = || {
        let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.pop_front()
    };
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME.min(workers.len()) {
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

fn failure(host: &Host, error: &anyhow::Error) -> String {
    format!("{}: {error:#}", host.name())
}

fn all_or(failures: Vec<String>) -> Result<()> {
    if failures.is_empty() {
        return Ok(());
    }
    bail!("{}", failures.join("\n"))
}

/// Prints a line about a host. Lines about several hosts come at the same time.
fn say(host: &Host, text: &str) {
    println!("{}: {text}", host.name());
}

/// Removes the node of a worker from the cluster, as an operator does before the machine goes away.
///
/// # Errors
/// The master does not answer, or does not remove the node.
pub(crate) fn leave(master: &Host, node: &str) -> Result<()> {
    const LIMIT: Duration = Duration::from_secs(180);
    let words = ["nodelet", "cluster", "remove", node];
    let output = master.exec_within(&words, None, LIMIT)?;
    lab::command::check(&output, || {
        format!(
            "`{}` failed on the host `{}`",
            words.join(" "),
            master.name()
        )
    })
    .with_context(|| format!("the node `{node}` stays in the cluster"))?;
    package::forget(master, node)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn workers_are_known_by_their_names() {
        for name in ["worker-1", "worker-12"] {
            assert!(is_worker(name), "{name}");
        }
        for name in ["master-1", "worker", "worker-", "worker-a", "client"] {
            assert!(!is_worker(name), "{name}");
        }
    }

    #[test]
    fn a_lab_gets_only_the_workers_that_it_lacks() {
        assert_eq!(missing(&["master-1"], 2), ["worker-1", "worker-2"]);
        assert_eq!(missing(&["master-1", "worker-1"], 2), ["worker-2"]);
        // Worker 2 was taken down alone.
        let two = ["master-1", "worker-1", "worker-3"];
        assert_eq!(missing(&two, 3), ["worker-2"]);
        assert_eq!(missing(&two, 1), [""; 0], "none is removed");
        assert_eq!(missing(&two, 0), [""; 0]);
        assert_eq!(missing(&[], MOST).len(), usize::from(MOST));
    }

    #[test]
    fn a_worker_has_the_choices_of_its_master_but_not_its_role() {
        let chosen = Choices {
            vip: true,
            settings: BTreeMap::from(
                [("MAX_PODS", "20"), ("ROLE", "master")]
                    .map(|(key, value)| (key.to_owned(), value.to_owned())),
            ),
        };
        let text = worker_config("x", Ipv4Addr::new(172, 30, 1, 100), &chosen).render();
        for line in [
            "MASTER_IP: \"172.30.1.100\"",
            "MAX_PODS: \"20\"",
            "ROLE: \"worker\"",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
