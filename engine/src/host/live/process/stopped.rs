//! Processes that a signal has stopped (SIGSTOP): they do no work, and do not end by themselves.

use std::io::Read as _;
use std::path::Path;

/// Longest file of a process that is read; the kernel's are a few hundred bytes.
const MAX: u64 = 64 * 1024;

/// The control groups of all stopped processes, each as `/proc/PID/cgroup` shows it. A process that a debugger has stopped does not count.
///
/// # Errors
/// The processes cannot be listed.
pub fn stopped_processes() -> std::io::Result<Vec<String>> {
    let mut groups = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Ok(entry) = entry else { continue };
        let is_process = entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
        if !is_process {
            continue;
        }
        // A process that has ended in the meantime is not stopped.
        let process = entry.path();
        if read(&process.join("stat")).is_some_and(|stat| is_stopped(&stat)) {
            groups.extend(read(&process.join("cgroup")));
        }
    }
    Ok(groups)
}

fn read(path: &Path) -> Option<String> {
    let mut text = String::new();
    let file = std::fs::File::open(path).ok()?;
    file.take(MAX).read_to_string(&mut text).ok()?;
    Some(text)
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
        assert!(found.contains(&own), "{found:?}");
        child.kill().expect("it is ours");
        child.wait().expect("it ends");
    }

    #[test]
    fn the_name_of_a_program_may_hold_anything() {
        assert!(is_stopped("7 (a) R b) T 1 7 7"));
        assert!(!is_stopped("7 (a) T) S 1 7 7"));
        assert!(!is_stopped(""));
    }
}
