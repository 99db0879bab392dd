//! Directories of the engine on a host, and the paths that neither a role nor a setting may name for something else.

/// Where the engine keeps what it must remember about a host.
pub const STATE: &str = "/var/opt/pf9/nodelet";

/// Trees in which the kernel shows its own state. A file cannot be made there, or is lost at the next boot.
pub(crate) const KERNEL_TREES: [&str; 3] = ["/dev", "/proc", "/sys"];

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
