//! All authorities and the encryption key are replaced on three masters and a worker while clients write: no acknowledged write is lost, and
//! afterwards each host has the successor and no longer trusts its predecessor.

use std::collections::BTreeSet;
use std::time::Instant;

use lab_suites::{
    KUBECTL, Master, Node, Run, SCALED, holder, nodes_are_ready, poll, three_masters,
};

use crate::under_load::{UnderLoad, WHOLE, masters_work, none_is_lost};

/// What is replaced, with the file that tells it from its successor. The authority of the cluster is the last: kubectl's own kubeconfig
/// changes with it.
const REPLACED: [(&str, &str); 4] = [
    ("etcd", "ca/etcd/ca.crt"),
    ("front-proxy", "ca/front-proxy/ca.crt"),
    ("encryption", "encryption/config.yaml"),
    ("cluster", "ca/cluster/ca.crt"),
];
/// The roots of the cluster that a worker trusts.
const OF_WORKER: &str = "certs/kubelet/apiserver/ca.crt";
/// The file with a successor, on the host that gets it.
const FILE: &str = "/root/successor.age";
/// A Secret from before, and what it contains.
const SECRET: &str = "kept-secret";
const WORD: &str = "swordfish";
/// The master whose steps are killed once and taken again, and the unit in which they run.
const KILLED: &str = "master-2";
const UNIT: &str = "nodelet-soak-step";
/// nodelet's exit code if another nodelet works on the host.
const BUSY: i32 = 75;

#[test]
#[ignore = "cargo xtask soak runs it"]
fn rotation_of_every_authority_on_three_masters_and_a_worker_under_load() {
    let (mut first, mut nodes) = three_masters("rotation", SCALED, |_| ());
    let vip = first.vip();
    let worker = Node::worker_beside(&mut first, "worker-1");
    worker.join(&first, SCALED);
    worker.keep();
    nodes.push(worker);
    let Some((worker, masters)) = nodes.split_last() else {
        panic!("three masters and a worker are expected");
    };
    nodes_are_ready(&masters[0], &nodes);
    first.kubectl(&format!(
        "create secret generic {SECRET} --from-literal=word={WORD}"
    ));
    let mut load = UnderLoad::start(masters, &vip);
    load.writers.go_on();
    for (what, file) in REPLACED {
        let before = digest(masters, file);
        let began = Instant::now();
        begin(masters, what, &mut load);
        if what == "cluster" {
            follows(&first, worker);
        }
        for step in ["switch", "finish"] {
            for master in masters {
                let words = ["certs", "rotate", what, step];
                if master.name() == KILLED {
                    is_killed_in_the_middle(master, &words);
                }
                let taken = rotated(master, &words);
                let _ = taken.exits(0);
                goes_on(masters, &mut load, what);
            }
            if what == "cluster" {
                follows(&first, worker);
            }
        }
        let after = digest(masters, file);
        assert_ne!(after, before, "{what} is not replaced");
        let settled = masters[0].nodelet(&["certs", "rollout", what]).exits(0);
        assert!(!settled.text().contains("next on"), "{}", settled.text());
        println!(
            "{what}: replaced in {:.0} s; without a good answer of the virtual IP for {:.1} s at most",
            began.elapsed().as_secs_f64(),
            load.probe.take_gap().as_secs_f64()
        );
        worker.wait_for("the worker is whole", "nodelet check > /dev/null", WHOLE);
        masters_work(masters);
        nodes_are_ready(&masters[0], &nodes);
        let _ = holder(masters, &vip);
        none_is_lost(&load.lost_so_far(masters));
    }
    let roots = "sha256sum < /etc/pf9/kube.d/";
    assert_eq!(
        worker.sh(&format!("{roots}{OF_WORKER}")),
        first.sh(&format!("{roots}{OF_WORKER}")),
        "the worker trusts what the masters trust"
    );
    for master in masters {
        let word = master.sh(&format!(
            "{KUBECTL} get secret {SECRET} --output jsonpath='{{.data.word}}' | base64 -d"
        ));
        assert_eq!(word, WORD, "{}", master.name());
        // A pass of nodeletd between the two would change nothing either; only one nodelet works on a host.
        master.sh("systemctl stop pf9-nodeletd");
        master.apply(&[]).exits(0).changes_nothing();
        master.keep();
    }
    let ended = load.end(masters);
    for (what, written) in ["ConfigMaps", "keys"].iter().zip(&ended.written) {
        println!(
            "{} {what} are acknowledged; {} attempts failed and were made again",
            written.acknowledged, written.failed
        );
    }
    none_is_lost(&ended.lost);
}

/// One master makes the successor, and the others take it. Before all have it, none may use it.
fn begin(masters: &[Node], what: &str, load: &mut UnderLoad) {
    let [maker, others @ ..] = masters else {
        panic!("masters are expected");
    };
    let begin = ["certs", "rotate", what, "begin"];
    let _ = rotated(maker, &begin).exits(0);
    goes_on(masters, load, what);
    for other in others {
        let early = rotated(maker, &["certs", "rotate", what, "switch"]).exits(1);
        let _ = early.says(&[other.name()]);
        let second = rotated(other, &begin).exits(1);
        let _ = second.says(&["--from"]);
        let key = other.sh("nodelet pki key");
        let key = key.trim();
        let sent = maker.nodelet(&["certs", "send", what, "--to", key, "--output", FILE]);
        let _ = sent.exits(0);
        let file = maker.host().get(FILE).expect("the file is read");
        let put = other.host().put(&file, FILE, 0o600);
        put.expect("the file is written");
        maker.sh(&format!("rm {FILE}"));
        let taken = rotated(other, &[&begin[..], &["--from", FILE]].concat());
        let _ = taken.exits(0);
        other.sh(&format!("rm {FILE}"));
        goes_on(masters, load, what);
    }
}

/// Begins a step and kills it when it has begun to change something. The step is then taken again at once, and has to go on.
fn is_killed_in_the_middle(master: &Node, words: &[&str]) {
    let step = words.join(" ");
    master.sh(&format!(
        r#"intents() {{ grep -c '"r":"intent"' /var/opt/pf9/nodelet/ledger.jsonl; }}
         before=$(intents); systemd-run --quiet --collect --unit {UNIT} nodelet {step}
         for n in $(seq 1500); do
             [ $(intents) -eq $before ] && systemctl is-active --quiet {UNIT} || break
             sleep 0.02
         done
         systemctl kill --signal KILL {UNIT} 2> /dev/null || true
         for n in $(seq 500); do systemctl is-active --quiet {UNIT} || exit 0; sleep 0.02; done; exit 1"#
    ));
}

/// Takes a step when no other nodelet works on the host. If the one before was killed, the command completes it first: it waits for no repair
/// of nodeletd.
fn rotated(master: &Node, words: &[&str]) -> Run {
    let run = poll(WHOLE, || {
        let run = master.nodelet(words);
        (!run.exited(BUSY)).then_some(run)
    });
    run.expect("the host is free")
}

/// The clients go on, from now on with the credentials that a master has after the step.
fn goes_on(masters: &[Node], load: &mut UnderLoad, what: &str) {
    load.writers.go_on();
    if ["cluster", "etcd"].contains(&what) {
        load.renew(&masters[0]);
        load.writers.go_on();
    }
}

/// Waits until the worker is as far as the masters.
fn follows(first: &Master, worker: &Node) {
    let waits = format!(
        "nodelet certs rollout cluster > /tmp/rollout; ! grep -q 'next on {}' /tmp/rollout",
        worker.name()
    );
    first.wait_for("the worker follows", &waits, WHOLE);
}

/// What all masters have as this file.
fn digest(masters: &[Node], file: &str) -> String {
    let one = |master: &Node| master.sh(&format!("sha256sum < /etc/pf9/kube.d/{file}"));
    let digests: BTreeSet<String> = masters.iter().map(one).collect();
    assert_eq!(digests.len(), 1, "{file} differs: {digests:?}");
    digests.into_iter().next().unwrap_or_default()
}
