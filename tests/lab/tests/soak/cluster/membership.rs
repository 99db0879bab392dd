//! From one master to three and five, and back, while clients write: no acknowledged write is lost, and nothing is restarted on a
//! master that stays.

use std::collections::BTreeMap;
use std::time::Instant;

use lab_suites::{
    Image, Master, Node, RunningInstances, SCALED, all_are_members, another_master,
    second_apply_changes_nothing,
};

use crate::under_load::{UnderLoad, are_whole, none_is_lost};

/// The numbers of masters, one after the other.
const SIZES: [usize; 5] = [1, 3, 5, 3, 1];

#[test]
#[ignore = "cargo xtask soak runs it"]
fn membership_of_one_three_five_three_one_masters_under_load() {
    // The lab is removed with `first`, which outlives the rest.
    let mut first = Master::create("membership", Image::Bare, true);
    let vip = first.vip();
    first.configure(SCALED);
    let _ = first.apply(&[]).exits(0);
    let mut masters = vec![first.as_one()];
    masters[0].keep();
    are_whole(&masters, &vip);
    let load = UnderLoad::start(&masters, &vip);
    load.writers.go_on();
    for size in SIZES {
        let began = Instant::now();
        while masters.len() < size {
            one_joins(&mut first, &mut masters, &load);
        }
        while masters.len() > size {
            one_leaves(&mut first, &mut masters, &load);
        }
        all_are_members(&masters);
        second_apply_changes_nothing(&masters);
        are_whole(&masters, &vip);
        load.writers.go_on();
        none_is_lost(&load.lost_so_far(&masters));
        println!(
            "{size} masters after {:.0} s; without a good answer of the virtual IP for {:.1} s at most",
            began.elapsed().as_secs_f64(),
            load.probe.take_gap().as_secs_f64()
        );
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

/// All containers and units on each of these masters, and since when they run, by name.
fn started(masters: &[Node]) -> BTreeMap<String, RunningInstances> {
    let one = |master: &Node| (master.name().to_owned(), RunningInstances::of(master));
    masters.iter().map(one).collect()
}

fn one_joins(first: &mut Master, masters: &mut Vec<Node>, load: &UnderLoad) {
    let before = started(masters);
    let name = format!("master-{}", masters.len() + 1);
    let joined = another_master(first, masters, &name, SCALED, |_| ());
    assert_eq!(started(masters), before, "{name} has joined");
    masters.push(joined);
    load.write_to(masters);
    load.writers.go_on();
}

/// The last one leaves as an operator lets it: it is removed from the cluster and then cleaned.
fn one_leaves(first: &mut Master, masters: &mut Vec<Node>, load: &UnderLoad) {
    let leaving = masters.pop().expect("a master");
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
