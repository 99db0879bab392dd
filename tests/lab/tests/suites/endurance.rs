//! What happens to nodeletd itself and to its clock takes nothing from a node that is well. `cargo xtask soak` has more.

use std::time::Duration;

use engine::exec::Event;
use lab_suites::{Image, Master, SCALED, Standing, Watch};

const CALM: Duration = Duration::from_secs(120);
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

/// How often this host was cleaned.
fn cleans(master: &Master) -> usize {
    let history = master.sh("nodelet history --json --last 1000");
    history.matches("\"clean\"").count()
}

/// Lets nodeletd, and nobody else, live so many days off.
fn shift(master: &Master, days: &str) {
    master.sh(&format!(
        "mkdir -p /run/systemd/system/pf9-nodeletd.service.d
         printf '[Service]\\nEnvironment=LD_PRELOAD={FAKETIME}\\nEnvironment=FAKETIME={days}d\\n' \
             > /run/systemd/system/pf9-nodeletd.service.d/clock.conf
         systemctl daemon-reload; systemctl restart pf9-nodeletd"
    ));
}

#[test]
fn a_healthy_node_outlives_what_befalls_its_keeper() {
    let Some(master) = Master::create("endurance", Image::Bare, false) else {
        return;
    };
    master.configure(SCALED);
    master.apply(&[]).exits(0);
    let watch = Watch::start(&master);

    it_is_the_only_one(&master);
    killed_in_the_middle(&master, &watch);
    a_clock_that_is_wrong(&master, &watch);
    assert_eq!(cleans(&master), 0, "nothing was ever cleaned");
}

/// Two would undo each other's work, and take each other's socket.
fn it_is_the_only_one(master: &Master) {
    let second = master.try_sh("timeout 30 /opt/pf9/nodelet/nodeletd --once 2>&1");
    assert_eq!(second.status.code(), Some(1), "{second:?}");
    let told = String::from_utf8_lossy(&second.stdout).into_owned();
    assert!(told.contains("another nodeletd does it already"), "{told}");
    master.sh("systemctl is-active --quiet pf9-nodeletd && nodelet status > /dev/null");
}

fn killed_in_the_middle(master: &Master, watch: &Watch<'_>) {
    watch.record();
    master.sh("docker rm --force etcd");
    watch.until("the repair is at work", CALM, || {
        let begun = |event: &Event| matches!(event, Event::PhaseStarted { .. });
        watch.recorded().iter().any(begun)
    });
    master.sh("systemctl kill --signal KILL pf9-nodeletd");
    watch.calm(CALM);
    master.check(&[]).exits(0);
}

fn a_clock_that_is_wrong(master: &Master, watch: &Watch<'_>) {
    let before = Standing::of(master);
    let files = "sha256sum $(find /etc/pf9/kube.d -type f | sort)";
    let certificates = master.sh(files);
    for days in ["+1", "-1"] {
        shift(master, days);
        let mut seen = 0;
        watch.until("three passes", CALM, || {
            seen = watch
                .view()
                .and_then(|view| view["counters"]["passes"].as_u64())
                .unwrap_or(0);
            seen >= 3
        });
        let view = watch.view().expect("nodeletd answers");
        assert_eq!(view["counters"]["repairs"], 0, "{days} days: {view:#}");
        assert_eq!(Standing::of(master), before, "{days} days off");
        assert_eq!(master.sh(files), certificates, "{days} days off");
    }
    master.sh("rm -r /run/systemd/system/pf9-nodeletd.service.d; systemctl daemon-reload; systemctl restart pf9-nodeletd");
    watch.calm(CALM);
    assert_eq!(Standing::of(master), before, "the clock is right again");
}
