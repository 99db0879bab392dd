//! Files of a running master that are damaged, and what has to follow: a repair that restarts exactly the readers of the file, or a
//! report that names it.
//!
//! `secrets` has the files that nodeletd repairs, by the groups in `groups`, and `targets` the files that it only reports.

mod groups;
mod secrets;
mod targets;

use std::time::Duration;

use crate::master::Node;

pub use groups::{Group, another};
pub use secrets::{DamagedFile, SecretFiles};
pub use targets::{PayloadCopy, Target, are_reported, is_reported, until_reported};

/// The installed role.
pub const ROLE: &str = "/opt/pf9/roles/pf9-kube/current";
/// nodeletd's state.
pub const STATE: &str = "/var/opt/pf9/nodelet";
/// The suite's own directory.
pub const WORK_DIRECTORY: &str = "/root/bitrot";

/// Time limit of a repair. An API server needs time to start, and then a minute to be quiet.
pub const REPAIRED: Duration = Duration::from_secs(300);
/// Time limit until damage is reported, and until a pass finds no damage any more.
pub const REPORTED: Duration = Duration::from_secs(180);

/// Size of a truncated file in bytes. All files are longer.
pub(crate) const TRUNCATED: u64 = 20;

/// How a file is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// It is removed.
    Delete,
    /// It is cut short.
    Truncate,
    /// Another valid file of the same kind takes its place.
    Replace,
    /// It has another owner and another mode.
    Attributes,
}

impl Damage {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Delete,
        Self::Truncate,
        Self::Replace,
        Self::Attributes,
    ];
    /// Those that change the content.
    pub const CONTENT: [Self; 3] = [Self::Delete, Self::Truncate, Self::Replace];

    /// A shell script that damages the file at `path`. The command `another` prints another valid file of the same kind.
    #[must_use]
    pub fn script(self, path: &str, another: &str) -> String {
        Self::together(&[(self, path, another)])
    }

    /// A shell script that damages all these files at once: it makes the files that replace others before it damages the first one.
    fn together(files: &[(Self, &str, &str)]) -> String {
        let (mut prepare, mut damage) = (Vec::new(), Vec::new());
        for (number, (kind, path, another)) in files.iter().enumerate() {
            let other = other_file(number);
            let command = match kind {
                Self::Delete => format!("rm {path}"),
                Self::Truncate => format!("truncate --size {TRUNCATED} {path}"),
                Self::Replace => {
                    prepare.push(format!("{{ {another}; }} > {other}; if cmp -s {other} {path}; then echo '{path} is the same'; exit 1; fi"));
                    format!("cat {other} > {path}")
                }
                Self::Attributes => format!("chown 1000:1000 {path}; chmod 0666 {path}"),
            };
            damage.push(command);
        }
        [prepare, damage].concat().join("\n")
    }
}

/// The file that replaces the damaged file of this number.
fn other_file(number: usize) -> String {
    format!("{WORK_DIRECTORY}/other-{number}")
}

/// Makes the suite's own directory, empty.
pub fn make_work_directory(master: &Node) {
    master.sh(&format!(
        "rm -rf {WORK_DIRECTORY}; install -d -m 0700 {WORK_DIRECTORY}"
    ));
}

/// Removes the suite's own directory, and gives the master its usual settings again: it is healthy with them.
pub fn restore_master(master: &Node) {
    master.sh(&format!("rm -rf {WORK_DIRECTORY}"));
    master.configure(&[]);
    master.apply(&[]).exits(0);
    master.check(&[]).exits(0);
}
