//! What `nodelet diff` predicts on a real host is what `nodelet apply` then does to it. With `UPDATE_GENERATED=1` the figures go to
//! `docs/fidelity.md`.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use lab_suites::{Image, Master, prediction};

use crate::cuts::cut;

/// What is asked for, in percent.
const WANTED: f64 = 99.0;
/// Where the figures stand in the page.
const REAL: &str = "## On real hosts";
/// When an apply is cut in the middle: after so many steps have changed something.
const CUT_AFTER: usize = 20;

#[test]
#[ignore = "cargo xtask soak runs it"]
fn predictions_on_a_real_host_are_what_apply_does() {
    let mut figures = Figures::default();

    let Some(master) = Master::create("fidelity-cut", Image::Bare, false) else {
        return;
    };
    cut(&master, CUT_AFTER);
    figures.take("half-finished apply", &master);
    drop(master);

    let Some(master) = Master::create("fidelity-none", Image::NoDocker, false) else {
        return;
    };
    figures.take("bare host without docker", &master);
    drop(master);

    let Some(master) = Master::create("fidelity", Image::Bare, false) else {
        return;
    };
    figures.take("bare host", &master);
    figures.take("healthy host", &master);
    figures.nothing_written(&master);
    master.sh("docker rm --force etcd");
    figures.take("lost etcd container", &master);
    master.sh("echo 'API_SERVER_FLAGS: --v=3' >> /etc/pf9/nodelet/config.yaml");
    figures.take("one parameter changed", &master);
    master.sh(
        "echo '{\"log-level\": \"debug\"}' > /etc/docker/daemon.json && systemctl restart docker",
    );
    figures.take("docker configured otherwise", &master);
    figures.publish();
}

/// The figures of each situation.
#[derive(Default)]
struct Figures {
    table: String,
    bad: String,
}

impl Figures {
    /// Predicts, applies and compares.
    fn take(&mut self, name: &str, master: &Master) {
        let fidelity = prediction(master);
        let named: Vec<String> = fidelity.misses.iter().map(ToString::to_string).collect();
        let misses = if named.is_empty() {
            "none".to_owned()
        } else {
            named.join("; ")
        };
        let line = format!(
            "| {name} | {} | {} | {} | {:.1} % | {:.1} % | {:.1} % | {misses} |",
            fidelity.steps,
            fidelity.predicted,
            fidelity.done,
            fidelity.of_predicted(),
            fidelity.of_done(),
            fidelity.of_steps(),
        );
        println!("{line}");
        let _ = writeln!(self.table, "{line}");
        if fidelity.score() < WANTED {
            let _ = writeln!(self.bad, "{line}");
        }
    }

    /// No file of the host is newer after `plan`, `diff` and `facts`.
    fn nothing_written(&mut self, master: &Master) {
        master.sh("touch /run/mark");
        for verb in ["plan", "diff", "facts"] {
            let _ = master.nodelet(&[verb]).exits(0);
        }
        // Kubernetes and the journal go on meanwhile.
        let newer = master.sh(
            "find / /run -xdev -newer /run/mark -type f -not -path '/proc/*' -not -path '/sys/*' \
             -not -path '/var/log/*' -not -path '/run/log/*' -not -path '/var/lib/docker/*' -not -path '/var/lib/kubelet/*' \
             -not -path '/var/opt/pf9/kube/etcd/*' -not -path '/run/containerd/*' -not -path '/run/docker/*' \
             -not -path '/var/lib/containerd/*' -not -path '/run/systemd/*' -not -path '/run/mark'",
        );
        if !newer.is_empty() {
            let _ = writeln!(self.bad, "plan, diff and facts wrote: {newer}");
        }
    }

    fn publish(&self) {
        assert_eq!(self.bad, "", "below {WANTED} %");
        if std::env::var_os("UPDATE_GENERATED").is_none() {
            return;
        }
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/fidelity.md");
        let page = fs::read_to_string(&path).expect("the page is checked in");
        let head = page.find(REAL).map_or(page.as_str(), |at| &page[..at]);
        let written = format!(
            "{head}{REAL}\n\nLab hosts with systemd, docker and Kubernetes of their own. Written and asserted by \
             `cargo xtask soak --write predictions`; `cargo xtask test` asserts the lost etcd container.\n\n\
             | situation | steps | predicted to change | changed | of predictions done | of changes predicted | of all steps | misses |\n\
             |---|---:|---:|---:|---:|---:|---:|---|\n{}",
            self.table
        );
        fs::write(path, written).expect("the page can be written");
    }
}
