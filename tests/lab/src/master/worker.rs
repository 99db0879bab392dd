//! A worker beside a master: another host on the network of the master's lab.

use std::thread;
use std::time::Duration;

use lab::{Config, Host, HostSpec, Image, package};

use super::{Master, checkout, commands};
use crate::run::Run;

/// A host with the role installed. It is gone with the lab; [`Worker::remove`] removes it earlier.
#[derive(Debug)]
pub struct Worker {
    host: Host,
}

impl Worker {
    /// A new host beside the master, with the role and the image for workloads. It has no settings and has not joined.
    ///
    /// # Panics
    /// It does not come up.
    #[must_use]
    pub fn beside(master: &mut Master, name: &str) -> Self {
        let spec = HostSpec {
            name: name.to_owned(),
            image: Image::Bare,
        };
        let hosts = master.lab.add(&[spec]).expect("the host starts");
        let host = hosts.into_iter().next().expect("one was added");
        host.wait_until_running().expect("its services start");
        package::install(&host, checkout(), &master.suites.nodelet).expect("the role is installed");
        host.load_image(&master.suites.toolbox)
            .expect("docker loads it");
        Self { host }
    }

    /// Lets it join the master's cluster: settings, join file and apply. nodeletd has to run on the master.
    ///
    /// # Panics
    /// It does not join.
    pub fn join(&self, master: &Master, settings: &[(&str, &str)]) {
        let mut config = Config::worker(master.lab.name(), master.api());
        for (key, value) in settings {
            config.set(key, value);
        }
        package::configure(&self.host, &config).expect("the settings are written");
        package::join(master.host(), &self.host, self.name()).expect("it gets a join file");
        let _ = self.apply(&[]).exits(0);
    }

    /// Whether it has joined the master's cluster.
    ///
    /// # Panics
    /// A host does not answer.
    #[must_use]
    pub fn is_joined(&self, master: &Master) -> bool {
        package::is_joined(master.host(), &self.host, self.name()).expect("the hosts answer")
    }

    /// Takes the host out of the lab.
    ///
    /// # Panics
    /// It cannot be removed.
    pub fn remove(self, master: &mut Master) {
        let removed = master.lab.remove_host(self.name());
        removed.expect("the host is removed");
    }

    /// The name of the host and of its node.
    #[must_use]
    pub fn name(&self) -> &str {
        self.host.name()
    }

    /// The host.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Runs nodelet.
    #[must_use]
    pub fn nodelet(&self, words: &[&str]) -> Run {
        commands::nodelet(&self.host, words)
    }

    /// `nodelet apply --json` with more arguments.
    #[must_use]
    pub fn apply(&self, words: &[&str]) -> Run {
        commands::apply(&self.host, words)
    }

    /// Runs a shell script that must succeed and gives what it printed.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        commands::sh(&self.host, script)
    }

    /// Waits until a shell script succeeds.
    #[track_caller]
    pub fn wait_for(&self, what: &str, script: &str, limit: Duration) {
        commands::wait_for(&self.host, what, script, limit);
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if thread::panicking() {
            commands::explain_failure(
                &self.host,
                &[
                    "nodelet check",
                    "docker ps --all --format '{{.Names}} {{.Status}}'",
                    "ip route; iptables-save | grep -e PF9- -e '^:'",
                    "journalctl --no-pager --lines 25 --output cat -u pf9-kubelet -u docker -u pf9-nodeletd",
                ],
            );
        }
    }
}
