//! Verifies stored backups: compares each with its own hash, its manifest, a restored copy of it, and this cluster.

use anyhow::{Result, bail};
use engine::kubernetes::etcd_backup::{BackupManifest, ClusterIdentity, Content, name_of};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::backup::Interrupted;
use super::settings::Backups;
use super::store::{Stored, stored};
use crate::etcd::client::api::Etcd;
use crate::etcd::restore_test::scratch_container::Rejected;
use crate::etcd::restore_test::{self, RestoredSnapshot};
use crate::etcd::store::snapshot;

/// What is wrong with a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct BackupVerdict {
    pub(crate) name: String,
    /// Empty if it restores to what its manifest says.
    pub(crate) problems: Vec<String>,
}

/// Verifies the named backups, or all, and passes each verdict to `verdict` as soon as it is known. Changes no backup.
///
/// # Errors
/// There is no backup of a name, docker does not answer, `cancel` was cancelled, or a restore test could not run: it is not known then whether
/// those backups are good. In the last case all other backups have had their verdict.
pub(crate) async fn verify(
    backups: &Backups,
    names: &[String],
    cancel: &CancellationToken,
    mut verdict: impl FnMut(BackupVerdict),
) -> Result<()> {
    let mut all = stored(&backups.directory)?;
    if let Some(unknown) = names
        .iter()
        .find(|name| !all.iter().any(|one| one.name == plain(name)))
    {
        bail!(
            "verify {unknown}: it is not in {}; `nodelet etcd list` shows the backups there",
            backups.directory.display()
        );
    }
    all.retain(|one| names.is_empty() || names.iter().any(|name| plain(name) == one.name));
    // Docker must answer first: otherwise a good backup could be reported as damaged.
    restore_test::sweep(&backups.image).await?;
    let here = here().await;
    if here.is_none() {
        tracing::warn!(
            "etcd does not say which cluster this is: the CLUSTER_ID in a backup's manifest decides whether the backup is of this cluster"
        );
    }
    let mut unknown = Vec::new();
    for one in &all {
        let found = tokio::select! {
            () = cancel.cancelled() => {
                restore_test::sweep(&backups.image).await?;
                return Err(Interrupted.into());
            }
            found = problems(backups, one, here.as_deref()) => found,
        };
        restore_test::sweep(&backups.image).await?;
        match found {
            Ok(problems) => verdict(BackupVerdict {
                name: one.name.clone(),
                problems,
            }),
            Err(error) => unknown.push(format!("{}: could not {error:#}", one.name)),
        }
    }
    if !unknown.is_empty() {
        bail!(
            "tell whether these are good, because the restore test could not run: {}",
            unknown.join("; ")
        );
    }
    Ok(())
}

/// A name without its suffix: operators give it with the suffix or without.
fn plain(name: &str) -> &str {
    name_of(name).unwrap_or(name)
}

/// Which cluster this is.
async fn here() -> Option<String> {
    Etcd::member().await.ok()?.cluster().await.ok()?
}

/// What is wrong with a backup.
///
/// # Errors
/// The restore test could not run.
async fn problems(backups: &Backups, one: &Stored, here: Option<&str>) -> Result<Vec<String>> {
    // Reading a pipe or a device might never end.
    if !std::fs::symlink_metadata(&one.path).is_ok_and(|said| said.is_file()) {
        return Ok(vec!["it is not a regular file".to_owned()]);
    }
    let path = one.path.clone();
    let inspected = tokio::task::spawn_blocking(move || snapshot::inspect(&path)).await;
    let content = match inspected {
        Ok(Ok(content)) => content,
        Ok(Err(error)) => return Ok(vec![format!("{error:#}")]),
        Err(error) => return Ok(vec![format!("it could not be read: {error}")]),
    };
    let restored = match restore_test::verify(&one.path, &backups.image).await {
        Ok(restored) => restored,
        Err(error) if error.downcast_ref::<Rejected>().is_some() => {
            return Ok(vec![format!("it does not restore: could not {error:#}")]);
        }
        Err(error) => return Err(error),
    };
    let here = here.map_or(
        ClusterIdentity::Id(&backups.cluster_id),
        ClusterIdentity::Uid,
    );
    Ok(differences(&one.manifest, &content, &restored, here))
}

/// The differences between a backup, its manifest, its restored copy and this cluster.
fn differences(
    manifest: &std::result::Result<BackupManifest, String>,
    content: &Content,
    restored: &RestoredSnapshot,
    here: ClusterIdentity<'_>,
) -> Vec<String> {
    let mut problems = Vec::new();
    let of = restored.cluster.as_deref().unwrap_or("no cluster");
    match manifest {
        Err(why) => problems.push(why.clone()),
        Ok(manifest) => {
            if manifest.content != *content {
                problems.push(format!(
                    "it is another file than its manifest was written for: {} bytes with SHA-256 {}, not {} with {}",
                    content.size, content.sha256, manifest.content.size, manifest.content.sha256
                ));
            }
            if (manifest.revision, manifest.keys) != (restored.revision, restored.keys) {
                problems.push(format!(
                    "restored, it has {} keys at revision {}; its manifest says {} at {}",
                    restored.keys, restored.revision, manifest.keys, manifest.revision
                ));
            }
            if manifest.cluster != of {
                problems.push(format!(
                    "restored, it is of cluster {of}; its manifest says {}",
                    manifest.cluster
                ));
            }
        }
    }
    match (here, manifest) {
        (ClusterIdentity::Uid(here), _) if here != of => {
            problems.push(format!(
                "it is foreign: of cluster {of}, and this is {here}"
            ));
        }
        (ClusterIdentity::Id(id), Ok(manifest)) if !manifest.is_of(here) => {
            problems.push(format!(
                "it is foreign: taken under CLUSTER_ID {:?}, and this is {id:?}",
                manifest.cluster_id
            ));
        }
        _ => {}
    }
    problems
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::etcd::store::tests::manifest;

    #[test]
    fn every_difference_is_named() {
        let manifest = manifest(SystemTime::UNIX_EPOCH);
        let content = manifest.content.clone();
        let restored = RestoredSnapshot {
            revision: 5,
            keys: 3,
            cluster: Some("u".to_owned()),
        };
        let said = |manifest, content: &Content, restored: &RestoredSnapshot, here| {
            differences(&manifest, content, restored, here).join("; ")
        };
        let ours = ClusterIdentity::Uid("u");
        let whole = || Ok(manifest.clone());
        assert_eq!(said(whole(), &content, &restored, ours), "");
        let unnamed = ClusterIdentity::Id("");
        assert_eq!(said(whole(), &content, &restored, unnamed), "");
        for (here, says) in [
            (
                ClusterIdentity::Uid("v"),
                "foreign: of cluster u, and this is v",
            ),
            (
                ClusterIdentity::Id("lab"),
                r#"foreign: taken under CLUSTER_ID "", and this is "lab""#,
            ),
        ] {
            let foreign = said(whole(), &content, &restored, here);
            assert!(foreign.contains(says), "{foreign}");
        }
        let other = Content {
            size: 5,
            ..content.clone()
        };
        assert!(said(whole(), &other, &restored, ours).contains("another file"));
        let fewer = RestoredSnapshot {
            keys: 2,
            ..restored.clone()
        };
        assert!(said(whole(), &content, &fewer, ours).contains("2 keys"));
        let swapped = RestoredSnapshot {
            cluster: Some("w".to_owned()),
            ..restored
        };
        let swapped = said(whole(), &content, &swapped, unnamed);
        assert!(
            swapped.contains("of cluster w; its manifest says u"),
            "{swapped}"
        );
        assert_eq!(
            said(Err("none".to_owned()), &content, &restored, ours),
            "none"
        );
    }

    #[test]
    fn names_may_have_their_suffix() {
        assert_eq!(plain("etcd-1.db"), "etcd-1");
        assert_eq!(plain("etcd-1"), "etcd-1");
    }
}
