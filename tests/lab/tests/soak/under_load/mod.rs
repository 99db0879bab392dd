//! Masters under a constant load of numbered writes, with a probe at the virtual IP, and what became of the writes.
//!
//! Clients and probe run on the machine, beside the hosts. `writers` has what is written, `read_back` finds what was lost, `probe` asks at
//! the virtual IP.

mod background;
mod client;
mod probe;
mod read_back;
mod writers;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use lab_suites::{Credentials, KUBECTL, Node, holder, nodes_are_ready};

use probe::{Probe, Probed};
use writers::{NAMESPACE, Writers};

pub(crate) use read_back::Reader;
pub(crate) use writers::{KeyWriter, Written};

/// Time limit until all masters are whole.
pub(crate) const WHOLE: Duration = Duration::from_secs(300);

/// The clients and the probe.
pub(crate) struct UnderLoad {
    pub(crate) writers: Writers,
    pub(crate) probe: Probe,
    administrator: Credentials,
    client_of_etcd: Credentials,
    began: Instant,
}

/// What became of it all.
pub(crate) struct Ended {
    /// What was written as ConfigMaps, and as keys.
    pub(crate) written: [Written; 2],
    /// The numbers of acknowledged ConfigMaps and keys that some master does not have with what was written.
    pub(crate) lost: [BTreeSet<usize>; 2],
}

impl UnderLoad {
    /// Begins to write and to ask. The masters must be whole.
    #[track_caller]
    pub(crate) fn start(masters: &[Node], vip: &str) -> Self {
        let first = &masters[0];
        first.sh(&format!("{KUBECTL} create namespace {NAMESPACE}"));
        let administrator = Credentials::of(first.host(), "admin");
        let client_of_etcd = Credentials::of(first.host(), "etcdctl/etcd");
        Self {
            writers: Writers::start(&administrator, vip, &client_of_etcd, urls(masters)),
            probe: Probe::start(&administrator, vip),
            administrator,
            client_of_etcd,
            began: Instant::now(),
        }
    }

    /// Writes keys to the members of these masters only, from now on.
    pub(crate) fn write_to(&self, masters: &[Node]) {
        self.writers.write_to(urls(masters));
    }

    /// Goes on with the credentials that a master has now.
    #[track_caller]
    pub(crate) fn renew(&mut self, master: &Node) {
        self.administrator = Credentials::of(master.host(), "admin");
        self.client_of_etcd = Credentials::of(master.host(), "etcdctl/etcd");
        self.writers
            .renew(&self.administrator, &self.client_of_etcd);
        self.probe.renew(&self.administrator);
    }

    /// What of the writes that are acknowledged so far is lost on some of these masters.
    #[track_caller]
    pub(crate) fn lost_so_far(&self, masters: &[Node]) -> [BTreeSet<usize>; 2] {
        let acknowledged = self.writers.acknowledged();
        lost(
            masters,
            &self.administrator,
            &self.client_of_etcd,
            acknowledged,
        )
    }

    /// Ends clients and probe, and reads everything from each of these masters.
    #[track_caller]
    pub(crate) fn end(self, masters: &[Node]) -> Ended {
        let Self {
            writers,
            probe,
            administrator,
            client_of_etcd,
            began,
        } = self;
        let (probed, written) = (probe.end(), writers.end());
        tell(&probed, began.elapsed());
        let acknowledged = [&written[0], &written[1]].map(|its| its.acknowledged);
        Ended {
            lost: lost(masters, &administrator, &client_of_etcd, acknowledged),
            written,
        }
    }
}

/// The URLs of the members of etcd on these masters.
pub(crate) fn urls(masters: &[Node]) -> Vec<String> {
    let url = |master: &Node| format!("https://{}:4001", master.host().address());
    masters.iter().map(url).collect()
}

fn tell(probed: &Probed, time: Duration) {
    println!(
        "in {:.0} s the virtual IP was asked {} times, {} times without a good answer, and for {:.1} s at most there was none",
        time.as_secs_f64(),
        probed.asked,
        probed.failed,
        probed.longest_gap.as_secs_f64()
    );
}

/// The numbers of the acknowledged writes, ConfigMaps and keys, that some master does not have with what was written.
fn lost(
    masters: &[Node],
    administrator: &Credentials,
    client_of_etcd: &Credentials,
    [config_maps, keys]: [usize; 2],
) -> [BTreeSet<usize>; 2] {
    let (api, etcd) = (Reader::new(administrator), Reader::new(client_of_etcd));
    let mut lost = [BTreeSet::new(), BTreeSet::new()];
    for master in masters {
        let address = master.host().address();
        lost[0].extend(api.lost_config_maps(address, config_maps));
        lost[1].extend(etcd.lost_keys(address, keys));
    }
    lost
}

/// Asserts that no acknowledged write is lost.
#[track_caller]
pub(crate) fn none_is_lost([config_maps, keys]: &[BTreeSet<usize>; 2]) {
    none_of_them_is_lost("ConfigMaps", config_maps);
    none_of_them_is_lost("keys", keys);
}

/// The same for the numbers of these acknowledged writes alone.
#[track_caller]
pub(crate) fn none_of_them_is_lost(what: &str, lost: &BTreeSet<usize>) {
    let some: Vec<&usize> = lost.iter().take(20).collect();
    assert!(
        lost.is_empty(),
        "{} acknowledged {what} are lost, among them {some:?}",
        lost.len()
    );
}

/// Waits until these are all masters, and whole: nodeletd finds every host so, the members of etcd work, the nodes are Ready, and exactly
/// one master holds the virtual IP.
#[track_caller]
pub(crate) fn are_whole(masters: &[Node], vip: &str) {
    masters_work(masters);
    nodes_are_ready(&masters[0], masters);
    let _ = holder(masters, vip);
}

/// Waits until nodeletd finds each of these masters whole, and the members of etcd work.
#[track_caller]
pub(crate) fn masters_work(masters: &[Node]) {
    let whole = "nodelet check > /dev/null && nodelet status > /dev/null";
    let work = "nodelet etcd members > /dev/null";
    for (what, script) in [
        ("nodeletd finds its host whole", whole),
        ("all members work", work),
    ] {
        for master in masters {
            let what = format!("{}: {what}", master.name());
            master.wait_for(&what, script, WHOLE);
        }
    }
}
