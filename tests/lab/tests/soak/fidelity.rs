//! What `nodelet diff` predicts on a real host is what `nodelet apply` then does to it. Needs the set-up:
//! `cargo xtask up --only-setup`, then `cargo test -p lab --test fidelity -- --ignored`; with `UPDATE_GENERATED=1` the
//! figures go to `docs/fidelity.md`.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use engine::exec::{Event, Fidelity};
use lab::{Cache, Config, Host, HostSpec, Image, Lab, Setup, package};

/// What is asked for, in percent.
const WANTED: f64 = 99.0;
/// Where the figures stand in the page.
const REAL: &str = "## On real hosts";
/// Bound on one command in a host.
const LIMIT: Duration = Duration::from_secs(600);
/// When an apply is cut in the middle: after so many steps have changed something.
const CUT_AFTER: usize = 20;

/// Takes the lab down when a test ends, also by a panic.
struct Standing(Lab);

impl Drop for Standing {
    fn drop(&mut self) {
        if let Err(error) = self.0.destroy() {
            eprintln!("the lab {} is not gone: {error:#}", self.0.name());
        }
    }
}

#[test]
#[ignore = "needs the set-up"]
fn predictions_on_a_real_host_are_what_apply_does() {
    let mut figures = Figures::default();
    let cache = Cache::locate().expect("a cache");
    let setup = Setup::run(&cache).expect("the set-up");
    let standing = |name: &str, image| standing(&cache, &setup, name, image);

    let (lab, host) = standing("test-fidelity-cut", Image::Bare);
    cut(&host);
    figures.take("half-finished apply", &host);
    drop(lab);

    let (lab, host) = standing("test-fidelity-none", Image::NoDocker);
    figures.take("bare host without docker", &host);
    drop(lab);

    let (_lab, host) = standing("test-fidelity", Image::Bare);
    figures.take("bare host", &host);
    figures.take("healthy host", &host);
    figures.nothing_written(&host);
    shell(&host, "docker rm --force etcd");
    figures.take("lost etcd container", &host);
    shell(
        &host,
        "echo 'API_SERVER_FLAGS: --v=3' >> /etc/pf9/nodelet/config.yaml",
    );
    figures.take("one parameter changed", &host);
    shell(
        &host,
        "echo '{\"log-level\": \"debug\"}' > /etc/docker/daemon.json && systemctl restart docker",
    );
    figures.take("docker configured otherwise", &host);
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
    fn take(&mut self, name: &str, host: &Host) {
        let predicted = events(host, &["nodelet", "diff", "--json"], &[0, 2]);
        let done = events(host, &["nodelet", "apply", "--json"], &[0]);
        let fidelity = Fidelity::of(&predicted, &done);
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
    fn nothing_written(&mut self, host: &Host) {
        shell(host, "touch /run/mark && sleep 0.1");
        for verb in ["plan", "diff", "facts"] {
            events(host, &["nodelet", verb], &[0]);
        }
        // Kubernetes and the journal go on meanwhile.
        let newer = shell(
            host,
            "find / /run -xdev -newer /run/mark -type f -not -path '/proc/*' -not -path '/sys/*' \
             -not -path '/var/log/*' -not -path '/run/log/*' -not -path '/var/lib/docker/*' -not -path '/var/lib/kubelet/*' \
             -not -path '/var/opt/pf9/kube/etcd/*' -not -path '/run/containerd/*' -not -path '/run/docker/*' \
             -not -path '/var/lib/containerd/*' -not -path '/run/systemd/*' -not -path '/run/mark'",
        );
        if !newer.trim().is_empty() {
            let _ = writeln!(self.bad, "plan, diff and facts wrote: {newer}");
        }
    }

    fn publish(&self) {
        assert_eq!(self.bad, "", "below {WANTED} %");
        if std::env::var_os("UPDATE_GENERATED").is_none() {
            return;
        }
        let path = repository().join("docs/fidelity.md");
        let page = fs::read_to_string(&path).expect("the page is checked in");
        let head = page.find(REAL).map_or(page.as_str(), |at| &page[..at]);
        let written = format!(
            "{head}{REAL}\n\nLab hosts with systemd, docker and Kubernetes of their own. Written and asserted by \
             `UPDATE_GENERATED=1 cargo test -p lab --test fidelity -- --ignored`.\n\n\
             | situation | steps | predicted to change | changed | of predictions done | of changes predicted | of all steps | misses |\n\
             |---|---:|---:|---:|---:|---:|---:|---|\n{}",
            self.table
        );
        fs::write(path, written).expect("the page can be written");
    }
}

/// A lab of one host with the role, nodelet and a configuration.
fn standing(cache: &Cache, setup: &Setup, name: &str, image: Image) -> (Standing, Host) {
    let spec = HostSpec {
        name: "master-1".to_owned(),
        image,
    };
    let mounts = [package::payload_mount(&setup.payload)];
    let lab = Standing(Lab::create(cache, name, &[spec], &mounts).expect("the lab comes up"));
    let host = lab.0.host("master-1").expect("the host");
    let config = Config::master(lab.0.name(), host.address(), None);
    package::install(&host, &repository(), &nodelet()).expect("the role is installed");
    package::configure(&host, &config).expect("it is configured");
    (lab, host)
}

/// Kills an apply in the middle, as a power cut would.
fn cut(host: &Host) {
    let count = "grep -c step_changed /run/apply.jsonl";
    shell(
        host,
        &format!(
            "nodelet apply --json > /run/apply.jsonl 2>/dev/null & apply=$!; \
             until [ \"$({count})\" -ge {CUT_AFTER} ]; do sleep 0.02; done; kill -KILL $apply; wait $apply; true"
        ),
    );
}

fn shell(host: &Host, script: &str) -> String {
    let output = host
        .exec_within(&["sh", "-c", script], None, LIMIT)
        .expect("the command runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{script}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The events that a command writes; it has to end with one of these codes.
fn events(host: &Host, words: &[&str], codes: &[i32]) -> Vec<Event> {
    let output = host.exec_within(words, None, LIMIT).expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    let code = output.status.code().unwrap_or(255);
    assert!(codes.contains(&code), "{words:?} ended with {code}: {said}");
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent()
        .expect("this package stands in the repository")
        .to_path_buf()
}

/// The program, built with the cargo that runs this test.
fn nodelet() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--quiet", "--package", "nodelet"])
        .current_dir(repository())
        .status()
        .expect("cargo runs this test");
    assert!(built.success(), "nodelet does not build");
    let test = std::env::current_exe().expect("a test knows its own path");
    let profile = test
        .parent()
        .and_then(Path::parent)
        .expect("a test stands in a profile's deps");
    profile.join("nodelet")
}
