//! Checks who can change a role package. nodelet executes a role as root, so every file of a package that is used on this
//! host, and every directory on the path to it, must belong to root and be writable by root only.
//!
//! Links are followed: the directory of a link and the directory of its target are both checked. Called before a package is
//! read for the live host; a dry run from facts changes nothing and may use any directory. [`changeable_way_to`] makes the same
//! check of the path to a directory that a setting names.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use super::{Attributes, EntryKind, Files, HostError, HostResult};

/// Most links on the path to one file: the kernel's own limit.
const LINKS: usize = 40;
/// Most files and directories of a package.
const ENTRIES: usize = 20_000;
/// Deepest nesting of directories.
const DEPTH: usize = 12;
/// Write permission of group and others.
const WRITABLE: u32 = 0o022;
/// In a directory with this bit, users can neither rename nor remove what belongs to root.
const STICKY: u32 = 0o1000;

/// Why a path is not trusted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OwnershipError {
    /// A user other than root can change it.
    #[error("{}: {problem} (`{fix} {}`)", path.display(), path.display())]
    Untrusted {
        /// The file or directory.
        path: PathBuf,
        /// Who else can change it.
        problem: String,
        /// Command that takes this away, without the path.
        fix: &'static str,
    },
    /// There are too many files, or too many links.
    #[error("check {}: it has too many files or its links form a loop", path.display())]
    TooLarge {
        /// Where the check ended.
        path: PathBuf,
    },
    /// An operation of the host failed.
    #[error(transparent)]
    Host(#[from] HostError),
}

/// What has been checked in one package.
pub(crate) struct Ownership<'a> {
    files: &'a (dyn Files + Sync),
    /// Directories that only root can change, as paths without links.
    safe: BTreeSet<PathBuf>,
    entries: usize,
}

impl<'a> Ownership<'a> {
    /// Nothing has been checked yet.
    pub(crate) fn new(files: &'a (dyn Files + Sync)) -> Self {
        Self {
            files,
            safe: BTreeSet::new(),
            entries: 0,
        }
    }

    /// Checks `path`, everything below it, and every directory on the path to it. A path that does not exist is accepted.
    ///
    /// # Errors
    /// The first file or directory that a user other than root can change; or the package is too large; or an error of the host.
    pub(crate) async fn verify(&mut self, path: &Path) -> Result<(), OwnershipError> {
        let Some(root) = self.resolve(path).await? else {
            return Ok(());
        };
        let mut waiting = vec![(root, 0)];
        while let Some((path, depth)) = waiting.pop() {
            self.entries += 1;
            if self.entries > ENTRIES || depth > DEPTH {
                return Err(OwnershipError::TooLarge { path });
            }
            let Some(entry) = self.files.entry(&path).await? else {
                continue;
            };
            match entry.kind {
                EntryKind::Directory => {
                    only_root(&path, entry.attributes, WRITABLE)?;
                    for name in self.files.list(&path).await? {
                        waiting.push((path.join(name), depth + 1));
                    }
                }
                EntryKind::Symlink(_) => {
                    if let Some(target) = self.resolve(&path).await? {
                        waiting.push((target, depth + 1));
                    }
                }
                EntryKind::File(_) | EntryKind::Socket | EntryKind::Other => {
                    only_root(&path, entry.attributes, WRITABLE)?;
                }
            }
        }
        Ok(())
    }

    /// The path without links and `..`; every directory on it is verified. `None` if a part of the path is missing.
    async fn resolve(&mut self, path: &Path) -> Result<Option<PathBuf>, OwnershipError> {
        let mut at = PathBuf::from("/");
        self.directory(&at).await?;
        let mut rest = names(path);
        rest.reverse();
        let mut links = 0;
        while let Some(name) = rest.pop() {
            if name == ".." {
                at.pop();
                continue;
            }
            let next = at.join(&name);
            let Some(entry) = self.files.entry(&next).await? else {
                return Ok(None);
            };
            match entry.kind {
                EntryKind::Symlink(target) => {
                    // The owner of a link in a shared directory can make it point elsewhere.
                    only_root(&next, entry.attributes, 0)?;
                    links += 1;
                    if links > LINKS {
                        return Err(OwnershipError::TooLarge { path: next });
                    }
                    if target.starts_with('/') {
                        at = PathBuf::from("/");
                    }
                    rest.extend(names(Path::new(&target)).into_iter().rev());
                }
                EntryKind::Directory => {
                    self.directory(&next).await?;
                    at = next;
                }
                // Only the last part of a path may be a file; a part after it is found to be missing.
                EntryKind::File(_) | EntryKind::Socket | EntryKind::Other => at = next,
            }
        }
        Ok(Some(at))
    }

    /// A directory on the path, checked once.
    async fn directory(&mut self, path: &Path) -> Result<(), OwnershipError> {
        if self.safe.contains(path) {
            return Ok(());
        }
        if let Some(entry) = self.files.entry(path).await? {
            let is_sticky = entry.attributes.mode & STICKY != 0;
            let writable = if is_sticky { 0 } else { WRITABLE };
            only_root(path, entry.attributes, writable)?;
        }
        self.safe.insert(path.to_path_buf());
        Ok(())
    }
}

/// How a user other than root can change a directory on the path to `path`, without `path` itself: a sentence that names the directory
/// and the command that corrects it. `None` if no other user can, or if a directory on the path is missing.
///
/// # Errors
/// An error of the host.
pub async fn changeable_way_to(
    files: &(dyn Files + Sync),
    path: &Path,
) -> HostResult<Option<String>> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    match Ownership::new(files).resolve(parent).await {
        Ok(_) => Ok(None),
        Err(OwnershipError::Host(error)) => Err(error),
        Err(OwnershipError::Untrusted { path, problem, fix }) => {
            let path = path.display();
            Ok(Some(format!("{path}: {problem} (`{fix} {path}`)")))
        }
        Err(other) => Ok(Some(format!("could not {other}"))),
    }
}

/// An error if the owner is not root, or if the mode has one of the bits `writable`. A link has no mode.
fn only_root(path: &Path, attributes: Attributes, writable: u32) -> Result<(), OwnershipError> {
    let Attributes { mode, uid, .. } = attributes;
    let (problem, fix) = if uid != 0 {
        (
            format!("it belongs to user {uid}"),
            "chown --no-dereference root:root",
        )
    } else if mode & writable != 0 {
        let problem = format!("group or others can write to it (mode {mode:04o})");
        (problem, "chmod go-w")
    } else {
        return Ok(());
    };
    Err(OwnershipError::Untrusted {
        path: path.to_path_buf(),
        problem,
        fix,
    })
}

/// The names of a path, without `.` and the root.
fn names(path: &Path) -> Vec<OsString> {
    path.components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_os_string()),
            Component::ParentDir => Some("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;
    use crate::role::RolePackage;

    const CURRENT: &str = "/opt/pf9/roles/r/current";
    const MANIFEST: &str = "version: 1\nname: r\nrelease: '1'\nabout: A role.\nnodes:\n  master: [example]\npayload: [bin/a]\n";

    /// An installed role.
    async fn installed() -> FakeHost {
        let host = FakeHost::new()
            .with_file("/opt/pf9/roles/r/1/role.yaml", MANIFEST)
            .with_file(
                "/opt/pf9/roles/r/1/phases/example.rhai",
                "phase(\"example\");\n",
            )
            .with_directory("/opt/pf9/roles/r/1/phases/templates")
            .with_file("/opt/pf9/roles/r/1/payload/bin/a", "program");
        link(&host, CURRENT, "1").await;
        host
    }

    async fn link(host: &FakeHost, path: &str, target: &str) {
        let made = host.symlink(Path::new(path), target).await;
        made.expect("its directory is there");
    }

    async fn load(host: &FakeHost, name: &str) -> Result<RolePackage, String> {
        let role = RolePackage::load_owned_by_root(host, name).await;
        role.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn a_role_that_only_root_can_change_is_used() {
        load(&installed().await, "r").await.expect("it is root's");
    }

    #[tokio::test]
    async fn files_writable_by_other_users_are_refused() {
        for (path, mode, uid, told) in [
            ("/opt/pf9/roles", 0o775, 0, "chmod go-w /opt/pf9/roles"),
            ("/opt/pf9", 0o755, 1000, "root:root /opt/pf9"),
            ("/opt/pf9/roles/r/1", 0o1777, 0, "mode 1777"),
            (
                "/opt/pf9/roles/r/1/role.yaml",
                0o644,
                1000,
                "it belongs to user 1000",
            ),
            (
                "/opt/pf9/roles/r/1/phases/example.rhai",
                0o646,
                0,
                "chmod go-w /opt/pf9/roles/r/1/phases/example.rhai",
            ),
            (
                "/opt/pf9/roles/r/1/phases/templates",
                0o757,
                0,
                "chmod go-w /opt/pf9/roles/r/1/phases/templates",
            ),
            (
                "/opt/pf9/roles/r/1/payload/bin/a",
                0o755,
                7,
                "it belongs to user 7",
            ),
        ] {
            let host = installed().await;
            let attributes = Attributes { mode, uid, gid: 0 };
            host.set_attributes(Path::new(path), attributes)
                .await
                .expect("it is there");
            let error = load(&host, "r").await.expect_err(path);
            assert!(error.contains(told) && error.contains(path), "{error}");
        }
    }

    #[tokio::test]
    async fn the_target_of_a_link_counts() {
        let host = installed().await.with_file("/home/u/a.tmpl", "text\n");
        let template = "/opt/pf9/roles/r/1/phases/templates/b.tmpl";
        link(&host, template, "/home/u/a.tmpl").await;
        load(&host, "r").await.expect("/home/u is root's so far");
        let theirs = Attributes {
            mode: 0o755,
            uid: 1000,
            gid: 1000,
        };
        host.set_attributes(Path::new("/home/u"), theirs)
            .await
            .expect("it is there");
        let error = load(&host, "r").await.expect_err("a user's directory");
        assert!(
            error.contains("/home/u: it belongs to user 1000"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_shared_directory_on_the_way_is_safe_where_links_are_roots() {
        let host = installed().await.with_directory("/tmp");
        let shared = Attributes::root(0o1777);
        let tmp = Path::new("/tmp");
        host.set_attributes(tmp, shared).await.expect("it is there");
        link(&host, "/tmp/r", "/opt/pf9/roles/r/current").await;
        load(&host, "/tmp/r").await.expect("root's link");
        let theirs = Attributes {
            uid: 1000,
            ..Attributes::root(0o777)
        };
        let link = Path::new("/tmp/r");
        host.with_world_mut(|world| world.own(link, theirs));
        let error = load(&host, "/tmp/r").await.expect_err("a user's link");
        assert!(error.contains("/tmp/r: it belongs to user 1000"), "{error}");
    }

    #[tokio::test]
    async fn parents_of_a_directory_are_checked_without_the_directory() {
        let host = FakeHost::new().with_directory("/srv/u/images");
        let theirs = Attributes {
            uid: 1000,
            ..Attributes::root(0o755)
        };
        let way = async |path: &str| {
            let told = changeable_way_to(&host, Path::new(path)).await;
            told.expect("the host answers")
        };
        assert_eq!(way("/srv/u/images").await, None);
        host.with_world_mut(|world| world.own(Path::new("/srv/u/images"), theirs));
        assert_eq!(way("/srv/u/images").await, None);
        assert_eq!(way("/srv/not/yet/there").await, None);
        host.with_world_mut(|world| world.own(Path::new("/srv/u"), theirs));
        let told = way("/srv/u/images").await.expect("a user's directory");
        assert_eq!(
            told,
            "/srv/u: it belongs to user 1000 (`chown --no-dereference root:root /srv/u`)"
        );
        assert_eq!(way("/srv/u").await, None);
    }

    #[tokio::test]
    async fn a_role_name_is_searched_only_among_installed_roles() {
        let host = FakeHost::new()
            .with_file("roles/r/role.yaml", MANIFEST)
            .with_file("/roles/r/role.yaml", MANIFEST);
        let error = RolePackage::load(&host, "r").await.expect_err("not there");
        assert_eq!(
            error.to_string(),
            "find role `r`: looked in /opt/pf9/roles/r/current"
        );
        for named in ["./roles/r", "roles/r", ".", ".."] {
            assert_eq!(RolePackage::directory(named), Path::new(named));
        }
    }
}
