//! A real host before an apply is the same host after apply and clean. They need the set-up and a built nodelet:
//! `cargo xtask up --only-setup && cargo build -p nodelet`, then
//! `cargo test -p lab --test clean_slate -- --ignored --test-threads 1`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use lab::snapshot::{HostSnapshot, KEPT, difference};
use lab::{Cache, Config, Host, HostSpec, Image, Lab, Setup, TOOLBOX_IMAGE, package};

const APPLY: Duration = Duration::from_secs(300);
const HOST: &str = "master-1";

/// A lab with the role installed and not applied; taken down when the test ends, also by a panic.
struct Standing {
    lab: Lab,
    toolbox: PathBuf,
}

impl Standing {
    fn up(name: &str, image: Image) -> Self {
        let cache = Cache::locate().expect("a cache");
        let setup = Setup::run(&cache).expect("the set-up");
        let spec = HostSpec {
            name: HOST.to_owned(),
            image,
        };
        let mounts = [package::payload_mount(&setup.payload)];
        let lab = Lab::create(&cache, name, &[spec], &mounts).expect("the lab comes up");
        let standing = Self {
            lab,
            toolbox: setup.toolbox,
        };
        let host = standing.host();
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .expect("the checkout");
        let config = Config::master(name, host.address(), None);
        package::install(&host, checkout, &nodelet()).expect("the role is installed");
        package::configure(&host, &config).expect("it is configured");
        standing
    }

    fn host(&self) -> Host {
        self.lab.host(HOST).expect("the host")
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        if let Err(error) = self.lab.destroy() {
            eprintln!("the lab {} is not gone: {error:#}", self.lab.name());
        }
    }
}

/// The program beside the test's own.
fn nodelet() -> PathBuf {
    let test = std::env::current_exe().expect("our own path");
    let debug = test
        .parent()
        .and_then(Path::parent)
        .expect("the target directory");
    debug.join("nodelet")
}

/// Runs nodelet and gives its output; `code` is how it must end.
fn run(host: &Host, words: &[&str], code: i32) -> String {
    let all: Vec<&str> = std::iter::once("nodelet")
        .chain(words.iter().copied())
        .collect();
    let output = host.exec_within(&all, None, APPLY).expect("nodelet runs");
    let text = [output.stdout, output.stderr]
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .concat();
    assert_eq!(
        output.status.code(),
        Some(code),
        "nodelet {}: {text}",
        words.join(" ")
    );
    text
}

fn snapshot(host: &Host) -> HostSnapshot {
    HostSnapshot::of(host).expect("a snapshot")
}

fn assert_same(before: &HostSnapshot, host: &Host, purged: bool, what: &str) {
    let kept: &[&str] = if purged { &[] } else { KEPT };
    let lines = difference(&before.clone().without(kept), &snapshot(host).without(kept));
    assert!(
        lines.is_empty(),
        "{what}: {} differences:\n{}",
        lines.len(),
        lines.join("\n")
    );
}

/// Somebody else's docker configuration, containers, image, firewall rules and settings.
fn inhabit(standing: &Standing) {
    let host = standing.host();
    let configuration =
        br#"{"log-driver": "json-file", "log-opts": {"max-size": "7m"}, "debug": false}"#;
    host.put(configuration, "/etc/docker/daemon.json", 0o600)
        .expect("written");
    host.text(&["systemctl", "restart", "docker"])
        .expect("docker restarts");
    host.put_file(&standing.toolbox, "/root/toolbox.tar", 0o644)
        .expect("copied");
    host.text(&["docker", "load", "-i", "/root/toolbox.tar"])
        .expect("loaded");
    let sleep = ["sleep", "1000000"];
    for words in [
        [
            "docker",
            "run",
            "-d",
            "--name",
            "theirs",
            "-v",
            "theirs:/data",
            TOOLBOX_IMAGE,
        ],
        [
            "docker",
            "run",
            "-d",
            "--name",
            "theirs-always",
            "--restart",
            "always",
            TOOLBOX_IMAGE,
        ],
    ] {
        host.text(&[&words[..], &sleep[..]].concat())
            .expect("it runs");
    }
    for words in [
        "iptables -N THEIRS",
        "iptables -A THEIRS -p tcp --dport 4711 -m comment --comment theirs -j ACCEPT",
        "iptables -I INPUT -j THEIRS",
        "ip6tables -A INPUT -p tcp --dport 4711 -j ACCEPT",
        "mkdir -p /opt/theirs",
    ] {
        host.text(&words.split(' ').collect::<Vec<_>>())
            .expect("done");
    }
}

#[test]
#[ignore = "needs the set-up"]
fn a_bare_host() {
    let standing = Standing::up("slate-bare", Image::Bare);
    let host = standing.host();
    let before = snapshot(&host);
    run(&host, &["apply"], 0);
    run(&host, &["clean"], 0);
    assert_same(&before, &host, false, "clean");
    let second = run(&host, &["clean"], 0);
    assert!(second.contains("nothing of ours"), "{second}");

    run(&host, &["apply"], 0);
    run(&host, &["check"], 0);
    run(&host, &["clean", "--purge"], 0);
    assert_same(&before, &host, true, "purge after a second apply");
}

#[test]
#[ignore = "needs the set-up"]
fn an_inhabited_host() {
    let standing = Standing::up("slate-inhabited", Image::Bare);
    inhabit(&standing);
    let host = standing.host();
    let before = snapshot(&host);
    run(&host, &["apply"], 0);
    for name in ["theirs", "theirs-always"] {
        let runs = host
            .text(&["docker", "inspect", "-f", "{{.State.Running}}", name])
            .expect("it is there");
        assert_eq!(runs, "true", "{name} runs beside the role");
    }
    run(&host, &["clean", "--purge"], 0);
    assert_same(&before, &host, true, "clean");
}

#[test]
#[ignore = "needs the set-up"]
fn a_host_without_docker() {
    let standing = Standing::up("slate-nodocker", Image::NoDocker);
    let host = standing.host();
    let before = snapshot(&host);
    run(&host, &["apply"], 0);
    run(&host, &["clean", "--purge"], 0);
    assert_same(&before, &host, true, "clean");
    run(&host, &["apply"], 0);
}

#[test]
#[ignore = "needs the set-up"]
fn an_apply_that_is_cut() {
    let standing = Standing::up("slate-cut", Image::Bare);
    let host = standing.host();
    let before = snapshot(&host);
    for seconds in ["1", "4", "9"] {
        let cut = host
            .exec(&["timeout", "-s", "KILL", seconds, "nodelet", "apply"])
            .expect("it runs");
        assert!(!cut.status.success(), "it was not cut after {seconds} s");
        // The role may be gone as well: the ledger suffices.
        run(&host, &["clean", "--purge", "--role", "/none"], 0);
        assert_same(&before, &host, true, &format!("cut after {seconds} s"));
    }
}
