//! What the suites share: hosts with nodelet on them, runs of nodelet, and ways to look at a host before and after.
//!
//! The suites themselves are in `tests/suites`, a file for each group of behaviour. They run on real hosts (see the crate `lab`)
//! and need what `cargo xtask test` sets up, so they are marked `ignore`: without it they are reported as ignored, not as passed.
//! Helpers panic with everything that the host said, because a developer needs it to find the cause.
//!
//! `cargo xtask test --only lab -- FILTER` runs some of them; with `NODELET_LAB_KEEP=1` the labs stay and can be inspected. Those
//! in `tests/soak` take minutes each and are marked `ignore`: `cargo xtask soak` runs them.
//!
//! Start with `master`.

#![forbid(unsafe_code)]

mod bitrot;
mod leaf_certificates;
mod load;
mod master;
mod planes;
mod prediction;
mod record;
mod run;
mod running_instances;
mod slate;
mod state_files;
mod watch;

pub use bitrot::{
    Damage, DamagedFile, Group, PayloadCopy, REPAIRED, REPORTED, ROLE, STATE, SecretFiles, Target,
    WORK_DIRECTORY, another, are_reported, is_reported, make_work_directory, restore_master,
    until_reported,
};
pub use lab::command::poll;
pub use lab::{DEPENDENCY_FAULTS, FAULTS, Fault, HostSpec, Image, TOOLBOX_IMAGE};
pub use leaf_certificates::LeafCertificates;
pub use load::{Answer, Asker, Credentials, HttpsClient, Load, LoadResults};
pub use master::{
    CLIENT, KUBECONFIG, KUBECTL, Master, Node, Pods, all_are_members, all_know_one_another,
    another_master, at_once, first_of_several, holder, is_known, masters_beside, nodes_are_ready,
    page_from_outside, ready_with_vip, second_apply_changes_nothing, shared, three_masters,
};
pub use planes::{Planes, fails, paths, refusals, services, sh, status, until};
pub use prediction::{no_repair, predicted_repair, prediction};
pub use record::record;
pub use run::Run;
pub use running_instances::{RunningInstances, changes, listing};
pub use slate::{After, Slate};
pub use state_files::{StateFiles, node_state};
pub use watch::{CALM, SCALED, Watch, restarted};

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    /// Without a lab a suite would test nothing, and would pass.
    #[test]
    fn every_test_that_needs_a_lab_is_marked_ignore() {
        let mut directories = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suites")];
        let mut count = 0;
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(&directory).expect("a directory") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    directories.push(path);
                    continue;
                }
                let text = fs::read_to_string(&path).expect("a source file");
                let mut lines = text.lines();
                while let Some(line) = lines.next() {
                    if line.trim() == "#[test]" {
                        count += 1;
                        let next = lines.next().unwrap_or_default();
                        assert!(
                            next.trim().starts_with("#[ignore = \"needs a lab: "),
                            "{}: `{next}` follows #[test]",
                            path.display()
                        );
                    }
                }
            }
        }
        assert!(count > 30, "{count} suites were found");
    }
}
