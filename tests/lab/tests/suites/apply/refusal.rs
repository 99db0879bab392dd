//! Runs that are refused before anything is touched.

use lab_suites::{changes, listing, shared};

use super::{install_another_role, remove_another_role};

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn only_root_may_apply_and_stop() {
    let master = shared();
    for verb in ["apply", "stop"] {
        let run = master.try_sh(&format!(
            "setpriv --reuid=65534 --regid=65534 --clear-groups nodelet {verb}"
        ));
        let message = String::from_utf8_lossy(&run.stderr).into_owned();
        assert_eq!(run.status.code(), Some(1), "{message}");
        assert!(message.contains("only root can"), "{message}");
    }
}

/// A user who can write to a role's files decides what runs as root.
#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn a_role_that_another_user_can_change_is_refused() {
    let master = shared();
    let script = master.sh("realpath /opt/pf9/roles/pf9-kube/current/phases/etcd.rhai");
    let directory = master.sh(&format!("dirname {script}"));
    for (spoils, fix) in [
        ("chmod o+w", "chmod go-w"),
        ("chown 65534", "chown --no-dereference root:root"),
    ] {
        for path in [&script, &directory] {
            master.sh(&format!("{spoils} {path}"));
            let fix = format!("{fix} {path}");
            for verb in ["apply", "phases"] {
                let run = master.nodelet(&[verb]).exits(1);
                let run = run.says(&[&format!("`{fix}`")]);
                assert!(run.events("run_started").is_empty(), "{}", run.text());
            }
            // Nothing else was wrong.
            master.sh(&fix);
        }
    }
    master.apply(&[]).exits(0).changes_nothing();

    // A name means the installed role, in every current directory.
    master.sh(
        "mkdir -p /tmp/others/roles/pf9-kube; echo 'no role' > /tmp/others/roles/pf9-kube/role.yaml
         chown -R 65534 /tmp/others",
    );
    master.sh("cd /tmp/others; nodelet check --role pf9-kube");
    let run = master.try_sh("cd /tmp/others; nodelet check --role ./roles/pf9-kube");
    let message = String::from_utf8_lossy(&run.stderr).into_owned();
    assert_eq!(run.status.code(), Some(1), "{message}");
    assert!(message.contains("it belongs to user 65534"), "{message}");
    master.sh("rm -r /tmp/others");
}

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn wrong_words_are_usage_errors() {
    let master = shared();
    master
        .nodelet(&["apply", "--only", "etdc"])
        .exits(64)
        .says(&["there is no phase `etdc`", "did you mean `etcd`?"]);
    master.nodelet(&["aply"]).exits(64);
}

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn wrong_settings_are_refused_with_their_place() {
    let master = shared();
    master.configure(&[
        ("MASTER_IP", "not an address"),
        ("CONTAINERS_CIDR", "10.20.0.0/33"),
    ]);
    let run = master.apply(&[]).exits(1).says(&[
        "\"file\":\"/etc/pf9/nodelet/config.yaml\",\"line\":2",
        "\"file\":\"/etc/pf9/nodelet/config.yaml\",\"line\":4",
        "MASTER_IP",
        "CONTAINERS_CIDR",
    ]);
    assert!(run.events("run_started").is_empty(), "{}", run.text());
    master.configure(&[]);
    master.apply(&[]).exits(0).changes_nothing();
}

/// The phase that uses the directory would find the file only after others have changed the host.
#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn a_file_at_the_place_of_a_directory_is_refused_before_a_run() {
    let master = shared();
    master.sh("echo theirs > /opt/taken");
    master.configure(&[("USER_IMAGES_DIR", "/opt/taken")]);
    for verb in ["plan", "apply"] {
        let run = master.nodelet(&[verb]).exits(1);
        let run = run.says(&["USER_IMAGES_DIR: /opt/taken is not a directory: a file is there"]);
        assert!(run.events("run_started").is_empty(), "{}", run.text());
    }
    assert_eq!(master.sh("cat /opt/taken"), "theirs");
    master.sh("rm /opt/taken");
    master.configure(&[]);
    master.apply(&[]).exits(0).changes_nothing();
}

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn changes_of_the_installed_identity_are_refused_with_a_next_step() {
    let master = shared();
    for (key, value, way_out) in [
        ("ROLE", "none", "remove the role first: `nodelet clean`"),
        ("ROLE", "worker", "remove the role first: `nodelet clean`"),
        ("USE_HOSTNAME", "false", "`nodelet clean --purge`"),
    ] {
        master.configure(&[(key, value)]);
        for verb in ["apply", "stop", "plan", "diff", "check"] {
            let run = master.nodelet(&[verb]).exits(1).says(&[key, way_out]);
            assert!(run.events("run_started").is_empty(), "{}", run.text());
        }
    }
    master.configure(&[]);
    master.apply(&[]).exits(0).changes_nothing();
}

/// A role of another name would remove all of the first one's steps.
#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn another_role_is_refused_with_what_it_would_remove() {
    let master = shared();
    install_another_role(&master);
    let files = listing(&master);
    let refused = |verb: &str, texts: &[&str]| {
        let run = master.nodelet(&[verb, "--role", "other"]).exits(1);
        let run = run.says(texts);
        assert!(run.events("run_started").is_empty(), "{}", run.text());
        run.text()
    };
    refused(
        "apply",
        &[
            "another role",
            "etcd/container:etcd",
            "`nodelet apply --replace-role`",
        ],
    );
    // For the others it is a mistake, and one sentence says so.
    for verb in ["stop", "drain", "repair", "check"] {
        let text = refused(verb, &["another role", "use `--role pf9-kube`"]);
        assert!(!text.contains("etcd/container:etcd"), "{verb}: {text}");
        assert!(!text.contains("nodelet apply"), "{verb}: {text}");
    }
    // A status pass with it does not replace the copies of the last good settings and of the last good role.
    let copies = || master.sh("cd /var/opt/pf9/nodelet; sha256sum settings.yaml role.json");
    master.nodelet(&["pass"]).exits(0);
    let kept = copies();
    master.nodelet(&["pass", "--role", "other"]).exits(0);
    assert_eq!(copies(), kept);
    // A prediction shows it, and says so.
    master
        .nodelet(&["plan", "--role", "other"])
        .exits(0)
        .says(&["another role", "example", "removed"]);
    assert_eq!(changes(&files, &listing(&master)), [""; 0]);
    remove_another_role(&master);
    master.apply(&[]).exits(0).changes_nothing();
}
