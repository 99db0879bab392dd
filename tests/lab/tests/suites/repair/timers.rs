//! nodeletd runs programs of a role on a schedule, and says which of them fail.

use std::time::Duration;

use lab_suites::{Image, Master};

/// Installs a role with two timers, and makes nodeletd hold the host at this role. A program of it works, the other one fails.
const INSTALL: &str = r#"
    mkdir -p /opt/pf9/roles/timed/1/phases /opt/pf9/roles/timed/1/payload/bin
    cd /opt/pf9/roles/timed/1
    cat > role.yaml <<'END'
version: 1
name: timed
release: '1'
about: Runs two programs each minute.
nodes:
  master: [timed]
payload: [bin/beat, bin/broken]
END
    cat > phases/timed.rhai <<'END'
phase("timed").about("Runs two programs each minute.").nodes(["master"]);
timer("beat").schedule("* * * * *").command([`${role.payload}/bin/beat`, "again"]);
timer("broken").schedule("* * * * *").command([`${role.payload}/bin/broken`]);
check("the timers are as planned").as_planned();
END
    printf '#!/bin/sh\necho "$1" >> /run/beats\n' > payload/bin/beat
    printf '#!/bin/sh\necho "no room for it" >&2\nexit 3\n' > payload/bin/broken
    chmod 0755 payload/bin/beat payload/bin/broken
    ln -s 1 ../current
    mkdir -p /run/systemd/system/pf9-nodeletd.service.d
    printf '[Service]\nExecStart=\nExecStart=/opt/pf9/nodelet/nodeletd --role timed\n' \
        > /run/systemd/system/pf9-nodeletd.service.d/role.conf
    systemctl daemon-reload
"#;

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn programs_of_a_role_run_on_schedule_until_a_clean() {
    let master = Master::create("timers", Image::NoDocker, false);
    master.configure(&[("LOOP_INTERVAL", "5s")]);
    master.sh(INSTALL);
    master.nodelet(&["apply", "--role", "timed"]).exits(0);
    master.sh("systemctl start pf9-nodeletd");

    // The first run begins at once, the second one in the next minute.
    let ran = |times: usize| format!("[ \"$(grep -cx again /run/beats)\" -ge {times} ]");
    master.wait_for("the first run", &ran(1), Duration::from_secs(60));
    master.wait_for("the second run", &ran(2), Duration::from_secs(90));

    // The operator sees which program fails, and why.
    let told = "nodelet timer status | grep -A 3 '✗ broken' | grep -q 'no room for it'";
    master.wait_for("the failure is told", told, Duration::from_secs(60));
    let status = master.nodelet(&["timer", "status"]).exits(2);
    status.says(&["beat  runs `/opt/pf9/roles/timed/current/payload/bin/beat again`"]);
    // A run counts as failed until it is over.
    let well = "! nodelet timer status | grep -q '✗ beat'";
    master.wait_for("the other one works", well, Duration::from_secs(30));

    // A clean takes the timers off.
    master.sh("systemctl stop pf9-nodeletd");
    master.nodelet(&["clean", "--role", "timed"]).exits(0);
    master
        .nodelet(&["timer", "status"])
        .exits(0)
        .says(&["no timers on this host"]);
}
