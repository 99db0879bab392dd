//! Settings of the kernel that belong to no namespace: all hosts of all labs on this machine share them.
//!
//! kubelet sets them, and a clean sets them back to what its host had before. With hosts that begin and end side by side, one would find
//! the other's value after its clean. So they have kubelet's values before the first host begins, and stay so.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use anyhow::{Context, Result};

/// What kubelet sets at its start, below `/proc/sys`. Source: Kubernetes 1.20, `pkg/util/sysctl`.
const SHARED: &[(&str, &str)] = &[
    ("kernel/keys/root_maxbytes", "25000000"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
];

/// What all hosts share and need enough of: these are the least values. Each systemd and each daemon that watches files has an instance of inotify, and all of them have the same user
/// (inotify(7)). The kernel's 128 are enough for about ten hosts; then units of the next one fail.
const AT_LEAST: &[(&str, u64)] = &[("fs/inotify/max_user_instances", 1024)];

/// Gives the settings kubelet's values, and at least those of [`AT_LEAST`]. They stay when the labs end. A kernel without one of them, or that lets none be changed, is left
/// as it is.
///
/// # Errors
/// A value cannot be written for another reason.
pub(super) fn set() -> Result<()> {
    set_below(Path::new("/proc/sys"))
}

fn set_below(root: &Path) -> Result<()> {
    for (name, value) in SHARED {
        set_one(&root.join(name), value, |present| present == *value)?;
    }
    for (name, least) in AT_LEAST {
        let is_enough = |present: &str| present.parse().is_ok_and(|its: u64| its >= *least);
        set_one(&root.join(name), &least.to_string(), is_enough)?;
    }
    Ok(())
}

fn set_one(path: &Path, value: &str, is_right: impl Fn(&str) -> bool) -> Result<()> {
    let Ok(present) = fs::read_to_string(path) else {
        return Ok(());
    };
    let present = present.trim();
    if is_right(present) {
        return Ok(());
    }
    match fs::write(path, value) {
        Err(error) if is_refused(&error) => {
            println!("{} stays {present}: {error}", path.display());
            Ok(())
        }
        written => written.with_context(|| format!("cannot write {value} to {}", path.display())),
    }
}

/// A machine may not let its settings be changed. kubelet cannot change them either then.
fn is_refused(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_what_differs_and_exists() {
        let root = tempfile::tempdir().expect("a directory");
        let at = |name: &str| root.path().join(name);
        fs::create_dir_all(at("kernel")).expect("a directory");
        fs::write(at("kernel/panic"), "0\n").expect("written");
        fs::write(at("kernel/panic_on_oops"), "1\n").expect("written");
        set_below(root.path()).expect("set");
        let read = |name| fs::read_to_string(at(name)).expect("read");
        assert_eq!(read("kernel/panic"), "10");
        assert_eq!(read("kernel/panic_on_oops"), "1\n", "it is not written");
        assert!(!at("vm").exists());
    }

    #[test]
    fn raises_what_is_too_little() {
        let root = tempfile::tempdir().expect("a directory");
        let path = root.path().join("fs/inotify/max_user_instances");
        fs::create_dir_all(root.path().join("fs/inotify")).expect("a directory");
        for (before, after) in [("128\n", "1024"), ("8192\n", "8192\n")] {
            fs::write(&path, before).expect("written");
            set_below(root.path()).expect("set");
            assert_eq!(fs::read_to_string(&path).expect("read"), after);
        }
    }
}
