//! A tree of control groups that another program creates, and that is removed when it is no longer wanted.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::host::{EntryKind, Host};
use crate::resource::{Action, Change, Context, READ_LIMIT, Receipt, Resource, ResourceResult};

/// Where the hierarchies are.
const ROOT: &str = "/sys/fs/cgroup";
/// Maximum number of groups in one tree; a node has a few hundred.
const MOST: usize = 10_000;

/// The control groups of this name at the top of every hierarchy, with all groups below them. They can only be made
/// absent, and only if they contain no process: no process is killed, and a group with processes is in use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CgroupSpec {
    /// Its name, for example `kubepods`.
    pub name: String,
}

#[async_trait]
impl Resource for CgroupSpec {
    /// The groups that are there and empty, parents before children.
    type Observed = Vec<PathBuf>;

    fn label(&self) -> String {
        self.name.clone()
    }

    async fn observe(&self, cx: &Context<'_>) -> ResourceResult<Self::Observed> {
        let mut groups = tree(cx.host, &self.name).await?;
        // A process in a group needs the group and its parents.
        let lived_in = with_processes(cx.host, &groups).await?;
        groups.retain(|group| {
            !lived_in
                .iter()
                .any(|inhabited| inhabited.starts_with(group))
        });
        Ok(groups)
    }

    fn diff(&self, groups: &Self::Observed, absent: bool) -> Option<Change> {
        (absent && !groups.is_empty())
            .then(|| Change::new(Action::Remove).with("groups", groups.len(), 0))
    }

    async fn converge(
        &self,
        groups: &Self::Observed,
        cx: &Context<'_>,
        _receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        for group in groups.iter().rev() {
            cx.host.remove(group).await?;
        }
        Ok(())
    }
}

/// The groups of this name at the top of every hierarchy, with all groups below them: parents before children.
async fn tree(host: &dyn Host, name: &str) -> ResourceResult<Vec<PathBuf>> {
    let mut groups = Vec::new();
    for hierarchy in hierarchies(host).await? {
        let top = hierarchy.join(name);
        if is_directory(host, &top).await? {
            groups.push(top);
        }
    }
    let mut at = 0;
    while let Some(group) = groups.get(at).cloned() {
        for name in host.list(&group).await? {
            let child = group.join(name);
            if groups.len() < MOST && is_directory(host, &child).await? {
                groups.push(child);
            }
        }
        at += 1;
    }
    Ok(groups)
}

/// Those of the groups that have a process of their own.
async fn with_processes(host: &dyn Host, groups: &[PathBuf]) -> ResourceResult<Vec<PathBuf>> {
    let mut lived_in = Vec::new();
    for group in groups {
        let processes = host.read(&group.join("cgroup.procs"), READ_LIMIT).await?;
        if processes.is_some_and(|list| !list.is_empty()) {
            lived_in.push(group.clone());
        }
    }
    Ok(lived_in)
}

/// The groups in the trees of this name that have a process of their own.
pub(in crate::resource) async fn lived_in(
    host: &dyn Host,
    name: &str,
) -> ResourceResult<Vec<PathBuf>> {
    let groups = tree(host, name).await?;
    with_processes(host, &groups).await
}

/// The roots of all hierarchies: the one of cgroup v2, or one for each controller of cgroup v1 (and `unified` beside them).
async fn hierarchies(host: &dyn Host) -> ResourceResult<Vec<PathBuf>> {
    let root = Path::new(ROOT);
    if host
        .entry(&root.join("cgroup.controllers"))
        .await?
        .is_some()
    {
        return Ok(vec![root.to_path_buf()]);
    }
    let mut all = Vec::new();
    for name in host.list(root).await? {
        let path = root.join(name);
        // Links are other names of hierarchies (`cpu` of `cpu,cpuacct`).
        if is_directory(host, &path).await? {
            all.push(path);
        }
    }
    Ok(all)
}

async fn is_directory(host: &dyn Host, path: &Path) -> ResourceResult<bool> {
    Ok(host
        .entry(path)
        .await?
        .is_some_and(|entry| entry.kind == EntryKind::Directory))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;
    use crate::host::{Attributes, Files};
    use crate::resource::tests::{apply_in, context};

    #[tokio::test]
    async fn a_tree_goes_from_all_hierarchies() {
        let host = FakeHost::new();
        let before = host.snapshot();
        for group in ["cpu/kubepods", "cpu/kubepods/pod1", "memory/kubepods"] {
            let path = Path::new(ROOT).join(group);
            host.create_directory(&path, Attributes::root(0o755))
                .await
                .unwrap();
        }
        let spec = CgroupSpec {
            name: "kubepods".to_owned(),
        };
        let cx = Context {
            absent: true,
            ..context(&host)
        };
        let removed = apply_in(&cx, &spec, &mut Receipt::default()).await;
        removed.unwrap().expect("it is there");
        assert_eq!(host.snapshot(), before);
    }
}
