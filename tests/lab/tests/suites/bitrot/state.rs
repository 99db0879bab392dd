//! nodeletd's own files: deleted, truncated, replaced by another valid file of the same kind, opened to others. Each is repaired, or
//! reported by name, while what runs goes on; a lost ledger is never begun anew, and is recovered. Copies of keys are a soak.

use std::time::Duration;

use lab_suites::{
    After, Damage, Image, Master, PLACE, SCALED, STATE, Slate, Standing, Watch, make_place,
    restarted, shared,
};

const CALM: Duration = Duration::from_secs(90);
/// `STATE`, as it was before anything befell it.
const BEFORE: &str = "/root/bitrot/nodelet";

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
            &["drain"],
            &["certs", "renew"],
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

/// A file of nodeletd's: what makes another valid one of it, as sed edits it, and what is in that one alone.
struct Own {
    name: &'static str,
    edit: &'static str,
    mark: &'static str,
}

/// Those that are written anew from what nodeletd knows.
const RESTORED: [Own; 6] = [
    // Another host's, of another cluster.
    Own {
        name: "identity.json",
        edit: r#"s/("ledger": *")[^"]*/\100000000-00000000/; s/("CLUSTER_ID": *")[^"]*/\1another/"#,
        mark: "00000000-00000000",
    },
    Own {
        name: "settings.yaml",
        edit: r#"s/^(LOOP_INTERVAL: ).*/\1"7s"/"#,
        mark: "7s",
    },
    // That of another release.
    Own {
        name: "role.json",
        edit: r#"s/"release":"[^"]*"/"release":"0.0.1"/"#,
        mark: r#""release":"0.0.1""#,
    },
    // One by which nothing would be repaired any more.
    Own {
        name: "nodeletd.json",
        edit: r#"s/("paused_until": *)null/\14102444800/; s/("paused_because": *")/\1of another host/"#,
        mark: "of another host",
    },
    // Another host's: it has other inodes.
    Own {
        name: "digests.json",
        edit: r#"s/"inode":[0-9]+/"inode":1/g"#,
        mark: r#""inode":1,"#,
    },
    Own {
        name: "../kube_status",
        edit: r#"s/("pf9_kube_node_state": *")[^"]*/\1failed/"#,
        mark: r#""failed""#,
    },
];
/// Those that say what the ledger contains; older ones are from before the last run. Written anew, too.
const OF_THE_LEDGER: [&str; 2] = ["ledger.tip", "ledger.backup.jsonl"];

/// A record, which comes again with what it records. Until then there is one less to go by: docs/ledger.md says of each what that costs.
fn other_record(name: &str) -> Option<String> {
    let edit = match name {
        // Another host's.
        "preflight.json" => "s/[0-9a-f]{8}/00000000/g",
        "timer-etcd-backup.json" => r#"s/("last_good": *)[^,]*/\11577836800/"#,
        "SHA256SUMS" => "1d",
        // Of an earlier run of the unit.
        _ if name.starts_with("services/") => r#"s/("invocation": *")[^"]*/\10000/"#,
        _ => return None,
    };
    Some(format!("sed -E '{edit}' {BEFORE}/{name}"))
}

/// The records of this host.
///
/// # Panics
/// A file of the state is damaged by none of the suites.
fn records(master: &Master) -> Vec<String> {
    // A name that begins with a dot is that of a file that is being written.
    let found = master.sh(&format!(
        "find {STATE} -type f ! -name '.*' -printf '%P\n' | sort"
    ));
    let is_damaged_elsewhere = |name: &str| {
        // What a recovery puts aside is read by no program.
        ["ledger.jsonl", "ledger.damaged.jsonl"].contains(&name)
            || OF_THE_LEDGER.contains(&name)
            || RESTORED.iter().any(|its| its.name == name)
            // The first are the soak's, and the others have a test of their own below.
            || ["kept/", "data-", "content/", "timers/"].iter().any(|folder| name.starts_with(folder))
    };
    let records: Vec<String> = found
        .lines()
        .filter(|name| !is_damaged_elsewhere(name))
        .map(str::to_owned)
        .collect();
    for name in &records {
        assert!(other_record(name).is_some(), "{name} is damaged nowhere");
    }
    assert!(records.len() > 3, "{records:?}");
    records
}

/// All other files of nodeletd's. They have nothing to do with each other, so one damage befalls all at once: what is damaged is as it
/// was after a few passes, and nothing of the role was touched.
fn the_other_files(master: &Master, watch: &Watch<'_>) {
    master.sh(&format!(
        "cp -a {STATE} {BEFORE}; cp -p {STATE}/../kube_status {PLACE}"
    ));
    let before = Standing::of(master);
    let records = records(master);
    let mut all: Vec<(String, String)> = RESTORED
        .iter()
        .map(|its| {
            let another = format!("sed -E '{}' {BEFORE}/{}", its.edit, its.name);
            (its.name.to_owned(), another)
        })
        .collect();
    all.extend(OF_THE_LEDGER.map(|name| (name.to_owned(), format!("cat {PLACE}/older/{name}"))));
    all.extend(records.iter().map(|name| {
        let another = other_record(name);
        (name.clone(), another.expect("each has one"))
    }));
    for damage in Damage::ALL {
        let mut script = String::new();
        for name in &records {
            // One that has not come again since the last damage.
            let path = format!("{STATE}/{name}");
            script += &format!("[ -e {path} ] || cp -p {BEFORE}/{name} {path}\n");
        }
        for (name, another) in &all {
            script += &damage.script(&format!("{STATE}/{name}"), another);
            script.push('\n');
        }
        master.sh(&script);
        watch.passes(3, CALM);
        watch.calm(CALM);
        let how = format!("{damage:?}");
        assert_eq!(Standing::of(master), before, "{how}");
        assert_eq!(node_state(master), "ok", "{how}");
        for Own { name, mark, .. } in &RESTORED {
            let script = format!("grep -qF '{mark}' {STATE}/{name}");
            let found = master.try_sh(&script).status.code();
            assert_eq!(found, Some(1), "{name} {how}: it is the other one still");
        }
        for name in OF_THE_LEDGER {
            master.sh(&format!("cmp {STATE}/{name} {BEFORE}/{name}"));
        }
        for (name, _) in &all {
            let is = master.try_sh(&format!("stat --format '%s %a %U:%G' {STATE}/{name}"));
            if !is.status.success() && damage != Damage::Attributes && records.contains(name) {
                continue;
            }
            let is = String::from_utf8_lossy(&is.stdout).trim().to_owned();
            let mode = match name.as_str() {
                "../kube_status" => "640",
                _ => "600",
            };
            let is_right = is.ends_with(&format!(" {mode} root:root"));
            // nodeletd writes a status at each pass, and the others where they differ.
            assert!(!is.starts_with("0 ") && is_right, "{name} {how}: {is}");
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
fn a_lost_ledger_is_reported_and_recovered() {
    let master = shared();
    master.configure(SCALED);
    master.apply(&[]).exits(0);
    let watch = Watch::start(&master);
    the_ledger(&master, &watch);
    drop(watch);
    master.configure(&[]);
    master.apply(&[]).exits(0);
    master.check(&[]).exits(0);
}

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn files_of_nodeletd_are_repaired() {
    let master = shared();
    make_place(&master);
    master.configure(SCALED);
    // A run that changes something, so that what is there before it is older.
    master.sh(&format!(
        "install -d {PLACE}/older; cp -p {STATE}/ledger.tip {STATE}/ledger.backup.jsonl {PLACE}/older
         rm /etc/pf9/kube.d/kubeconfigs/admin.yaml"
    ));
    master.apply(&[]).exits(0);
    let watch = Watch::start(&master);
    the_other_files(&master, &watch);
    drop(watch);
    master.sh(&format!("rm -rf {PLACE}"));
    master.configure(&[]);
    master.apply(&[]).exits(0);
    master.check(&[]).exits(0);
}

/// The previous content of a file is known from nowhere else, so a damaged one is reported by name. The timer is planned, and written anew.
#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn a_previous_content_is_reported_by_name_and_a_timer_is_repaired() {
    let master = shared();
    make_place(&master);
    // The role replaces a file that was there before.
    let (file, timer) = (
        "/var/lib/kubelet/config.json",
        format!("{STATE}/timers/etcd-backup.json"),
    );
    master.sh(&format!(
        "echo '{{\"auths\": {{}}, \"of\": \"another program\"}}' > {file}; chmod 0600 {file}; cp -p {file} {PLACE}/previous"
    ));
    let account: &[(&str, &str)] = &[
        ("DOCKERHUB_ID", "account"),
        ("DOCKERHUB_PASSWORD", "password"),
    ];
    master.configure(&[SCALED, account].concat());
    master.apply(&[]).exits(0);
    let digest = master.sh(&format!("sha256sum < {PLACE}/previous | cut -d ' ' -f 1"));
    let content = format!("{STATE}/content/{digest}");
    master.sh(&format!(
        "cmp {content} {PLACE}/previous; if cmp -s {file} {PLACE}/previous; then exit 1; fi
         [ \"$(ls {STATE}/timers)\" = etcd-backup.json ]; cp -p {timer} {PLACE}/timer"
    ));
    let watch = Watch::start(&master);
    let before = Standing::of(&master);
    let look = |path: &str, copy: &str| {
        format!(
            "cmp {path} {PLACE}/{copy} && [ \"$(stat -c '%a %U:%G' {path})\" = '600 root:root' ]"
        )
    };
    for damage in Damage::ALL {
        let what = format!("{damage:?}");
        watch.record();
        let other_schedule =
            format!(r#"sed -E 's/("schedule": *")[^"]*/\117 4 * * */' {PLACE}/timer"#);
        master.sh(&format!(
            "{}; {}",
            damage.script(&content, "echo of another file"),
            damage.script(&timer, &other_schedule)
        ));
        if damage != Damage::Attributes {
            watch.tells("LedgerValid", &content, CALM);
            watch.tells("LedgerValid", "from a backup", CALM);
            assert_ne!(node_state(&master), "ok", "{what}");
        }
        master.wait_for(&what, &look(&timer, "timer"), CALM);
        if damage != Damage::Attributes {
            watch.until("the phase of the timer was restarted alone", CALM, || {
                restarted(&watch.recorded()) == ["etcd-backup"]
            });
            watch.tells("LedgerValid", &content, CALM);
            master.sh(&format!(
                "rm -f {content}; cp -p {PLACE}/previous {content}"
            ));
        }
        watch.calm(CALM);
        master.wait_for(&what, &look(&content, "previous"), CALM);
        assert_eq!(Standing::of(&master), before, "{what}");
        assert_eq!(node_state(&master), "ok", "{what}");
    }
    drop(watch);
    // The role gives the place back.
    master.configure(&[]);
    master.apply(&[]).exits(0);
    master.sh(&format!(
        "cmp {file} {PLACE}/previous; rm -r {file} {PLACE}"
    ));
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
         systemd-run --quiet --unit maker sh -c 'while :; do docker create --name etcd --label pf9.io/owner=nodelet stub:1 none; done'");
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
