//! Carries out one undo. An undo needs only a host.

use std::path::Path;
use std::time::Duration;

use ipnet::IpNet;
use sha2::Digest as _;

use super::data::{EntryType, SavedContent, Undo};
use crate::host::{Attributes, ContainerState, Entry, EntryKind, Host};
use crate::kubernetes::masters::address_in;
use crate::model::{chain, is_in_kernel_file_system};
use crate::resource::directory_contents;
use crate::resource::docker::{container_runtime, ending};
use crate::resource::kernel::packet_filter::ChainPlace;
use crate::resource::{KEPT_LIMIT, ResourceError, ResourceResult};

/// How long a container may take to stop when its creation is reverted.
const GRACE: Duration = Duration::from_secs(10);

impl Undo {
    /// Reverts the effect.
    ///
    /// # Errors
    /// An operation of the host failed.
    pub async fn carry_out(&self, host: &dyn Host) -> ResourceResult<()> {
        match self {
            // Such a file was never replaced, and a restore would fail each time. A script that names one is refused, but a ledger of an
            // earlier version may have it.
            Self::RestoreFile { path, .. } | Self::RestoreSymlink { path, .. }
                if is_in_kernel_file_system(path) => {}
            // Checked first, because a read-only file system refuses the removal even if the file does not exist.
            Self::RemoveFile { path } => {
                if host.entry(path).await?.is_some() {
                    host.remove(path).await?;
                }
            }
            Self::RestoreFile {
                path,
                content,
                attributes,
            } => {
                let bytes = content.read(host).await?;
                if !holds(host, path, &bytes, *attributes).await? {
                    host.write(path, &bytes, *attributes).await?;
                }
            }
            Self::RestoreSymlink { path, target } => {
                // `symlink` replaces only a link; an entry of another kind must be removed first.
                if !matches!(
                    host.entry(path).await?,
                    Some(Entry {
                        kind: EntryKind::Symlink(_),
                        ..
                    })
                ) {
                    host.remove(path).await?;
                }
                host.symlink(path, target).await?;
            }
            Self::RemoveDirectory { path } => {
                if host.entry(path).await?.is_some() && host.list(path).await?.is_empty() {
                    host.remove(path).await?;
                }
            }
            Self::RemoveTree { path } => {
                host.unmount_below(path).await?;
                host.remove_tree(path).await?;
            }
            Self::ClearDirectory { path, spared } => {
                directory_contents::clear(host, path, spared).await?;
            }
            Self::RestoreAttributes {
                path,
                attributes,
                kind,
            } => {
                let Some(entry) = host.entry(path).await? else {
                    return Ok(());
                };
                // If the change itself failed, nothing has to be restored, and a restore would often fail, too.
                if entry.attributes == *attributes {
                    return Ok(());
                }
                let there = EntryType::of(&entry.kind);
                let is_the_same = match kind {
                    Some(kind) => there == *kind,
                    // The record does not contain the type. Attributes of links were rarely changed.
                    None => there != EntryType::Link,
                };
                // An entry that has replaced it has its own attributes.
                if is_the_same {
                    host.set_attributes(path, *attributes).await?;
                } else {
                    let path = path.display();
                    tracing::warn!(
                        "{path} keeps its mode and owner: it is another kind of entry now"
                    );
                }
            }
            Self::RemoveContainer { name } => {
                if container_runtime::has_ours(host, name).await? {
                    ending::end(host, name, GRACE).await?;
                }
            }
            Self::RecreateContainer { config, running } => {
                // Neither the recreated container nor one that another user has created under its name has our label: both stay.
                let theirs =
                    |state: &ContainerState| !state.labels.contains_key(container_runtime::OWNER);
                if host
                    .container(&config.name)
                    .await?
                    .is_none_or(|state| !theirs(&state))
                {
                    ending::remove(host, &config.name).await?;
                    host.create_container(config).await?;
                }
                if *running {
                    host.start_container(&config.name).await?;
                }
            }
            Self::StopContainer { name } => {
                if container_runtime::has_ours(host, name).await? {
                    ending::stop(host, name, GRACE).await?;
                }
            }
            Self::RemoveImage { reference } => {
                if container_runtime::is_there(host, &self.key()).await? {
                    host.remove_image(reference).await?;
                }
            }
            Self::RestoreImage { reference, id } => {
                if !container_runtime::is_there(host, &self.key()).await? {
                    return Ok(());
                }
                // An operator or another program may have removed it as an unused image.
                if host.image(id).await?.is_none() {
                    tracing::warn!("image {reference} stays: the previous image no longer exists");
                    return Ok(());
                }
                // This also deletes the image that has the reference now, unless it has another name or a container uses it.
                if host
                    .image(reference)
                    .await?
                    .is_some_and(|now| now.id != *id)
                    && let Err(error) = host.remove_image(reference).await
                {
                    tracing::warn!("an image was not deleted: {error}");
                }
                host.tag_image(id, reference).await?;
            }
            Self::StopUnit { name } => {
                container_runtime::before_last_stop(host, name).await;
                host.stop_unit(name).await?;
            }
            Self::StartUnit { name } => {
                let unit = host.unit(name).await?;
                if unit.loaded && !unit.is_active() {
                    host.reset_failed_unit(name).await?;
                    let began = host.now();
                    host.start_unit(name).await?;
                    container_runtime::after_start(host, name, began).await;
                }
            }
            Self::RestartUnit { name } => {
                // It ran before; the package of the unit may have been removed since.
                if host.unit(name).await?.loaded {
                    container_runtime::restart(host, name).await?;
                }
            }
            Self::SetUnitEnabled { name, enabled } => {
                if host.unit(name).await?.loaded {
                    host.set_unit_enabled(name, *enabled).await?;
                }
            }
            Self::ReloadUnits => host.reload_units().await?,
            Self::SetSysctl { key, value } => {
                // A setting whose module or link was removed no longer exists.
                if host.sysctl(key).await?.is_some() {
                    host.set_sysctl(key, value).await?;
                }
            }
            Self::UnloadModule { name, stay } => host.unload_module(name, stay).await?,
            Self::PurgePackages { names } => host.purge_packages(names).await?,
            Self::DeleteObject { access, object } => host.delete_object(access, object).await?,
            Self::RestoreObject {
                access, content, ..
            } => {
                let object = serde_json::from_slice(&content.read(host).await?).map_err(|_| {
                    ResourceError::Missing {
                        what: format!("read {} as an object", content.path().display()),
                    }
                })?;
                host.apply_object(access, &object).await?;
            }
            Self::PatchNode {
                access,
                node,
                patch,
            } => host.patch_node(access, node, patch).await?,
            Self::RemoveNodeRoutes => {
                let routes = host.node_routes().await?;
                let subnets: Vec<IpNet> = routes.iter().map(|route| route.subnet).collect();
                if !subnets.is_empty() {
                    host.remove_node_routes(&subnets).await?;
                }
            }
            Self::RemoveEtcdLearner { endpoints, peer } => {
                remove_learner(host, endpoints, peer).await?;
            }
            Self::RestoreChain {
                family,
                table,
                name,
                before,
            } => {
                let (family, table, name) = (*family, table.as_str(), name.as_str());
                let place = ChainPlace {
                    family,
                    table,
                    name,
                };
                place.set(host, before.as_ref()).await?;
            }
        }
        Ok(())
    }
}

impl SavedContent {
    /// The bytes, from memory or from their file.
    async fn read(&self, host: &dyn Host) -> ResourceResult<Vec<u8>> {
        if let Some(bytes) = self.at_hand() {
            return Ok(bytes.to_vec());
        }
        let path = self.path();
        let bytes = host.read(&path, KEPT_LIMIT).await?;
        let lost = |what: String| ResourceError::Unmet {
            what,
            next: format!(
                "restore {} from a backup of this host: it is the only copy of the previous content",
                path.display()
            ),
        };
        let bytes = bytes
            .ok_or_else(|| lost(format!("find the previous content in {}", path.display())))?;
        if crate::model::hex(&sha2::Sha256::digest(&bytes)) != self.sha256 {
            return Err(lost(format!(
                "trust the previous content in {}: it has been changed",
                path.display()
            )));
        }
        Ok(bytes)
    }
}

/// Removes this host's learner from etcd. A member with a vote stays: to remove it is a decision about the quorum. A learner that stays,
/// because no other member answers, has no vote either; it is replaced when this host joins again.
async fn remove_learner(host: &dyn Host, endpoints: &[String], peer: &str) -> ResourceResult<()> {
    let members = match host.member_list(endpoints).await {
        Ok(members) => members,
        Err(error) => {
            tracing::warn!("{}", still_listed(peer, &chain(&error).join(": ")));
            return Ok(());
        }
    };
    let ours = members
        .iter()
        .find(|one| one.peer_urls.iter().any(|url| url == peer));
    match ours {
        Some(member) if member.learner => Ok(host.member_remove(endpoints, member.id).await?),
        Some(_) | None => Ok(()),
    }
}

/// What an operator has to do if a learner may have stayed. It may have no name yet, so the command has its address.
fn still_listed(peer: &str, why: &str) -> String {
    let member = address_in(peer).map_or_else(|| "ID".to_owned(), |its| its.to_string());
    format!(
        "{peer} may still be listed as a member of etcd: {why}; `nodelet cluster remove {member}` on another master removes it"
    )
}

/// Whether a file still has its previous content and attributes, because it was never replaced.
async fn holds(
    host: &dyn Host,
    path: &Path,
    bytes: &[u8],
    attributes: Attributes,
) -> ResourceResult<bool> {
    let size = bytes.len() as u64;
    match host.entry(path).await? {
        Some(entry) if entry.kind == EntryKind::File(size) && entry.attributes == attributes => {
            Ok(host.read(path, size).await?.as_deref() == Some(bytes))
        }
        _ => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;

    const PATH: &str = "/home/u/extra";

    /// A user who owns the parent directory replaces the directory by another entry before its attributes are restored.
    #[tokio::test]
    async fn attributes_are_restored_only_on_the_same_file() {
        let theirs = Attributes {
            mode: 0o755,
            uid: 1000,
            gid: 1000,
        };
        let recorded = |kind| Undo::RestoreAttributes {
            path: PATH.into(),
            attributes: theirs,
            kind,
        };
        for (kind, present, restored) in [
            (Some(EntryType::Directory), "directory", true),
            (None, "directory", true),
            (Some(EntryType::Directory), "link", false),
            (None, "link", false),
            (Some(EntryType::Directory), "file", false),
            (Some(EntryType::File), "file", true),
        ] {
            let mut host = FakeHost::new().with_directory("/etc/cron.d");
            host = match present {
                "directory" => host.with_directory(PATH),
                "file" => host.with_file(PATH, "a setuid program of another user"),
                _ => {
                    let host = host.with_directory("/home/u");
                    let made = crate::host::Files::symlink(&host, Path::new(PATH), "/etc/cron.d");
                    made.await.expect("its directory is there");
                    host
                }
            };
            let before = host.snapshot();
            let undone = recorded(kind).carry_out(&host).await;
            undone.expect("the undo works");
            let case = format!("{kind:?} and a {present}");
            assert_eq!(host.snapshot() != before, restored, "{case}");
            let etc = Path::new("/etc/cron.d");
            let etc = crate::host::Files::entry(&host, etc).await;
            let etc = etc.expect("the host answers").expect("it is there");
            assert_eq!(etc.attributes.uid, 0, "{case}");
        }
    }

    /// The change failed, because the kernel makes no files there; an undo that fails, too, would block each later run.
    #[tokio::test]
    async fn a_file_of_the_kernel_that_was_never_replaced_is_not_restored() {
        const THREADS: &str = "/proc/sys/kernel/threads-max";
        let host = FakeHost::new().with_file(THREADS, "63000\n");
        let content = SavedContent::new(b"62000\n".to_vec());
        for undo in [
            Undo::RestoreFile {
                path: THREADS.into(),
                content,
                attributes: Attributes::root(0o644),
            },
            Undo::RestoreSymlink {
                path: "/proc/self".into(),
                target: "1".to_owned(),
            },
        ] {
            host.clear_journal();
            undo.carry_out(&host).await.expect("nothing is to be done");
            assert_eq!(host.mutations(), 0, "{undo:?}");
        }
    }

    /// The directory of a file that could not be made may be missing, or something else.
    #[tokio::test]
    async fn a_file_that_was_never_made_is_not_removed() {
        let host = FakeHost::new().with_file("/etc/one", "");
        for path in ["/etc/two", "/missing/two", "/etc/one/two", "/proc/two"] {
            host.clear_journal();
            let undo = Undo::RemoveFile { path: path.into() };
            undo.carry_out(&host).await.expect("nothing is to be done");
            assert_eq!(host.mutations(), 0, "{path}");
        }
    }

    #[test]
    fn a_learner_that_may_have_stayed_is_removed_by_its_address() {
        let said = still_listed("https://[fd00::13]:2380", "no member answers");
        assert!(
            said.contains("no member answers; `nodelet cluster remove fd00::13`"),
            "{said}"
        );
    }

    /// For example on a read-only file system, where the change itself failed.
    #[tokio::test]
    async fn attributes_that_could_not_be_changed_are_not_set_back() {
        let host = FakeHost::new().with_directory(PATH);
        let entry = crate::host::Files::entry(&host, Path::new(PATH)).await;
        let entry = entry.expect("the host answers").expect("it is there");
        let undo = Undo::restore_attributes(Path::new(PATH), &entry);
        host.clear_journal();
        undo.carry_out(&host).await.expect("nothing is to be done");
        assert_eq!(host.mutations(), 0);
    }
}
