//! A busy machine does not cause restarts.

use std::time::{Duration, Instant};

use lab_suites::{Image, Master, Watch, restarted};

/// The smallest load average.
const LOAD: f64 = 8.0;
/// The number of busy loops at first. Processes of the cluster that wait because of them count as load as well, so fewer loops than
/// the load average are enough.
const LOOPS: usize = 4;
/// One more loop after each such time, until the load is reached: the average over a minute takes minutes to rise.
const ANOTHER: Duration = Duration::from_secs(60);
const RISING: Duration = Duration::from_secs(10 * 60);
const LASTING: Duration = Duration::from_secs(30 * 60);
const CALM: Duration = Duration::from_secs(300);

/// When each container and unit of the cluster was started.
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
    let mut loops = 0;
    let mut keep_busy = |count: usize| {
        for _ in 0..count {
            master.sh(&format!(
                "systemd-run --quiet --unit nodelet-suite-load-{loops} sh -c 'while :; do :; done'"
            ));
            loops += 1;
        }
    };
    keep_busy(LOOPS);
    let load = || -> f64 {
        let load = master.sh("cut -d ' ' -f 1 /proc/loadavg");
        load.parse().expect("a number")
    };
    let mut last = Instant::now();
    watch.until("the load is there", RISING, || {
        let is_there = load() >= LOAD;
        if !is_there && last.elapsed() >= ANOTHER {
            keep_busy(1);
            last = Instant::now();
        }
        is_there
    });
    let (began, mut loads) = (Instant::now(), Vec::new());
    watch.until("half an hour passes", LASTING + CALM, || {
        let now = load();
        loads.push(now);
        // The load decreases when the cluster has less to do than at first.
        if now < LOAD && last.elapsed() >= ANOTHER {
            keep_busy(1);
            last = Instant::now();
        }
        began.elapsed() >= LASTING
    });
    let after = master.sh(STARTED);
    let repairs = restarted(&watch.recorded());
    let passes = watch.view().map(|view| view["counters"]["passes"].clone());
    master.sh("systemctl stop 'nodelet-suite-load-*'");
    let least = loads.iter().copied().fold(f64::INFINITY, f64::min);
    let most = loads.iter().copied().fold(0.0, f64::max);
    let average = loads.iter().sum::<f64>() / loads.len() as f64;
    println!(
        "load average {average:.1} ({least}–{most}) for half an hour with {loops} busy loops, {passes:?} passes, {repairs:?} restarted"
    );
    assert!(
        average >= LOAD && least >= LOAD * 0.9,
        "the load was {average}, at least {least}"
    );
    assert_eq!(repairs, Vec::<String>::new());
    assert_eq!(before, after);
    watch.wait_until_healthy(CALM);
}
