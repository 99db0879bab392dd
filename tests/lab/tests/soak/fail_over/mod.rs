//! Three masters lose hosts, API servers, their network and their data while clients write. The virtual IP answers again within
//! seconds, and no acknowledged write is lost.
//!
//! Clients and probe run on the machine, beside the hosts. `trials` has what is done to the masters, `writers` what is written,
//! `read_back` finds what was lost, `probe` asks at the virtual IP.

mod background;
mod probe;
mod read_back;
mod report;
mod trials;
mod writers;

use std::collections::BTreeSet;
use std::time::Instant;

use lab_suites::{Credentials, KUBECTL, OneMaster, SCALED, all_are_members, three_masters};

use crate::figures::write_section;
use probe::Probe;
use read_back::Reader;
use report::{LONGEST, Writes, judged, tables};
use trials::{Cluster, KINDS, Kind, Outcome};
use writers::{NAMESPACE, Writers, Written};

const WORDS: &str = "Three masters with a virtual IP, all on one machine. nodeletd makes a pass every five seconds. All the time a client writes numbered ConfigMaps \
through\nthe virtual IP, another one writes numbered keys to the members of etcd in turn, each about ten times a second, and a probe asks for `/readyz` at the \
virtual IP every\n100 ms on a new connection, for at most a second. The clients run on the same machine. A trial begins when all members of etcd work, all nodes are \
Ready, nodeletd\nfinds every host whole and one master holds the virtual IP. The time to the first good answer begins with the command that kills, and a good answer \
counts only\nafter a failed request. A cut network takes nothing in and lets nothing out, while its link stays up. At the end each acknowledged write is read from \
each API server and\neach member of etcd. A lost write, or more than ten seconds without an answer after a host or an API server was killed, fails the soak. Written \
by\n`cargo xtask soak --write fail_over`.";

#[test]
#[ignore = "cargo xtask soak runs it"]
fn fail_over_of_three_masters_loses_no_acknowledged_write() {
    // The lab is removed with `first`, which outlives the rest.
    let (first, masters) = three_masters("fail-over", SCALED, |_| ());
    let vip = first.vip();
    all_are_members(&masters);
    masters[0].sh(&format!("{KUBECTL} create namespace {NAMESPACE}"));
    let administrator = Credentials::of(masters[0].host(), "admin");
    let client_of_etcd = Credentials::of(masters[0].host(), "etcdctl/etcd");
    let members: Vec<String> = masters
        .iter()
        .map(|master| format!("https://{}:4001", master.host().address()))
        .collect();
    let began = Instant::now();
    let cluster = Cluster {
        masters: &masters,
        vip: &vip,
        writers: Writers::start(&administrator, &vip, &client_of_etcd, members),
        probe: Probe::start(&administrator, &vip),
    };
    cluster.wait_until_whole();
    let tried: Vec<(&Kind, Vec<Outcome>)> = KINDS
        .iter()
        .map(|kind| (kind, kind.try_all(&cluster)))
        .collect();

    let Cluster { writers, probe, .. } = cluster;
    let (probed, written) = (probe.end(), writers.end());
    println!(
        "in {:.0} s the virtual IP was asked {} times, {} times without a good answer, and for {:.1} s at most there was none",
        began.elapsed().as_secs_f64(),
        probed.asked,
        probed.failed,
        probed.longest_gap.as_secs_f64()
    );
    all_are_members(&masters);
    let [config_maps, keys] = lost(&masters, &administrator, &client_of_etcd, &written);
    let through_vip = writes("ConfigMaps at the virtual IP", &written[0], &config_maps);
    let in_etcd = writes("keys at members of etcd", &written[1], &keys);
    let tables = tables(&tried, &[through_vip, in_etcd]);
    println!("{tables}");
    for (what, lost) in [("ConfigMaps", &config_maps), ("keys", &keys)] {
        let some: Vec<&usize> = lost.iter().take(20).collect();
        assert!(
            lost.is_empty(),
            "{} acknowledged {what} are lost, among them {some:?}",
            lost.len()
        );
    }
    let slowest = judged(&tried).into_iter().max();
    assert!(
        slowest.is_some_and(|slowest| slowest <= LONGEST),
        "{slowest:?} until the virtual IP answered again"
    );
    write_section(
        "docs/benchmarks.md",
        "Fail-over of three masters",
        WORDS,
        &tables,
    );
}

/// The numbers of acknowledged ConfigMaps and keys that some master does not have with what was written.
fn lost(
    masters: &[OneMaster],
    administrator: &Credentials,
    client_of_etcd: &Credentials,
    [config_maps, keys]: &[Written; 2],
) -> [BTreeSet<usize>; 2] {
    let (api, etcd) = (Reader::new(administrator), Reader::new(client_of_etcd));
    let mut lost = [BTreeSet::new(), BTreeSet::new()];
    for master in masters {
        let address = master.host().address();
        lost[0].extend(api.lost_config_maps(address, config_maps.acknowledged));
        lost[1].extend(etcd.lost_keys(address, keys.acknowledged));
    }
    lost
}

fn writes<'a>(what: &'a str, written: &Written, lost: &BTreeSet<usize>) -> Writes<'a> {
    Writes {
        what,
        acknowledged: written.acknowledged,
        failed: written.failed,
        lost: lost.len(),
    }
}
