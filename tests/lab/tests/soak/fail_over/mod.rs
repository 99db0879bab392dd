//! Three masters lose hosts, API servers, their network and their data while clients write. The virtual IP answers again within
//! seconds, and no acknowledged write is lost.
//!
//! Clients and probe are those of `under_load`. `trials` has what is done to the masters.

mod report;
mod trials;

use std::collections::BTreeSet;

use lab_suites::{SCALED, all_are_members, three_masters};

use crate::figures::write_section;
use crate::under_load::{UnderLoad, Written, are_whole, none_is_lost};
use report::{Writes, missed, tables};
use trials::{Cluster, KINDS, Kind, Outcome};

const WORDS: &str = "Three masters with a virtual IP, all on one machine. nodeletd makes a pass every five seconds. All the time a client writes numbered ConfigMaps \
through\nthe virtual IP, another one writes numbered keys to the members of etcd in turn, each about ten times a second, and a probe asks for `/readyz` at the \
virtual IP every\n100 ms on a new connection, for at most a second. The clients run on the same machine. A trial begins when all members of etcd work, all nodes are \
Ready, nodeletd\nfinds every host whole and one master holds the virtual IP. The time to the first good answer begins with the command that kills, and a good answer \
counts only\nafter a failed request. A cut network takes nothing in and lets nothing out, while its link stays up. The host keeps the address meanwhile, because it reaches no other master that is ready:\n\
when its network is back, two masters have the address until one of them hears the other. A longest time between two good answers that is longer than that to the first good answer\n\
is from after the move of the address; its parts are not recorded. At the end each acknowledged write is read from \
each API server and\neach member of etcd. A lost write or a missed target fails the soak. Written \
by\n`cargo xtask soak --write fail_over`.";

#[test]
#[ignore = "cargo xtask soak runs it"]
fn fail_over_of_three_masters_loses_no_acknowledged_write() {
    // The lab is removed with `first`, which outlives the rest.
    let (first, masters) = three_masters("fail-over", SCALED, |_| ());
    let vip = first.vip();
    all_are_members(&masters);
    are_whole(&masters, &vip);
    let cluster = Cluster {
        masters: &masters,
        vip: &vip,
        load: UnderLoad::start(&masters, &vip),
    };
    cluster.wait_until_whole();
    let tried: Vec<(&Kind, Vec<Outcome>)> = KINDS
        .iter()
        .map(|kind| (kind, kind.try_all(&cluster)))
        .collect();

    let ended = cluster.load.end(&masters);
    all_are_members(&masters);
    let [config_maps, keys] = &ended.lost;
    let through_vip = writes(
        "ConfigMaps at the virtual IP",
        &ended.written[0],
        config_maps,
    );
    let in_etcd = writes("keys at members of etcd", &ended.written[1], keys);
    let tables = tables(&tried, &[through_vip, in_etcd]);
    println!("{tables}");
    none_is_lost(&ended.lost);
    assert_eq!(missed(&tried), [""; 0], "missed targets");
    write_section(
        "docs/benchmarks.md",
        "Fail-over of three masters",
        WORDS,
        &tables,
    );
}

fn writes<'a>(what: &'a str, written: &Written, lost: &BTreeSet<usize>) -> Writes<'a> {
    Writes {
        what,
        acknowledged: written.acknowledged,
        failed: written.failed,
        lost: lost.len(),
    }
}
