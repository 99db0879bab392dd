//! The hosts of a lab's cluster beside the first master: `up` makes those that are missing, and `down` lets one leave.
//!
//! While the first master comes up, the others boot and get the role's package. They join when its API server answers.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lab::package;
use lab::{Host, HostSpec, Lab, command};

use super::program::wait_for_others;
use super::roles::Role;
use crate::repository::checkout;

/// Whether the lab has hosts beside the first master, or gets some with these numbers.
pub(super) fn has_others(lab: &Lab, masters: u8, workers: u8) -> bool {
    masters > 1 || workers > 0 || lab.hosts().len() > 1
}

/// Whether the lab has several masters, or gets some with this number.
pub(super) fn has_several_masters(lab: &Lab, masters: u8) -> bool {
    masters > 1 || Role::Master.hosts(lab.hosts()).len() > 1
}

/// The hosts of this role but the first master. Those that the lab lacks are made, with the image of the first master; those that it has
/// more than wanted stay.
///
/// # Errors
/// A host cannot be made.
pub(super) fn hosts(lab: &mut Lab, first: &Host, role: Role, wanted: u8) -> Result<Vec<Host>> {
    let existing = lab.hosts();
    let names: Vec<&str> = existing.iter().map(Host::name).collect();
    let specs: Vec<HostSpec> = role
        .missing(&names, wanted)
        .into_iter()
        .map(|name| HostSpec {
            name,
            image: first.image(),
        })
        .collect();
    let mut hosts = role.hosts(existing);
    hosts.retain(|host| host.name() != first.name());
    for host in &hosts {
        say(host, &format!("exists already at {}", host.address()));
    }
    if !specs.is_empty() {
        let added = lab.add(&specs)?;
        for host in &added {
            say(host, &format!("boots at {}", host.address()));
        }
        hosts.extend(added);
    }
    Ok(hosts)
}

/// Boots a host and installs the role's package there; gives how long that took. It prints nothing as long as it need not wait for
/// another nodelet, because the first master is shown meanwhile.
fn prepare(host: &Host, nodelet: &Path) -> Result<Duration> {
    let began = Instant::now();
    host.ensure_running()?;
    host.wait_until_running()?;
    wait_for_others(host)?;
    package::install(host, checkout(), nodelet)?;
    Ok(began.elapsed())
}

/// Does the work on the first master while the other hosts are prepared.
///
/// # Errors
/// The work failed, or a host cannot be prepared. An error of the first master comes first, because the others need it.
pub(super) fn prepared_during<T>(
    others: &[Host],
    nodelet: &Path,
    first: impl FnOnce() -> Result<T>,
) -> Result<T> {
    thread::scope(|scope| {
        let threads: Vec<_> = others
            .iter()
            .map(|host| (host, scope.spawn(|| prepare(host, nodelet))))
            .collect();
        let done = first();
        let mut failures = Vec::new();
        for (host, thread) in threads {
            let result = thread
                .join()
                .unwrap_or_else(|_| bail!("its thread has panicked"));
            match result {
                Ok(took) => say(
                    host,
                    &format!("runs with the role's package, {:.0} s", took.as_secs_f64()),
                ),
                Err(error) => failures.push(failure(host, &error)),
            }
        }
        let done = done?;
        all_or(failures)?;
        Ok(done)
    })
}

pub(super) fn failure(host: &Host, error: &anyhow::Error) -> String {
    format!("{}: {error:#}", host.name())
}

pub(super) fn all_or(failures: Vec<String>) -> Result<()> {
    if failures.is_empty() {
        return Ok(());
    }
    bail!("{}", failures.join("\n"))
}

/// Prints a line about a host. Lines about several hosts come at the same time.
pub(super) fn say(host: &Host, text: &str) {
    println!("{}: {text}", host.name());
}

/// Removes the node of a worker from the cluster, as an operator does before the machine goes away.
///
/// # Errors
/// The master does not answer, or does not remove the node.
pub(crate) fn worker_leaves(master: &Host, node: &str) -> Result<()> {
    remove(master, &["nodelet", "cluster", "remove", node])
        .with_context(|| format!("the node `{node}` stays in the cluster"))?;
    package::forget(master, node)
}

/// Removes a master from etcd and from the cluster, on another master. Its pods end with its host. A host that never was a member of etcd
/// needs no removal.
///
/// # Errors
/// The other master does not answer, or refuses because etcd would lose its quorum.
pub(crate) fn master_leaves(other: &Host, node: &str) -> Result<()> {
    let removed = remove(other, &["nodelet", "cluster", "remove", node, "--force"]);
    if removed.is_err() && package::without_member(other, node) {
        return Ok(());
    }
    removed.with_context(|| format!("the master `{node}` stays in the cluster"))
}

fn remove(master: &Host, words: &[&str]) -> Result<()> {
    const LIMIT: Duration = Duration::from_secs(180);
    let output = master.exec_within(words, None, LIMIT)?;
    command::check(&output, || {
        format!(
            "`{}` failed on the host `{}`",
            words.join(" "),
            master.name()
        )
    })
}
