//! The outer docker: the daemon whose containers are the lab's hosts.
//!
//! It is the lab's own (own data, own socket, own process id file) and touches nothing else on the machine: it runs in a mount
//! namespace of its own, writes no firewall rule and turns no forwarding on. Hosts of one lab are connected by a bridge. They reach
//! no host beyond it, as long as the machine itself does not forward.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cache::{Cache, Key};
use crate::command::poll;
use crate::docker::Docker;

const START: Duration = Duration::from_secs(60);
const STOP: Duration = Duration::from_secs(60);
/// The parent cgroup of all hosts, below the root of each hierarchy. It does not depend on the daemon's own cgroup.
const CGROUP: &str = "/nodelet-lab";

/// The outer docker of one cache.
#[derive(Debug)]
pub struct OuterDocker {
    runtime: PathBuf,
    data: PathBuf,
    log: PathBuf,
}

impl OuterDocker {
    /// The daemon that belongs to `cache`. Two caches have two daemons.
    pub fn of(cache: &Cache) -> Self {
        let digest = Key::of(&[("cache", &cache.root().display().to_string())]);
        Self {
            runtime: Path::new("/run/nodelet-lab").join(&digest.as_str()[..8]),
            data: cache.root().join("docker"),
            log: cache.root().join("logs/dockerd.log"),
        }
    }

    /// The client of this daemon, running or not.
    pub fn docker(&self) -> Docker {
        Docker::new(&self.runtime.join("docker.sock"))
    }

    fn pid_file(&self) -> PathBuf {
        self.runtime.join("docker.pid")
    }

    /// The running daemon's id: the recorded one, if it still is a dockerd with our data.
    fn pid(&self) -> Option<Pid> {
        let pid: i32 = fs::read_to_string(self.pid_file())
            .ok()?
            .trim()
            .parse()
            .ok()?;
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words: Vec<String> = line
            .split(|byte| *byte == 0)
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect();
        let ours = words
            .first()
            .is_some_and(|program| program.ends_with("dockerd"))
            && words.iter().any(|word| Path::new(word) == self.data);
        ours.then(|| Pid::from_raw(pid))
    }

    /// Starts the daemon unless it answers already. With a `wrapper`, containers are run by it in place of runc.
    pub fn start(&self, wrapper: Option<&Path>, announce: &dyn Fn(&str)) -> Result<Docker> {
        let docker = self.docker();
        fs::create_dir_all(&self.runtime)
            .with_context(|| format!("cannot create {}", self.runtime.display()))?;
        fs::create_dir_all(&self.data)
            .with_context(|| format!("cannot create {}", self.data.display()))?;
        if let Some(wrapper) = wrapper {
            self.place_wrapper(wrapper)?;
        }
        prefer_hosts()?;
        if docker.answers() {
            return Ok(docker);
        }
        announce("starting");
        if let Some(log) = self.log.parent() {
            fs::create_dir_all(log)?;
        }
        let log = fs::File::create(&self.log)
            .with_context(|| format!("cannot create {}", self.log.display()))?;
        fs::write(self.runtime.join("daemon.json"), "{}")?;
        let mut child = self
            .command(wrapper.is_some())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start dockerd; is the package docker.io installed?")?;
        let started = poll(START, || {
            if docker.answers() {
                return Some(true);
            }
            child.try_wait().ok().flatten().map(|_| false)
        });
        match started {
            Some(true) => Ok(docker),
            Some(false) => bail!("dockerd ended at once; see {}", self.log.display()),
            None => bail!(
                "dockerd does not answer after {} s; see {}",
                START.as_secs(),
                self.log.display()
            ),
        }
    }

    /// The wrapper that the last set-up placed, if the machine needs one.
    pub(crate) fn last_wrapper(&self) -> Option<PathBuf> {
        let artifacts = self.data.parent()?.join("runc-wrapper");
        fs::read_dir(artifacts)
            .ok()?
            .flatten()
            .map(|entry| entry.path().join("runc"))
            .find(|path| path.is_file())
    }

    /// Puts the wrapper where a running daemon looks for it, atomically.
    fn place_wrapper(&self, wrapper: &Path) -> Result<()> {
        let place = self.runtime.join("runc");
        let program =
            fs::read(wrapper).with_context(|| format!("cannot read {}", wrapper.display()))?;
        atomic_files::replace(&place, &program, 0o755)
            .with_context(|| format!("cannot replace {}", place.display()))
    }

    fn command(&self, wrapped: bool) -> Command {
        let mut command = Command::new("unshare");
        // With setsid, a hang-up of the terminal that ran `up` does not reach the daemon. setsid execs in place, because it leads
        // no process group.
        command.args([
            "--mount",
            "--propagation",
            "slave",
            "setsid",
            "/usr/sbin/dockerd",
        ]);
        command
            .arg("--host")
            .arg(format!("unix://{}", self.docker().socket().display()));
        command.arg("--data-root").arg(&self.data);
        command.arg("--exec-root").arg(self.runtime.join("exec"));
        command.arg("--pidfile").arg(self.pid_file());
        command
            .arg("--config-file")
            .arg(self.runtime.join("daemon.json"));
        command.args([
            "--bridge",
            "none",
            "--iptables=false",
            "--ip6tables=false",
            "--ip-forward=false",
            "--ip-masq=false",
        ]);
        command.args(["--userland-proxy=false", "--cgroup-parent", CGROUP]);
        if wrapped {
            command
                .arg("--add-runtime")
                .arg(format!("lab={}", self.runtime.join("runc").display()));
            command.args(["--default-runtime", "lab"]);
        }
        command
    }

    /// Marks the daemon as needed while the result lives, so that no `down` stops it. If this process dies, the kernel releases the
    /// mark.
    pub fn keep(&self) -> Result<fs::File> {
        let file = self.users()?;
        file.lock_shared()
            .context("cannot lock the list of docker's users")?;
        Ok(file)
    }

    /// True if no process has marked the daemon as needed.
    pub(crate) fn is_unused(&self) -> Result<bool> {
        Ok(self.users()?.try_lock().is_ok())
    }

    fn users(&self) -> Result<fs::File> {
        let path = self.data.with_file_name("docker.users");
        fs::File::options()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))
    }

    /// Stops the daemon by its recorded process id and removes what it leaves outside its data.
    pub fn stop(&self) -> Result<()> {
        if let Some(pid) = self.pid() {
            kill(pid, Signal::SIGTERM).context("cannot signal dockerd")?;
            if poll(STOP, || self.pid().is_none().then_some(())).is_none() {
                bail!(
                    "dockerd (process {pid}) does not end; see {}",
                    self.log.display()
                );
            }
        }
        remove_cgroups();
        if self.runtime.exists() {
            fs::remove_dir_all(&self.runtime)
                .with_context(|| format!("cannot remove {}", self.runtime.display()))?;
        }
        // Another cache's daemon may have its folder beside ours.
        if let Some(parent) = self.runtime.parent() {
            let _ = fs::remove_dir(parent);
        }
        Ok(())
    }
}

/// Gives hosts ten times the processor time of a program beside them, when both want it: what runs on a host has deadlines, and a
/// compiler beside it has none. An idle priority alone is not enough: the kernel compares whole sessions and groups first.
///
/// # Errors
/// The group of all hosts cannot be made.
fn prefer_hosts() -> Result<()> {
    let root = Path::new("/sys/fs/cgroup");
    for (group, file, weight) in [
        (root.join("cpu"), "cpu.shares", "10240"),
        (root.to_owned(), "cpu.weight", "1000"),
    ] {
        // The file is there only where this version of control groups has the controller.
        if !group.join("cgroup.procs").exists() {
            continue;
        }
        let group = group.join(CGROUP.trim_start_matches('/'));
        fs::create_dir_all(&group).with_context(|| format!("cannot create {}", group.display()))?;
        let file = group.join(file);
        if file.exists() {
            fs::write(&file, weight).with_context(|| format!("cannot write {}", file.display()))?;
        }
    }
    Ok(())
}

/// Removes the (empty) parent cgroup from every hierarchy. One that another cache's lab uses is not empty and stays.
fn remove_cgroups() {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(root)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    for hierarchy in hierarchies.chain([root.to_owned()]) {
        let _ = fs::remove_dir(hierarchy.join(CGROUP.trim_start_matches('/')));
    }
}
