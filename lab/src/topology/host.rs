//! One host of a lab: a privileged container whose first process is systemd, or one whose first process is an emulator, in which a
//! virtual machine runs. Both are made, found, killed and removed as containers; only commands in a virtual machine are run
//! differently.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, ExitStatus, Output};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::namespaces;
use super::record::{HostState, Mount};
use crate::command;
use crate::docker::{Docker, SHORT};

const BOOT: Duration = Duration::from_secs(120);
/// A virtual machine is emulated, and has a disk and mounts to make. Others may boot beside it.
const MACHINE_BOOT: Duration = Duration::from_secs(600);
/// Where the container of a virtual machine mounts what the set-up made for it.
pub(crate) const MACHINE: &str = "/machine";
/// The program that leads from that container into the virtual machine.
const GUEST_SHELL: &str = "/machine/exec";
const COPY: Duration = Duration::from_secs(300);

/// What is installed on a host before any role comes to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Image {
    /// Debian with Debian's docker.
    Bare,
    /// Debian without a container runtime.
    NoDocker,
    /// Debian with the servers of a management plane: HAProxy, RabbitMQ, a registry, Keystone, nginx.
    Plane,
    /// Debian with Debian's docker in a virtual machine, so with a kernel of its own and version 2 of control groups.
    Machine,
}

impl Image {
    /// The name in commands and image tags.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::NoDocker => "nodocker",
            Self::Plane => "plane",
            Self::Machine => "machine",
        }
    }

    /// The name of the docker image of this kind; the set-up moves it to the newest build.
    pub fn reference(self) -> String {
        format!("nodelet-lab/host:{}", self.name())
    }
}

/// An existing host.
#[derive(Clone, Debug)]
pub struct Host {
    docker: Docker,
    state: HostState,
}

/// Ends every process that has the mark in its environment, first with SIGTERM and after three seconds with SIGKILL. The script
/// itself has the mark only in its arguments, so it does not end itself.
const END_MARKED: &str = r#"
ids() { grep -lzxF -e "$1" /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3; }
end() { found=$(ids "$2"); [ -z "$found" ] || kill -s "$1" $found 2>/dev/null || true; }
end TERM "$1"
tries=0
while [ -n "$(ids "$1")" ] && [ $tries -lt 30 ]; do tries=$((tries + 1)); sleep 0.1; done
end KILL "$1"
"#;

impl Host {
    pub(crate) fn new(docker: Docker, state: HostState) -> Self {
        Self { docker, state }
    }

    /// The host's name.
    pub fn name(&self) -> &str {
        &self.state.name
    }

    /// The host's address on the lab's network.
    pub fn address(&self) -> Ipv4Addr {
        self.state.address
    }

    /// What was installed on it when it was created.
    pub fn image(&self) -> Image {
        self.state.image
    }

    /// Whether it came to a lab that was there already. The masters of a lab begin with a host for which this is false.
    pub fn is_added(&self) -> bool {
        self.state.added
    }

    /// The container's name in the outer docker.
    pub fn container(&self) -> &str {
        &self.state.container
    }

    /// The volume with the data of the host's docker.
    fn volume(&self) -> String {
        format!("{}-docker", self.state.container)
    }

    /// Removes the host, or what an interrupted creation has left of it.
    pub(crate) fn remove(&self) -> Result<()> {
        let name = format!("name=^/{}$", self.state.container);
        let containers = self
            .docker
            .list(&["ps", "--all", "--quiet", "--filter", &name])?;
        self.docker
            .remove(&["rm", "--force", "--volumes"], &containers)?;
        self.docker
            .remove(&["volume", "rm", "--force"], &[self.volume()])
            .with_context(|| format!("cannot remove the host `{}`", self.state.name))
    }

    pub(crate) fn create(
        &self,
        network: &str,
        label: &str,
        known: &[(String, Ipv4Addr)],
        mounts: &[Mount],
    ) -> Result<()> {
        let volume = self.volume();
        self.docker
            .text(&["volume", "create", "--label", label, &volume])?;
        let mut words: Vec<String> = ["run", "--detach", "--privileged"]
            .map(str::to_owned)
            .into();
        let mut option = |name: &str, value: String| words.extend([name.to_owned(), value]);
        option("--pull", "never".to_owned());
        option("--cgroupns", "private".to_owned());
        option("--stop-signal", "SIGRTMIN+3".to_owned());
        option("--label", label.to_owned());
        option("--network", network.to_owned());
        // By this name hosts find one that came to the lab after them.
        option("--network-alias", self.state.name.clone());
        // As systemd mounts them on a machine; docker's own default would add noexec.
        for mount in ["/run:exec,mode=755", "/run/lock", "/tmp:exec,mode=1777"] {
            option("--tmpfs", mount.to_owned());
        }
        option("--name", self.state.container.clone());
        option("--hostname", self.state.name.clone());
        option("--ip", self.state.address.to_string());
        // overlay2 cannot sit on overlay, so the inner docker's data is on the machine's own file system.
        option("--volume", format!("{volume}:/var/lib/docker"));
        for mount in mounts {
            let (source, target) = (mount.source.display(), mount.target.display());
            option("--volume", format!("{source}:{target}:ro"));
        }
        for (name, address) in known.iter().filter(|(name, _)| *name != self.state.name) {
            option("--add-host", format!("{name}:{address}"));
        }
        if self.is_machine() {
            let targets = mounts
                .iter()
                .map(|mount| mount.target.display().to_string());
            let seen: Vec<String> = targets.filter(|target| target != MACHINE).collect();
            option("--env", format!("LAB_MOUNTS={}", seen.join(",")));
        }
        words.push(self.state.image.reference());
        words.extend(self.is_machine().then(|| format!("{MACHINE}/run")));
        self.docker
            .text(&words)
            .with_context(|| format!("cannot start the host `{}`", self.state.name))
            .map(drop)
    }

    fn is_machine(&self) -> bool {
        self.state.image == Image::Machine
    }

    /// The arguments of docker's client that run a command in the host.
    fn exec_words<'a>(&'a self, options: &[&'a str], words: &[&'a str]) -> Vec<&'a str> {
        let mut all = vec!["exec"];
        all.extend(options);
        all.push(&self.state.container);
        all.extend(self.is_machine().then_some(GUEST_SHELL));
        all.extend(words);
        all
    }

    /// A command in the host without a terminal and, if it is interactive, with our standard input. In a virtual machine and on a host that does not
    /// run, docker's client is asked.
    fn command(&self, interactive: bool, words: &[&str]) -> Command {
        let entered = match self.is_machine() {
            true => None,
            false => namespaces::command(&self.docker, &self.state.container, words),
        };
        let options: &[&str] = if interactive { &["--interactive"] } else { &[] };
        entered.unwrap_or_else(|| self.docker.command(&self.exec_words(options, words)))
    }

    fn boot_limit(&self) -> Duration {
        if self.is_machine() {
            MACHINE_BOOT
        } else {
            BOOT
        }
    }

    /// Waits until systemd has started everything.
    pub fn wait_until_running(&self) -> Result<()> {
        let mut last = String::new();
        let words = ["systemctl", "is-system-running"];
        let done = command::poll(self.boot_limit(), || {
            let output = command::output(&self.command(false, &words), None, SHORT);
            last = output.map_or_else(
                |error| error.to_string(),
                |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
            );
            matches!(last.as_str(), "running" | "degraded").then_some(())
        });
        if done.is_some() && last == "running" {
            return Ok(());
        }
        let failed = self
            .exec(&["systemctl", "--failed", "--no-legend", "--plain"])
            .map(|output| output.stdout)
            .unwrap_or_default();
        bail!(
            "the host `{}` is `{last}`, not running; failed units: {}",
            self.state.name,
            String::from_utf8_lossy(&failed).trim()
        )
    }

    /// Runs a command in the host, for at most a minute.
    pub fn exec(&self, words: &[&str]) -> Result<Output> {
        self.exec_within(words, None, SHORT)
    }

    /// Runs a command in the host with this input and deadline. At the deadline the command itself is killed, not only its client.
    pub fn exec_within(
        &self,
        words: &[&str],
        input: Option<&[u8]>,
        limit: Duration,
    ) -> Result<Output> {
        let seconds = limit.as_secs().max(1).to_string();
        let limited = [&["timeout", "--signal=KILL", &seconds][..], words].concat();
        let command = self.command(input.is_some(), &limited);
        // The limit inside the host expires first; the one outside is for a docker that does not answer.
        command::output(&command, input, limit + Duration::from_secs(5))
    }

    /// Runs a command that must succeed and gives its trimmed standard output.
    pub fn text(&self, words: &[&str]) -> Result<String> {
        let output = self.exec(words)?;
        command::check(&output, || {
            let (words, host) = (words.join(" "), &self.state.name);
            format!("`{words}` on the host `{host}` failed ({})", output.status)
        })?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Runs a command in the host with our own standard streams; with a terminal if `tty`.
    pub fn exec_streaming(&self, words: &[&str], tty: bool) -> Result<ExitStatus> {
        let all = self.exec_words(streams(tty), words);
        self.docker
            .command(&all)
            .status()
            .context("cannot start the docker client")
    }

    /// Runs a command in the host for at most `limit`, and gives each line that it prints to `each` as it comes.
    ///
    /// # Errors
    /// The command does not start, or does not end within `limit`.
    pub fn exec_lines(
        &self,
        words: &[&str],
        limit: Duration,
        each: impl FnMut(&str),
    ) -> Result<ExitStatus> {
        let seconds = limit.as_secs().max(1).to_string();
        let limited = [&["timeout", "--signal=KILL", &seconds][..], words].concat();
        let limit = limit + Duration::from_secs(5);
        command::lines(&self.command(false, &limited), limit, each)
    }

    /// Like [`Self::exec_streaming`], for a command that the user typed. If we are interrupted, the command and what it started are
    /// ended in the host too; docker's client would leave them running there. `None` if they were ended like this.
    pub fn shell(&self, words: &[&str], tty: bool) -> Result<Option<ExitStatus>> {
        let mark = format!("NODELET_LAB_ENTERED={}", command::unique());
        // `env` and not docker's `--env`, because ssh into a virtual machine does not pass the environment on.
        let marked = [&["env", &mark][..], words].concat();
        let all = self.exec_words(streams(tty), &marked);
        let status = command::interruptible(&mut self.docker.command(&all))?;
        // A client that was killed (for example by a closed pipe) leaves the command running as well.
        if status.is_none_or(|status| status.code().is_none()) {
            self.exec(&["sh", "-c", END_MARKED, "end", &mark])?;
        }
        Ok(status)
    }

    /// Loads an image, a file of this machine, into the host's docker.
    pub fn load_image(&self, file: &Path) -> Result<()> {
        let image =
            std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let output = self.exec_within(&["docker", "load", "--quiet"], Some(&image), COPY)?;
        command::check(&output, || {
            let (file, host) = (file.display(), &self.state.name);
            format!("cannot load the image {file} on the host `{host}`")
        })
    }

    /// Writes a file in the host, atomically, with its parent directories.
    pub fn put(&self, bytes: &[u8], path: &str, mode: u32) -> Result<()> {
        let script = r#"set -e; mkdir -p "$(dirname "$1")"; cat > "$1.lab-new"; chmod "$2" "$1.lab-new"; mv -T "$1.lab-new" "$1""#;
        let output = self.exec_within(
            &["sh", "-c", script, "put", path, &format!("{mode:o}")],
            Some(bytes),
            COPY,
        )?;
        self.copied(&output, path)
    }

    /// Copies a file of the machine into the host.
    pub fn put_file(&self, source: &Path, path: &str, mode: u32) -> Result<()> {
        let bytes =
            std::fs::read(source).with_context(|| format!("cannot read {}", source.display()))?;
        self.put(&bytes, path, mode)
    }

    /// Copies what is in a directory of the machine into a directory of the host.
    pub fn put_directory(&self, source: &Path, path: &str) -> Result<()> {
        self.text(&["mkdir", "-p", path])?;
        let mut tar = Command::new("tar");
        tar.args(["--owner=0", "--group=0", "--mode=go-w", "-C"])
            .arg(source)
            .args(["-cf", "-", "."]);
        let packed = command::output(&tar, None, COPY)?;
        command::check(&packed, || format!("cannot pack {}", source.display()))?;
        let output =
            self.exec_within(&["tar", "-C", path, "-xf", "-"], Some(&packed.stdout), COPY)?;
        self.copied(&output, path)
    }

    fn copied(&self, output: &Output, path: &str) -> Result<()> {
        command::check(output, || {
            format!("cannot write {path} on the host `{}`", self.state.name)
        })
    }

    /// Reads a file of the host.
    pub fn get(&self, path: &str) -> Result<Vec<u8>> {
        let output = self.exec_within(&["cat", path], None, COPY)?;
        command::check(&output, || {
            format!("cannot read {path} on the host `{}`", self.state.name)
        })?;
        Ok(output.stdout)
    }

    /// Restarts the host as a reboot would: systemd stops everything and starts again. A virtual machine does reboot.
    pub fn reboot(&self) -> Result<()> {
        if self.is_machine() {
            return self.reboot_machine();
        }
        self.docker
            .text_within(&["restart", "--time", "60", &self.state.container], BOOT)?;
        self.wait_until_running()
    }

    fn reboot_machine(&self) -> Result<()> {
        let boot = || self.text(&["cat", "/proc/sys/kernel/random/boot_id"]);
        let before = boot()?;
        // The connection may close before the answer comes, so how it ends says nothing.
        let _ = self.exec(&["systemctl", "reboot"])?;
        command::poll(MACHINE_BOOT, || boot().ok().filter(|now| *now != before)).with_context(
            || {
                format!(
                    "the host `{}` has not rebooted within {} s",
                    self.state.name,
                    MACHINE_BOOT.as_secs()
                )
            },
        )?;
        self.wait_until_running()
    }

    /// Cuts the host's power: every process is gone at once.
    pub fn kill(&self) -> Result<()> {
        self.docker.text(&["kill", &self.state.container]).map(drop)
    }

    /// Whether the host runs, and is neither paused nor about to end.
    ///
    /// # Errors
    /// The outer docker does not answer, or has no such host.
    pub fn runs(&self) -> Result<bool> {
        let words = [
            "inspect",
            "--format",
            "{{.State.Status}}",
            &self.state.container,
        ];
        Ok(self.docker.text(&words)? == "running")
    }

    /// Starts the host if it does not run, as after a restart of the machine.
    pub fn ensure_running(&self) -> Result<()> {
        let words = [
            "inspect",
            "--format",
            "{{.State.Running}}",
            &self.state.container,
        ];
        if self.docker.text(&words)? == "true" {
            Ok(())
        } else {
            self.start()
        }
    }

    /// Starts a killed host again.
    pub fn start(&self) -> Result<()> {
        self.docker.text(&["start", &self.state.container])?;
        self.wait_until_running()
    }
}

/// docker's options for a command that has our own standard streams.
fn streams(tty: bool) -> &'static [&'static str] {
    if tty {
        &["--interactive", "--tty"]
    } else {
        &["--interactive"]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn only_marked_processes_are_killed() {
        let sleeper = |mark: &str| {
            let mut command = Command::new("sleep");
            command.arg("60").env("NODELET_LAB_ENTERED", mark);
            command.spawn().expect("sleep starts")
        };
        let mark = command::unique();
        let (mut ours, mut other) = (sleeper(&mark), sleeper(&format!("{mark}0")));
        let mut end = Command::new("sh");
        end.args(["-c", END_MARKED, "end"])
            .arg(format!("NODELET_LAB_ENTERED={mark}"));
        let ended = command::output(&end, None, SHORT).expect("sh runs");
        assert!(ended.stderr.is_empty(), "{ended:?}");
        let status = ours.wait().expect("it ends");
        assert_eq!(status.signal(), Some(15), "it was asked to end");
        let left = other.try_wait().expect("it can be asked");
        other.kill().expect("it still runs");
        other.wait().expect("it ends");
        assert!(left.is_none(), "a process with another mark goes on");
    }
}
