//! A host with the role in the lab of a master: that master itself, another master beside it, or a worker.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Output;
use std::thread;
use std::time::{Duration, Instant};

use lab::package::{self, ROLE};
use lab::{Config, Fault, Host, HostSpec, Image};

use super::{Master, checkout, commands};
use crate::run::Run;

/// What a host is, or becomes with its settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The master with which the cluster begins. Its [`Master`] tells about it when a suite fails.
    First,
    /// One of several masters.
    OneMaster,
    Worker,
}

impl Kind {
    /// Scripts that show why a suite has failed.
    fn explanation(self) -> &'static [&'static str] {
        match self {
            Self::First => &[],
            Self::OneMaster => &[
                "nodelet check",
                "nodelet etcd members; cat /var/opt/pf9/nodelet/masters.json",
                "docker ps --all --format '{{.Names}} {{.Status}}'; docker logs --tail 15 etcd",
                "ip -o address show dev eth0; iptables-save | grep -e PF9- -e '^:'",
                "journalctl --no-pager --lines 25 --output cat -u keepalived -u pf9-kubelet -u pf9-nodeletd",
            ],
            Self::Worker => &[
                "nodelet check",
                "docker ps --all --format '{{.Names}} {{.Status}}'",
                "ip route; iptables-save | grep -e PF9- -e '^:'",
                "journalctl --no-pager --lines 25 --output cat -u pf9-kubelet -u docker -u pf9-nodeletd",
            ],
        }
    }
}

/// A host with the role installed. It is gone with the lab; [`Node::remove`] removes it earlier.
#[derive(Debug)]
pub struct Node {
    host: Host,
    /// The first master of its lab.
    first: Host,
    kind: Kind,
    /// The lab's own settings for it.
    config: Config,
    /// The address that is kept free for a virtual IP.
    vip: Ipv4Addr,
    /// The workload image of the suites.
    toolbox: PathBuf,
}

impl Node {
    /// The master with which the cluster of a lab begins.
    pub(super) fn first(host: Host, config: Config, vip: Ipv4Addr, toolbox: PathBuf) -> Self {
        Self {
            first: host.clone(),
            host,
            kind: Kind::First,
            config,
            vip,
            toolbox,
        }
    }

    /// This master as one of several.
    pub(super) fn as_one(&self) -> Self {
        Self {
            host: self.host.clone(),
            first: self.first.clone(),
            kind: Kind::OneMaster,
            config: self.config.clone(),
            vip: self.vip,
            toolbox: self.toolbox.clone(),
        }
    }

    /// Takes other settings as the lab's own.
    pub(super) fn set_config(&mut self, config: Config) {
        self.config = config;
    }

    /// A new host beside the first master, which is to be another master. It has the role, no settings, and has not joined.
    ///
    /// # Panics
    /// It does not come up.
    #[must_use]
    pub fn master_beside(first: &mut Master, name: &str) -> Self {
        Self::beside(first, name, Kind::OneMaster)
    }

    /// A new host beside the master, which is to be a worker. It has the role and the image for workloads, no settings, and has not joined.
    ///
    /// # Panics
    /// It does not come up.
    #[must_use]
    pub fn worker_beside(master: &mut Master, name: &str) -> Self {
        let worker = Self::beside(master, name, Kind::Worker);
        worker.load_toolbox();
        worker
    }

    fn beside(first: &mut Master, name: &str, kind: Kind) -> Self {
        let spec = HostSpec {
            name: name.to_owned(),
            image: Image::Bare,
        };
        let hosts = first.lab.add(&[spec]).expect("the host starts");
        let host = hosts.into_iter().next().expect("one was added");
        host.wait_until_running().expect("its services start");
        Self::with_role(host, first, kind)
    }

    /// A host of the first master's lab that is there already, which is to be another master. It gets the role.
    pub(super) fn another_master_on(host: Host, first: &Master) -> Self {
        Self::with_role(host, first, Kind::OneMaster)
    }

    /// Installs the role on a host that runs.
    fn with_role(host: Host, first: &Master, kind: Kind) -> Self {
        package::install(&host, checkout(), &first.suites.nodelet).expect("the role is installed");
        let lab = first.lab.name();
        let config = match kind {
            Kind::Worker => Config::worker(lab, first.api()),
            Kind::First | Kind::OneMaster => {
                let vip = first.vip.then(|| first.lab.vip());
                Config::joining_master(lab, host.address(), vip)
            }
        };
        Self {
            host,
            first: first.host().clone(),
            kind,
            config,
            vip: first.lab.vip(),
            toolbox: first.suites.toolbox.clone(),
        }
    }

    /// Lets it join the cluster: settings, join file and apply. nodeletd has to run on the master that it gets the file from.
    ///
    /// # Panics
    /// It does not join.
    pub fn join(&self, first: &Node, settings: &[(&str, &str)]) {
        self.prepare_join(first, settings);
        let _ = self.apply(&[]).exits(0);
        self.has_joined();
    }

    /// As [`Self::join`], of a worker. The masters keep this taint on its node.
    ///
    /// # Panics
    /// It does not join.
    pub fn join_tainted(&self, first: &Node, settings: &[(&str, &str)], taint: &str) {
        self.configure(settings);
        let file = package::join_tainted(&first.host, &self.host, self.name(), taint);
        file.expect("it gets a join file");
        let _ = self.apply(&[]).exits(0);
        self.has_joined();
    }

    /// Gives it settings and a join file, so that the next apply lets it join.
    ///
    /// # Panics
    /// It gets no join file.
    pub fn prepare_join(&self, first: &Node, settings: &[(&str, &str)]) {
        self.configure(settings);
        let file = match self.kind {
            Kind::Worker => package::join(&first.host, &self.host, self.name()),
            Kind::First | Kind::OneMaster => {
                package::join_master(&first.host, &self.host, self.name())
            }
        };
        file.expect("it gets a join file");
    }

    /// Gives it settings and a join file for the name of another host, which is lost. A worker was removed before; a master has the address of the
    /// other one.
    ///
    /// # Panics
    /// It gets no join file.
    pub fn prepare_join_in_place(&self, first: &Node, settings: &[(&str, &str)]) {
        self.configure(settings);
        let file = match self.kind {
            Kind::Worker => package::join_in_place(&first.host, &self.host, self.name()),
            Kind::First | Kind::OneMaster => {
                package::join_master_in_place(&first.host, &self.host, self.name())
            }
        };
        file.expect("it gets a join file");
    }

    /// Removes the join file of a master that has joined: it contains keys. That of a worker has only a token, which has ended.
    ///
    /// # Panics
    /// It cannot be removed.
    pub fn has_joined(&self) {
        match self.kind {
            Kind::Worker => {}
            Kind::First | Kind::OneMaster => {
                package::remove_join_file(&self.host).expect("the file is removed");
            }
        }
    }

    /// Whether it has joined the master's cluster.
    ///
    /// # Panics
    /// A host does not answer.
    #[must_use]
    pub fn is_joined(&self, master: &Node) -> bool {
        let joined = match self.kind {
            Kind::Worker => package::is_joined(&master.host, &self.host, self.name()),
            Kind::First | Kind::OneMaster => package::is_joined_master(&self.host),
        };
        joined.expect("the hosts answer")
    }

    /// Whether it is a worker, or to become one.
    #[must_use]
    pub fn is_worker(&self) -> bool {
        self.kind == Kind::Worker
    }

    /// Causes a fault. What a worker may not do is done on the first master.
    ///
    /// # Panics
    /// It cannot happen on the host.
    #[track_caller]
    pub fn cause(&self, fault: &Fault) {
        let master = if self.is_worker() {
            &self.first
        } else {
            &self.host
        };
        let caused = fault.cause_with(master, &self.host, &self.vip());
        caused.expect("it happens");
    }

    /// Takes the host out of the lab.
    ///
    /// # Panics
    /// It cannot be removed.
    pub fn remove(self, first: &mut Master) {
        let removed = first.lab.remove_host(self.name());
        removed.expect("the host is removed");
    }

    /// Writes the lab's own settings, with these.
    pub fn configure(&self, settings: &[(&str, &str)]) {
        let mut config = self.config.clone();
        for (key, value) in settings {
            config.set(key, value);
        }
        package::configure(&self.host, &config).expect("the settings are written");
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

    /// The address that is kept free for a virtual IP of the cluster.
    #[must_use]
    pub fn vip(&self) -> String {
        self.vip.to_string()
    }

    /// Runs nodelet.
    #[must_use]
    pub fn nodelet(&self, words: &[&str]) -> Run {
        commands::nodelet(&self.host, words)
    }

    /// The same in the environment of nodeletd, which may have another clock.
    #[must_use]
    pub fn nodelet_as_by_nodeletd(&self, words: &[&str]) -> Run {
        let began = Instant::now();
        let command = format!("nodelet {}", words.join(" "));
        let script = format!(
            "exec env $(systemctl show --value --property Environment pf9-nodeletd) {command}"
        );
        let output = self
            .host
            .exec_within(&["bash", "-c", &script], None, commands::limit(&self.host))
            .expect("the host runs commands");
        Run::of(&command, &output, began.elapsed())
    }

    /// `nodelet apply --json` with more arguments.
    #[must_use]
    pub fn apply(&self, words: &[&str]) -> Run {
        commands::apply(&self.host, words)
    }

    /// Waits until `nodelet check` finds everything well: what was just started or restarted takes a while to answer.
    #[track_caller]
    pub fn wait_until_well(&self) {
        const WELL: Duration = Duration::from_secs(330);
        let well = crate::poll(WELL, || self.check(&[]).exited(0).then_some(()));
        if well.is_none() {
            let _ = self.check(&[]).exits(0);
        }
    }

    /// `nodelet check`.
    #[must_use]
    pub fn check(&self, words: &[&str]) -> Run {
        let all: Vec<&str> = ["check", "--role", ROLE]
            .iter()
            .chain(words)
            .copied()
            .collect();
        self.nodelet(&all)
    }

    /// Lets nodeletd keep the host, also after a boot.
    #[track_caller]
    pub fn keep(&self) {
        self.sh("systemctl enable --quiet --now pf9-nodeletd");
    }

    /// Recovers a ledger of which no copy is left, and asserts that the role can be planned with it. Then the host has its own ledger again.
    pub fn recovers_a_lost_ledger(&self) {
        self.sh("systemctl stop pf9-nodeletd; mkdir /root/ledger; mv /var/opt/pf9/nodelet/ledger.* /root/ledger/");
        let _ = self
            .nodelet(&["diff", "--role", ROLE])
            .exits(1)
            .says(&["nodelet recover"]);
        let _ = self.nodelet(&["recover", "--role", ROLE]).exits(0);
        let _ = self.nodelet(&["diff", "--role", ROLE]).exits(0);
        self.sh("rm /var/opt/pf9/nodelet/ledger.*; mv /root/ledger/* /var/opt/pf9/nodelet/; rmdir /root/ledger; systemctl start pf9-nodeletd");
    }

    /// Whether a shell script succeeds. False on a host that does not run.
    #[must_use]
    pub fn holds(&self, script: &str) -> bool {
        let output = self.host.exec(&["bash", "-c", script]);
        output.is_ok_and(|output| output.status.success())
    }

    /// Runs a shell script on the host. Its failure is no error here.
    #[must_use]
    pub fn try_sh(&self, script: &str) -> Output {
        commands::try_sh(&self.host, script)
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

    /// Loads the workload image of the suites into the host's docker.
    pub fn load_toolbox(&self) {
        self.host
            .load_image(&self.toolbox)
            .expect("docker loads it");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let explanation = self.kind.explanation();
        if thread::panicking() && !explanation.is_empty() {
            commands::explain_failure(&self.host, explanation);
        }
    }
}
