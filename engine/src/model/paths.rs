//! Directories of the engine on a host, and paths that belong to the kernel or to nodelet. Neither a role nor a setting may use these.

use std::path::{Path, PathBuf};

/// Where the engine keeps what it must remember about a host.
pub const STATE: &str = "/var/opt/pf9/nodelet";

/// The directory of the records of what is kept: keys and authorities with copies, and data ids. Nothing in it is ever printed, logged or
/// bundled.
pub const RECORDS: &str = "/var/opt/pf9/nodelet/kept";

/// Trees in which the kernel shows its own state. A file cannot be made there, or is lost at the next boot.
pub(crate) const KERNEL_TREES: [&str; 3] = ["/dev", "/proc", "/sys"];

/// Whether a path is in a tree in which only the kernel makes files.
pub(crate) fn is_in_kernel_file_system(path: &Path) -> bool {
    ["/proc", "/sys"].iter().any(|tree| path.starts_with(tree))
}

/// Files and directories of nodelet itself: program, configuration, state, locks and socket. Without some of them, it cannot undo changes.
pub(crate) const OWN_PATHS: [&str; 9] = [
    "/etc/pf9/kube_override.env",
    "/etc/pf9/nodelet",
    "/etc/pf9/nodeletd.yaml",
    "/opt/pf9/nodelet",
    "/run/pf9-nodelet.lock",
    "/run/pf9-nodeletd.lock",
    "/run/pf9/nodeletd.sock",
    "/var/opt/pf9/kube_status",
    STATE,
];

/// The path behind `/var/run`, which the base system has as a link to `/run`.
pub(crate) fn resolve_var_run(path: &Path) -> PathBuf {
    match path.strip_prefix("/var/run") {
        Ok(rest) => Path::new("/run").join(rest),
        Err(_) => path.to_path_buf(),
    }
}
