//! A pass that cannot join its control group makes its checks all the same: otherwise nodeletd would not see the host any more.

use std::process::Command;

#[test]
fn a_pass_without_its_control_group_goes_on() {
    let ended = Command::new(env!("CARGO_BIN_EXE_nodelet"))
        .args(["pass", "--cgroup", "/nowhere/cgroup.procs"])
        .args(["--role", "/nowhere/role", "--config", "/nowhere/settings"])
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(said.contains("going on with lowered priority"), "{said}");
    assert!(said.contains("/nowhere/settings is not there"), "{said}");
}
