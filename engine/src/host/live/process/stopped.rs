//! Processes that a signal has stopped (SIGSTOP): they do no work, and do not end by themselves.

use std::io::Read as _;
use std::path::Path;

use crate::host::StoppedProcess;

/// Longest file of a process that is read; the kernel's are a few hundred bytes.
const MAX: u64 = 64 * 1024;

/// All stopped processes. A process that a debugger has stopped does not count.
///
/// # Errors
/// The processes cannot be listed.
pub fn stopped_processes() -> std::io::Result<Vec<StoppedProcess>> {
    let mut stopped = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Ok(entry) = entry else { continue };
        let pid = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        let Some(pid) = pid else { continue };
        // A process that has ended in the meantime is not stopped.
        let process = entry.path();
        let stat = read(&process.join("stat")).filter(|stat| is_stopped(stat));
        if let (Some(stat), Some(groups)) = (stat, read(&process.join("cgroup"))) {
            let name = name(&stat).to_owned();
            stopped.push(StoppedProcess { pid, name, groups });
        }
    }
    Ok(stopped)
}

/// The content of a file of a process; `None` if the process has ended.
pub(super) fn read(path: &Path) -> Option<String> {
    let mut text = String::new();
    let file = std::fs::File::open(path).ok()?;
    file.take(MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

/// The second word of `proc_pid_stat(5)`, without its parentheses.
fn name(stat: &str) -> &str {
    let begins = stat.split_once('(').map_or("", |(_, after)| after);
    begins.rsplit_once(')').map_or("", |(name, _)| name)
}

/// The third word of `proc_pid_stat(5)`. The second is the program's name, which may hold anything.
fn is_stopped(stat: &str) -> bool {
    let after_name = stat.rsplit_once(')').map(|(_, after)| after);
    after_name.and_then(|after| after.split_whitespace().next()) == Some("T")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_is_stopped_is_found_while_it_is() {
        use nix::sys::signal::{Signal, kill};
        use nix::sys::wait::{WaitPidFlag, waitpid};
        use nix::unistd::Pid;

        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .expect("it starts");
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
        let stat = || {
            let stat = read(Path::new(&format!("/proc/{pid}/stat")));
            is_stopped(&stat.expect("it runs"))
        };
        assert!(!stat());
        kill(pid, Signal::SIGSTOP).expect("it is ours");
        waitpid(pid, Some(WaitPidFlag::WUNTRACED)).expect("it stops");
        assert!(stat());
        let own = read(Path::new("/proc/self/cgroup")).expect("we run");
        let found = stopped_processes().expect("they can be listed");
        let sleep = StoppedProcess {
            pid: child.id(),
            name: "sleep".to_owned(),
            groups: own,
        };
        assert!(found.contains(&sleep), "{found:?}");
        child.kill().expect("it is ours");
        child.wait().expect("it ends");
    }

    #[test]
    fn the_name_of_a_program_may_hold_anything() {
        assert!(is_stopped("7 (a) R b) T 1 7 7"));
        assert!(!is_stopped("7 (a) T) S 1 7 7"));
        assert!(!is_stopped(""));
        assert_eq!(name("7 (a) R b) T 1 7 7"), "a) R b");
        assert_eq!(name("7 (containerd) S 1"), "containerd");
        assert_eq!(name(""), "");
    }
}
