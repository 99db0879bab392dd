//! nodeletd's own files, one at a time: deleted, truncated, replaced by another valid file of the same kind, opened to others. Each
//! is repaired, or reported by name, while what runs goes on; a lost ledger is never begun anew, and is recovered.

use std::time::Duration;

use lab_suites::{After, Image, Master, SCALED, Slate, Standing, Watch, shared};

const CALM: Duration = Duration::from_secs(90);
const STATE: &str = "/var/opt/pf9/nodelet";

/// The reason of a condition of nodeletd's that is False.
fn wrong(watch: &Watch<'_>, name: &str) -> Option<String> {
    let view = watch.view()?;
    let conditions = view["conditions"].as_array()?;
    let its = conditions
        .iter()
        .find(|one| one["name"] == name && one["status"] == "False")?;
    its["reason"].as_str().map(str::to_owned)
}

fn node_state(master: &Master) -> String {
    master.sh("sed -n 's/.*pf9_kube_node_state\": \"\\(.*\\)\".*/\\1/p' /var/opt/pf9/kube_status")
}

/// A ledger that is lost, and everything that must not happen then.
fn the_ledger(master: &Master, watch: &Watch<'_>) {
    let ledger = format!("{STATE}/ledger.jsonl");
    let before = Standing::of(master);
    for (how, damage) in [
        ("deleted", format!("rm {ledger}")),
        ("emptied", format!(": > {ledger}")),
        ("truncated", format!("truncate --size 4000 {ledger}")),
        ("rubbish", format!("sed -i '5i rubbish' {ledger}")),
        (
            "another host's",
            format!("sed -i '1s/\"id\":\"[^\"]*\"/\"id\":\"00000000-00000000\"/' {ledger}"),
        ),
    ] {
        master.sh(&damage);
        watch.until(&format!("{how}: it is reported"), CALM, || {
            wrong(watch, "LedgerValid").is_some_and(|reason| {
                reason.contains("ledger.jsonl") && reason.contains("nodelet recover")
            })
        });
        assert_ne!(node_state(master), "ok", "{how}");
        for words in [
            &["apply"][..],
            &["repair"],
            &["stop"],
            &["plan"],
            &["diff"],
            &["check"],
            &["history"],
            &["why", "etcd"],
        ] {
            let refused = master.nodelet(words).exits(1);
            let _ = refused.says(&["ledger.jsonl", "nodelet recover"]);
        }
        // nodeletd holds the host, so a clean is refused for that; with a pause it is refused for its ledger.
        master.sh("nodelet pause 10m --because 'a clean'");
        let refused = master.nodelet(&["clean"]).exits(1);
        let _ = refused.says(&[
            "nothing was taken back",
            "container etcd",
            "nodelet recover",
        ]);
        master.sh("nodelet resume");
        assert_eq!(Standing::of(master), before, "{how}");
        let shown = master.nodelet(&["recover", "--dry-run"]).exits(0);
        let _ = shown.says(&["nothing is missing", "nothing was written"]);
        let _ = master.nodelet(&["recover"]).exits(0);
        watch.calm(CALM);
        assert_eq!(node_state(master), "ok", "{how}");
        assert_eq!(Standing::of(master), before, "{how}");
        let _ = master.nodelet(&["recover"]).exits(1);
    }
}

/// Those that are written anew from what nodeletd knows; the others come with what they record.
const RESTORED: [&str; 6] = [
    "ledger.tip",
    "ledger.backup.jsonl",
    "identity.json",
    "settings.yaml",
    "role.json",
    "nodeletd.json",
];
const RECORDS: [&str; 7] = [
    "preflight.json",
    "timer-etcd-backup.json",
    "digests.json",
    "SHA256SUMS",
    "services/pf9-kubelet.service.json",
    "services/docker.service.json",
    "../kube_status",
];

/// All other files of nodeletd's. They have nothing to do with each other, so one damage befalls all at once: what is damaged is as it
/// was after a few passes, and nothing of the role was touched.
fn the_other_files(master: &Master, watch: &Watch<'_>) {
    let before = Standing::of(master);
    // A timer that has not run yet has no record.
    let is_there = |name: &&&str| {
        let test = format!("test -e {STATE}/{name}");
        master.try_sh(&test).status.success()
    };
    let names: Vec<&str> = RESTORED
        .iter()
        .chain(&RECORDS)
        .filter(is_there)
        .copied()
        .collect();
    assert!(names.len() > 8, "{names:?}");
    for (how, damage) in [
        ("deleted", "rm $file"),
        ("truncated", ": > $file"),
        ("replaced", "echo '{}' > $file"),
        ("opened", "chmod 0666 $file; chown daemon:daemon $file"),
    ] {
        let files = names.join(" ");
        master.sh(&format!(
            "cd {STATE}; for file in {files}; do test ! -e $file || {{ {damage}; }}; done"
        ));
        watch.passes(3, CALM);
        watch.calm(CALM);
        assert_eq!(Standing::of(master), before, "{how}");
        assert_eq!(node_state(master), "ok", "{how}");
        for name in names
            .iter()
            .filter(|name| RESTORED.contains(*name) || how == "opened")
        {
            let file = format!("{STATE}/{name}");
            if how == "opened" && !is_there(&name) {
                continue;
            }
            let is = master.sh(&format!("stat --format '%s %a %U:%G' {file}"));
            let private = is.ends_with("600 root:root") || is.ends_with("640 root:root");
            assert!(!is.starts_with("0 ") && private, "{name} {how}: {is}");
        }
    }
    // The daemon went on all the time.
    let restarts = master.sh("systemctl show --value --property NRestarts pf9-nodeletd");
    assert_eq!(restarts, "0");
    master.sh("rm /run/pf9-nodeletd.lock");
    master.wait_for("its lock is back", "test -e /run/pf9-nodeletd.lock", CALM);
}

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn files_of_nodeletd_are_repaired_or_reported_by_name() {
    let master = shared();
    master.configure(SCALED);
    master.apply(&[]).exits(0);
    let watch = Watch::start(&master);
    watch.calm(CALM);
    the_ledger(&master, &watch);
    the_other_files(&master, &watch);
    master.sh("systemctl stop pf9-nodeletd");
    master.configure(&[]);
    master.apply(&[]).exits(0);
    master.check(&[]).exits(0);
}

/// With nothing left of the ledger and of what is kept beside it, the host itself is asked.
#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn a_role_without_any_record_is_recovered_and_cleaned() {
    let master = Master::create("recover", Image::Bare, false);
    // Packages that were there before: who has installed one is not known without a ledger, so all stay.
    master.sh("cd /opt/pf9/roles/pf9-kube/current/payload/debs
         for name in conntrack socat ipset containernetworking-plugins; do
             DEBIAN_FRONTEND=noninteractive dpkg --skip-same-version --install $(cat $name.list)
         done");
    let before = Slate::of(&master);
    let _ = master.apply(&[]).exits(0);
    master.sh(&format!("rm -r {STATE}"));
    let refused = master.nodelet(&["clean", "--purge"]).exits(1);
    let _ = refused.says(&["nothing was taken back", "container etcd"]);
    let stands = Standing::of(&master);
    let refused = master.apply(&[]).exits(1);
    let _ = refused.says(&["ledger.jsonl", "nodelet recover"]);
    assert_eq!(Standing::of(&master), stands);
    let recovered = master.nodelet(&["recover"]).exits(0);
    let recovered = recovered.says(&["from the plan and from what stands", "net.ipv4.ip_forward"]);
    let told = recovered.text();
    let _ = master.apply(&[]).exits(0);
    // A container of ours that the ledger does not know comes to be when the one it knows has gone: the clean does not call that clean.
    master.sh("tar --create --files-from /dev/null | docker import - stub:1 > /dev/null
         systemd-run --quiet --unit maker sh -c 'while :; do docker create --name etcd --label pf9.io/owner=nodelet stub:1 none; sleep 0.1; done'");
    let refused = master.nodelet(&["clean", "--purge"]).exits(1);
    let _ = refused.says(&["did not know container etcd", "still stand"]);
    master
        .sh("systemctl stop maker; docker rm etcd > /dev/null; docker image rm stub:1 > /dev/null");
    let _ = master.nodelet(&["clean", "--purge"]).exits(0);
    // What could not be known was named.
    let _ = before.assert_same_but(&master, After::Purge, "recovered and cleaned", |line| {
        line.split([' ', '=', '/'])
            .any(|word| word.len() > 4 && told.contains(word))
    });
}
