//! Images that an operator has put on a host: archives in one directory, for sites without a registry.
//!
//! `checksum/sha256sums.txt` in the directory contains the checksum of each archive, as `sha256sum` writes it. An archive is read
//! completely only before it is loaded; the content ids in its table of contents show whether its images are already loaded. An
//! archive that cannot be used is reported, and the other archives are still loaded. Only root may be able to change the archives
//! and their parent directories: the checksums are stored beside the archives, so they show damage but not an attack.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::image::{remove_obstacles, same, short_reference};
use crate::host::{ArchivedImage, EntryKind, Host, HostResult, changeable_way_to};
use crate::model::chain;
use crate::resource::docker::container_runtime;
use crate::resource::{Action, Change, Context, Receipt, Resource, ResourceError, ResourceResult};

/// The file of checksums, in the directory.
const SUMS: &str = "checksum/sha256sums.txt";
/// Bound on that file.
const SUMS_LIMIT: u64 = 1024 * 1024;
/// Maximum number of archives; a directory with more is refused.
const MOST: usize = 500;
/// Bits of a mode that let users other than the owner write.
const WRITABLE: u32 = 0o022;

/// A directory of image archives as `docker save` writes them. It does not have to exist.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageDirectorySpec {
    /// The directory.
    pub path: PathBuf,
    /// References of images that the role itself loads. An archive with another image of such a reference is not loaded.
    #[serde(default)]
    pub except: Vec<String>,
}

/// The archives to load, and the problems.
#[derive(Debug, Default)]
pub struct Observed {
    pending: Vec<Archive>,
    /// Problems with the directory and with archives, one sentence each.
    problems: Vec<String>,
}

/// An archive that can be used, according to its table of contents.
#[derive(Debug)]
struct Archive {
    name: String,
    sha256: String,
    images: Vec<ArchivedImage>,
}

/// By image reference: the name of the archive that has the image, and the image's content id.
#[derive(Debug, Default)]
struct PayloadImage(BTreeMap<String, (String, String)>);

impl PayloadImage {
    /// Adds an archive. `Some` says why it conflicts with an earlier one: at each apply, each would replace the image of the other.
    fn conflict(&mut self, archive: &Archive) -> Option<String> {
        for image in &archive.images {
            let (other, id) = self
                .0
                .entry(short_reference(&image.reference))
                .or_insert_with(|| (archive.name.clone(), image.id.clone()));
            if *id != image.id {
                return Some(format!("{other} has another image {}", image.reference));
            }
        }
        None
    }
}

#[async_trait]
impl Resource for ImageDirectorySpec {
    type Observed = Observed;

    fn label(&self) -> String {
        self.path.display().to_string()
    }

    async fn observe(&self, cx: &Context<'_>) -> ResourceResult<Observed> {
        let mut observed = Observed::default();
        if cx.absent || cx.host.entry(&self.path).await?.is_none() {
            return Ok(observed);
        }
        // A user who can replace the directory could do so after an archive was verified and before it is loaded.
        if let Some(problem) = changeable_way_to(cx.host, &self.path).await? {
            let path = self.path.display();
            let problem = format!("users other than root can replace {path}: {problem}");
            observed.problems.push(problem);
        }
        for path in [PathBuf::new(), "checksum".into(), SUMS.into()] {
            observed
                .problems
                .extend(self.unsafe_entry(cx.host, &path).await?);
        }
        let mut names = cx.host.list(&self.path).await?;
        names.retain(|name| name != "checksum" && !name.starts_with('.'));
        if names.len() > MOST {
            observed.problems.push(format!(
                "{} has {} entries, more than {MOST}",
                self.path.display(),
                names.len()
            ));
        }
        if names.is_empty() || !observed.problems.is_empty() {
            return Ok(observed);
        }
        let file = self.path.join(SUMS);
        let Some(sums) = cx.host.read(&file, SUMS_LIMIT).await? else {
            observed.problems.push(format!(
                "{0} is not there: `cd {1} && sha256sum *.tar > {SUMS}` writes it",
                file.display(),
                self.path.display()
            ));
            return Ok(observed);
        };
        let mut sums = parse(&String::from_utf8_lossy(&sums));
        let runtime = container_runtime::has(cx.host).await?;
        let mut brought = PayloadImage::default();
        for name in names {
            let sum = sums.remove(&name);
            let problem = match self.archive(cx.host, &name, sum).await? {
                Ok(archive) => {
                    let problem = brought.conflict(&archive);
                    let problem = match problem {
                        None if runtime => self.taken(cx.host, &archive).await?,
                        other => other,
                    };
                    if problem.is_none() && !(runtime && all_loaded(cx.host, &archive).await?) {
                        observed.pending.push(archive);
                    }
                    problem
                }
                Err(problem) => Some(problem),
            };
            observed
                .problems
                .extend(problem.map(|problem| format!("{name}: {problem}")));
        }
        let gone = sums.into_keys();
        let gone = gone.map(|name| format!("{name}: {SUMS} names it, but it does not exist"));
        observed.problems.extend(gone);
        Ok(observed)
    }

    fn diff(&self, observed: &Observed, _absent: bool) -> Option<Change> {
        if observed.pending.is_empty() && observed.problems.is_empty() {
            return None;
        }
        let mut change = Change::new(Action::Change);
        for archive in &observed.pending {
            change = change.with(format!("archive {}", archive.name), "not loaded", "loaded");
        }
        for problem in &observed.problems {
            change = change.with(problem, "unsolved", "solved");
        }
        Some(change)
    }

    async fn converge(
        &self,
        observed: &Observed,
        cx: &Context<'_>,
        receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        // A dry run reports that archives would be loaded, and reads none of them.
        if !cx.host.reads_payload() {
            return Ok(());
        }
        let mut problems = observed.problems.clone();
        for archive in &observed.pending {
            if let Some(problem) = self.load(archive, cx, receipt).await? {
                problems.push(format!("{}: {problem}", archive.name));
            }
        }
        if problems.is_empty() {
            return Ok(());
        }
        Err(ResourceError::Unmet {
            what: format!(
                "load all images of {}: {}",
                self.path.display(),
                problems.join("; ")
            ),
            next: "put the archive there again, with its line in checksum/sha256sums.txt, or remove both; then `nodelet apply`"
                .to_owned(),
        })
    }
}

impl ImageDirectorySpec {
    /// The archive, or why it cannot be used.
    async fn archive(
        &self,
        host: &dyn Host,
        name: &str,
        sha256: Option<String>,
    ) -> HostResult<Result<Archive, String>> {
        let Some(sha256) = sha256 else {
            return Ok(Err(format!("{SUMS} does not name it")));
        };
        if let Some(problem) = self.unsafe_entry(host, Path::new(name)).await? {
            return Ok(Err(problem));
        }
        let images = match host.archived_images(&self.path.join(name)).await {
            Ok(Some(images)) if !images.is_empty() => images,
            Ok(_) => {
                let expected_problem = "it names no images: it has to be as `docker save` writes it, and not compressed";
                return Ok(Err(expected_problem.to_owned()));
            }
            Err(error) => return Ok(Err(format!("could not {}", chain(&error).join(": ")))),
        };
        Ok(Ok(Archive {
            name: name.to_owned(),
            sha256,
            images,
        }))
    }

    /// Why a usable archive must not be loaded: it would replace an image that the role loads.
    async fn taken(&self, host: &dyn Host, archive: &Archive) -> HostResult<Option<String>> {
        for image in &archive.images {
            let excepted = self.except.iter().any(|one| same(one, &image.reference));
            if excepted
                && host.image(&image.reference).await?.is_some()
                && !is_loaded(host, image).await?
            {
                return Ok(Some(format!(
                    "its image {} differs from the role's image of this name: give it another name",
                    image.reference
                )));
            }
        }
        Ok(None)
    }

    /// Loads an archive. `Some` says why it was not loaded.
    async fn load(
        &self,
        archive: &Archive,
        cx: &Context<'_>,
        receipt: &mut Receipt<'_>,
    ) -> ResourceResult<Option<String>> {
        let path = self.path.join(&archive.name);
        if cx.host.digest(&path).await?.as_deref() != Some(archive.sha256.as_str()) {
            return Ok(Some(format!("its checksum is not the one in {SUMS}")));
        }
        for image in &archive.images {
            remove_obstacles(image, cx, receipt).await?;
        }
        if let Err(error) = cx.host.load_image(&path).await {
            return Ok(Some(format!("could not {}", chain(&error).join(": "))));
        }
        for image in &archive.images {
            if !is_loaded(cx.host, image).await? {
                return Ok(Some(format!(
                    "docker has loaded it, but has no image {} from it",
                    image.reference
                )));
            }
        }
        Ok(None)
    }

    /// Why an existing path in the directory is not trusted.
    async fn unsafe_entry(&self, host: &dyn Host, inside: &Path) -> HostResult<Option<String>> {
        let path = self.path.join(inside);
        let Some(entry) = host.entry(&path).await? else {
            return Ok(None);
        };
        let is_directory = inside.as_os_str().is_empty() || inside == Path::new("checksum");
        let kind_fits = match entry.kind {
            EntryKind::Directory => is_directory,
            EntryKind::File(_) => !is_directory,
            EntryKind::Symlink(_) | EntryKind::Socket | EntryKind::Other => false,
        };
        let path = path.display();
        Ok(if !kind_fits {
            let wanted = if is_directory {
                "directory"
            } else {
                "regular file"
            };
            Some(format!("{path} is not a {wanted}"))
        } else if entry.attributes.uid != 0 || entry.attributes.mode & WRITABLE != 0 {
            Some(format!(
                "{path} can be changed by users other than root: `chown root {path}; chmod go-w {path}`"
            ))
        } else {
            None
        })
    }
}

/// Whether the runtime has exactly these images.
async fn all_loaded(host: &dyn Host, archive: &Archive) -> HostResult<bool> {
    for image in &archive.images {
        if !is_loaded(host, image).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether the runtime has exactly this image.
async fn is_loaded(host: &dyn Host, image: &ArchivedImage) -> HostResult<bool> {
    let there = host.image(&image.reference).await?;
    Ok(there
        .is_some_and(|there| image.id.is_empty() || there.id.is_empty() || there.id == image.id))
}

/// Checksums by name. Lines of another form are ignored.
fn parse(sums: &str) -> BTreeMap<String, String> {
    let line = |line: &str| {
        let (digest, name) = line.split_once(' ')?;
        // The character after the first blank is the mode: a blank or an asterisk.
        let name = name.strip_prefix([' ', '*'])?;
        let name = name.strip_prefix("./").unwrap_or(name);
        let is_digest = digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
        (is_digest && !name.is_empty() && !name.contains('/'))
            .then(|| (name.to_owned(), digest.to_ascii_lowercase()))
    };
    sums.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256};

    use super::*;
    use crate::host::fake::FakeHost;
    use crate::resource::Undo;
    use crate::resource::tests::context;

    const DIRECTORY: &str = "/var/opt/pf9/images";

    /// A host with these archives, each with its checksum.
    fn host(archives: &[(&str, &str)]) -> FakeHost {
        let mut host = FakeHost::new().with_docker();
        let mut sums = String::new();
        for (name, content) in archives {
            host = host.with_file(format!("{DIRECTORY}/{name}"), *content);
            let digest = crate::model::hex(&Sha256::digest(content));
            sums += &format!("{digest}  {name}\n");
        }
        host.with_file(format!("{DIRECTORY}/{SUMS}"), sums)
    }

    /// Loads the pending archives. Returns the fields of the change, the error and the undos.
    async fn apply(host: &FakeHost) -> (Vec<String>, String, Vec<Undo>) {
        let spec = ImageDirectorySpec {
            path: DIRECTORY.into(),
            except: vec!["role:1".to_owned()],
        };
        let cx = context(host);
        let observed = spec.observe(&cx).await.expect("the host answers");
        let mut receipt = Receipt::default();
        let Some(change) = spec.diff(&observed, false) else {
            return (Vec::new(), String::new(), Vec::new());
        };
        let done = spec.converge(&observed, &cx, &mut receipt).await;
        let fields = change.differences.into_iter().map(|one| one.field);
        let error = done.err().map(|error| error.to_string());
        (fields.collect(), error.unwrap_or_default(), receipt.undos)
    }

    fn images(host: &FakeHost) -> Vec<String> {
        host.with_world(|world| world.images.keys().cloned().collect())
    }

    #[tokio::test]
    async fn each_archive_is_loaded_once_and_again_when_it_changes() {
        let host = host(&[("a.tar", "fake-image:a:1,b:1"), ("c.tar", "fake-image:c:1")]);
        let before = host.snapshot();
        let (fields, error, undos) = apply(&host).await;
        assert_eq!(fields, ["archive a.tar", "archive c.tar"]);
        assert_eq!((error.as_str(), images(&host).len()), ("", 3));
        assert_eq!(apply(&host).await.0, [""; 0]);
        host.with_world_mut(|world| world.forget_image("b:1"));
        assert_eq!(apply(&host).await.0, ["archive a.tar"]);
        assert!(crate::resource::revert(&undos, &host).await.is_empty());
        assert_eq!(host.snapshot(), before);
    }

    #[tokio::test]
    async fn an_archive_that_cannot_be_used_is_named_and_stops_no_other() {
        let host = host(&[
            ("a.tar", "fake-image:a:1"),
            ("b.tar", "fake-image:b:1"),
            ("junk.tar", "junk"),
            ("z.tar", "fake-image:z:1"),
        ]);
        host.with_world_mut(|world| {
            world.file(format!("{DIRECTORY}/b.tar"), "fake-image:b:1,evil:1");
            world.file(format!("{DIRECTORY}/unnamed.tar"), "fake-image:u:1");
            world.file_with_mode(format!("{DIRECTORY}/z.tar"), "fake-image:z:1", 0o666);
        });
        let (_, error, _) = apply(&host).await;
        for part in [
            "b.tar: its checksum is not the one in checksum/sha256sums.txt",
            "junk.tar: it names no images",
            "unnamed.tar: checksum/sha256sums.txt does not name it",
            "z.tar can be changed by users other than root",
        ] {
            assert!(error.contains(part), "{part} in {error}");
        }
        assert_eq!(images(&host), ["a:1"]);
        host.with_world_mut(|world| world.remove(format!("{DIRECTORY}/a.tar")));
        let (_, error, _) = apply(&host).await;
        assert!(
            error.contains("a.tar: checksum/sha256sums.txt names it, but it does not exist"),
            "{error}"
        );
    }

    /// Otherwise each apply would replace the image of one archive by the image of the other.
    #[tokio::test]
    async fn an_image_has_one_origin() {
        let host = host(&[
            ("a.tar", "fake-image:a:1"),
            ("b.tar", "fake-image:docker.io/a:1"),
            ("c.tar", "fake-image:role:1"),
            ("d.tar", "fake-image:d:1"),
        ]);
        host.with_world_mut(|world| {
            world
                .images
                .insert("role:1".to_owned(), "sha256:role".to_owned());
        });
        for changes in [true, false] {
            let (fields, error, _) = apply(&host).await;
            let loaded = ["archive a.tar", "archive d.tar"];
            assert_eq!(
                loaded.iter().all(|one| fields.iter().any(|f| f == one)),
                changes
            );
            for part in [
                "b.tar: a.tar has another image docker.io/a:1",
                "c.tar: its image role:1 differs from the role's image of this name",
            ] {
                assert!(error.contains(part), "{part} in {error}");
            }
        }
        assert_eq!(images(&host), ["a:1", "d:1", "role:1"]);
    }

    #[tokio::test]
    async fn missing_checksums_are_reported_and_a_missing_directory_is_allowed() {
        let none = FakeHost::new().with_docker();
        assert_eq!(apply(&none).await.0, [""; 0]);
        let host = none.with_file(format!("{DIRECTORY}/a.tar"), "fake-image:a:1");
        let (_, error, _) = apply(&host).await;
        assert!(
            error.contains("sha256sums.txt is not there: `cd /var/opt"),
            "{error}"
        );
        assert_eq!(images(&host), [""; 0]);
    }

    /// A user who can rename the directory could choose what is loaded, even if the archives belong to root.
    #[tokio::test]
    async fn nothing_is_loaded_from_below_a_directory_of_another_user() {
        use crate::host::Attributes;

        let host = host(&[("a.tar", "fake-image:a:1")]);
        for (mode, uid, expected_problem) in [
            (0o755, 1000, "/var/opt: it belongs to user 1000"),
            (0o777, 0, "`chmod go-w /var/opt`"),
        ] {
            let open = Attributes { mode, uid, gid: 0 };
            host.with_world_mut(|world| world.own(Path::new("/var/opt"), open));
            let (_, error, _) = apply(&host).await;
            assert!(
                error.contains("users other than root can replace /var/opt/pf9/images")
                    && error.contains(expected_problem),
                "{error}"
            );
            assert_eq!(images(&host), [""; 0]);
        }
        let ours = Attributes::root(0o755);
        host.with_world_mut(|world| world.own(Path::new("/var/opt"), ours));
        assert_eq!(apply(&host).await.0, ["archive a.tar"]);
    }

    #[test]
    fn lines_of_both_modes_name_files_of_the_directory_alone() {
        let (one, two) = ("a1".repeat(32), "B2".repeat(32));
        let text = format!("{one}  a.tar\n{two} *./b c.tar\n{one}  ../d.tar\nrubbish\n\n{one}\n");
        let names: Vec<(String, String)> = parse(&text).into_iter().collect();
        let expected = [("a.tar", one), ("b c.tar", two.to_lowercase())];
        assert_eq!(names, expected.map(|(name, sum)| (name.to_owned(), sum)));
    }
}
