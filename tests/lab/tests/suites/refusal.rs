//! Runs that are refused before anything is touched.

use lab_suites::shared;

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn only_root_may_apply_and_stop() {
    let master = shared();
    for verb in ["apply", "stop"] {
        let run = master.try_sh(&format!(
            "setpriv --reuid=65534 --regid=65534 --clear-groups nodelet {verb}"
        ));
        let told = String::from_utf8_lossy(&run.stderr).into_owned();
        assert_eq!(run.status.code(), Some(1), "{told}");
        assert!(told.contains("only root can"), "{told}");
    }
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
        "/etc/pf9/nodelet/config.yaml:",
        "MASTER_IP",
        "CONTAINERS_CIDR",
    ]);
    assert!(run.events("run_started").is_empty(), "{}", run.text());
    master.configure(&[]);
    master.apply(&[]).exits(0).changes_nothing();
}

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn what_the_host_stands_with_is_refused_with_the_way_out() {
    let master = shared();
    for (key, value, way_out) in [
        ("ROLE", "none", "take the role off first: `nodelet clean`"),
        ("ROLE", "worker", "take the role off first: `nodelet clean`"),
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
