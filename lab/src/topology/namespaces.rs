//! Runs a command in a running host without docker's client, daemon and runtime: suites run thousands of commands, and `docker exec` starts six
//! programs for each.
//!
//! As with `docker exec`, the command is in the host's namespaces and control group, and has the environment of its container. Limits of resources, the
//! scheduling and supplementary groups are those of the caller.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use crate::docker::Docker;

/// Where containerd keeps what it knows of running containers, below the directory of docker's socket.
const BUNDLES: &str = "exec/containerd/daemon/io.containerd.runtime.v2.task/moby";

/// Joins the control group of the container with the given id and process, and runs the rest in its namespaces. With version 2 of control groups, no
/// process may be beside systemd's own groups. A command that a signal ends has the exit code that a shell gives it.
const ENTER: &str = r#"
id=$1 pid=$2 joined=; shift 2
for group in /sys/fs/cgroup/*/nodelet-lab/"$id" /sys/fs/cgroup/nodelet-lab/"$id"; do
    [ -e "$group/cgroup.procs" ] || continue
    echo $$ 2>/dev/null >"$group/cgroup.procs" || echo $$ >"$group/init.scope/cgroup.procs" || exit 126
    joined=yes
done
[ -n "$joined" ] || { echo "found no control group of container $id" >&2; exit 126; }
nsenter --target "$pid" --mount --uts --ipc --net --pid --cgroup -- env -i "$@"
exit $?
"#;

/// The ids of containers by name.
static IDS: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());

/// A container that runs.
struct Running {
    id: String,
    pid: String,
    environment: Vec<String>,
}

/// The command that runs these words in a running container; `None` if it is not known to run, so that docker says what is wrong.
pub(super) fn command(docker: &Docker, container: &str, words: &[&str]) -> Option<Command> {
    let known = || IDS.lock().unwrap_or_else(PoisonError::into_inner);
    let id = known().get(container).cloned();
    let running = match id.and_then(|id| running(docker, id)) {
        Some(running) => running,
        // Another container may have taken the name.
        None => {
            let inspect = ["inspect", "--format", "{{.Id}}", container];
            let id = docker.text(&inspect).ok()?;
            known().insert(container.to_owned(), id.clone());
            running(docker, id)?
        }
    };
    let mut command = Command::new("sh");
    command
        .args(["-c", ENTER, "enter", &running.id, &running.pid])
        .args(&running.environment)
        .args(words);
    Some(command)
}

fn running(docker: &Docker, id: String) -> Option<Running> {
    let bundle: PathBuf = docker.socket().parent()?.join(BUNDLES).join(&id);
    let pid = fs::read_to_string(bundle.join("init.pid")).ok()?;
    let pid = pid.trim().to_owned();
    // The file of a container that has just ended may name a process that is another one by now.
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let environment = environment(&fs::read(bundle.join("config.json")).ok()?)?;
    groups.contains(&id).then_some(Running {
        id,
        pid,
        environment,
    })
}

/// The environment of the container's first process, as its bundle has it, with the home of root.
fn environment(config: &[u8]) -> Option<Vec<String>> {
    let config: Value = serde_json::from_slice(config).ok()?;
    let listed = config["process"]["env"].as_array()?;
    let mut all: Vec<String> = listed
        .iter()
        .filter_map(|one| one.as_str().map(str::to_owned))
        .collect();
    if !all.iter().any(|one| one.starts_with("HOME=")) {
        all.push("HOME=/root".to_owned());
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_that_of_the_container() {
        let of = |config: &str| environment(config.as_bytes());
        let path = r#"{"process":{"env":["PATH=/bin","A=b c"]}}"#;
        assert_eq!(of(path).unwrap(), ["PATH=/bin", "A=b c", "HOME=/root"]);
        let home = r#"{"process":{"env":["HOME=/home"]}}"#;
        assert_eq!(of(home).unwrap(), ["HOME=/home"]);
        assert_eq!(of("{}"), None);
    }
}
