//! A master with as many pods as it may have, and with many containers of others: a pass costs about as much as on an empty one.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use lab_suites::{Image, Master, Watch};

use crate::figures::write_section;

/// Pods that a node may have here, the control plane's own among them.
const MOST_PODS: &str = "250";
const PODS: usize = 249;
/// Containers of others, created and not started.
const FOREIGN: usize = 500;
/// Passes that are measured.
const PASSES: usize = 10;
/// How much processor time a pass may use, as a multiple of a pass on an empty host.
const MOST: f64 = 2.0;
/// How many programs a pass may start.
const MOST_PROGRAMS: usize = 3;
/// Time limit until all pods run.
const RUNNING: Duration = Duration::from_secs(1800);
const CALM: Duration = Duration::from_secs(300);

const KUBECTL: &str = "kubectl --kubeconfig /etc/pf9/kube.d/kubeconfigs/admin.yaml";

#[test]
#[ignore = "cargo xtask soak runs it"]
fn a_pass_on_a_crowded_master_costs_no_more() {
    let master = Master::create("crowded", Image::Bare, false);
    master.configure(&[
        ("KUBE_SERVICE_STATE", "true"),
        ("MAX_PODS", MOST_PODS),
        ("ALLOW_WORKLOADS_ON_MASTER", "true"),
        ("LOOP_INTERVAL", "10s"),
    ]);
    master.apply(&[]).exits(0);
    let watch = Watch::start(&master);
    let empty = Cost::of(&master, &watch);
    println!("an empty host: {empty:?}");

    master.sh(&format!(
        "{KUBECTL} create deployment crowd --image k8s.gcr.io/pause:3.2 --replicas {PODS}"
    ));
    master.wait_for(
        "all pods run",
        &format!("[ \"$({KUBECTL} get deployment crowd --output jsonpath='{{.status.readyReplicas}}')\" = {PODS} ]"),
        RUNNING,
    );
    master.sh(&format!(
        "for number in $(seq {FOREIGN}); do docker create --name foreign-$number k8s.gcr.io/pause:3.2 > /dev/null; done"
    ));
    watch.wait_until_healthy(CALM);
    let crowded = Cost::of(&master, &watch);
    println!("a crowded host: {crowded:?}");
    println!(
        "the median: {:.3} s and {:.3} s",
        empty.median(),
        crowded.median()
    );
    let containers = master.sh("docker ps --all --quiet | wc -l");
    assert!(
        containers
            .parse()
            .is_ok_and(|count: usize| count >= FOREIGN + 2 * PODS),
        "{containers} containers"
    );
    assert!(
        crowded.median() <= MOST * empty.median(),
        "{empty:?} {crowded:?}"
    );
    for cost in [&empty, &crowded] {
        assert!(cost.programs <= MOST_PROGRAMS, "{cost:?}");
    }
    let ratio = format!("{:.2} (≤ {MOST:.2})", crowded.median() / empty.median());
    let table = format!(
        "| host | processor time of a pass: median (minimum–maximum) | ratio | programs of a pass (≤ {MOST_PROGRAMS}) | all values |\n\
         |---|---:|---:|---:|---|\n{}\n{}\n",
        empty.line("empty", "—"),
        crowded.line("crowded", &ratio),
    );
    write_section("docs/benchmarks.md", "On a crowded host", WORDS, &table);
}

const WORDS: &str = "A master with 249 pods beside its control plane (`MAX_PODS=250`) and 500 containers of others, created and not started, against the \
same master before.\nThe processor time of ten passes is measured, ten seconds apart (`LOOP_INTERVAL=10s`), with the daemon's own. Programs are those that \
the pass\nwith the most of them started, counted with strace; the pass itself is not counted. A ratio or a count above its limit fails the soak. Written by\n\
`cargo xtask soak --write crowded_master`.";

/// The costs of passes.
#[derive(Debug)]
struct Cost {
    /// The processor time of each pass in seconds, in order, with the daemon's own.
    processor: Vec<f64>,
    /// The programs started by the pass that started most. The pass itself, which nodeletd starts, does not count.
    programs: usize,
}

impl Cost {
    fn of(master: &Master, watch: &Watch<'_>) -> Self {
        let usage = || {
            let metrics = watch.metrics();
            let value = |name: &str| metrics[name];
            (
                value("nodelet_passes_total"),
                value("nodeletd_cpu_seconds_total") + value("nodeletd_children_cpu_seconds_total"),
            )
        };
        let mut each = Vec::new();
        watch.passes(1, CALM);
        let mut before = usage();
        while each.len() < PASSES {
            watch.passes(1, CALM);
            let now = usage();
            each.push((now.1 - before.1) / (now.0 - before.0));
            before = now;
        }
        Self {
            processor: each,
            programs: programs(master, watch),
        }
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.processor.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }

    fn median(&self) -> f64 {
        let sorted = self.sorted();
        f64::midpoint(sorted[PASSES / 2 - 1], sorted[PASSES / 2])
    }

    /// Its line of the table.
    fn line(&self, name: &str, ratio: &str) -> String {
        let sorted = self.sorted();
        let all: Vec<String> = self
            .processor
            .iter()
            .map(|each| format!("{each:.2}"))
            .collect();
        format!(
            "| {name} | {:.2} s ({:.2}–{:.2}) | {ratio} | {} | {} |",
            self.median(),
            sorted[0],
            sorted[PASSES - 1],
            self.programs,
            all.join(", ")
        )
    }
}

/// Counts the programs that each of some passes starts, with strace on nodeletd. nodeletd starts each pass as a `nodelet`.
fn programs(master: &Master, watch: &Watch<'_>) -> usize {
    const TRACE: &str = "/run/nodelet-suite-trace";
    bring_strace(master);
    master.sh(&format!(
        "rm -f {TRACE}; systemd-run --quiet --unit nodelet-suite-trace --setenv LD_LIBRARY_PATH={PLACE} \
         {PLACE}/strace -f -qq -e trace=execve -e signal=none -o {TRACE} -p $(systemctl show pf9-nodeletd --property MainPID --value)"
    ));
    watch.passes(3, CALM);
    master.sh("systemctl stop nodelet-suite-trace");
    let trace = master.sh(&format!("grep ' = 0$' {TRACE} || true"));
    let mut most = 0;
    let mut of_this = 0;
    let mut passes = 0;
    for line in trace.lines() {
        if line.contains("nodelet\"") {
            passes += 1;
            of_this = 0;
        } else {
            of_this += 1;
            most = most.max(of_this);
        }
    }
    assert!(passes >= 2, "no passes were seen:\n{trace}");
    println!("{trace}");
    most
}

/// The directory of strace on the host, with libraries that it needs and the host does not have.
const PLACE: &str = "/opt/strace";

/// Copies strace of this machine, which has the same release of Debian.
fn bring_strace(master: &Master) {
    let linked = Command::new("ldd")
        .arg("/usr/bin/strace")
        .output()
        .expect("ldd runs");
    let linked = String::from_utf8_lossy(&linked.stdout).into_owned();
    let libraries = linked
        .lines()
        .filter_map(|line| line.split_once("=> ")?.1.split(' ').next())
        .filter(|path| path.contains("libunwind"));
    for path in libraries.chain(["/usr/bin/strace"]) {
        let name = Path::new(path).file_name().expect("a file").display();
        let bytes = std::fs::read(path).expect("strace is installed on this machine");
        let target = format!("{PLACE}/{name}");
        let put = master.host().put(&bytes, &target, 0o755);
        put.expect("the file is copied");
    }
}
