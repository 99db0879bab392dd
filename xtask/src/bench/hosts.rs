//! The hosts of a repetition: alike in all that both bring-ups begin with.
//!
//! Each has a running docker, the images of the control plane in it, the packages that both need, and the same Kubernetes programs.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lab::package::{self, ROLE};
use lab::topology::Mount;
use lab::{Config, Host, HostSpec, Image, Lab, Setup};

use crate::checkout;

/// Where the hosts see the Kubernetes programs, `kubeadm` among them.
pub(super) const PROGRAMS: &str = "/opt/kubernetes";
/// docker's configuration.
const DAEMON: &str = "/etc/docker/daemon.json";
/// What a measured command says.
const OUTPUT: &str = "/run/bench.out";
/// Bound on one measured command.
const LIMIT: Duration = Duration::from_secs(300);
/// Bound on making a host ready for one.
const PREPARATION: Duration = Duration::from_secs(300);

/// What kubelet and the pods' network need of Debian. kubeadm's own package depends on them; nodelet would bring them along.
const PACKAGES: &str = "conntrack socat ipset containernetworking-plugins";

/// The peer looks for an image of DNS even when it is told to leave DNS out; nobody runs this one.
const PREPARE: &str = r#"set -e
cd "$1"
for package in $2; do (cd debs && dpkg -i $(cat "$package.list")); done
for image in images/*.tar; do docker load --quiet --input "$image"; done
docker tag k8s.gcr.io/pause:3.2 k8s.gcr.io/coredns:1.7.0
sync"#;

/// Measured on the host, so that no client's way there counts. Prints nanoseconds: those that passed until the command ended, those of
/// processor time that the whole host took, which depend much less on what else the machine does, and those that passed until
/// [`WATCH`] saw the node Ready, if it watched.
const TIMED: &str = r#"processor() {
    cat /sys/fs/cgroup/cpuacct/cpuacct.usage 2>/dev/null || awk '/^usage_usec/ { print $2 "000" }' /sys/fs/cgroup/cpu.stat
}
rm -f /run/bench.ready
used=$(processor); began=$(date +%s%N)
"$@" >/run/bench.out 2>&1; code=$?
ended=$(date +%s%N); now=$(processor)
ready=$(cat /run/bench.ready 2>/dev/null)
echo $((ended - began)) $((now - used)) $((${ready:-$began} - began))
[ $code -eq 0 ] || tail -n 15 /run/bench.out >&2
exit $code"#;

/// Looks from outside when the node is Ready: nodelet goes on after that until pods can be created, kubeadm ends before it. Until the API
/// server answers, a small question each tenth of a second; then one that waits for the answer.
const WATCH: &str = r#"(
    until curl --insecure --silent --fail --max-time 2 --output /dev/null "$API/readyz"; do sleep 0.1; done
    until "$KUBECTL" wait --for=condition=Ready node --all --timeout=120s; do sleep 0.1; done
    date +%s%N >/run/bench.ready
) & "#;

/// Hosts of these names on one network.
pub(super) fn create(setup: &Setup, lab: &str, names: &[&str]) -> Result<Lab> {
    let specs: Vec<HostSpec> = names
        .iter()
        .map(|&name| HostSpec {
            name: name.to_owned(),
            image: Image::Bare,
        })
        .collect();
    let programs = Mount {
        source: setup.programs.clone(),
        target: PROGRAMS.into(),
    };
    let mounts = [package::payload_mount(&setup.payload), programs];
    Lab::create(&setup.cache, lab, &specs, &mounts)
}

/// Installs packages and loads images, as either bring-up finds them.
pub(super) fn prepare(setup: &Setup, host: &Host) -> Result<()> {
    let payload = package::payload_mount(&setup.payload).target;
    let words = [
        "bash",
        "-c",
        PREPARE,
        "prepare",
        &payload.to_string_lossy(),
        PACKAGES,
    ];
    let output = host.exec_within(&words, None, PREPARATION)?;
    if !output.status.success() {
        bail!(
            "cannot prepare the host `{}`: {}",
            host.name(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

/// Installs nodelet, the role and its settings.
pub(super) fn install(lab: &Lab, host: &Host, nodelet: &Path) -> Result<()> {
    package::install(host, checkout(), nodelet)?;
    package::configure(host, &Config::master(lab.name(), host.address(), None))
}

/// Gives docker this configuration and starts it with it.
pub(super) fn configure_docker(host: &Host, daemon: &[u8]) -> Result<()> {
    host.put(daemon, DAEMON, 0o644)?;
    host.text(&["systemctl", "restart", "docker"])
        .context("docker does not start with the role's configuration")
        .map(drop)
}

/// docker's configuration as an apply has left it.
pub(super) fn docker_configuration(host: &Host) -> Result<Vec<u8>> {
    host.get(DAEMON)
}

/// What a command took, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Took {
    /// On the clock.
    pub(super) wall: f64,
    /// Of all processors, for everything that ran on the host meanwhile.
    pub(super) processor: f64,
    /// On the clock, until the node was Ready; 0 where nobody looked.
    pub(super) ready: f64,
}

impl Took {
    fn parse(text: &str) -> Result<Self> {
        let numbers: Vec<f64> = text
            .split_whitespace()
            .map(str::parse)
            .collect::<std::result::Result<_, _>>()
            .with_context(|| format!("`{}` are no times", text.trim()))?;
        match numbers.as_slice() {
            [wall, processor, ready] => Ok(Self {
                wall: wall / 1e9,
                processor: processor / 1e9,
                ready: ready / 1e9,
            }),
            _ => bail!("`{}` are no times", text.trim()),
        }
    }
}

/// Runs a shell command on the host that must succeed.
pub(super) fn timed(host: &Host, command: &str) -> Result<Took> {
    let words = ["bash", "-c", TIMED, "timed", "sh", "-c", command];
    let output = host.exec_within(&words, None, LIMIT)?;
    if !output.status.success() {
        bail!(
            "`{command}` on the host `{}` failed ({}): {}",
            host.name(),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Took::parse(&String::from_utf8_lossy(&output.stdout))
}

/// What the last measured command said.
pub(super) fn said(host: &Host) -> Result<String> {
    Ok(String::from_utf8_lossy(&host.get(OUTPUT)?).into_owned())
}

/// A bring-up that ends when the API server, asked at this port, calls the node Ready: the same words for both.
pub(super) fn until_ready(bring_up: &str, port: u16, kubeconfig: &str) -> String {
    let watch = WATCH
        .replace("$API", &format!("https://127.0.0.1:{port}"))
        .replace(
            "\"$KUBECTL\"",
            &format!("{PROGRAMS}/kubectl --kubeconfig {kubeconfig}"),
        );
    format!("{watch} watch=$!; {bring_up} && wait $watch")
}

/// nodelet with this verb.
pub(super) fn nodelet(verb: &str) -> String {
    format!("nodelet {verb} --role {ROLE}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measurement_has_three_times() {
        let took = Took::parse("1500000000 250000000 1000000000\n").expect("three numbers");
        assert_eq!((took.wall, took.processor, took.ready), (1.5, 0.25, 1.0));
        Took::parse("1500000000").expect_err("one number");
        Took::parse("1500000000 1 ?").expect_err("no number");
    }

    #[test]
    fn a_watch_knows_where_to_look() {
        let script = until_ready("up", 6443, "/admin.conf");
        assert!(
            script.contains("\"https://127.0.0.1:6443/readyz\""),
            "{script}"
        );
        assert!(
            script.contains("kubectl --kubeconfig /admin.conf wait"),
            "{script}"
        );
        assert!(script.ends_with("up && wait $watch"), "{script}");
    }
}
