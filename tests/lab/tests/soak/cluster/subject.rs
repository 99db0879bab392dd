//! The host of a cluster that a soak is about: a worker, or one of three masters.

use std::ops::Deref;
use std::time::Duration;

use lab_suites::{
    Image, Master, Node, SCALED, all_know_one_another, another_master, is_known, nodes_are_ready,
};

/// Time limit of nodeletd's first pass, and until the masters have seen a worker.
const SEEN: Duration = Duration::from_secs(120);
/// Time limit until the virtual IP is on a master, after all others have given it up.
const MOVED: Duration = Duration::from_secs(60);

/// What the host is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Beside one master.
    Worker,
    /// Beside two others, with a virtual IP.
    OneOfThree,
}

/// The host, in a cluster of its own with settings that let nodeletd look every five seconds. On the other hosts nodeletd runs.
pub(crate) struct Subject {
    kind: Kind,
    node: Node,
    /// The other masters.
    others: Vec<Node>,
    /// The lab is removed with it, so it is the last one.
    first: Master,
}

impl Deref for Subject {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}

impl Subject {
    /// A bare host with the role, beside the masters that it may join.
    pub(crate) fn bare(kind: Kind, lab: &str) -> Self {
        let mut first = Master::create(lab, Image::Bare, kind == Kind::OneOfThree);
        first.configure(SCALED);
        let _ = first.apply(&[]).exits(0);
        let mut others = vec![first.as_one()];
        others[0].keep();
        let node = match kind {
            Kind::Worker => Node::worker_beside(&mut first, "worker-1"),
            Kind::OneOfThree => {
                let second = another_master(&mut first, &others, "master-2", SCALED, |_| ());
                others.push(second);
                Node::master_beside(&mut first, "master-3")
            }
        };
        Self {
            kind,
            node,
            others,
            first,
        }
    }

    /// The same, and the host has joined. nodeletd does not run on it.
    pub(crate) fn joined(kind: Kind, lab: &str) -> Self {
        let subject = Self::bare(kind, lab);
        subject.prepare();
        let _ = subject.apply(&[]).exits(0);
        subject.settle();
        subject
    }

    /// Gives the host settings and a join file: the next apply lets it join.
    pub(crate) fn prepare(&self) {
        is_known(&self.others);
        self.node.prepare_join(&self.first, SCALED);
    }

    /// After the apply with which it has joined: waits until all hosts know one another. nodeletd does not run on it afterwards.
    pub(crate) fn settle(&self) {
        self.node.has_joined();
        self.node.sh("systemctl start pf9-nodeletd");
        match self.kind {
            Kind::Worker => {
                let found = "nodelet status > /dev/null";
                self.wait_for("nodeletd finds its host whole", found, SEEN);
            }
            Kind::OneOfThree => {
                let all: Vec<&Node> = self.others.iter().chain([&self.node]).collect();
                all_know_one_another(&all);
            }
        }
        self.node.sh("systemctl stop pf9-nodeletd");
    }

    /// Lets a master that has joined leave for good. Its host is not cleaned.
    pub(crate) fn remove_from_cluster(&self) {
        let words = ["cluster", "remove", self.node.name(), "--force"];
        let _ = self.others[0].nodelet(&words).exits(0);
        nodes_are_ready(&self.others[0], &self.others);
    }

    /// The first master.
    pub(crate) fn first(&self) -> &Master {
        &self.first
    }

    /// Moves the virtual IP to this master. keepalived of the others is stopped meanwhile, and they do not take it back.
    pub(crate) fn take_virtual_ip(&self) {
        for other in &self.others {
            other.sh("systemctl stop pf9-nodeletd keepalived");
        }
        let held = format!(
            "ip -o address show dev eth0 | grep -wF {} > /dev/null",
            self.vip()
        );
        self.wait_for("it holds the virtual IP", &held, MOVED);
        for other in &self.others {
            other.sh("systemctl start keepalived pf9-nodeletd");
        }
    }
}
