//! One of several masters: the first one, or another host on the network of its lab that joins it.

use std::thread;
use std::time::Duration;

use lab::{Config, Host, HostSpec, Image, package};

use super::{Master, checkout, commands};
use crate::run::Run;

/// A host that is a master beside others, or becomes one. It is gone with the lab.
#[derive(Debug)]
pub struct OneMaster {
    host: Host,
}

impl Master {
    /// This master as one of several.
    #[must_use]
    pub fn as_one(&self) -> OneMaster {
        OneMaster {
            host: self.host.clone(),
        }
    }
}

impl OneMaster {
    /// A new host beside the first master, with the role. It has no settings and has not joined.
    ///
    /// # Panics
    /// It does not come up.
    #[must_use]
    pub fn beside(first: &mut Master, name: &str) -> Self {
        let spec = HostSpec {
            name: name.to_owned(),
            image: Image::Bare,
        };
        let hosts = first.lab.add(&[spec]).expect("the host starts");
        let host = hosts.into_iter().next().expect("one was added");
        host.wait_until_running().expect("its services start");
        package::install(&host, checkout(), &first.suites.nodelet).expect("the role is installed");
        Self { host }
    }

    /// Lets it join the masters of a cluster with a virtual IP: settings, join file and apply.
    ///
    /// # Panics
    /// It does not join.
    pub fn join(&self, first: &Master, settings: &[(&str, &str)]) {
        let vip = Some(first.lab.vip());
        let mut config = Config::joining_master(first.lab.name(), self.host.address(), vip);
        for (key, value) in settings {
            config.set(key, value);
        }
        package::configure(&self.host, &config).expect("the settings are written");
        package::join_master(first.host(), &self.host, self.name()).expect("it gets a join file");
        let _ = self.apply(&[]).exits(0);
        package::remove_join_file(&self.host).expect("the file is removed");
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

    /// Lets nodeletd keep the host, also after a boot.
    #[track_caller]
    pub fn keep(&self) {
        self.sh("systemctl enable --quiet --now pf9-nodeletd");
    }

    /// Whether a shell script succeeds. False on a host that does not run.
    #[must_use]
    pub fn holds(&self, script: &str) -> bool {
        let output = self.host.exec(&["bash", "-c", script]);
        output.is_ok_and(|output| output.status.success())
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

impl Drop for OneMaster {
    fn drop(&mut self) {
        if thread::panicking() {
            commands::explain_failure(
                &self.host,
                &[
                    "nodelet check",
                    "nodelet etcd members; cat /var/opt/pf9/nodelet/masters.json",
                    "docker ps --all --format '{{.Names}} {{.Status}}'; docker logs --tail 15 etcd",
                    "ip -o address show dev eth0; iptables-save | grep -e PF9- -e '^:'",
                    "journalctl --no-pager --lines 25 --output cat -u keepalived -u pf9-kubelet -u pf9-nodeletd",
                ],
            );
        }
    }
}
