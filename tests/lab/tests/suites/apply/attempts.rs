//! A phase that cannot succeed: attempts are counted, the tenth begins with a full clean, and what must be kept is kept.

use std::collections::BTreeMap;
use std::time::Duration;

use engine::exec::Event;
use engine::model::Verb;
use lab_suites::{Master, Watch, shared};
use serde_json::Value;

/// Intervals with which twelve attempts take minutes and not hours.
const QUICK: &[(&str, &str)] = &[("LOOP_INTERVAL", "1s"), ("KUBE_SERVICE_STATE", "true")];
/// kube-proxy gets a configuration that is not there, and a short timeout, so that each attempt fails soon.
const HOPELESS: &str = r#"s/--config=\/etc\/kube-proxy\/config.yaml/--config=\/etc\/kube-proxy\/none.yaml/; s/\.timeout\("60s"\)/.timeout("2s")/"#;
/// The port on which kube-proxy says whether it has written its rules.
const PROXY_HEALTH: u16 = 10256;

/// The state of the node in the status file after each attempt began.
fn states(master: &Master, watch: &Watch<'_>) -> BTreeMap<u64, String> {
    let mut states = BTreeMap::new();
    watch.until("twelve attempts", Duration::from_secs(900), || {
        let text = master.sh("cat /var/opt/pf9/kube_status");
        let status: Value = serde_json::from_str(&text).expect("it is always complete");
        let number = status["pf9_kube_start_attempt"].as_u64().expect("a number");
        let state = status["pf9_kube_node_state"].as_str().expect("a state");
        states.insert(number, state.to_owned());
        number >= 12
    });
    states
}

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn the_tenth_attempt_cleans_and_keeps_the_data() {
    let master = shared();
    master.configure(QUICK);
    master.apply(&[]).exits(0);
    master.kubectl("create configmap tenth-attempt --from-literal=word=swordfish");
    let authorities = "sha256sum /etc/pf9/kube.d/ca/*/ca.crt";
    let before = master.sh(authorities);
    let watch = Watch::start(&master);

    master.sh("nodelet pause 10m --because 'a suite breaks this host'");
    master.edit_phase("kube-proxy", HOPELESS);
    let identity = "cat /var/opt/pf9/nodelet/identity.json";
    let address = "get node --output jsonpath='{.items[0].status.addresses[?(@.type==\"InternalIP\")].address}'";
    let identity_before = (master.sh(identity), master.kubectl(address));
    // After a clean the same node comes up again, even if the default route has changed meanwhile.
    master.sh(
        "ip link add tunnel0 type veth peer name tunnel1; ip link set tunnel1 up
         ip address add 10.98.0.2/24 dev tunnel0; ip link set tunnel0 up
         ip route prepend default via 10.98.0.1 dev tunnel0",
    );
    watch.record();
    master.sh("nodelet resume");
    let states = states(&master, &watch);
    for (number, state) in &states {
        let expected = match number {
            // The file is written after each step, so a failed pass is in it before the attempt is counted.
            0 if state == "converging" => "converging",
            0 => "ok",
            1 => "converging",
            2..=10 => "retrying",
            _ => "failed",
        };
        assert_eq!(state, expected, "attempt {number}: {states:?}");
    }
    assert!(states.len() >= 10, "most attempts were seen: {states:?}");

    // After the cause is removed, the next attempt repairs the phase.
    master.restore_phase("kube-proxy");
    watch.wait_until_healthy(Duration::from_secs(400));
    let verbs: Vec<Verb> = watch
        .recorded()
        .iter()
        .filter_map(|event| match event {
            Event::RunStarted { verb, .. } if *verb != Verb::Stop => Some(*verb),
            _ => None,
        })
        .collect();
    let cleans: Vec<usize> = (0..verbs.len())
        .filter(|at| verbs[*at] == Verb::Clean)
        .collect();
    assert_eq!(cleans, [9], "nine restarts, then a clean: {verbs:?}");
    assert_eq!(verbs[10], Verb::Apply, "{verbs:?}");
    assert_eq!(master.sh(authorities), before, "the authorities are kept");
    assert_eq!(
        (master.sh(identity), master.kubectl(address)),
        identity_before
    );
    master.sh("ip link delete tunnel0");
    assert_eq!(
        master.kubectl("get configmap tenth-attempt --output jsonpath='{.data.word}'"),
        "swordfish",
        "etcd's data are kept"
    );

    // Our own programs listen on every port of the role. Another program on one of them would make an apply after a clean fail.
    drop(watch);
    master.nodelet(&["diff", "--rebuild"]).exits(0);
    master.sh("docker rm --force proxy");
    master.occupy_port(PROXY_HEALTH);
    master
        .nodelet(&["diff", "--rebuild"])
        .exits(1)
        .says(&["10256", "perl"]);
    master.sh(&format!("systemctl stop squatter-{PROXY_HEALTH}"));
}
