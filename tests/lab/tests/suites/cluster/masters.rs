//! Three masters with a virtual IP: they join one after the other, the cluster goes on while one of them is down and comes back after all
//! were, a stranger is refused, and they leave one by one.

use std::time::Duration;

use lab::Host;
use lab_suites::{
    After, KUBECTL, Master, Node, SCALED, Slate, all_are_members, another_master, at_once,
    first_of_several, holder, is_known, masters_beside, nodes_are_ready, poll,
    second_apply_changes_nothing,
};
use serde_json::Value;

use super::strangers::{
    a_cluster_that_begins_is_alone, a_router_id_of_a_stranger_is_refused,
    a_silent_holder_is_reported, vrrp_of_a_stranger_changes_nothing,
};

/// Time limit until the API answers at the virtual IP again. A fail-over takes at most ten seconds; other suites run beside this one.
const ANSWERED: Duration = Duration::from_secs(60);
/// Time limit until the servers of all masters answer a status, on a busy machine.
const SHOWN: Duration = Duration::from_secs(60);
/// Time limit until a host that was killed is a master again.
const BACK: Duration = Duration::from_secs(240);

/// Succeeds on a master whose own API server is ready.
const OWN_API_IS_READY: &str = "curl -sf --max-time 3 --cacert /etc/pf9/kube.d/ca/cluster/ca.crt https://127.0.0.1:443/readyz | grep -qx ok";

/// Succeeds on a master whose keepalived has listened to the holder for longer than three of its messages take, and has not taken the address
/// meanwhile. It takes part in nothing in the first 15 s after its start (`vrrp_startup_delay`), and only its present run counts.
const LISTENS: &str = r#"began=$(systemctl show --timestamp=us+utc --property=ActiveEnterTimestamp --value keepalived) && [ -n "$began" ] &&
    [ $(($(date +%s) - $(date --date "$began" +%s))) -ge 17 ] &&
    run=$(systemctl show --property=InvocationID --value keepalived) && [ -n "$run" ] &&
    last=$(journalctl --no-pager --output short-unix _SYSTEMD_INVOCATION_ID="$run" | grep -i 'entering [a-z]* state' | tail -n 1) &&
    [[ $last == *'Entering BACKUP STATE'* ]] && [ $(($(date +%s) - ${last%%.*})) -ge 2 ]"#;

/// Settings that make a worker of a master.
const AS_WORKER: &[(&str, &str)] = &[("ROLE", "worker")];

/// One test, because three masters take longer to come up than all that is done with them.
#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn three_masters_go_on_without_one_and_leave_one_by_one() {
    let mut slates = Vec::new();
    let mut before = |host: &Host| slates.push(Slate::of_host(host));
    let (mut first, mut masters) = first_of_several("masters", SCALED, &mut before);
    masters.push(another_master(
        &mut first,
        &masters,
        "master-2",
        SCALED,
        &mut before,
    ));
    let third = Node::master_beside(&mut first, "master-3");
    before(third.host());
    is_known(&masters);
    joins_after_other_settings_were_refused(&third, &first);
    masters.push(third);
    let vip = first.vip();
    all_are_members(&masters);
    certificates_of_the_others_are_known(&masters);
    second_apply_changes_nothing(&masters);
    masters[1].recovers_a_lost_ledger();
    strangers_change_nothing(&mut first, &masters, &vip);
    the_api_server_of_the_holder_is_killed(&masters, &vip);
    the_host_of_the_holder_is_killed(&masters, &vip);
    all_hosts_are_killed_at_once(&masters, &vip);
    they_leave(&masters, &slates, &vip);
}

/// All masters have some settings in common. The join file says which values they have.
fn joins_after_other_settings_were_refused(joining: &Node, first: &Node) {
    let other = ("CONTAINERS_CIDR", "10.99.0.0/16");
    joining.prepare_join(first, &[SCALED, &[other]].concat());
    let refused = joining.apply(&[]).refused();
    let _ = refused.says(&[other.0, other.1, "10.20.0.0/16"]);
    joining.configure(SCALED);
    let _ = joining.apply(&[]).exits(0);
    joining.has_joined();
    joining.keep();
}

/// The state of the cluster on one master has the ends of the certificates that the API servers and the members of etcd of the others show.
fn certificates_of_the_others_are_known(masters: &[Node]) {
    let (first, others) = masters.split_first().expect("there are masters");
    let mut last = Value::Null;
    let are_known = poll(SHOWN, || {
        let status: Value = first.nodelet(&["cluster", "status", "--json"]).json();
        last = status["node_certificates"].clone();
        let shown = last.as_array().map_or(&[][..], Vec::as_slice);
        let is_known = |node: &str, server: &str| {
            let mut its = shown
                .iter()
                .filter(|one| one["node"] == node && one["server"] == server);
            its.any(|one| one["ends"].is_string() && one["ends_soon"] == false)
        };
        let servers = ["kube-apiserver", "etcd"];
        let of_all = |node: &str| servers.iter().all(|server| is_known(node, server));
        others.iter().all(|its| of_all(its.name())).then_some(())
    });
    assert!(are_known.is_some(), "{}: {last:#}", first.name());
}

/// A host on the network that is no master of the cluster.
fn strangers_change_nothing(first: &mut Master, masters: &[Node], vip: &str) {
    let [stranger, twin] = masters_beside(first, ["stranger", "twin"]);
    another_cluster_is_refused(&stranger);
    a_cluster_that_begins_is_alone(&twin, &stranger, vip);
    twin.remove(first);
    vrrp_of_a_stranger_changes_nothing(&stranger, masters, vip);
    a_router_id_of_a_stranger_is_refused(&stranger, &masters[0], vip);
    a_silent_holder_is_reported(&stranger, masters, vip);
    a_fourth_master_is_refused(&stranger, &masters[0]);
    stranger.remove(first);
    all_are_members(masters);
}

/// With the settings of the first master it would begin a cluster of its own at the same address.
fn another_cluster_is_refused(stranger: &Node) {
    let before = Slate::of_host(stranger.host());
    let new = [SCALED, &[("ETCD_INITIAL_CLUSTER_STATE", "new")]].concat();
    stranger.configure(&new);
    let _ = stranger.apply(&[]).refused().says(&[
        "MASTER_IP",
        "is in use by a host that is no master of this cluster",
    ]);
    before.assert_same_host(stranger.host(), After::Purge, "a refused apply");
}

/// With it their number would be even.
fn a_fourth_master_is_refused(stranger: &Node, master: &Node) {
    let key = stranger.sh("nodelet pki key | grep -o 'age1[a-z0-9]*'");
    let words = ["pki", "export", stranger.name(), "--to", key.trim()];
    // nodeletd may run a command there at the moment.
    let refused = poll(ANSWERED, || {
        let run = master.nodelet(&words);
        (!run.exited(75)).then_some(run)
    });
    let refused = refused.expect("no other command works").exits(1);
    let _ = refused.says(&["the cluster then has 4 masters", "--of"]);
}

/// Waits until the API answers another host than its own at the virtual IP.
fn answers(by: &Node, vip: &str) {
    let ready = format!(
        "curl -sf --max-time 1 --cacert /etc/pf9/kube.d/ca/cluster/ca.crt https://{vip}:443/readyz | grep -qx ok"
    );
    by.wait_for("the API answers at the virtual IP", &ready, ANSWERED);
}

/// Writes through the virtual IP, until each write is acknowledged. One whose answer was lost exists already.
fn write(by: &Node, name: &str) {
    by.sh(&format!(
        "for n in 1 2 3; do
            until {KUBECTL} --request-timeout=5s create configmap {name}-$n --from-literal=value={name}-$n ||
                {KUBECTL} --request-timeout=5s get configmap {name}-$n; do sleep 0.2; done
        done"
    ));
}

/// Asserts that what was written is there. One kubectl reads all of it: each start of kubectl takes much longer than an answer.
fn read(by: &Node, name: &str) {
    let all = format!("{name}-1 {name}-2 {name}-3");
    let script = format!(
        "[ \"$({KUBECTL} --request-timeout=5s get configmap {all} --output jsonpath='{{.items[*].data.value}}')\" = '{all}' ]"
    );
    by.wait_for("an acknowledged write is read", &script, ANSWERED);
}

/// Waits until nodelet finds the host of a master whole. A check of all phases takes processor time, which a host that boots needs for itself: so
/// the first one is made when the API server of the host is ready.
fn is_whole_again(master: &Node) {
    let is_whole = format!("{OWN_API_IS_READY} && nodelet check");
    master.wait_for("nodelet finds the host whole", &is_whole, BACK);
}

fn the_api_server_of_the_holder_is_killed(masters: &[Node], vip: &str) {
    let (holder, others) = holder(masters, vip);
    write(others[0], "before-api-server");
    holder.sh(
        "docker ps --quiet --filter label=io.kubernetes.container.name=kube-apiserver | xargs docker kill",
    );
    answers(others[0], vip);
    for other in others {
        read(other, "before-api-server");
    }
    holder.wait_for("its own API server is back", OWN_API_IS_READY, BACK);
}

/// Another master takes the address, and keeps it when the host is back. Without the killed host, none of the other two may stop.
fn the_host_of_the_holder_is_killed(masters: &[Node], vip: &str) {
    let (killed, others) = holder(masters, vip);
    let [one, two] = others.as_slice() else {
        panic!("two others are expected: {others:?}");
    };
    write(one, "before-host");
    killed.host().kill().expect("it is killed");
    answers(one, vip);
    read(one, "before-host");
    write(two, "after-host");

    two.sh("systemctl stop pf9-nodeletd");
    let refused = two.nodelet(&["stop"]).exits(1);
    let _ = refused.says(&["quorum", killed.name(), "--accept-quorum-loss"]);
    // Nor may it become a worker, which has no member.
    two.configure(AS_WORKER);
    let refused = two.apply(&[]).exits(1);
    let _ = refused.says(&["it was set up with ROLE=master", "nodelet clean"]);
    let refused = two.nodelet(&["clean", "--purge"]).exits(1);
    let _ = refused.says(&["quorum", killed.name(), "--accept-quorum-loss"]);
    // A live member is as needed as the host that it runs on.
    let refused = one.nodelet(&["cluster", "remove", two.name()]).exits(1);
    let _ = refused.says(&["quorum", killed.name()]);
    two.configure(SCALED);
    read(two, "after-host");
    two.keep();

    let (taken_by, _) = holder(masters, vip);
    killed.host().start().expect("it starts again");
    is_whole_again(killed);
    let all_work = "nodelet etcd members > /dev/null";
    one.wait_for("all members work", all_work, BACK);
    nodes_are_ready(one, masters);
    read(killed, "before-host");
    read(killed, "after-host");
    killed.wait_for("its keepalived leaves the address alone", LISTENS, BACK);
    let (stays_with, _) = holder(masters, vip);
    assert_eq!(stays_with.name(), taken_by.name(), "the address has moved");
}

/// Nothing helps them but their boot.
fn all_hosts_are_killed_at_once(masters: &[Node], vip: &str) {
    write(&masters[0], "before-all");
    at_once(masters, |master| {
        master.host().kill().expect("it is killed");
    });
    at_once(masters, |master| {
        master.host().start().expect("it starts again");
    });
    for master in masters {
        is_whole_again(master);
    }
    let all_work = "nodelet etcd members > /dev/null";
    masters[0].wait_for("all members work", all_work, BACK);
    nodes_are_ready(&masters[0], masters);
    let _ = holder(masters, vip);
    answers(&masters[0], vip);
    for master in masters {
        read(master, "after-host");
        read(master, "before-all");
    }
}

/// From three masters to one. Each host is as it was before but for its boots.
fn they_leave(masters: &[Node], slates: &[Slate], vip: &str) {
    let [first, second, third] = masters else {
        panic!("three masters are expected: {masters:?}");
    };
    for (leaving, left) in [(third, &masters[..2]), (second, &masters[..1])] {
        leaving.sh("systemctl disable --quiet --now pf9-nodeletd");
        let removed = first.nodelet(&["cluster", "remove", leaving.name(), "--force"]);
        let removed = removed.exits(0);
        assert_eq!(
            removed.text().contains("even number"),
            left.len() == 2,
            "{}",
            removed.text()
        );
        let _ = removed.says(&[&format!("master {} is removed", leaving.name())]);
        answers(first, vip);
        all_are_members(left);
        if left.len() == 2 {
            does_not_come_back(leaving);
            all_are_members(left);
        }
    }
    read(first, "after-host");
    first.sh("systemctl disable --quiet --now pf9-nodeletd");
    // It is cleaned as what it was, also if its settings say something else by now.
    second.configure(AS_WORKER);
    let cleaned: Vec<(&Node, &Slate)> = masters.iter().zip(slates).collect();
    let (last, removed) = cleaned.split_first().expect("there are masters");
    at_once(removed, |(master, before)| leaves_nothing(master, before));
    leaves_nothing(last.0, last.1);
}

/// Cleans a host, which is then as it was before.
fn leaves_nothing(master: &Node, before: &Slate) {
    let _ = master.nodelet(&["clean", "--purge"]).exits(0);
    // nodeletd's own files belong to its package and not to the role.
    // kubectl's cache is of this suite.
    master.sh("rm -rf /run/pf9 /run/pf9-nodeletd.lock /var/opt/pf9/kube_status /root/.kube");
    before.assert_same_host_but(
        master.host(),
        After::Purge,
        "purge of a master",
        differs_after_a_boot,
    );
}

/// Without its data, a removed master looks like a new host.
fn does_not_come_back(removed: &Node) {
    for prepare in ["true", "rm -r /var/opt/pf9/kube/etcd/data/member"] {
        removed.sh(prepare);
        let refused = removed.nodelet(&["apply"]);
        assert!(!refused.exited(0), "{}", refused.text());
        let export = format!("nodelet pki export {}", removed.name());
        let _ = refused.says(&["was removed from the cluster", &export]);
    }
}

/// Whether a boot with the role explains the difference: systemd names its private directories anew, and docker drops forwarded packets only
/// if it turns on forwarding itself.
fn differs_after_a_boot(line: &str) -> bool {
    line.starts_with("files: ") && line.contains(" /tmp/systemd-private-")
        || line == "firewall: - iptables-save *filter chain FORWARD DROP"
}
