//! From one master to three and five, and back, while clients write: no acknowledged write is lost, and nothing is restarted on a
//! master that stays. With three of them, the virtual IP does not move while a host is busy or another API server starts, and one of them takes
//! the backups. The master that holds the virtual IP is removed, too.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use lab_suites::{
    Image, Master, Node, Run, RunningInstances, SCALED, all_are_members, another_master, holder,
    poll, second_apply_changes_nothing,
};

use crate::under_load::{UnderLoad, are_whole, none_is_lost};

/// The numbers of masters, one after the other.
const SIZES: [usize; 5] = [1, 3, 5, 3, 1];

/// How often keepalived has taken the virtual IP on a host.
const TAKEN: &str =
    "journalctl --no-pager --output cat -u keepalived | grep -c 'Entering MASTER STATE' || true";
/// How often keepalived has begun to listen to the other masters on a host.
const READY: &str =
    "journalctl --no-pager --output cat -u keepalived | grep -c 'Entering BACKUP STATE' || true";
/// Processes that do nothing but use the processors, and for how long. Each is a unit, as the programs of a host are: outside of all units
/// they would take the processors from each container of the host together.
const BUSY: &str = r"for n in 1 2 3 4 5 6 7 8; do
    systemd-run --quiet --wait --collect --unit=busy-$n timeout 60 sh -c 'while :; do :; done' &
done; wait";
/// Longest time without a good answer of the virtual IP while masters join or leave.
const GAP: Duration = Duration::from_secs(10);
/// Time limit until an API server works again.
const BACK: Duration = Duration::from_secs(120);
/// nodelet's exit code while another command works on the host.
const OCCUPIED: i32 = 75;

#[test]
#[ignore = "cargo xtask soak runs it"]
fn membership_of_one_three_five_three_one_masters_under_load() {
    // The lab is removed with `first`, which outlives the rest.
    let mut first = Master::create("membership", Image::Bare, true);
    let vip = first.vip();
    let settings = [SCALED, &[("ETCD_BACKUP_MASTERS", "one")]].concat();
    first.configure(&settings);
    let _ = first.apply(&[]).exits(0);
    let mut masters = vec![first.as_one()];
    masters[0].keep();
    are_whole(&masters, &vip);
    let load = UnderLoad::start(&masters, &vip);
    load.writers.go_on();
    for (round, size) in SIZES.into_iter().enumerate() {
        let began = Instant::now();
        while masters.len() < size {
            one_joins(&mut first, &mut masters, &settings, &load);
        }
        while masters.len() > size {
            one_leaves(&mut first, &mut masters, &load, &vip);
        }
        all_are_members(&masters);
        second_apply_changes_nothing(&masters);
        are_whole(&masters, &vip);
        load.writers.go_on();
        none_is_lost(&load.lost_so_far(&masters));
        let gap = load.probe.take_gap();
        println!(
            "{size} masters after {:.0} s; without a good answer of the virtual IP for {:.1} s at most",
            began.elapsed().as_secs_f64(),
            gap.as_secs_f64()
        );
        assert!(gap <= GAP, "the virtual IP did not answer for {gap:.1?}");
        if round == 1 {
            the_address_stays(&masters, &vip);
            one_master_takes_the_backups(&masters);
            // While the processors are busy, a slow leader of etcd may keep all masters from answering. Then the address has to stay.
            let busy = load.probe.take_gap().as_secs_f64();
            println!(
                "without a good answer for {busy:.1} s at most while a host is busy and an API server is killed"
            );
            a_holder_that_is_cut_off_releases_the_address(&masters, &vip);
            let cut = load.probe.take_gap().as_secs_f64();
            println!(
                "without a good answer for {cut:.1} s at most while a packet filter cuts the holder off"
            );
            are_whole(&masters, &vip);
        }
    }
    let ended = load.end(&masters);
    for (what, written) in ["ConfigMaps", "keys"].iter().zip(&ended.written) {
        println!(
            "{} {what} are acknowledged; {} attempts failed and were made again",
            written.acknowledged, written.failed
        );
    }
    none_is_lost(&ended.lost);
}

/// The virtual IP stays where it is while the host that holds it is busy, and while the API server of another master is killed and starts again.
fn the_address_stays(masters: &[Node], vip: &str) {
    let taken = || -> Vec<String> { masters.iter().map(|its| its.sh(TAKEN)).collect() };
    let (holds, others) = holder(masters, vip);
    let before = taken();
    holds.sh(BUSY);
    assert_eq!(taken(), before, "while {} was busy", holds.name());
    let other = others[0];
    other.sh(
        "docker ps --quiet --filter label=io.kubernetes.container.name=kube-apiserver | xargs docker kill",
    );
    let ready = "curl -sf --max-time 3 --cacert /etc/pf9/kube.d/ca/cluster/ca.crt https://127.0.0.1:443/readyz | grep -qx ok";
    other.wait_for("its API server is back", ready, BACK);
    let (still, _) = holder(masters, vip);
    assert_eq!(still.name(), holds.name());
    assert_eq!(taken(), before, "{} started its API server", other.name());
}

/// A packet filter cuts the holder off, and ARP goes on: other hosts would believe it again and again, beside the master that has taken the address.
fn a_holder_that_is_cut_off_releases_the_address(masters: &[Node], vip: &str) {
    let (holds, others) = holder(masters, vip);
    let rules = ["INPUT --in-interface", "OUTPUT --out-interface"];
    let each = |verb: &str| {
        for rule in rules {
            holds.sh(&format!("iptables {verb} {rule} eth0 --jump DROP"));
        }
    };
    each("--insert");
    let held = format!("ip -o address show dev eth0 | grep -wF {vip} > /dev/null");
    let taken = poll(BACK, || {
        others.iter().any(|its| its.holds(&held)).then_some(())
    });
    taken.expect("another master takes the address");
    holds.wait_for("it releases the address", &format!("! {held}"), BACK);
    each("--delete");
    let (now, _) = holder(masters, vip);
    assert_ne!(now.name(), holds.name());
}

/// Whose turn it is takes one, and the others leave theirs to it.
fn one_master_takes_the_backups(masters: &[Node]) {
    let backup = |master: &Node| -> Run {
        let run = poll(BACK, || {
            let run = master.nodelet(&["etcd", "backup", "--scheduled"]);
            (!run.exited(OCCUPIED)).then_some(run)
        });
        run.expect("no other command works").exits(0)
    };
    // Before the first one, the others take theirs: they do not wait for a master that may take none.
    masters.iter().for_each(|its| drop(backup(its)));
    let runs: Vec<String> = masters.iter().map(|its| backup(its).text()).collect();
    let count = |says: &str| runs.iter().filter(|run| run.contains(says)).count();
    assert_eq!(
        (count(": verified, "), count(" takes the backup")),
        (1, masters.len() - 1),
        "{runs:#?}"
    );
}

/// All containers and units on each of these masters, and since when they run, by name.
fn started(masters: &[Node]) -> BTreeMap<String, RunningInstances> {
    let one = |master: &Node| (master.name().to_owned(), RunningInstances::of(master));
    masters.iter().map(one).collect()
}

fn one_joins(
    first: &mut Master,
    masters: &mut Vec<Node>,
    settings: &[(&str, &str)],
    load: &UnderLoad,
) {
    let before = started(masters);
    // keepalived ranks masters by name, so the second one that joins changes the priority of the first one.
    let name = match masters.len() {
        2 => "a-master".to_owned(),
        number => format!("master-{}", number + 1),
    };
    let joined = another_master(first, masters, &name, settings, |_| ());
    assert_eq!(started(masters), before, "{name} has joined");
    masters.push(joined);
    load.write_to(masters);
    load.writers.go_on();
}

/// One leaves as an operator lets it: it is removed from the cluster and then cleaned. It is the one that holds the virtual IP.
fn one_leaves(first: &mut Master, masters: &mut Vec<Node>, load: &UnderLoad, vip: &str) {
    if holder(masters, vip).0.name() == masters[0].name() {
        // The first one stays to the end. It does not take the address back.
        let before: u32 = masters[0].sh(READY).trim().parse().expect("a number");
        masters[0].sh("systemctl stop keepalived");
        let _ = holder(&masters[1..], vip);
        masters[0].sh("systemctl start keepalived");
        // In the first 15 s it takes part in nothing, and it may be the only one that is left.
        let takes_part = format!("[ $({READY}) -gt {before} ]");
        masters[0].wait_for("its keepalived takes part", &takes_part, BACK);
    }
    let holds = holder(masters, vip).0.name().to_owned();
    let at = masters.iter().position(|one| one.name() == holds);
    let leaving = masters.remove(at.expect("one of them holds it"));
    println!("{holds} leaves, which holds the virtual IP");
    load.write_to(masters);
    let before = started(masters);
    leaving.sh("systemctl disable --quiet --now pf9-nodeletd");
    let words = ["cluster", "remove", leaving.name(), "--force"];
    let removed = masters[0].nodelet(&words).exits(0);
    let _ = removed.says(&[&format!("master {} is removed", leaving.name())]);
    all_are_members(masters);
    load.writers.go_on();
    let _ = leaving.nodelet(&["clean", "--purge"]).exits(0);
    assert_eq!(started(masters), before, "{} has left", leaving.name());
    leaving.remove(first);
}
