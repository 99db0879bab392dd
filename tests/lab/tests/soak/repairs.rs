//! The repair of each fault is predicted, and takes the time that the page of figures says.

use std::time::{Duration, Instant};

use lab_suites::{FAULTS, Image, Master, SCALED, Watch, predicted_repair};

const MENDED: Duration = Duration::from_secs(150);
/// In percent.
const WANTED: f64 = 99.0;
/// Nothing is restarted for these: systemd does it, or the pass that finds them writes the file anew.
const WITHOUT_REPAIR: &[&str] = &["docker-killed", "status-deleted", "status-garbage"];

#[test]
#[ignore = "cargo xtask soak runs it"]
fn every_repair_is_predicted() {
    let Some(master) = Master::create("repairs", Image::Bare, true) else {
        return;
    };
    master.configure(SCALED);
    master.apply(&[]).exits(0);
    master.load_toolbox();
    let watch = Watch::start(&master);
    let mut bad = Vec::new();
    for fault in FAULTS.iter().filter(|f| !WITHOUT_REPAIR.contains(&f.name)) {
        let fidelity = predicted_repair(&master, &watch, fault);
        println!(
            "{:<24} {:>5.1} % of {} steps",
            fault.name,
            fidelity.score(),
            fidelity.steps
        );
        for miss in &fidelity.misses {
            println!("    {miss}");
        }
        bad.extend((fidelity.score() < WANTED).then_some(fault.name));
    }
    assert!(bad.is_empty(), "not predicted well enough: {bad:?}");
}

/// With the usual interval of a minute: it is events that make a repair quick.
#[test]
#[ignore = "cargo xtask soak runs it"]
fn repairs_take_seconds_at_the_usual_interval() {
    let Some(master) = Master::create("repair-times", Image::Bare, true) else {
        return;
    };
    master.configure(&[("KUBE_SERVICE_STATE", "true")]);
    master.apply(&[]).exits(0);
    let watch = Watch::start(&master);
    let vip = master.vip();
    for name in [
        "docker-killed",
        "docker-stopped",
        "etcd-removed",
        "kubelet-stopped",
        "proxy-removed",
        "cni-deleted",
        "kube-env-deleted",
        "keepalived-stopped",
    ] {
        let fault = FAULTS
            .iter()
            .find(|fault| fault.name == name)
            .expect("it is a fault");
        fault.strike(master.host(), &vip).expect("it happens");
        let began = Instant::now();
        watch.until(name, MENDED, || {
            fault.is_whole(master.host(), &vip).unwrap_or(false)
        });
        println!("{name:<24} {:>5.1} s", began.elapsed().as_secs_f64());
        watch.calm(MENDED);
    }
}
