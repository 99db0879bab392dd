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

/// Gives the settings kubelet's values, which stay when the labs end. A kernel without one of them, or that lets none be changed, is left
/// as it is.
///
/// # Errors
/// A value cannot be written for another reason.
pub(super) fn set() -> Result<()> {
    set_below(Path::new("/proc/sys"))
}

fn set_below(root: &Path) -> Result<()> {
    for (name, value) in SHARED {
        let path = root.join(name);
        let Ok(present) = fs::read_to_string(&path) else {
            continue;
        };
        if present.trim() != *value {
            match fs::write(&path, value) {
                Err(error) if is_refused(&error) => {
                    println!("{} stays {}: {error}", path.display(), present.trim());
                }
                written => written
                    .with_context(|| format!("cannot write {value} to {}", path.display()))?,
            }
        }
    }
    Ok(())
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
}
