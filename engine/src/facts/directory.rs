//! Whether a directory can keep secrets over a reboot: on a disk, writable, and closed to others than root. Pure.
//!
//! Two callers judge the directory of etcd backups with it: the precondition before an apply, and each backup itself.

/// Why a directory cannot keep secrets over a reboot. `Display` completes "the directory …".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DirectoryProblem {
    /// It is on a file system of this type, which a reboot empties.
    #[error("is in memory ({0}) and would be gone with the next boot")]
    InMemory(String),
    /// Its file system is mounted read-only.
    #[error("is mounted read-only")]
    ReadOnly,
    /// It has this mode.
    #[error("is there, and others than root may look into it (mode {0:04o})")]
    Open(u32),
}

impl DirectoryProblem {
    /// The first problem of a directory on a file system of this type; `mode` is `None` if the directory does not exist.
    #[must_use]
    pub fn of(filesystem: &str, read_only: bool, mode: Option<u32>) -> Option<Self> {
        if matches!(filesystem, "tmpfs" | "ramfs") {
            return Some(Self::InMemory(filesystem.to_owned()));
        }
        if read_only {
            return Some(Self::ReadOnly);
        }
        mode.filter(|mode| mode & 0o077 != 0)
            .map(|mode| Self::Open(mode & 0o7777))
    }

    /// What to do about it for the directory `path`. `choose` says how another one is chosen, for example `name`.
    #[must_use]
    pub fn remedy(&self, path: &str, choose: &str) -> String {
        match self {
            Self::InMemory(_) => format!("{choose} a directory on a disk"),
            Self::ReadOnly => {
                format!("mount it writable (`mount -o remount,rw`), or {choose} another directory")
            }
            Self::Open(_) => {
                format!("{choose} another directory, or close this one with `chmod 0700 {path}`")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_problem_counts_and_the_bits_of_the_file_type_do_not() {
        let of = DirectoryProblem::of;
        let in_memory = DirectoryProblem::InMemory("ramfs".to_owned());
        assert_eq!(of("ramfs", true, Some(0o755)), Some(in_memory));
        assert_eq!(
            of("ext4", true, Some(0o755)),
            Some(DirectoryProblem::ReadOnly)
        );
        assert_eq!(
            of("ext4", false, Some(0o41777)),
            Some(DirectoryProblem::Open(0o1777))
        );
        assert_eq!(of("ext4", false, Some(0o40700)), None);
        assert_eq!(of("", false, None), None);
    }
}
