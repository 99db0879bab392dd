//! Shims of containers that a signal has stopped. containerd starts one `containerd-shim` for each container of docker, and names the container
//! in its arguments.

use std::path::Path;

use super::stopped::{read, stopped_processes};
use crate::host::StoppedShim;

/// How the names of the program begin, for example `containerd-shim-runc-v2`.
const PROGRAM: &str = "containerd-shim";
/// Length of a container's id.
const ID: usize = 64;

/// The stopped shims.
///
/// # Errors
/// The processes cannot be listed.
pub(super) fn stopped_shims() -> std::io::Result<Vec<StoppedShim>> {
    let stopped = stopped_processes()?.into_iter();
    Ok(stopped
        .filter_map(|process| {
            let pid = process.pid;
            let command_line = read(Path::new(&format!("/proc/{pid}/cmdline")))?;
            let container = container_of(&command_line)?;
            Some(StoppedShim { pid, container })
        })
        .collect())
}

/// The container in the command line of a shim, as `/proc/PID/cmdline` shows it: an argument (`-id ID`), or the end of its directory
/// (`-workdir …/ID`). `None` if it is another program.
fn container_of(command_line: &str) -> Option<String> {
    let mut arguments = command_line.split('\0');
    let program = Path::new(arguments.next()?).file_name()?.to_str()?;
    if !program.starts_with(PROGRAM) {
        return None;
    }
    let is_id = |part: &&str| part.len() == ID && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut parts = arguments.flat_map(|argument| argument.split('/'));
    parts.find(is_id).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shim_names_its_container() {
        let id = "0123456789abcdef".repeat(4);
        let second = format!(
            "/usr/bin/containerd-shim-runc-v2\0-namespace\0moby\0-id\0{id}\0-address\0/run/containerd/containerd.sock\0"
        );
        let first = format!(
            "containerd-shim\0-namespace\0moby\0-workdir\0/var/lib/containerd/io.containerd.runtime.v1.linux/moby/{id}\0"
        );
        for command_line in [&second, &first] {
            assert_eq!(
                container_of(command_line).as_ref(),
                Some(&id),
                "{command_line}"
            );
        }
        for other in [
            format!("/usr/bin/runc\0kill\0{id}\0"),
            "containerd-shim\0-namespace\0moby\0".to_owned(),
            String::new(),
        ] {
            assert_eq!(container_of(&other), None, "{other}");
        }
    }

    #[test]
    fn a_shim_that_is_stopped_is_found() {
        use nix::sys::signal::{Signal, kill};
        use nix::sys::wait::{WaitPidFlag, waitpid};
        use nix::unistd::Pid;
        use std::os::unix::process::CommandExt as _;

        let id = "fedcba9876543210".repeat(4);
        // `read` is a part of the shell, so the process stays this one. The script ignores its arguments.
        let mut child = std::process::Command::new("sh")
            .arg0("containerd-shim-runc-v2")
            .args(["-c", "read line; exit", "sh", "-id", &id])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("it starts");
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
        let shim = StoppedShim {
            pid: child.id(),
            container: id,
        };
        let found = || stopped_shims().expect("they can be listed");
        assert!(!found().contains(&shim));
        kill(pid, Signal::SIGSTOP).expect("it is ours");
        waitpid(pid, Some(WaitPidFlag::WUNTRACED)).expect("it stops");
        assert!(found().contains(&shim), "{:?}", found());
        child.kill().expect("it is ours");
        child.wait().expect("it ends");
    }
}
