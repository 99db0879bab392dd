//! Real labs. They need the host images and the outer docker: `cargo xtask soak` sets them up and
//! runs these.

use std::fs;
use std::time::{Duration, Instant};

use lab::topology::down;
use lab::{Cache, Host, HostSpec, Image, Lab, OuterDocker};

fn spec(name: &str, image: Image) -> HostSpec {
    HostSpec {
        name: name.to_owned(),
        image,
    }
}

/// Takes the lab down when a test ends, also by a panic.
struct TestLab(Lab);

impl TestLab {
    fn up(name: &str, specs: &[HostSpec]) -> Self {
        Self(
            Lab::create(&Cache::locate().expect("a cache"), name, specs, &[])
                .expect("the lab comes up"),
        )
    }
}

impl Drop for TestLab {
    fn drop(&mut self) {
        if let Err(error) = self.0.destroy() {
            eprintln!("the lab {} is not gone: {error:#}", self.0.name());
        }
    }
}

fn text(host: &Host, words: &[&str]) -> String {
    host.text(words).expect("the command succeeds")
}

#[test]
#[ignore = "cargo xtask soak runs it"]
fn two_labs_run_in_parallel_and_leave_nothing() {
    let cache = Cache::locate().expect("a cache");
    let docker = OuterDocker::of(&cache).docker();
    let one = TestLab::up(
        "test-one",
        &[spec("a", Image::Bare), spec("b", Image::NoDocker)],
    );
    let two = TestLab::up("test-two", &[spec("a", Image::NoDocker)]);
    assert_ne!(one.0.subnet(), two.0.subnet());

    let (a, b) = (one.0.host("a").expect("a"), one.0.host("b").expect("b"));
    assert_eq!(text(&a, &["hostname"]), "a");
    text(&a, &["ping", "-c", "1", "-W", "2", "b"]);
    text(&a, &["docker", "info"]);
    assert!(b.text(&["docker", "info"]).is_err());
    assert_ne!(
        text(&a, &["cat", "/etc/machine-id"]),
        text(&b, &["cat", "/etc/machine-id"])
    );
    assert!(
        b.text(&["findmnt", "/etc/hosts"]).is_err(),
        "a plain file, no mount of docker"
    );

    // The record of a lab survives the program that made it.
    let again = Lab::open(&cache, "test-one").expect("opens");
    assert_eq!(again.host("b").expect("b").address(), b.address());

    drop(one);
    assert!(down::labs(&cache).expect("labs").contains("test-two"));
    assert!(!down::labs(&cache).expect("labs").contains("test-one"));
    drop(two);
    for list in [["ps", "--all"], ["volume", "ls"], ["network", "ls"]] {
        let words: Vec<&str> = list
            .into_iter()
            .chain(["--filter", "label=nodelet.lab", "--quiet"])
            .collect();
        for line in docker.text(&words).expect("lists").lines() {
            let owner = docker
                .text(&["inspect", "--format", "{{json .}}", line])
                .expect("known");
            assert!(
                !owner.contains("test-one") && !owner.contains("test-two"),
                "left over: {owner}"
            );
        }
    }
}

#[test]
#[ignore = "cargo xtask soak runs it"]
fn a_host_takes_files_and_commands() {
    let lab = TestLab::up("test-files", &[spec("h", Image::NoDocker)]);
    let host = lab.0.host("h").expect("h");

    host.put(b"one\n", "/etc/deep/er/file", 0o640)
        .expect("written");
    assert_eq!(host.get("/etc/deep/er/file").expect("read"), b"one\n");
    assert_eq!(
        text(&host, &["stat", "-c", "%a %U", "/etc/deep/er/file"]),
        "640 root"
    );
    let big: Vec<u8> = (0..20_000_000_u32).map(|at| at.to_le_bytes()[0]).collect();
    host.put(&big, "/run/big", 0o600)
        .expect("written to a tmpfs");
    assert!(host.get("/run/big").expect("read") == big);

    let directory = tempfile::tempdir().expect("a directory");
    fs::create_dir(directory.path().join("sub")).expect("made");
    fs::write(directory.path().join("sub/x"), "x").expect("written");
    host.put_directory(directory.path(), "/opt/tree")
        .expect("copied");
    assert_eq!(host.get("/opt/tree/sub/x").expect("read"), b"x");
    assert!(
        host.get("/no/such")
            .expect_err("absent")
            .to_string()
            .contains("No such file")
    );

    let began = Instant::now();
    let output = host
        .exec_within(&["sleep", "4711"], None, Duration::from_secs(1))
        .expect("ran");
    assert!(!output.status.success() && began.elapsed() < Duration::from_secs(5));
    assert!(
        !host
            .exec(&["pgrep", "-f", "^sleep 4711"])
            .expect("ran")
            .status
            .success(),
        "killed in the host too"
    );

    host.put(b"", "/var/lib/kept", 0o644).expect("written");
    host.reboot().expect("comes back");
    host.get("/var/lib/kept").expect("a reboot keeps files");
    host.kill().expect("killed");
    host.start().expect("comes back");
    assert_eq!(text(&host, &["hostname"]), "h");
}
