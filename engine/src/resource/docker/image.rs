//! A container image that is on the host, loaded from an archive of the role's payload.
//!
//! A reference does not distinguish two builds, so the content id is compared: an archive that has changed under the same
//! reference is loaded again. The replaced image gets its own reference until a rollback or a clean, so that it can be restored.

use std::path::PathBuf;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::host::{ArchivedImage, EntryKind, Host};
use crate::model::chain;
use crate::resource::docker::container_runtime;
use crate::resource::{
    Action, Change, Checksums, Context, Receipt, Resource, ResourceError, ResourceResult, Undo,
};

/// The name of images that were replaced; the tag is the beginning of their content id.
const REPLACED: &str = "pf9-replaced";
/// Number of digits of a content id in reports.
const SHOWN: usize = 12;

/// An image. Nothing is pulled: the role's payload contains the images that it needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageSpec {
    /// Its reference.
    pub reference: String,
    /// Archive as `docker save` writes it.
    pub archive: PathBuf,
    /// The checksums by which the archive is verified before it is loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksums: Option<Checksums>,
}

/// The images of the runtime and of the archive.
#[derive(Debug)]
pub struct Observed {
    /// Content id of the image with this reference, if there is one.
    present: Option<String>,
    /// Content id of the image in the archive; empty if it is not known.
    archived: String,
    /// Why it is not known, if the archive exists.
    unread: Option<String>,
}

impl Observed {
    /// The ids in the runtime and in the archive, if they differ.
    fn replaced(&self) -> Option<(&str, &str)> {
        let present = self.present.as_deref()?;
        let both_known = !present.is_empty() && !self.archived.is_empty();
        (both_known && present != self.archived).then_some((present, &self.archived))
    }
}

#[async_trait]
impl Resource for ImageSpec {
    type Observed = Observed;

    fn label(&self) -> String {
        self.reference.clone()
    }

    async fn observe(&self, cx: &Context<'_>) -> ResourceResult<Observed> {
        // If no runtime is installed, there are no images. A runtime that does not answer is an error.
        let present = if container_runtime::has(cx.host).await? {
            cx.host.image(&self.reference).await?
        } else {
            None
        };
        let mut observed = Observed {
            present: present.map(|image| image.id),
            archived: String::new(),
            unread: None,
        };
        if let Some(present) = &observed.present
            && !cx.absent
        {
            match self.archived(cx, present).await {
                Ok(id) => observed.archived = id,
                // An image that is already loaded does not need its archive.
                Err(error) => observed.unread = Some(chain(&error).join(": ")),
            }
        }
        Ok(observed)
    }

    fn diff(&self, observed: &Observed, absent: bool) -> Option<Change> {
        match (&observed.present, absent) {
            (None, false) => Some(
                Change::new(Action::Create).with(
                    "archive",
                    "",
                    self.archive
                        .file_name()
                        .unwrap_or_default()
                        .to_string_lossy(),
                ),
            ),
            (Some(_), true) => Some(Change::new(Action::Remove)),
            (Some(_), false) => observed.replaced().map(|(present, archived)| {
                Change::new(Action::Change).with("content id", short(present), short(archived))
            }),
            (None, true) => None,
        }
    }

    async fn converge(
        &self,
        _observed: &Observed,
        cx: &Context<'_>,
        receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        if cx.absent {
            cx.host.remove_image(&self.reference).await?;
            return Ok(());
        }
        // Loading an archive loads all its images, so its table of contents is read first.
        let mut comes = self.verify_archive(cx.host).await?.unwrap_or_default();
        for image in &mut comes {
            if same(&image.reference, &self.reference) {
                image.reference.clone_from(&self.reference);
            }
        }
        if comes.is_empty() {
            comes.push(ArchivedImage {
                reference: self.reference.clone(),
                id: String::new(),
            });
        }
        for image in comes {
            remove_obstacles(&image, cx, receipt).await?;
        }
        cx.host.load_image(&self.archive).await?;
        if cx.host.image(&self.reference).await?.is_none() {
            return Err(self.other_images(&[]));
        }
        Ok(())
    }

    fn note(&self, observed: &Observed) -> Option<String> {
        observed.unread.as_ref().map(|why| {
            format!(
                "it is not known whether image {} is the one in its archive: could not {why}",
                self.reference
            )
        })
    }
}

/// Records the undo of loading an image. Another image that has the reference gets a second name, so that it is not lost.
pub(in crate::resource) async fn remove_obstacles(
    image: &ArchivedImage,
    cx: &Context<'_>,
    receipt: &mut Receipt<'_>,
) -> ResourceResult<()> {
    let reference = image.reference.clone();
    let Some(there) = cx.host.image(&reference).await? else {
        return receipt.push(Undo::RemoveImage { reference }).await;
    };
    if there.id.is_empty() || image.id.is_empty() || there.id == image.id {
        return Ok(());
    }
    let hex = there.id.trim_start_matches("sha256:");
    let kept = format!("{REPLACED}:{}", &hex[..hex.len().min(32)]);
    if cx.host.image(&kept).await?.is_none() {
        let reference = kept.clone();
        receipt.push(Undo::RemoveImage { reference }).await?;
        cx.host.tag_image(&there.id, &kept).await?;
    }
    let id = there.id;
    receipt.push(Undo::RestoreImage { reference, id }).await
}

/// The beginning of a content id.
fn short(id: &str) -> &str {
    let hex = id.trim_start_matches("sha256:");
    hex.get(..SHOWN).unwrap_or(hex)
}

impl ImageSpec {
    /// Whether this reference names the image.
    pub(crate) fn is_named(&self, reference: &str) -> bool {
        same(&self.reference, reference)
    }

    /// The images in the archive, one of which is this image; `None` if the archive has no table of contents. Cancel safe.
    ///
    /// # Errors
    /// The archive does not exist, is empty or damaged, or holds other images.
    pub(crate) async fn verify_archive(
        &self,
        host: &dyn Host,
    ) -> ResourceResult<Option<Vec<ArchivedImage>>> {
        let archive = self.archive.display();
        let problem = match host.entry(&self.archive).await?.map(|entry| entry.kind) {
            None => Some(format!(
                "find image {}: neither the container runtime nor the role's payload ({archive}) has it",
                self.reference
            )),
            Some(EntryKind::File(0)) => Some(format!(
                "load image {}: the archive {archive} is empty",
                self.reference
            )),
            Some(_) => None,
        };
        if let Some(what) = problem {
            if let Some(checksums) = &self.checksums
                && checksums.has_another_version(host).await
            {
                checksums.verify(host, &self.archive).await?;
            }
            let next = "install the role's package again, or name an image that the host has";
            let next = next.to_owned();
            return Err(ResourceError::Unmet { what, next });
        }
        let brings = self.verify_content(host).await?;
        if let Some(brings) = &brings
            && !brings.iter().any(|one| self.is_named(&one.reference))
        {
            let others = brings.iter().map(|one| one.reference.clone());
            return Err(self.other_images(&others.collect::<Vec<_>>()));
        }
        Ok(brings)
    }

    /// The images in an existing archive; `None` if the archive has no table of contents. Cancel safe.
    ///
    /// # Errors
    /// The archive is damaged.
    pub(crate) async fn verify_content(
        &self,
        host: &dyn Host,
    ) -> ResourceResult<Option<Vec<ArchivedImage>>> {
        if let Some(checksums) = &self.checksums {
            checksums.verify(host, &self.archive).await?;
        }
        Ok(host.archived_images(&self.archive).await?)
    }

    /// Content id of the image in the archive; empty if there is no archive, if the archive does not say, or if the archive is that of
    /// another version of the role, which is installed and not applied.
    ///
    /// # Errors
    /// The archive has another image than the `present` one, and is not the archive that was packed, so it would not be loaded.
    async fn archived(&self, cx: &Context<'_>, present: &str) -> ResourceResult<String> {
        if cx.host.entry(&self.archive).await?.is_none() {
            return Ok(String::new());
        }
        let brings = cx
            .host
            .archived_images(&self.archive)
            .await?
            .unwrap_or_default();
        let its = brings
            .into_iter()
            .find(|one| same(&one.reference, &self.reference));
        let id = its.map(|its| its.id).unwrap_or_default();
        if id != present
            && let Some(checksums) = &self.checksums
            && let Err(error) = checksums.verify_remembered(cx.host, &self.archive).await
        {
            // The archive of another version says nothing about this image.
            return match checksums.has_another_version(cx.host).await {
                true => Ok(String::new()),
                false => Err(error),
            };
        }
        Ok(id)
    }

    fn other_images(&self, brings: &[String]) -> ResourceError {
        let brings = match brings {
            [] => String::new(),
            some => format!(" ({})", some.join(", ")),
        };
        ResourceError::Unmet {
            what: format!(
                "load image {}: the archive {} holds other images{brings}",
                self.reference,
                self.archive.display()
            ),
            next: "name an image that the archive holds, or install a role package that contains this one"
                .to_owned(),
        }
    }
}

/// Whether two references name the same image. Docker omits its own registry and the tag `latest`, also in the archives that it
/// writes.
pub(in crate::resource) fn same(one: &str, other: &str) -> bool {
    short_reference(one) == short_reference(other)
}

/// A reference as docker shows it.
pub(in crate::resource) fn short_reference(reference: &str) -> String {
    let short = ["index.docker.io/", "docker.io/"]
        .iter()
        .find_map(|registry| reference.strip_prefix(registry))
        .unwrap_or(reference);
    let short = short.strip_prefix("library/").unwrap_or(short);
    let last = short.rsplit('/').next().unwrap_or(short);
    if last.contains([':', '@']) {
        short.to_owned()
    } else {
        format!("{short}:latest")
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use sha2::Digest as _;

    use super::*;
    use crate::host::Services as _;
    use crate::host::fake::FakeHost;
    use crate::resource::ANOTHER_VERSION;
    use crate::resource::tests::{apply_in, context};

    const ARCHIVE: &str = "/opt/images/app.tar";

    async fn host(holds: &[&str]) -> FakeHost {
        let host = FakeHost::new()
            .with_image_archive(ARCHIVE, holds)
            .with_unit("docker.service", "[Service]\n");
        host.start_unit("docker.service").await.expect("it starts");
        host
    }

    /// Converges `app:1`; returns the error and the undos.
    async fn converge(host: &FakeHost) -> (Option<ResourceError>, Vec<Undo>) {
        let image = ImageSpec {
            reference: "app:1".to_owned(),
            archive: ARCHIVE.into(),
            checksums: None,
        };
        let mut receipt = Receipt::default();
        let result = apply_in(&context(host), &image, &mut receipt).await;
        if let Ok(change) = &result {
            assert!(change.is_some(), "it differs");
        }
        (result.err(), receipt.undos)
    }

    #[tokio::test]
    async fn an_archive_of_other_images_is_not_loaded() {
        let host = host(&["other:1", "third:2"]).await;
        let before = host.snapshot();
        let (error, undos) = converge(&host).await;
        assert_eq!(
            error.expect("refused").to_string(),
            format!(
                "load image app:1: the archive {ARCHIVE} holds other images (other:1, third:2)"
            )
        );
        assert_eq!(undos, []);
        assert_eq!(host.snapshot(), before, "nothing was loaded");
    }

    #[tokio::test]
    async fn a_damaged_archive_is_not_loaded() {
        let host = host(&["app:1"]).await;
        let sums = format!("{}  images/app.tar\n", "0".repeat(64));
        let file = "/opt/SHA256SUMS";
        host.with_world_mut(|world| world.file(file, &sums));
        let image = ImageSpec {
            reference: "app:1".to_owned(),
            archive: ARCHIVE.into(),
            checksums: Some(Checksums {
                file: file.into(),
                sha256: crate::model::hex(&sha2::Sha256::digest(&sums)),
            }),
        };
        let before = host.snapshot();
        let result = apply_in(&context(&host), &image, &mut Receipt::default()).await;
        let error = result.expect_err("it is refused").to_string();
        assert!(
            error.contains("app.tar of the role's package: it is damaged"),
            "{error}"
        );
        assert_eq!(host.snapshot(), before, "nothing was loaded");
    }

    /// A damaged archive causes no change if the image is already loaded, but a note.
    #[tokio::test]
    async fn an_image_that_is_there_is_not_outdated_by_a_damaged_archive() {
        let host = host(&["app:1"]).await;
        let packed = crate::model::hex(&sha2::Sha256::digest("fake-image:app:1"));
        let (error, _) = converge(&host).await;
        assert!(error.is_none(), "{error:?}");
        let sums = format!("{packed}  images/app.tar\n");
        let file = "/opt/SHA256SUMS";
        host.with_world_mut(|world| world.file(file, &sums));
        let image = ImageSpec {
            reference: "app:1".to_owned(),
            archive: ARCHIVE.into(),
            checksums: Some(Checksums {
                file: file.into(),
                sha256: crate::model::hex(&sha2::Sha256::digest(&sums)),
            }),
        };
        let cx = context(&host);
        let observed = image.observe(&cx).await.expect("docker answers");
        assert_eq!(
            (image.diff(&observed, false), image.note(&observed)),
            (None, None)
        );
        host.with_world_mut(|world| world.file(ARCHIVE, "fake-image:app:1\nbuild 2"));
        let observed = image.observe(&cx).await.expect("docker answers");
        assert_eq!(image.diff(&observed, false), None);
        let note = image.note(&observed).expect("it is told");
        assert!(
            note.contains("app.tar of the role's package: it is damaged"),
            "{note}"
        );
    }

    #[tokio::test]
    async fn an_archive_of_a_version_that_is_not_applied_outdates_no_image() {
        let host = host(&["app:1"]).await;
        let (error, _) = converge(&host).await;
        assert!(error.is_none(), "{error:?}");
        let sums = format!("{}  images/app.tar\n", "0".repeat(64));
        let digest = crate::model::hex(&sha2::Sha256::digest(&sums));
        let manifest = format!("checksums: {digest}\n");
        let file = "/opt/SHA256SUMS";
        host.with_world_mut(|world| {
            world.file(file, &sums);
            world.file("/opt/role.yaml", &manifest);
            world.file(ARCHIVE, "fake-image:app:1\nbuild 2");
        });
        let image = ImageSpec {
            reference: "app:1".to_owned(),
            archive: ARCHIVE.into(),
            checksums: Some(Checksums {
                file: file.into(),
                sha256: "1".repeat(64),
            }),
        };
        let observed = image.observe(&context(&host)).await;
        let observed = observed.expect("docker answers");
        assert_eq!(
            (image.diff(&observed, false), image.note(&observed)),
            (None, None)
        );
        // If docker loses the image, its archive is not loaded, and the reason is the true one.
        for archive in ["differs", "is not there"] {
            let error = image.verify_archive(&host).await.expect_err(archive);
            let error = error.to_string();
            assert!(error.contains(ANOTHER_VERSION), "{archive}: {error}");
            host.with_world_mut(|world| world.remove(ARCHIVE));
        }
    }

    #[tokio::test]
    async fn other_images_of_the_archive_are_reverted_too() {
        let host = host(&["app:1", "other:1"]).await;
        let before = host.snapshot();
        let (error, undos) = converge(&host).await;
        assert!(error.is_none(), "{error:?}");
        assert_ne!(host.snapshot(), before);
        assert!(crate::resource::revert(&undos, &host).await.is_empty());
        assert_eq!(host.snapshot(), before);
    }

    #[tokio::test]
    async fn earlier_resources_stay() {
        let host = host(&["app:1", "other:1"]).await;
        host.with_world_mut(|world| world.image("other:1"));
        let (_, undos) = converge(&host).await;
        assert!(crate::resource::revert(&undos, &host).await.is_empty());
        let images = host.with_world(|world| world.images.keys().cloned().collect::<Vec<_>>());
        assert_eq!(images, ["other:1"]);
    }

    #[tokio::test]
    async fn a_changed_archive_of_the_same_reference_is_loaded_and_can_be_taken_back() {
        let host = host(&["app:1", "other:1"]).await;
        let (error, first) = converge(&host).await;
        assert!(error.is_none(), "{error:?}");
        let before = host.snapshot();
        let id = |host: &FakeHost| host.with_world(|world| world.images["app:1"].clone());
        let old = id(&host);
        host.with_world_mut(|world| world.file(ARCHIVE, "fake-image:app:1,other:1\nbuild 2"));
        let (error, second) = converge(&host).await;
        assert!(error.is_none(), "{error:?}");
        assert_ne!(id(&host), old);
        let known = host.with_world(|world| world.images.values().any(|one| *one == old));
        assert!(known, "it can be put back");
        // Back to the first build, and from there to no image.
        host.with_world_mut(|world| world.file(ARCHIVE, "fake-image:app:1,other:1"));
        assert!(crate::resource::revert(&second, &host).await.is_empty());
        assert_eq!(host.snapshot(), before);
        assert!(crate::resource::revert(&first, &host).await.is_empty());
        assert!(host.with_world(|world| world.images.is_empty()));
    }

    #[tokio::test]
    async fn a_foreign_tag_of_a_loaded_image_survives_its_rollback() {
        let host = host(&["app:1"]).await;
        let _ = converge(&host).await;
        let id = |host: &FakeHost| host.with_world(|world| world.images["app:1"].clone());
        let old = id(&host);
        host.with_world_mut(|world| world.file(ARCHIVE, "fake-image:app:1\nbuild 2"));
        let (error, undos) = converge(&host).await;
        assert!(error.is_none(), "{error:?}");
        let new = id(&host);
        host.with_world_mut(|world| drop(world.images.insert("mine:1".to_owned(), new.clone())));
        assert!(crate::resource::revert(&undos, &host).await.is_empty());
        assert_eq!(id(&host), old);
        assert_eq!(host.with_world(|world| world.images["mine:1"].clone()), new);
    }

    #[tokio::test]
    async fn an_image_with_an_unreadable_archive_stays_and_is_reported() {
        let host = host(&["app:1"]).await;
        host.with_world_mut(|world| {
            world.image("app:1");
            world.remove(ARCHIVE);
        });
        let (pending, note) = inspected(&host).await;
        assert_eq!(
            (pending, note),
            (None, None),
            "without an archive nothing is compared"
        );
        host.with_world_mut(|world| world.file(ARCHIVE, "fake-image:app:1"));
        let host =
            host.with_faults(crate::host::fake::FaultPlan::none().fail("archived_images", "*"));
        let (pending, note) = inspected(&host).await;
        assert_eq!(pending, None);
        assert!(note.is_some_and(|note| note.contains("is not known")));
    }

    async fn inspected(host: &FakeHost) -> (Option<Change>, Option<String>) {
        let image = ImageSpec {
            reference: "app:1".to_owned(),
            archive: ARCHIVE.into(),
            checksums: None,
        };
        let observed = image.observe(&context(host)).await;
        let observed = observed.expect("docker answers");
        (image.diff(&observed, false), image.note(&observed))
    }

    #[tokio::test]
    async fn an_archive_without_an_index_is_loaded_to_find_its_images() {
        let host = host(&["app:1"]).await;
        host.with_world_mut(|world| world.file(Path::new(ARCHIVE), "compressed"));
        let (error, undos) = converge(&host).await;
        assert!(
            error
                .expect("docker refuses")
                .to_string()
                .starts_with("load image")
        );
        assert_eq!(undos.len(), 1, "it may have been loaded");
    }

    #[test]
    fn docker_omits_default_values() {
        assert!(same("docker.io/library/busybox:latest", "busybox"));
        assert!(same("docker.io/a/b:1", "a/b:1"));
        assert!(!same("k8s.gcr.io/pause:3.2", "pause:3.2"));
        assert!(!same("registry:5000/a", "registry:5000/a:1"));
    }
}
