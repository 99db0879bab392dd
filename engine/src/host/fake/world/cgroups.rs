//! Cgroup directories: the kernel fills a new one with its control files and lets it be removed with them.

use std::path::Path;

use crate::host::fake::world::World;

/// Control files of a hierarchy of version 1.
const V1_FILES: [(&str, &str); 6] = [
    ("cgroup.procs", ""),
    ("tasks", ""),
    ("cpu.cfs_period_us", "100000\n"),
    ("cpu.cfs_quota_us", "-1\n"),
    ("cpu.shares", "1024\n"),
    ("memory.limit_in_bytes", "9223372036854771712\n"),
];

/// Control files of version 2.
const V2_FILES: [(&str, &str); 6] = [
    ("cgroup.procs", ""),
    ("cgroup.controllers", "cpuset cpu io memory pids\n"),
    ("cgroup.subtree_control", ""),
    ("cpu.max", "max 100000\n"),
    ("cpu.weight", "100\n"),
    ("memory.max", "max\n"),
];

impl World {
    /// Whether a directory is a cgroup, the root of a hierarchy included.
    pub(crate) fn is_cgroup(&self, path: &Path) -> bool {
        path.starts_with("/sys/fs/cgroup")
            && self.tree.content(&path.join("cgroup.procs")).is_some()
    }

    /// Fills a directory with the kernel's control files if it lies in a cgroup.
    pub(crate) fn populate_cgroup(&mut self, path: &Path) {
        if !path.parent().is_some_and(|parent| self.is_cgroup(parent)) {
            return;
        }
        let unified = path.ancestors().any(|above| {
            self.tree
                .content(&above.join("cgroup.controllers"))
                .is_some()
        });
        let hierarchy = path
            .strip_prefix("/sys/fs/cgroup")
            .ok()
            .and_then(|rest| rest.iter().next());
        let hierarchy = hierarchy
            .and_then(|name| name.to_str())
            .unwrap_or_default()
            .to_owned();
        for (name, content) in if unified { V2_FILES } else { V1_FILES } {
            let controller = name.split('.').next().unwrap_or_default();
            // A version 1 hierarchy has only its own controllers' files.
            let belongs = unified
                || matches!(controller, "cgroup" | "tasks")
                || hierarchy.split(',').any(|one| one == controller);
            if belongs {
                self.file(path.join(name), content);
            }
        }
    }

    /// Takes the control files out of a cgroup without children, as removing it does.
    pub(crate) fn empty_cgroup(&mut self, path: &Path) {
        let has_children = self
            .tree
            .below(path)
            .any(|child| self.tree.is_directory(child));
        if !self.is_cgroup(path) || has_children {
            return;
        }
        for name in self.tree.names(path) {
            self.remove(path.join(name));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::host::fake::FakeHost;
    use crate::host::{Attributes, Files};

    #[tokio::test]
    async fn a_cgroup_comes_and_goes_with_its_control_files() {
        let host = FakeHost::new();
        let before = host.snapshot();
        let group = Path::new("/sys/fs/cgroup/cpu/pf9-kube-status");
        host.create_directory(group, Attributes::root(0o755))
            .await
            .unwrap();
        assert_eq!(
            host.list(group).await.unwrap(),
            [
                "cgroup.procs",
                "cpu.cfs_period_us",
                "cpu.cfs_quota_us",
                "cpu.shares",
                "tasks"
            ]
        );
        let quota = group.join("cpu.cfs_quota_us");
        host.write(&quota, b"40000", Attributes::root(0o644))
            .await
            .unwrap();
        assert!(
            host.write(&group.join("own"), b"", Attributes::root(0o644))
                .await
                .is_err()
        );
        host.remove(group).await.unwrap();
        assert_eq!(host.snapshot(), before);
    }
}
