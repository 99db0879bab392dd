//! The masters of one cluster with a virtual IP, taken together: how three of them come up, and what holds for all of them.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use lab::package::wait_for_masters;
use lab::{Host, Image};
use serde_json::Value;

use super::{Master, Node};

/// kubectl at the virtual IP.
pub const KUBECTL: &str = "kubectl --kubeconfig /etc/pf9/kube.d/kubeconfigs/admin.yaml";
/// The masters that join the first one.
const JOINING: [&str; 2] = ["master-2", "master-3"];
/// The list of masters on a master, and what tells that it is not in use everywhere yet.
const LIST: &str = "/var/opt/pf9/nodelet/masters.json";
const PENDING: &str = "/var/opt/pf9/nodelet/masters.pending";
/// Time limit until exactly one master holds the virtual IP. A fail-over takes at most ten seconds; other suites run beside this one.
const HELD: Duration = Duration::from_secs(60);
/// Time limit until the nodes are Ready. nodeletd looks at the masters every ten seconds.
const READY: Duration = Duration::from_secs(90);
/// Time limit until keepalived of each master knows all others.
const KNOWN: Duration = Duration::from_secs(90);

/// Three masters in a lab of their own, with a virtual IP and these settings; nodeletd keeps them. `before` gets each host before the
/// role is applied there. The lab is removed with the first value, so that one has to live longest.
///
/// # Panics
/// They do not come up.
#[must_use]
pub fn three_masters(
    lab: &str,
    settings: &[(&str, &str)],
    mut before: impl FnMut(&Host),
) -> (Master, Vec<Node>) {
    let (mut first, mut masters) = first_of_several(lab, settings, &mut before);
    for name in JOINING {
        let master = another_master(&mut first, &masters, name, settings, &mut before);
        masters.push(master);
    }
    (first, masters)
}

/// The first of several masters, as for [`three_masters`].
///
/// # Panics
/// It does not come up.
#[must_use]
pub fn first_of_several(
    lab: &str,
    settings: &[(&str, &str)],
    before: impl FnOnce(&Host),
) -> (Master, Vec<Node>) {
    let first = Master::create(lab, Image::Bare, true);
    before(first.host());
    first.configure(settings);
    let _ = first.apply(&[]).exits(0);
    let one = first.as_one();
    one.keep();
    (first, vec![one])
}

/// A new host that joins these masters, with these settings; nodeletd keeps it. `before` gets the host before the role is applied there.
///
/// # Panics
/// It does not join.
#[must_use]
pub fn another_master(
    first: &mut Master,
    masters: &[Node],
    name: &str,
    settings: &[(&str, &str)],
    before: impl FnOnce(&Host),
) -> Node {
    let master = Node::master_beside(first, name);
    before(master.host());
    is_known(masters);
    master.join(first, settings);
    master.keep();
    master
}

/// New hosts beside the first master, as [`Node::master_beside`] makes one. They get ready at the same time.
///
/// # Panics
/// One does not come up.
#[must_use]
pub fn masters_beside<const N: usize>(first: &mut Master, names: [&str; N]) -> [Node; N] {
    let specs = super::specs(&names, Image::Bare);
    let hosts = first.lab.add(&specs).expect("the hosts start");
    let first = &*first;
    let nodes = at_once(&hosts, |host| {
        host.wait_until_running().expect("its services start");
        Node::another_master_on(host.clone(), first)
    });
    nodes.try_into().expect("each name has a host")
}

/// Asserts that another apply on each of these masters changes nothing. It is made while nodeletd does not run: only one nodelet works on
/// a host.
#[track_caller]
pub fn second_apply_changes_nothing(masters: &[Node]) {
    all_know_one_another(&masters.iter().collect::<Vec<_>>());
    for master in masters {
        master.sh("systemctl stop pf9-nodeletd");
    }
    for master in masters {
        master.apply(&[]).exits(0).changes_nothing();
    }
    for master in masters {
        master.keep();
    }
}

/// Waits until keepalived of each of these masters knows all others, and no others, and nodelet works on none of them.
#[track_caller]
pub fn all_know_one_another(masters: &[&Node]) {
    for master in masters {
        for other in masters.iter().filter(|its| its.name() != master.name()) {
            let knows = format!(
                "grep -qwF {} /etc/keepalived/keepalived.conf && ! pgrep -x nodelet > /dev/null",
                other.host().address()
            );
            let what = format!("keepalived of {} knows {}", master.name(), other.name());
            master.wait_for(&what, &knows, KNOWN);
        }
        let seen = format!(
            "[ ! -e {PENDING} ] && {{ [ ! -e {LIST} ] || [ $(grep -o '\"address\"' {LIST} | wc -l) = {} ]; }} && ! pgrep -x nodelet > /dev/null",
            masters.len()
        );
        let what = format!("{} knows no other masters", master.name());
        master.wait_for(&what, &seen, KNOWN);
    }
}

/// Does something with all of these at the same time, and gives the results in their order.
///
/// # Panics
/// It panics for one of them.
pub fn at_once<T: Sync, R: Send>(all: &[T], what: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let what = &what;
    thread::scope(|scope| {
        let running: Vec<_> = all
            .iter()
            .map(|one| scope.spawn(move || what(one)))
            .collect();
        running
            .into_iter()
            .map(|its| its.join().expect("it succeeds for each of them"))
            .collect()
    })
}

/// Asserts that etcd has these members and no others, each with a vote, and waits until their nodes are Ready.
#[track_caller]
pub fn all_are_members(masters: &[Node]) {
    is_known(masters);
    let listed = || masters[0].nodelet(&["etcd", "members", "--json"]);
    // etcd may elect a leader just now.
    let well = crate::poll(HELD, || Some(listed()).filter(|run| run.exited(0)));
    let members: Vec<Value> = well.unwrap_or_else(listed).exits(0).json();
    let mut voters: Vec<&str> = members
        .iter()
        .filter(|member| member["voter"] == true)
        .filter_map(|member| member["name"].as_str())
        .collect();
    voters.sort_unstable();
    let mut names: Vec<&str> = masters.iter().map(Node::name).collect();
    names.sort_unstable();
    assert_eq!(voters, names, "{members:#?}");
    assert_eq!(members.len(), names.len(), "{members:#?}");
    nodes_are_ready(&masters[0], masters);
}

/// Waits until the nodes of these masters are Ready and the cluster has no other, as one of them sees it.
#[track_caller]
pub fn nodes_are_ready(by: &Node, masters: &[Node]) {
    let nodes: Vec<String> = masters
        .iter()
        .map(|its| format!("node/{}", its.name()))
        .collect();
    let ready = format!(
        "{KUBECTL} wait --for=condition=Ready --timeout=10s {}",
        nodes.join(" ")
    );
    by.wait_for("the nodes are Ready", &ready, READY);
    let count = format!(
        "[ $({KUBECTL} get node --output name | wc -l) = {} ]",
        nodes.len()
    );
    by.wait_for("there is no other node", &count, READY);
}

/// The master that holds the virtual IP, and the others.
///
/// # Panics
/// None or several hold it for too long.
#[must_use]
pub fn holder<'a>(masters: &'a [Node], vip: &str) -> (&'a Node, Vec<&'a Node>) {
    let held = format!("ip -o address show dev eth0 | grep -wF {vip} > /dev/null");
    let one = crate::poll(HELD, || {
        let mut holding = masters.iter().filter(|master| master.holds(&held));
        let one = holding.next()?;
        holding.next().is_none().then_some(one)
    });
    let one = one.expect("exactly one master holds the virtual IP");
    let others = masters.iter().filter(|its| its.name() != one.name());
    (one, others.collect())
}

/// Waits until the first master knows all of these, and no others: not earlier may another one join.
///
/// # Panics
/// It does not.
pub fn is_known(masters: &[Node]) {
    let names: BTreeSet<String> = masters.iter().map(|its| its.name().to_owned()).collect();
    wait_for_masters(masters[0].host(), &names).expect("the first master knows them");
}

#[cfg(test)]
mod tests {
    use super::at_once;

    #[test]
    fn results_are_in_the_order_of_what_is_done_at_once() {
        assert_eq!(at_once(&[3, 1, 2], |one| one * 10), [30, 10, 20]);
        assert!(at_once(&[0; 0], |one| *one).is_empty());
    }
}
