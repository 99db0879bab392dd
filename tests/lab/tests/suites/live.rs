//! `LiveHost` on a real host. It needs docker, systemd, dpkg and a kernel that it may change, which a developer's machine need not
//! have. So this program is copied into a lab host, and the tests of `inside` run there.

mod inside;

use std::time::Duration;

use lab_suites::{Image, Master, shared};

/// The path of the copy.
const PROGRAM: &str = "/usr/local/lib/suites";
const PAYLOAD: &str = "/opt/pf9/roles/pf9-kube/current/payload";

/// Runs a test inside the host, with these variables.
fn run_inside(master: &Master, test: &str, variables: &str) {
    let output = master.try_sh(&format!(
        "export {variables} RUST_BACKTRACE=1
         timeout 110 {PROGRAM} --ignored --exact live::inside::{test} --nocapture"
    ));
    let text = String::from_utf8_lossy(&output.stdout);
    let failed = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{test} inside of the host:\n{text}\n{failed}"
    );
}

fn put_program(master: &Master) {
    let program = std::env::current_exe().expect("this program has a path");
    let host = master.host();
    host.put_file(&program, PROGRAM, 0o755)
        .expect("it is copied");
}

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn units_containers_packages_and_mounts_are_handled_as_the_fake_host_promises() {
    let master = Master::create("live", Image::Bare, false);
    put_program(&master);
    let docker = "docker info > /dev/null";
    master.wait_for("docker answers", docker, Duration::from_secs(60));
    run_inside(&master, "a_unit_goes_through_its_life", "A=");
    // Also containers that other programs have made, with settings that nodelet cannot express.
    run_inside(
        &master,
        "a_container_goes_through_its_life",
        &format!("LIVE_ARCHIVE={PAYLOAD}/images/pause.tar LIVE_IMAGE=k8s.gcr.io/pause:3.2"),
    );
    // Services of packages are not started during the installation. Without a configuration this one would not start at all.
    master.sh("mkdir -p /etc/keepalived; echo 'global_defs { }' > /etc/keepalived/keepalived.conf");
    let debs = master.sh(&format!(
        "cd {PAYLOAD}/debs; sed \"s|^|$PWD/|\" keepalived.list"
    ));
    run_inside(
        &master,
        "packages_are_installed_without_starting_their_services",
        &format!("LIVE_DEBS='{debs}' LIVE_DEBS_UNIT=keepalived.service"),
    );
    run_inside(&master, "the_kernel_answers", "A=");
    run_inside(&master, "mounts_are_left_alone", "A=");
    run_inside(&master, "the_runtime_may_go_and_come_back", "A=");
}

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn objects_and_nodes_are_handled_by_a_real_api_server() {
    let master = shared();
    put_program(&master);
    run_inside(
        &master,
        "the_cluster_takes_objects_and_gives_them_back",
        "LIVE_KUBECONFIG=/etc/pf9/kube.d/kubeconfigs/admin.yaml",
    );
    master.sh(&format!("rm {PROGRAM}"));
}
