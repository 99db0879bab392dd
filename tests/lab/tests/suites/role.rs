//! The small role of docs/role.md on a host that has nothing of it: installed as a package, applied, changed by its settings, repaired and
//! cleaned.

use std::path::Path;
use std::time::Duration;

use lab::package::checksum_script;
use lab_suites::{After, Image, Master, Slate};

/// The directory of the installed package.
const PACKAGE: &str = "/opt/pf9/roles/chrony/1.0.0";
/// Where the set-up has put chrony with all that it needs beyond this host.
const DEBS: &str = "/opt/pf9/roles/pf9-kube/current/payload/debs";
/// The configuration that the role writes.
const FILE: &str = "/etc/chrony/chrony.conf";
/// Steps of the role.
const PACKAGE_STEP: &str = "chrony-package/packages:chrony";
const FILE_STEP: &str = "chrony/file:/etc/chrony/chrony.conf";
const SERVICE_STEP: &str = "chrony/service:chrony.service";

/// chronyd must not set the clock here, because all lab hosts have the clock of the machine. Without that it needs no capability, either.
/// A drop-in in `/run` belongs to the host, as on a virtual server whose hypervisor sets the clock.
const KEEP_CLOCK: &str = "
    mkdir -p /run/systemd/system/chrony.service.d
    printf '%s\\n' '[Unit]' 'ConditionCapability=' '[Service]' 'EnvironmentFile=' 'Environment=DAEMON_OPTS=-x' \
        > /run/systemd/system/chrony.service.d/lab.conf
    systemctl daemon-reload";

/// Targets that stay reached when chrony, which pulls them in, has ended; the next boot ends them.
const REACHED: [&str; 2] = ["unit time-set.target ", "unit time-sync.target "];

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn a_role_package_is_applied_changed_repaired_and_cleaned() {
    let master = Master::create("role", Image::NoDocker, false);
    install(&master);
    master.sh(KEEP_CLOCK);
    // Addresses that are for documentation only (RFC 5737), so no server answers.
    master.configure(&[("ROLE_SERVERS", "192.0.2.1, 192.0.2.2")]);
    let before = Slate::of(&master);

    let plan = master.nodelet(&["plan", "--role", "chrony"]).exits(0);
    let _ = plan.says(&[FILE, "chrony.service"]);
    assert_eq!(applied(&master), [PACKAGE_STEP, FILE_STEP, SERVICE_STEP]);
    is_as_planned(&master);
    assert_eq!(
        master.sh(&format!("stat --format '%a %U:%G' {FILE}; cat {FILE}")),
        "644 root:root\nserver 192.0.2.1 iburst\nserver 192.0.2.2 iburst\n\
         driftfile /var/lib/chrony/chrony.drift\nmakestep 1 3\nrtcsync"
    );
    uses(&master, "192.0.2.1 192.0.2.2");

    let first = invocation(&master);
    assert_eq!(applied(&master), [""; 0]);
    assert_eq!(invocation(&master), first, "nothing was restarted");

    // Only the file changes, and the service restarts.
    master.configure(&[("ROLE_SERVERS", "192.0.2.3"), ("ROLE_LARGEST_STEP", "5")]);
    assert_eq!(applied(&master), [FILE_STEP, SERVICE_STEP]);
    let second = invocation(&master);
    assert_ne!(second, first, "it was restarted");
    let digest = format!("sha256sum {FILE}");
    let written = master.sh(&digest);
    master.sh(&format!("grep -qx 'makestep 5 3' {FILE}"));
    is_as_planned(&master);
    uses(&master, "192.0.2.3");

    master.sh(&format!("sed -i '/^server/d' {FILE}"));
    let check = master.nodelet(&["check", "--role", "chrony"]).exits(2);
    let _ = check.says(&["False: the configuration is as planned"]);
    master.nodelet(&["repair", "--role", "chrony"]).exits(0);
    assert_eq!(master.sh(&digest), written);
    assert_ne!(invocation(&master), second, "it was restarted");
    is_as_planned(&master);
    uses(&master, "192.0.2.3");

    master.nodelet(&["clean", "--role", "chrony"]).exits(0);
    // The role keeps nothing, so a clean leaves as little as a purge.
    before.assert_same_but(&master, After::Purge, "clean", |line| {
        REACHED.iter().any(|target| line.contains(target))
    });
}

/// Installs the package of the role, as docs/role.md describes it: the scripts of the checkout, a payload, and checksums.
fn install(master: &Master) {
    let role = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/roles/chrony");
    let copied = master.host().put_directory(&role, PACKAGE);
    copied.expect("the role is copied");
    let write_checksums = checksum_script(PACKAGE);
    master.sh(&format!(
        "mkdir -p {PACKAGE}/payload/debs
         cd {DEBS}
         cp chrony.list $(cat chrony.list) {PACKAGE}/payload/debs
         cd {PACKAGE}
         find payload -type f -exec sha256sum {{}} + > SHA256SUMS
         {write_checksums}
         ln -sfn 1.0.0 ../current"
    ));
}

/// Applies the role, and gives the steps that changed something, in their order.
#[track_caller]
fn applied(master: &Master) -> Vec<String> {
    let run = master.nodelet(&["apply", "--role", "chrony", "--json"]);
    let steps = run.exits(0).events("step_changed");
    let steps = steps.iter().filter_map(|event| event["step"].as_str());
    steps.map(str::to_owned).collect()
}

/// Asserts that every check holds, and that an apply would change nothing.
#[track_caller]
fn is_as_planned(master: &Master) {
    master.nodelet(&["check", "--role", "chrony"]).exits(0);
    master.nodelet(&["diff", "--role", "chrony"]).exits(0);
}

/// Asserts that chronyd runs with these servers.
#[track_caller]
fn uses(master: &Master, servers: &str) {
    master.wait_for(
        "chronyd has the servers of the settings",
        &format!("[ \"$(chronyc -n -c sources | cut -d , -f 3 | sort | xargs)\" = '{servers}' ]"),
        Duration::from_secs(60),
    );
}

/// Names the present start of the service.
fn invocation(master: &Master) -> String {
    master.sh("systemctl show --value --property InvocationID chrony")
}
