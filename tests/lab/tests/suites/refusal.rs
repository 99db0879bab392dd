//! Runs that are refused before anything is touched.

use lab_suites::shared;

#[test]
fn only_root_may_apply_and_stop() {
    let Some(master) = shared() else { return };
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
fn wrong_words_are_usage_errors() {
    let Some(master) = shared() else { return };
    master
        .nodelet(&["apply", "--only", "etdc"])
        .exits(64)
        .says(&["there is no phase `etdc`", "did you mean `etcd`?"]);
    master.nodelet(&["aply"]).exits(64);
}

#[test]
fn wrong_settings_are_refused_with_their_place() {
    let Some(master) = shared() else { return };
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
