//! The hosts of a repetition: alike in all that both bring-ups begin with.
//!
//! Each has a running docker, the packages that both need, the same Kubernetes programs and the first pod's image. The images of the
//! control plane are in docker already, or in archives, as the measurement says.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lab::package::{self, ROLE};
use lab::topology::Mount;
use lab::{Config, Host, HostSpec, Image, Lab, Setup, TOOLBOX_IMAGE, command};
use serde_json::{Value, json};

use crate::repository::checkout;

/// Where the hosts see the Kubernetes programs, `kubeadm` among them.
pub(super) const PROGRAMS: &str = "/opt/kubernetes";
/// What the role writes of docker's configuration.
const DOCKER_FILES: [&str; 2] = [
    "/etc/docker/daemon.json",
    "/etc/systemd/system/docker.service.d/20-pf9-shutdown.conf",
];

/// docker's configuration as the role has it.
pub(super) struct DockerConfiguration {
    /// Paths with contents.
    files: Vec<(&'static str, Vec<u8>)>,
    /// What docker itself says of it.
    said: String,
}

/// What docker says of its configuration.
const SAYS: &str = "driver={{.Driver}} cgroups={{.CgroupDriver}} logs={{.LoggingDriver}} live-restore={{.LiveRestoreEnabled}} \
    registries={{json .RegistryConfig.Mirrors}}";
/// What a measured command says.
const OUTPUT: &str = "/run/bench.out";
/// Bound on one measured command.
const LIMIT: Duration = Duration::from_secs(300);
/// Bound on making a host ready for one.
const PREPARATION: Duration = Duration::from_secs(300);

/// What kubelet and the pods' network need of Debian. kubeadm's own package depends on them; nodelet would bring them along.
const PACKAGES: &str = "conntrack socat ipset containernetworking-plugins";

/// Installs the packages that both need.
const PREPARE: &str = r#"set -e
cd "$1"
for package in $2; do (cd debs && dpkg -i $(cat "$package.list")); done
sync"#;

/// Loads the control plane's images from their archives, three at a time, as nodelet does. The peer looks for an image of DNS even when it is told to leave
/// DNS out; nothing runs this one.
const LOAD: &str = "cd @PAYLOAD@ && ls images/*.tar | xargs --max-procs 3 --max-args 1 docker load --quiet --input && \
    docker tag k8s.gcr.io/pause:3.2 k8s.gcr.io/coredns:1.7.0";

/// Measured on the host, so that no client's way there counts. Runs a command and, beside it, a watch. Prints nanoseconds: those until
/// the command ended; those of processor time that the whole host took until command and watch had ended, which depend much less on
/// what else the machine does, without those of the watch itself; those until kubelet started, until the API server's container did, until the
/// API server answered, and until the watch saw the node Ready and the first pod Running.
const TIMED: &str = r#"processor() {
    cat /sys/fs/cgroup/cpuacct/cpuacct.usage 2>/dev/null || awk '/^usage_usec/ { print $2 "000" }' /sys/fs/cgroup/cpu.stat
}
moments='kubelet container answer ready pod'
for moment in $moments cost; do rm -f /run/bench.$moment; done
used=$(processor); began=$(date +%s%N)
if [ -n "$2" ]; then bash -c "$2" >/run/bench.watch 2>&1 & watch=$!; fi
bash -c "$1" >/run/bench.out 2>&1; code=$?
ended=$(date +%s%N)
if [ -n "$2" ]; then
    [ $code -eq 0 ] || kill $watch
    wait $watch
fi
now=$(($(processor) - $(cat /run/bench.cost 2>/dev/null || echo 0)))
echo $((ended - began)) $((now - used))
for moment in $moments; do
    at=$(cat /run/bench.$moment 2>/dev/null)
    echo $((${at:-$began} - began))
done
[ $code -eq 0 ] || tail -n 15 /run/bench.out >&2
exit $code"#;

/// Looks from outside when the node is Ready and when the first pod runs: the commands end before or after that. It asks small questions, a tenth
/// of a second apart: `kubectl` would take processor time from the bring-up that it watches. The pod is created as soon as the API server
/// accepts it. It has no probe, so its condition Ready is set together with its phase Running.
const WATCH: &str = r#"
ask() { curl --silent --insecure --max-time 5 "$@"; }
until ask --output /dev/null "@API@/livez"; do sleep 0.1; done
date +%s%N >/run/bench.answer
# Now, because `kubeadm init` starts kubelet again when the API server has answered.
started=$(systemctl show --timestamp=us+utc --property=ExecMainStartTimestamp --value @KUBELET@)
date --date "$started" +%s%N >/run/bench.kubelet
umask 077
for part in certificate key; do
    sed -n "s/^ *client-$part-data: *//p" @KUBECONFIG@ | tr -d '"' | base64 --decode >/run/bench.$part
done
ask() { curl --silent --insecure --max-time 5 --cert /run/bench.certificate --key /run/bench.key "$@"; }
is_ready() { ask "@API@/api/v1/$1?pretty=false" | grep -q '"type":"Ready","status":"True"'; }
(
    until is_ready nodes; do sleep 0.1; done
    date +%s%N >/run/bench.ready
) &
until ask --fail --output /dev/null --header 'Content-Type: application/json' --data @@POD@ "@API@/api/v1/namespaces/default/pods" ||
    ask --fail --output /dev/null "@API@/api/v1/namespaces/default/pods/first"; do
    sleep 0.1
done
until is_ready namespaces/default/pods/first; do sleep 0.1; done
date +%s%N >/run/bench.pod
wait
# Where the time went: what kubelet and the API server take for themselves is the same program's on all hosts.
container=$(docker ps --all --quiet --filter name=k8s_kube-apiserver_ | tail --lines 1)
date --date "$(docker inspect --format '{{.State.StartedAt}}' "$container")" +%s%N >/run/bench.container
# Of this shell and of what it has waited for: user and system time of each, in nanoseconds.
times >/run/bench.times
tr ms '  ' </run/bench.times | awk '{ sum += 60 * ($1 + $3) + $2 + $4 } END { printf "%.0f\n", sum * 1e9 }' >/run/bench.cost"#;

/// Where the first pod's manifest lies on the hosts.
const POD: &str = "/root/first-pod.json";

/// The first pod. It tolerates the masters' taint with any value, and no other taint: so it runs once the node is Ready.
fn first_pod() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "first"},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "tolerations": [{"key": "node-role.kubernetes.io/master", "operator": "Exists"}],
            "containers": [{
                "name": "first",
                "image": TOOLBOX_IMAGE,
                "imagePullPolicy": "Never",
                "command": ["sleep", "86400"],
            }],
        },
    })
}

/// The command that loads the control plane's images.
pub(super) fn load(setup: &Setup) -> String {
    LOAD.replace("@PAYLOAD@", &payload(setup))
}

/// Where the hosts see the Debian packages, each with a list of the files that it needs.
pub(super) fn debs(setup: &Setup) -> String {
    format!("{}/debs", payload(setup))
}

fn payload(setup: &Setup) -> String {
    let target = package::payload_mount(&setup.payload).target;
    target.to_string_lossy().into_owned()
}

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

/// Where the control plane's images are when a bring-up begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Images {
    /// In docker.
    Loaded,
    /// In their archives.
    Archived,
}

/// Installs packages, and makes images ready as either bring-up finds them.
pub(super) fn prepare(setup: &Setup, host: &Host, images: Images) -> Result<()> {
    let prepared = |words: &[&str]| -> Result<()> {
        let output = host.exec_within(words, None, PREPARATION)?;
        command::check(&output, || {
            format!("cannot prepare the host `{}`", host.name())
        })
    };
    prepared(&["bash", "-c", PREPARE, "prepare", &payload(setup), PACKAGES])?;
    if images == Images::Loaded {
        prepared(&["bash", "-c", &format!("{} && sync", load(setup))])?;
    }
    host.load_image(&setup.toolbox)?;
    host.put(first_pod().to_string().as_bytes(), POD, 0o644)
}

/// Installs nodelet, the role and its settings.
pub(super) fn install(lab: &Lab, host: &Host, nodelet: &Path) -> Result<()> {
    package::install(host, checkout(), nodelet)?;
    package::configure(host, &Config::master(lab.name(), host.address(), None))
}

/// Gives docker this configuration and starts it with it.
pub(super) fn configure_docker(host: &Host, configuration: &DockerConfiguration) -> Result<()> {
    for (path, content) in &configuration.files {
        host.put(content, path, 0o644)?;
    }
    host.text(&["systemctl", "daemon-reload"])?;
    host.text(&["systemctl", "restart", "docker"])
        .context("docker does not start with the role's configuration")?;
    let said = docker_says(host)?;
    if said != configuration.said {
        bail!(
            "docker on `{}` says `{said}`, and `{}` on the role's host: the two cannot be compared",
            host.name(),
            configuration.said
        );
    }
    Ok(())
}

fn docker_says(host: &Host) -> Result<String> {
    Ok(host
        .text(&["docker", "info", "--format", SAYS])?
        .trim()
        .to_owned())
}

/// docker's configuration as an apply has left it: files with their content.
pub(super) fn docker_configuration(host: &Host) -> Result<DockerConfiguration> {
    let get = |path| Ok((path, host.get(path)?));
    Ok(DockerConfiguration {
        files: DOCKER_FILES.into_iter().map(get).collect::<Result<_>>()?,
        said: docker_says(host)?,
    })
}

/// How a master is asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Master {
    /// The API server's port.
    pub(super) port: u16,
    /// Its administrator's.
    pub(super) kubeconfig: &'static str,
    /// kubelet's unit.
    pub(super) kubelet: &'static str,
}

/// What a command took, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct CommandTime {
    /// On the clock.
    pub(super) wall: f64,
    /// Of all processors, for everything that ran on the host meanwhile.
    pub(super) processor: f64,
    /// On the clock, until kubelet started; 0 without a watch, as are those below.
    pub(super) kubelet: f64,
    /// Until the API server's container started.
    pub(super) container: f64,
    /// Until the API server answered.
    pub(super) answer: f64,
    /// Until the node was Ready.
    pub(super) ready: f64,
    /// Until the first pod ran.
    pub(super) pod: f64,
}

impl CommandTime {
    /// Whether each moment was seen, and after the one that it needs.
    fn in_order(&self) -> bool {
        let moments = [
            0.0,
            self.kubelet,
            self.container,
            self.answer,
            self.ready,
            self.pod,
        ];
        moments.is_sorted_by(|before, after| before < after)
    }

    fn parse(text: &str) -> Result<Self> {
        let numbers: Vec<f64> = text
            .split_whitespace()
            .map(str::parse)
            .collect::<std::result::Result<_, _>>()
            .with_context(|| format!("`{}` are no times", text.trim()))?;
        match numbers.as_slice() {
            [wall, processor, kubelet, container, answer, ready, pod] => Ok(Self {
                wall: wall / 1e9,
                processor: processor / 1e9,
                kubelet: kubelet / 1e9,
                container: container / 1e9,
                answer: answer / 1e9,
                ready: ready / 1e9,
                pod: pod / 1e9,
            }),
            _ => bail!("`{}` are no times", text.trim()),
        }
    }
}

/// Runs a shell command on the host that must succeed.
pub(super) fn timed(host: &Host, command: &str) -> Result<CommandTime> {
    watched(host, command, "")
}

/// Runs a bring-up, and measures until its command has ended, until the node is Ready and until the first pod runs.
pub(super) fn bring_up(host: &Host, command: &str, master: &Master) -> Result<CommandTime> {
    let command_time = watched(host, command, &watch(master))?;
    if !command_time.in_order() {
        bail!(
            "the watch on the host `{}` ended early, or its moments are not in order ({command_time:?}): {}",
            host.name(),
            watch_said(host)
        );
    }
    Ok(command_time)
}

/// Removes the first pod, so that a clean has nothing to wait for but the role.
pub(super) fn remove_first_pod(host: &Host, master: &Master) -> Result<()> {
    let kubeconfig = master.kubeconfig;
    let script =
        format!("{PROGRAMS}/kubectl --kubeconfig {kubeconfig} delete pod first --timeout=60s");
    host.text(&["sh", "-c", &script])
        .context("cannot remove the first pod")
        .map(drop)
}

/// Runs a shell command that must succeed, and beside it a watch, which writes the moments that it sees below `/run`. A moment that it does
/// not write is 0.
pub(super) fn watched(host: &Host, command: &str, watch: &str) -> Result<CommandTime> {
    let words = ["bash", "-c", TIMED, "timed", command, watch];
    let output = host.exec_within(&words, None, LIMIT)?;
    command::check(&output, || {
        let (host, status) = (host.name(), output.status);
        format!("`{command}` on the host `{host}` failed ({status})")
    })?;
    CommandTime::parse(&String::from_utf8_lossy(&output.stdout))
}

/// What the last watch said.
pub(super) fn watch_said(host: &Host) -> String {
    let said = host.get("/run/bench.watch").unwrap_or_default();
    String::from_utf8_lossy(&said).trim().to_owned()
}

/// Asks this API server as its administrator: the same words for all.
fn watch(master: &Master) -> String {
    WATCH
        .replace("@API@", &format!("https://127.0.0.1:{}", master.port))
        .replace("@KUBECONFIG@", master.kubeconfig)
        .replace("@KUBELET@", master.kubelet)
        .replace("@POD@", POD)
}

/// What the last measured command said.
pub(super) fn said(host: &Host) -> Result<String> {
    Ok(String::from_utf8_lossy(&host.get(OUTPUT)?).into_owned())
}

/// nodelet with this verb.
pub(super) fn nodelet(verb: &str) -> String {
    format!("nodelet {verb} --role {ROLE}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measurement_has_seven_times() {
        let command_time = CommandTime::parse(
            "1500000000 250000000\n100000000\n200000000\n300000000\n1000000000\n2000000000\n",
        )
        .expect("numbers");
        let moments = [
            command_time.kubelet,
            command_time.container,
            command_time.answer,
            command_time.ready,
            command_time.pod,
        ];
        assert_eq!((command_time.wall, command_time.processor), (1.5, 0.25));
        assert_eq!(moments, [0.1, 0.2, 0.3, 1.0, 2.0]);
        assert!(command_time.in_order());
        CommandTime::parse("1500000000").expect_err("one number");
        CommandTime::parse("1500000000 1 1 1 1 1 ?").expect_err("no number");
    }

    #[test]
    fn both_watches_make_the_same_requests() {
        let ours = watch(&super::super::bringup::MASTER);
        let theirs = watch(&super::super::peer::MASTER);
        assert!(ours.contains("\"https://127.0.0.1:443/livez\""), "{ours}");
        assert!(
            ours.contains("p\" /etc/pf9/kube.d/kubeconfigs/admin.yaml |"),
            "{ours}"
        );
        assert!(ours.contains(&format!("--data @{POD} ")), "{ours}");
        assert_eq!(ours.matches('@').count(), 3, "{ours}");
        let same = theirs
            .replace(":6443/", ":443/")
            .replace(
                "/etc/kubernetes/admin.conf",
                "/etc/pf9/kube.d/kubeconfigs/admin.yaml",
            )
            .replace("--value kubelet.service", "--value pf9-kubelet.service");
        assert_eq!(ours, same);
    }

    /// A command that ends before the watch, and one that fails: the watch is waited for, or ended.
    #[test]
    fn the_command_and_the_watch_are_timed_apart() {
        let directory = std::env::temp_dir().join(format!("bench-timed-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("made");
        let timed = TIMED.replace("/run/", &format!("{}/", directory.display()));
        let run = |command: &str, watch: &str| {
            let watch = watch.replace("/run/", &format!("{}/", directory.display()));
            std::process::Command::new("bash")
                .args(["-c", &timed, "timed", command, &watch])
                .output()
                .expect("bash runs")
        };
        let watch = "until [ -e /run/bench.out ]; do :; done; \
            for moment in kubelet container answer ready pod; do date +%s%N >/run/bench.$moment; done";
        let output = run("true", watch);
        let command_time =
            CommandTime::parse(&String::from_utf8_lossy(&output.stdout)).expect("seven numbers");
        assert!(command_time.in_order(), "{command_time:?}");
        let output = run("exit 3", "until [ -e /run/never ]; do :; done");
        assert_eq!(output.status.code(), Some(3), "the watch is ended");
        let output = run("true", "");
        let command_time =
            CommandTime::parse(&String::from_utf8_lossy(&output.stdout)).expect("seven numbers");
        assert_eq!((command_time.ready, command_time.pod), (0.0, 0.0));
        assert!(!command_time.in_order(), "nothing was seen");
        std::fs::remove_dir_all(directory).expect("removed");
    }
}
