//! The host for a dry run from facts.
//!
//! It is what the facts describe plus the role's payload, whose files are named by the plan. A dry run must not fail
//! because an archive of the role is missing, and must not succeed with an archive that the plan does not name.

use std::path::Path;

use crate::facts::Facts;
use crate::host::fake::FakeHost;
use crate::plan::Plan;
use crate::resource::{FileSource, Spec};

/// A simulated host for a dry run of `plan`.
#[must_use]
pub fn simulated_host(facts: &Facts, plan: &Plan) -> FakeHost {
    let mut host = FakeHost::from_facts(facts).with_kubernetes(|rules| {
        // A node registers without a subnet.
        rules.pod_cidr.clear();
    });
    host.with_world_mut(|world| world.payload_unread = true);
    for path in &plan.payload {
        // A program or archive; the others are directories.
        if path.extension().is_some() || path.parent().is_some_and(|p| p.ends_with("bin")) {
            host.with_world_mut(|world| world.file_with_mode(path, "payload", 0o755));
        } else {
            host = host.with_directory(path);
        }
    }
    let steps = plan.phases.iter().flat_map(|phase| &phase.steps);
    for step in steps {
        match &step.spec {
            Spec::Image(image) => {
                host = host.with_image_archive(&image.archive, &[&image.reference]);
            }
            Spec::Packages(packages) => {
                for name in &packages.names {
                    host = with_package(host, &packages.directory, name);
                }
            }
            Spec::File(file) => {
                if let FileSource::Payload(path) = &file.source {
                    host = host.with_file(path, "payload");
                }
            }
            _ => {}
        }
    }
    let phases = plan.phases.iter().filter(|phase| phase.skipped.is_none());
    for step in phases.flat_map(|phase| &phase.steps) {
        match &step.spec {
            Spec::JoinFile(join) => mark_join_file(&host, &join.path),
            Spec::JoinMaster(join) => mark_join_file(&host, &join.path),
            _ => {}
        }
    }
    host
}

/// Facts do not say what is in a join file.
fn mark_join_file(host: &FakeHost, path: &Path) {
    host.with_world_mut(|world| {
        world.mark_unknown(path, "only the host itself can open its join file");
    });
}

/// A package as the payload holds it: a list of one file, and that file.
fn with_package(host: FakeHost, directory: &Path, name: &str) -> FakeHost {
    let file = format!("{name}_payload.deb");
    host.with_file(directory.join(format!("{name}.list")), format!("{file}\n"))
        .with_package_file(
            directory.join(&file),
            name,
            "payload",
            FakeHost::package_items(name),
        )
}
