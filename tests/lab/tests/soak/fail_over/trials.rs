//! What is done to the masters, and how a trial begins and ends.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lab_suites::{Node, at_once, holder};

use crate::under_load::{UnderLoad, WHOLE, are_whole};

/// Time limit until the virtual IP answers again while two masters work. More than ten seconds fail the soak at its end.
const MOVED: Duration = Duration::from_secs(60);
/// The unit that cuts a host's network, and heals it, also if the soak dies.
const CUT: &str = "nodelet-soak-cut";
/// How long the network is cut, in seconds.
const CUT_FOR: u64 = 20;
/// Time limit until it is healed.
const HEALED: Duration = Duration::from_secs(CUT_FOR + 40);
/// etcd's data (`ETCD_DATA_DIR`).
const DATA: &str = "/var/opt/pf9/kube/etcd/data";

/// The masters under load.
pub(crate) struct Cluster<'a> {
    pub(crate) masters: &'a [Node],
    pub(crate) vip: &'a str,
    pub(crate) load: UnderLoad,
}

/// A way in which masters fail.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    /// How often it is tried.
    trials: usize,
    /// Target for the median of the times until the virtual IP answers again; `None` if there is no target.
    pub(crate) median: Option<Duration>,
    /// Whether the other masters serve all the time: then the virtual IP is never silent for long.
    pub(crate) others_serve: bool,
    /// Lets the masters fail, and gives the time until the virtual IP answered again, if it had to move. The number is that of the trial,
    /// from 1.
    cause: fn(&Cluster<'_>, usize) -> Option<Duration>,
}

/// All of them, in the order of the trials.
pub(crate) const KINDS: &[Kind] = &[
    Kind {
        name: "the host that holds the virtual IP is killed",
        trials: 5,
        median: Some(Duration::from_millis(1500)),
        others_serve: true,
        cause: host_is_killed,
    },
    Kind {
        name: "the API server beside the virtual IP is killed",
        trials: 5,
        median: Some(Duration::from_secs(3)),
        others_serve: true,
        cause: api_server_is_killed,
    },
    Kind {
        name: "the network of the host that holds the virtual IP is cut for 20 s",
        trials: 3,
        median: None,
        others_serve: true,
        cause: network_is_cut,
    },
    Kind {
        name: "the data of a member of etcd is removed, and nodeletd (trials 1 and 3) or `nodelet apply` brings the member back",
        trials: 3,
        median: None,
        others_serve: true,
        cause: data_is_removed,
    },
    Kind {
        name: "all hosts are rebooted, one after the other",
        trials: 3,
        median: None,
        others_serve: true,
        cause: all_are_rebooted,
    },
    Kind {
        name: "all hosts are killed at once and started",
        trials: 3,
        median: None,
        others_serve: false,
        cause: all_are_killed,
    },
];

/// What came of a trial.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The time from the fault to the first good answer at the virtual IP, if the address had to move.
    pub(crate) back: Option<Duration>,
    /// The longest time between two good answers.
    pub(crate) gap: Duration,
    /// The time from the fault until all masters were whole.
    pub(crate) whole: Duration,
}

impl Kind {
    /// Makes its trials. Each begins and ends with masters that are whole.
    pub(crate) fn try_all(&self, cluster: &Cluster<'_>) -> Vec<Outcome> {
        let one = |number: usize| {
            println!("{}: trial {number} of {}", self.name, self.trials);
            let _ = cluster.load.probe.take_gap();
            let began = Instant::now();
            let back = (self.cause)(cluster, number);
            cluster.wait_until_whole();
            let outcome = Outcome {
                back,
                gap: cluster.load.probe.take_gap(),
                whole: began.elapsed(),
            };
            println!("{outcome:.2?}");
            outcome
        };
        (1..=self.trials).map(one).collect()
    }
}

impl Cluster<'_> {
    /// Waits until all masters are whole: nodeletd finds every host so, the members of etcd work, the nodes are Ready, exactly one
    /// master holds the virtual IP, and both writers go on.
    #[track_caller]
    pub(crate) fn wait_until_whole(&self) {
        are_whole(self.masters, self.vip);
        self.load.writers.go_on();
    }

    fn holder(&self) -> &Node {
        holder(self.masters, self.vip).0
    }

    /// The time until the virtual IP answers again on another host.
    fn moved(&self, since: Instant) -> Duration {
        self.load.probe.back_after(since, MOVED)
    }
}

/// The time begins before the command that kills the host.
fn host_is_killed(cluster: &Cluster<'_>, _: usize) -> Option<Duration> {
    let holder = cluster.holder();
    let since = Instant::now();
    holder.host().kill().expect("it is killed");
    let back = cluster.moved(since);
    // Two masters are enough.
    cluster.load.writers.go_on();
    holder.host().start().expect("it starts again");
    Some(back)
}

/// The time begins before the command of docker, on the host.
fn api_server_is_killed(cluster: &Cluster<'_>, _: usize) -> Option<Duration> {
    let stamp = cluster.holder().sh(
        "id=$(docker ps --quiet --filter label=io.kubernetes.container.name=kube-apiserver)
         [ -n \"$id\" ]; date +%s%N; docker kill $id > /dev/null",
    );
    Some(cluster.moved(instant(&stamp)))
}

/// Nothing leaves the host, not even an answer to ARP, and nothing comes in; its link stays up. The packet filter alone would let ARP
/// and the announcements of keepalived pass. The host ends the cut by itself.
fn network_is_cut(cluster: &Cluster<'_>, _: usize) -> Option<Duration> {
    let holder = cluster.holder();
    let stamp = holder.sh(&format!(
        "date +%s%N; systemd-run --quiet --collect --unit {CUT} bash -c '
             heal() {{ tc qdisc del dev eth0 root; iptables -w -t raw -D PREROUTING -i eth0 -j DROP; }}
             trap heal EXIT
             iptables -w -t raw -I PREROUTING -i eth0 -j DROP && tc qdisc add dev eth0 root pfifo limit 0 && sleep {CUT_FOR}'"
    ));
    let back = cluster.moved(instant(&stamp));
    cluster.load.writers.go_on();
    let healed = format!("! systemctl is-active --quiet {CUT}");
    holder.wait_for("its network is healed", &healed, HEALED);
    Some(back)
}

/// Each trial takes another master. The first one may begin a cluster (`ETCD_INITIAL_CLUSTER_STATE`); without data it joins the others. In every other
/// trial the data goes while etcd runs, and nodeletd repairs the host; otherwise an operator does.
fn data_is_removed(cluster: &Cluster<'_>, trial: usize) -> Option<Duration> {
    let emptied = &cluster.masters[trial % cluster.masters.len()];
    if trial % 2 == 1 {
        emptied.sh(&format!(
            "systemctl is-active --quiet pf9-nodeletd
             find {DATA} -mindepth 1 -delete; docker kill etcd > /dev/null"
        ));
        cluster.load.writers.go_on();
        return None;
    }
    emptied.sh(&format!(
        "systemctl stop pf9-nodeletd
         docker stop etcd > /dev/null
         find {DATA} -mindepth 1 -delete
         [ -d {DATA} ] && [ -z \"$(ls -A {DATA})\" ]"
    ));
    cluster.load.writers.go_on();
    let applied = emptied.apply(&[]).exits(0);
    println!("`nodelet apply` took {:.1?}", applied.took);
    emptied.keep();
    None
}

/// Each host is rebooted only when all are whole again.
fn all_are_rebooted(cluster: &Cluster<'_>, _: usize) -> Option<Duration> {
    for master in cluster.masters {
        master.host().reboot().expect("it reboots");
        cluster.wait_until_whole();
    }
    None
}

/// Nothing helps them but their boot.
fn all_are_killed(cluster: &Cluster<'_>, _: usize) -> Option<Duration> {
    let since = Instant::now();
    at_once(cluster.masters, |master| {
        master.host().kill().expect("it is killed");
    });
    at_once(cluster.masters, |master| {
        master.host().start().expect("it starts again");
    });
    Some(cluster.load.probe.back_after(since, WHOLE))
}

/// The moment of a time that a host printed in nanoseconds. Hosts have the clock of the machine.
fn instant(stamp: &str) -> Instant {
    let nanoseconds = stamp.parse().expect("nanoseconds");
    let at = UNIX_EPOCH + Duration::from_nanos(nanoseconds);
    let ago = SystemTime::now().duration_since(at).unwrap_or_default();
    Instant::now() - ago
}
