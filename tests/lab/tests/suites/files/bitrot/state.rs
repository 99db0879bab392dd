//! nodeletd's own files: deleted, truncated, replaced by another valid file of the same kind, or made accessible to other users.
//! Each is repaired, or reported by name, while what runs goes on. A lost ledger is never replaced by an empty one; it is
//! recovered. Each file alone, and copies of keys, are soaks.

use lab_suites::{
    After, CALM, Damage, Image, Master, RunningInstances, SCALED, STATE, Slate, StateFiles,
    WORK_DIRECTORY, Watch, make_work_directory, node_state, restarted, restore_master, shared,
};

/// The reason of a condition of nodeletd that is False.
fn wrong(watch: &Watch<'_>, name: &str) -> Option<String> {
    let view = watch.view()?;
    let conditions = view["conditions"].as_array()?;
    let its = conditions
        .iter()
        .find(|one| one["name"] == name && one["status"] == "False")?;
    its["reason"].as_str().map(str::to_owned)
}

/// A lost ledger, and everything that must not happen then.
fn the_ledger(master: &Master, watch: &Watch<'_>) {
    let ledger = format!("{STATE}/ledger.jsonl");
    let before = RunningInstances::of(master);
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
        // A clean is refused because nodeletd holds the host. During a pause it is refused because of the ledger.
        master.sh("nodelet pause 10m --because 'a clean'");
        let refused = master.nodelet(&["clean"]).exits(1);
        let _ = refused.says(&["nothing was reverted", "container etcd", "nodelet recover"]);
        master.sh("nodelet resume");
        assert_eq!(RunningInstances::of(master), before, "{how}");
        let shown = master.nodelet(&["recover", "--dry-run"]).exits(0);
        let _ = shown.says(&["nothing is missing", "nothing was written"]);
        let _ = master.nodelet(&["recover"]).exits(0);
        watch.wait_until_healthy(CALM);
        assert_eq!(node_state(master), "ok", "{how}");
        assert_eq!(RunningInstances::of(master), before, "{how}");
        let _ = master.nodelet(&["recover"]).exits(1);
    }
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

/// All files of nodeletd but the ledger. They do not depend on each other, so all are damaged at once.
#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn files_of_nodeletd_are_repaired() {
    let master = shared();
    make_work_directory(&master);
    master.configure(SCALED);
    StateFiles::prepare(&master);
    let watch = Watch::start(&master);
    let state = StateFiles::note(&master);
    let names = state.names();
    for damage in Damage::ALL {
        state.damage_and_repair(&watch, damage, &names);
    }
    master.sh("rm /run/pf9-nodeletd.lock");
    master.wait_for("its lock is back", "test -e /run/pf9-nodeletd.lock", CALM);
    drop(watch);
    restore_master(&master);
}

/// No other copy of a file's previous content exists, so a damaged one is reported by name. The timer is in the plan, so it is
/// written again.
#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn a_previous_content_is_reported_by_name_and_a_timer_is_repaired() {
    let master = shared();
    make_work_directory(&master);
    // The role replaces a file that was there before.
    let (file, timer) = (
        "/var/lib/kubelet/config.json",
        format!("{STATE}/timers/etcd-backup.json"),
    );
    master.sh(&format!(
        "echo '{{\"auths\": {{}}, \"of\": \"another program\"}}' > {file}; chmod 0600 {file}; cp -p {file} {WORK_DIRECTORY}/previous"
    ));
    let account: &[(&str, &str)] = &[
        ("DOCKERHUB_ID", "account"),
        ("DOCKERHUB_PASSWORD", "password"),
    ];
    master.configure(&[SCALED, account].concat());
    master.apply(&[]).exits(0);
    let digest = master.sh(&format!(
        "sha256sum < {WORK_DIRECTORY}/previous | cut -d ' ' -f 1"
    ));
    let content = format!("{STATE}/content/{digest}");
    master.sh(&format!(
        "cmp {content} {WORK_DIRECTORY}/previous; if cmp -s {file} {WORK_DIRECTORY}/previous; then exit 1; fi
         [ \"$(ls {STATE}/timers)\" = etcd-backup.json ]; cp -p {timer} {WORK_DIRECTORY}/timer"
    ));
    let watch = Watch::start(&master);
    let before = RunningInstances::of(&master);
    let look = |path: &str, copy: &str| {
        format!(
            "cmp {path} {WORK_DIRECTORY}/{copy} && [ \"$(stat -c '%a %U:%G' {path})\" = '600 root:root' ]"
        )
    };
    for damage in Damage::ALL {
        let what = format!("{damage:?}");
        watch.record();
        let other_schedule =
            format!(r#"sed -E 's/("schedule": *")[^"]*/\117 4 * * */' {WORK_DIRECTORY}/timer"#);
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
                "rm -f {content}; cp -p {WORK_DIRECTORY}/previous {content}"
            ));
        }
        watch.wait_until_healthy(CALM);
        master.wait_for(&what, &look(&content, "previous"), CALM);
        assert_eq!(RunningInstances::of(&master), before, "{what}");
        assert_eq!(node_state(&master), "ok", "{what}");
    }
    drop(watch);
    // The role restores the previous file.
    master.configure(&[]);
    master.apply(&[]).exits(0);
    master.sh(&format!(
        "cmp {file} {WORK_DIRECTORY}/previous; rm -r {file} {WORK_DIRECTORY}"
    ));
    master.check(&[]).exits(0);
}

/// If nothing is left of the ledger and of the files beside it, the role is recovered from the host itself.
#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn a_role_without_any_record_is_recovered_and_cleaned() {
    let master = Master::create("recover", Image::Bare, false);
    // Packages that were there before: without a ledger it is not known who has installed a package, so all stay.
    master.sh("cd /opt/pf9/roles/pf9-kube/current/payload/debs
         for name in conntrack socat ipset containernetworking-plugins; do
             DEBIAN_FRONTEND=noninteractive dpkg --skip-same-version --install $(cat $name.list)
         done");
    let before = Slate::of(&master);
    let _ = master.apply(&[]).exits(0);
    master.sh(&format!("rm -r {STATE}"));
    let refused = master.nodelet(&["clean", "--purge"]).exits(1);
    let _ = refused.says(&["nothing was reverted", "container etcd"]);
    let before_all = RunningInstances::of(&master);
    let refused = master.apply(&[]).exits(1);
    let _ = refused.says(&["ledger.jsonl", "nodelet recover"]);
    assert_eq!(RunningInstances::of(&master), before_all);
    let recovered = master.nodelet(&["recover"]).exits(0);
    let recovered = recovered.says(&[
        "from the plan and from what is on this host",
        "net.ipv4.ip_forward",
    ]);
    let recovered_text = recovered.text();
    let _ = master.apply(&[]).exits(0);
    // When the known container is gone, another container with our label appears that the ledger does not know: the clean does not
    // report success.
    master.sh("tar --create --files-from /dev/null | docker import - stub:1 > /dev/null
         systemd-run --quiet --unit maker sh -c 'while :; do docker create --name etcd --label pf9.io/owner=nodelet stub:1 none; done'");
    let refused = master.nodelet(&["clean", "--purge"]).exits(1);
    let _ = refused.says(&["did not know container etcd", "are still there"]);
    master
        .sh("systemctl stop maker; docker rm etcd > /dev/null; docker image rm stub:1 > /dev/null");
    let _ = master.nodelet(&["clean", "--purge"]).exits(0);
    // The recovery has named what could not be known.
    let _ = before.assert_same_but(&master, After::Purge, "recovered and cleaned", |line| {
        line.split([' ', '=', '/'])
            .any(|word| word.len() > 4 && recovered_text.contains(word))
    });
}
