//! A busy machine is no reason to restart anything.

use std::time::{Duration, Instant};

use lab_suites::{Image, Master, Watch, restarted};

/// Busy loops beside the cluster: the load average is at least that.
const BUSY: u32 = 8;
const LASTING: Duration = Duration::from_secs(30 * 60);
const CALM: Duration = Duration::from_secs(300);

/// When each part of the cluster was started.
const STARTED: &str = "docker inspect --format '{{.Name}} {{.State.StartedAt}} {{.RestartCount}}' $(docker ps --quiet) | sort
for unit in docker pf9-kubelet pf9-nodeletd; do systemctl show $unit --property InvocationID --value; done";

#[test]
#[ignore = "cargo xtask soak runs it"]
fn a_load_of_eight_for_half_an_hour_restarts_nothing() {
    let master = Master::create("loaded", Image::Bare, false);
    master.configure(&[("KUBE_SERVICE_STATE", "true")]);
    master.apply(&[]).exits(0);
    let watch = Watch::start(&master);
    watch.record();
    let before = master.sh(STARTED);
    master.sh(&format!(
        "systemd-run --quiet --unit nodelet-suite-load sh -c 'for one in $(seq {BUSY}); do while :; do :; done & done; wait'"
    ));
    let (began, mut least) = (Instant::now(), f64::INFINITY);
    watch.until("half an hour passes", LASTING + CALM, || {
        let load = master.sh("cut -d ' ' -f 1 /proc/loadavg");
        // The average over a minute takes minutes to rise.
        if began.elapsed() > LASTING / 6 {
            least = least.min(load.parse().expect("a number"));
        }
        began.elapsed() >= LASTING
    });
    let after = master.sh(STARTED);
    let repairs = restarted(&watch.recorded());
    let passes = watch.view().map(|view| view["counters"]["passes"].clone());
    master.sh("systemctl stop nodelet-suite-load");
    println!(
        "load average at least {least} for half an hour, {passes:?} passes, {repairs:?} restarted"
    );
    assert!(least >= f64::from(BUSY) * 0.9, "the load was {least}");
    assert_eq!(repairs, Vec::<String>::new());
    assert_eq!(before, after);
    watch.calm(CALM);
}
