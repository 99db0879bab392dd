//! Three masters with a virtual IP: they join one after the other, the cluster goes on while one of them is down, and they leave one by one.

use std::time::Duration;

use lab_suites::{
    After, KUBECTL, OneMaster, SCALED, Slate, all_are_members, holder, nodes_are_ready,
    three_masters,
};

/// Time limit until the API answers at the virtual IP again. A fail-over takes at most ten seconds; other suites run beside this one.
const ANSWERED: Duration = Duration::from_secs(25);
/// Time limit until all masters know what has changed. nodeletd looks every ten seconds.
const SEEN: Duration = Duration::from_secs(90);
/// Time limit until a host that was killed is a master again.
const BACK: Duration = Duration::from_secs(240);

/// One test, because three masters take longer to come up than all that is done with them.
#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn three_masters_go_on_without_one_and_leave_one_by_one() {
    let mut slates = Vec::new();
    let (first, masters) = three_masters("masters", SCALED, |host| {
        slates.push(Slate::of_host(host));
    });
    let vip = first.vip();
    all_are_members(&masters);
    a_second_apply_changes_nothing(&masters);
    the_api_server_of_the_holder_is_killed(&masters, &vip);
    let killed = the_host_of_the_holder_is_killed(&masters, &vip);
    they_leave(&masters, &slates, &vip, &killed);
}

/// While nodeletd does not run: only one nodelet works on a host. keepalived knows all others by then.
fn a_second_apply_changes_nothing(masters: &[OneMaster]) {
    for master in masters {
        for other in masters.iter().filter(|its| its.name() != master.name()) {
            let knows = format!(
                "grep -qwF {} /etc/keepalived/keepalived.conf && ! pgrep -x nodelet > /dev/null",
                other.host().address()
            );
            let what = format!("keepalived of {} knows {}", master.name(), other.name());
            master.wait_for(&what, &knows, SEEN);
        }
    }
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

/// Waits until the API answers another host than its own at the virtual IP.
fn answers(by: &OneMaster, vip: &str) {
    let ready = format!(
        "curl -sf --max-time 1 --cacert /etc/pf9/kube.d/ca/cluster/ca.crt https://{vip}:443/readyz | grep -qx ok"
    );
    by.wait_for("the API answers at the virtual IP", &ready, ANSWERED);
}

/// Writes through the virtual IP, until each write is acknowledged. One whose answer was lost exists already.
fn write(by: &OneMaster, name: &str) {
    by.sh(&format!(
        "for n in 1 2 3; do
            until {KUBECTL} --request-timeout=5s create configmap {name}-$n --from-literal=value={name}-$n ||
                {KUBECTL} --request-timeout=5s get configmap {name}-$n; do sleep 0.2; done
        done"
    ));
}

/// Asserts that what was written is there.
fn read(by: &OneMaster, name: &str) {
    let script = format!(
        "for n in 1 2 3; do
            [ \"$({KUBECTL} --request-timeout=5s get configmap {name}-$n --output jsonpath='{{.data.value}}')\" = {name}-$n ] || exit 1
        done"
    );
    by.wait_for("an acknowledged write is read", &script, ANSWERED);
}

fn the_api_server_of_the_holder_is_killed(masters: &[OneMaster], vip: &str) {
    let (holder, others) = holder(masters, vip);
    write(others[0], "before-api-server");
    holder.sh(
        "docker ps --quiet --filter label=io.kubernetes.container.name=kube-apiserver | xargs docker kill",
    );
    answers(others[0], vip);
    for other in others {
        read(other, "before-api-server");
    }
    let own = "curl -sf --max-time 3 --cacert /etc/pf9/kube.d/ca/cluster/ca.crt https://127.0.0.1:443/readyz | grep -qx ok";
    holder.wait_for("its own API server is back", own, BACK);
}

/// Another master takes the address. Without the killed host, none of the other two may stop.
/// Gives its name.
fn the_host_of_the_holder_is_killed(masters: &[OneMaster], vip: &str) -> String {
    let (holder, others) = holder(masters, vip);
    let [one, two] = others.as_slice() else {
        panic!("two others are expected: {others:?}");
    };
    write(one, "before-host");
    holder.host().kill().expect("it is killed");
    answers(one, vip);
    read(one, "before-host");
    write(two, "after-host");

    two.sh("systemctl stop pf9-nodeletd");
    let refused = two.nodelet(&["stop"]).exits(1);
    let _ = refused.says(&["quorum", holder.name(), "--accept-quorum-loss"]);
    read(two, "after-host");
    two.keep();

    holder.host().start().expect("it starts again");
    let all_work = "nodelet etcd members > /dev/null";
    one.wait_for("all members work", all_work, BACK);
    holder.wait_for("nodeletd finds its host whole", "nodelet check", BACK);
    nodes_are_ready(one, masters);
    read(holder, "before-host");
    read(holder, "after-host");
    holder.name().to_owned()
}

/// From three masters to one. Each host is as it was before.
fn they_leave(masters: &[OneMaster], slates: &[Slate], vip: &str, killed: &str) {
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
    }
    read(first, "after-host");
    first.sh("systemctl disable --quiet --now pf9-nodeletd");
    for (master, before) in masters.iter().zip(slates).rev() {
        let _ = master.nodelet(&["clean", "--purge"]).exits(0);
        // nodeletd's own files belong to its package and not to the role.
        // kubectl's cache is of this suite.
        master.sh("rm -rf /run/pf9 /run/pf9-nodeletd.lock /var/opt/pf9/kube_status /root/.kube");
        let is_of_a_boot = |line: &str| master.name() == killed && differs_after_a_boot(line);
        before.assert_same_host_but(
            master.host(),
            After::Purge,
            "purge of a master",
            is_of_a_boot,
        );
    }
}

/// Whether a boot with the role explains the difference: systemd names its private directories anew, and docker drops forwarded packets only
/// if it turns on forwarding itself.
fn differs_after_a_boot(line: &str) -> bool {
    line.starts_with("files: ") && line.contains(" /tmp/systemd-private-")
        || line == "firewall: - iptables-save *filter chain FORWARD DROP"
}
