//! Backups of etcd: verified, on a schedule, distinguished from damaged ones, and complete after any interruption.

pub(crate) mod full;
pub(crate) mod interruptions;
pub(crate) mod schedule;

use std::time::Duration;

use lab_suites::{Master, shared};

/// Where the lab's backups are.
const DIRECTORY: &str = "/etc/pf9/etcd-backup";
/// `etcdctl` of this host's own member.
const ETCDCTL: &str = "docker exec -i -e ETCDCTL_API=3 etcd etcdctl --endpoints https://127.0.0.1:4001 --cacert /certs/client/ca.crt --cert /certs/client/request.crt --key /certs/client/request.key";

/// The etcd on the restored snapshot, which runs until it is ended: one that ends by itself might end while it is held.
const SERVES: &str =
    "docker inspect --format '{{.Path}}' pf9-etcd-proof 2>/dev/null | grep -qx etcd";

/// A command that pauses the container of a restore test, on the host itself, when `at` holds.
fn pause_proof_when(at: &str, seconds: u32) -> String {
    format!(
        "timeout {seconds} sh -c \"until {at} && docker pause pf9-etcd-proof 2>/dev/null; do sleep 0.02; done\""
    )
}

/// Removes all backups and the record of the timer's runs, and applies the lab's own settings. Another suite on this host may have had a
/// nodeletd whose backups were ended by repairs.
fn without_backups(master: &Master) {
    master.configure(&[]);
    master.sh(&format!(
        "rm -rf {DIRECTORY}/* {DIRECTORY}/.[!.]* /var/opt/pf9/nodelet/timer-etcd-backup.json"
    ));
    master.apply(&["--only", "etcd-backup"]).exits(0);
}

/// The names of verified backups, the oldest first.
fn verified_backups(master: &Master) -> Vec<String> {
    let list = master.sh("nodelet etcd list --json");
    let list: serde_json::Value = serde_json::from_str(&list).expect("JSON");
    let all = list.as_array().expect("a list");
    all.iter()
        .filter(|one| one["manifest"].is_object())
        .map(|one| one["name"].as_str().expect("a name").to_owned())
        .collect()
}

/// Asserts that no backup has left anything: no part, no container, no copy.
#[track_caller]
fn nothing_left(master: &Master) {
    let left = master.sh(&format!(
        "find {DIRECTORY} -name '.*' -type f; docker ps --all --format '{{{{.Names}}}}' | grep etcd-proof || true; ls -d /var/opt/pf9/nodelet/etcd-proof 2>/dev/null || true"
    ));
    assert_eq!(left, "");
}

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn a_backup_is_verified_and_every_bad_one_is_named() {
    let master = shared();
    without_backups(&master);
    master.check(&["--only", "etcd-backup"]).exits(0);

    let done = master.nodelet(&["etcd", "backup", "--json"]).exits(0);
    nothing_left(&master);
    let names = verified_backups(&master);
    let [good] = names.as_slice() else {
        panic!("one backup is expected: {names:?}\n{}", done.text());
    };
    let uid = master.kubectl("get namespace kube-system --output jsonpath='{.metadata.uid}'");
    let manifest: serde_json::Value =
        serde_json::from_str(&master.sh(&format!("cat {DIRECTORY}/{good}.json"))).expect("JSON");
    assert_eq!(manifest["cluster"], uid.as_str());
    let key = master.sh("sed -n 's/.*name: //p' /etc/pf9/kube.d/encryption/config.yaml");
    assert_eq!(manifest["encryption_keys"], serde_json::json!([key]));
    assert!(manifest["keys"].as_u64() > Some(100), "{manifest}");
    let hash = master.sh(&format!(
        "sha256sum < {DIRECTORY}/{good}.db | cut -d' ' -f1"
    ));
    assert_eq!(manifest["content"]["sha256"], hash.as_str());
    assert_eq!(
        master.sh(&format!(
            "stat --format %a {DIRECTORY} {DIRECTORY}/{good}.db | xargs"
        )),
        "700 600"
    );

    master.sh(&format!(
        r#"cd {DIRECTORY}
        for bad in cut empty flipped other; do cp {good}.db etcd-$bad.db; cp {good}.json etcd-$bad.json; done
        truncate --size=-100000 etcd-cut.db
        : > etcd-empty.db
        mkfifo etcd-pipe.db; ln -s /dev/zero etcd-device.db
        printf '\x55' | dd of=etcd-flipped.db bs=1 seek=100000 conv=notrunc status=none
        image=$(docker inspect --format '{{{{.Image}}}}' etcd)
        docker run --rm --detach --network none --name foreign $image etcd >/dev/null
        trap 'docker rm --force foreign >/dev/null' EXIT
        inside="docker exec -e ETCDCTL_API=3 foreign etcdctl"
        timeout 20 sh -c "until $inside put /registry/namespaces/kube-system '{{\"metadata\":{{\"uid\":\"another-cluster\"}}}}' 2>/dev/null; do sleep 0.2; done"
        $inside snapshot save /foreign.db >/dev/null
        docker cp foreign:/foreign.db etcd-foreign.db
        cp etcd-foreign.db etcd-other.db"#
    ));
    let verified = master.nodelet(&["etcd", "verify"]).exits(2);
    for (name, says) in [
        (good.as_str(), "restores to what its manifest says"),
        ("etcd-cut", "it is cut"),
        ("etcd-empty", "it is empty"),
        ("etcd-flipped", "it is damaged"),
        ("etcd-foreign", "it is foreign: of cluster another-cluster"),
        ("etcd-foreign", "it has no manifest"),
        ("etcd-other", "its manifest was written for"),
        ("etcd-pipe", "it is not a regular file"),
        ("etcd-device", "it is not a regular file"),
    ] {
        let text = verified.text();
        let line = text
            .lines()
            .find(|line| line.contains(&format!(" {name}:")))
            .unwrap_or_else(|| panic!("{name} is not in the output\n{text}"));
        assert!(line.contains(says), "{says} is missing in\n{text}");
    }
    nothing_left(&master);
    // nodelet also says which cluster a backup belongs to while etcd is down, when an operator needs it.
    master.sh(&format!(
        r#"cd {DIRECTORY}
        cp {good}.db etcd-elsewhere.db
        sed -E 's/"cluster_id": "[^"]*"/"cluster_id": "elsewhere"/' {good}.json > etcd-elsewhere.json
        ! cmp -s {good}.json etcd-elsewhere.json
        docker stop etcd > /dev/null"#
    ));
    let verified = master.nodelet(&["etcd", "verify", good, "etcd-elsewhere"]);
    let status = master.nodelet(&["etcd", "status"]);
    master.sh("docker start etcd > /dev/null");
    verified.exits(2).says(&[
        &format!("✓ {good}: restores"),
        "✗ etcd-elsewhere: it is foreign: taken under CLUSTER_ID \"elsewhere\"",
    ]);
    assert!(
        !status.text().contains("etcd-elsewhere"),
        "{}",
        status.text()
    );
    master.nodelet(&["etcd", "verify", good]).exits(0);
    master
        .nodelet(&["etcd", "verify", "etcd-never"])
        .exits(1)
        .says(&["nodelet etcd list"]);
    master.sh(&format!("rm {DIRECTORY}/etcd-[!0-9]*"));
    master.nodelet(&["etcd", "status"]).exits(0).says(&[good]);
    without_backups(&master);
}

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn etcd_stays_healthy_under_load_while_a_snapshot_is_verified() {
    let master = shared();
    without_backups(&master);
    // 20 MB of data, written again and again, and a look at etcd's health every 200 ms.
    master.sh(&format!(
        r#"head -c 300000 /dev/urandom | base64 --wrap=0 > /tmp/value
        cat > /tmp/load <<'END'
        i=0
        while :; do i=$(((i + 1) % 50)); {ETCDCTL} put /load/$i < /tmp/value; done
END
        cat > /tmp/watch <<'END'
        cert=/etc/pf9/kube.d/certs/etcdctl/etcd
        while :; do
            curl --silent --max-time 10 --cacert $cert/ca.crt --cert $cert/request.crt --key $cert/request.key https://127.0.0.1:4001/health || echo "no answer: $?"
            echo
            sleep 0.2
        done
END
        systemd-run --quiet --unit=load --property=StandardOutput=null sh /tmp/load
        systemd-run --quiet --unit=watch --property=StandardOutput=file:/run/health sh /tmp/watch"#
    ));
    let counted = format!("{ETCDCTL} get --prefix /load/ --keys-only --limit 1 --write-out fields");
    master.wait_for(
        "all keys are written",
        &format!("{counted} | grep -q '\"Count\" : 50'"),
        Duration::from_secs(300),
    );
    let revision = || -> u64 {
        let revision = master.sh(&format!("{counted} | sed -n 's/\"Revision\" : //p'"));
        revision.parse().expect("a revision")
    };
    let started = "docker inspect --format '{{.State.StartedAt}}' etcd";
    let (before, written) = (master.sh(started), revision());
    let run = master.nodelet(&["etcd", "backup"]);
    let written = revision() - written;
    let health = master.sh("systemctl stop load watch; cat /run/health");
    let deleted = master.sh(&format!("{ETCDCTL} del --prefix /load/"));
    run.exits(0);
    assert!(
        written >= 10,
        "{written} keys were written during the backup"
    );
    assert_eq!(deleted, "50");
    let looks = health.lines().filter(|line| !line.is_empty()).count();
    let well = health
        .lines()
        .filter(|line| line.contains(r#""health":"true""#))
        .count();
    assert!(
        looks > 5 && looks == well,
        "{well} of {looks} looks were healthy:\n{health}"
    );
    assert_eq!(master.sh(started), before, "etcd was not restarted");
    nothing_left(&master);
    without_backups(&master);
}
