//! The checksums of a role package: a payload file is verified before it is used.
//!
//! `SHA256SUMS` beside `role.yaml` contains the digest of each file below `payload/` and `phases/`; `role.yaml` contains the digest of
//! `SHA256SUMS`. Only the payload files that a step is about to use are verified, so a run that changes nothing reads none of them.
//! Scripts and templates are verified when the role is loaded.
//!
//! The installed version may be another one than the one that is in use: its package was installed and not applied. Its files are not
//! damaged, but they are used only if they are the same in both versions.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::file::PRIVATE;
use crate::host::Host;
use crate::resource::{READ_LIMIT, ResourceError, ResourceResult};

/// Our copy of the file. It is used only if its own checksum is the one that the role names.
const COPY: &str = "/var/opt/pf9/nodelet/SHA256SUMS";
/// Maximum number of damaged files in one report.
const NAMED: usize = 10;
const GONE: &str = "it is not there";
const OTHER: &str = "its checksum is not the one of the package";
/// Why a file of the payload is not the one that was packed, if the package is intact.
pub(crate) const ANOTHER_VERSION: &str = "another version of the role is installed and not applied";
/// What to do about it.
pub(crate) const APPLY_VERSION: &str =
    "apply that version (`nodelet apply`); `nodelet status` says whether something prevents this";

/// The file of checksums, and its own checksum.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checksums {
    /// Lines as `sha256sum` writes them; paths are relative to the file's directory.
    pub file: PathBuf,
    /// SHA-256 of the file.
    pub sha256: String,
}

impl Checksums {
    /// Checks that the file at `path` is the one that was packed. A dry run reads no payload and skips the check.
    ///
    /// # Errors
    /// The file is missing or differs, or it cannot be checked.
    pub(crate) async fn verify(&self, host: &dyn Host, path: &Path) -> ResourceResult<()> {
        if !host.reads_payload() {
            return Ok(());
        }
        let sums = self.packed_or_copy(host).await?;
        let root = self.file.parent().unwrap_or(Path::new("/"));
        let name = path.strip_prefix(root).unwrap_or(path);
        let Some(packed) = digest_of(&sums, name) else {
            let problem = format!("{} does not name it", self.file.display());
            return Err(damaged(path, &problem));
        };
        match host.digest(path).await? {
            Some(is) if is == packed => self.remember(host, &sums).await,
            Some(_) => Err(self.unusable(host, path, OTHER).await),
            None => Err(self.unusable(host, path, GONE).await),
        }
    }

    /// Problems with the files of the package, each with its remedy: at most the first ten; empty if all files are as packed. If another
    /// version is installed, its files are compared with its own checksums. A large file is read only if it has changed. Files in `known`,
    /// or below a directory in it, are left out: their problems are known. Cancel safe: the digest of a file that was read is remembered.
    ///
    /// # Errors
    /// A file cannot be read.
    pub(crate) async fn problems(
        &self,
        host: &dyn Host,
        known: &BTreeSet<PathBuf>,
    ) -> ResourceResult<Vec<(String, String)>> {
        if !host.reads_payload() {
            return Ok(Vec::new());
        }
        let problem_text = |error: ResourceError| match error {
            ResourceError::Unmet { what, next } => Ok((format!("could not {what}"), next)),
            other => Err(other),
        };
        let sums = match self.packed(host).await {
            Ok(sums) => sums,
            Err(error) => match self.sums_of_another_version(host).await {
                Some(sums) => sums,
                None => return Ok(vec![problem_text(error)?]),
            },
        };
        let root = self.file.parent().unwrap_or(Path::new("/"));
        let mut problems = Vec::new();
        for (packed, name) in sums.lines().filter_map(|line| line.split_once("  ")) {
            let path = root.join(name);
            if known.iter().any(|known| path.starts_with(known)) {
                continue;
            }
            let problem = match host.remembered_digest(&path).await? {
                Some(is) if is == packed => continue,
                Some(_) => OTHER,
                None => GONE,
            };
            problems.push(problem_text(damaged(&path, problem))?);
            if problems.len() == NAMED {
                break;
            }
        }
        Ok(problems)
    }

    /// Checks by its remembered digest that one file is the one that was packed. Cancel safe.
    ///
    /// # Errors
    /// The file is missing or differs, or a file cannot be read.
    pub(crate) async fn verify_remembered(
        &self,
        host: &dyn Host,
        path: &Path,
    ) -> ResourceResult<()> {
        if !host.reads_payload() {
            return Ok(());
        }
        let sums = self.packed_or_copy(host).await?;
        let root = self.file.parent().unwrap_or(Path::new("/"));
        let name = path.strip_prefix(root).unwrap_or(path);
        match host.remembered_digest(path).await? {
            None => Err(self.unusable(host, path, GONE).await),
            is if is.as_deref() == digest_of(&sums, name) => Ok(()),
            Some(_) => Err(self.unusable(host, path, OTHER).await),
        }
    }

    /// Whether another version of the role is installed. No, if that cannot be determined.
    pub(crate) async fn has_another_version(&self, host: &dyn Host) -> bool {
        self.sums_of_another_version(host).await.is_some()
    }

    /// The content of the checksum file, if its own checksum is the one that the role names.
    async fn packed(&self, host: &dyn Host) -> ResourceResult<String> {
        let sums = host.read(&self.file, READ_LIMIT).await?;
        let sums = sums.ok_or_else(|| damaged(&self.file, GONE))?;
        self.named(sums)
            .ok_or_else(|| damaged(&self.file, "it is not the one that role.yaml names"))
    }

    /// The same, or our copy of it: an intact payload file can be used even if the checksum file is damaged.
    async fn packed_or_copy(&self, host: &dyn Host) -> ResourceResult<String> {
        match self.packed(host).await {
            Ok(sums) => Ok(sums),
            Err(error) => match self.copy(host).await? {
                Some(sums) => Ok(sums),
                None if self.has_another_version(host).await => {
                    Err(of_another_version(&self.file, OTHER))
                }
                None => Err(error),
            },
        }
    }

    /// The content of the checksum file if it is that of another version: it is not ours, and `role.yaml` beside it has its checksum.
    /// A damaged file does not have the checksum that `role.yaml` names.
    async fn sums_of_another_version(&self, host: &dyn Host) -> Option<String> {
        let sums = host.read(&self.file, READ_LIMIT).await.ok()??;
        let is = crate::model::hex(&Sha256::digest(&sums));
        if is == self.sha256 {
            return None;
        }
        let manifest = self.file.with_file_name("role.yaml");
        let manifest = host.read(&manifest, READ_LIMIT).await.ok()??;
        let names_it = String::from_utf8_lossy(&manifest).contains(&is);
        names_it.then(|| String::from_utf8_lossy(&sums).into_owned())
    }

    /// The error for a file that is not the one that was packed, with the true reason.
    async fn unusable(&self, host: &dyn Host, path: &Path, problem: &str) -> ResourceError {
        let Some(another) = self.sums_of_another_version(host).await else {
            return damaged(path, problem);
        };
        let root = self.file.parent().unwrap_or(Path::new("/"));
        let name = path.strip_prefix(root).unwrap_or(path);
        // A file that both versions have is damaged, and no version of the role can use it.
        let ours = self.copy(host).await.ok().flatten();
        let packed = ours.as_deref().and_then(|ours| digest_of(ours, name));
        match packed.is_some() && packed == digest_of(&another, name) {
            true => damaged(path, problem),
            false => of_another_version(path, problem),
        }
    }

    /// The text, if its checksum is the one that the role names.
    fn named(&self, sums: Vec<u8>) -> Option<String> {
        let is = crate::model::hex(&Sha256::digest(&sums));
        (is == self.sha256).then(|| String::from_utf8_lossy(&sums).into_owned())
    }

    /// Our copy of the file, if its checksum is the one that the role names.
    async fn copy(&self, host: &dyn Host) -> ResourceResult<Option<String>> {
        let copy = host.read(Path::new(COPY), READ_LIMIT).await?;
        Ok(copy.and_then(|sums| self.named(sums)))
    }

    /// Saves a copy of the file, for the case that the file is damaged later.
    async fn remember(&self, host: &dyn Host, sums: &str) -> ResourceResult<()> {
        if self.copy(host).await?.is_none()
            && let Err(error) = host.write(Path::new(COPY), sums.as_bytes(), PRIVATE).await
        {
            tracing::warn!("the package's checksums were not copied: {error}");
        }
        Ok(())
    }
}

/// The digest of this file in the output of `sha256sum`.
pub(crate) fn digest_of<'a>(sums: &'a str, name: &Path) -> Option<&'a str> {
    sums.lines().find_map(|line| {
        let (digest, its) = line.split_once("  ")?;
        (Path::new(its) == name).then_some(digest)
    })
}

fn damaged(path: &Path, problem: &str) -> ResourceError {
    ResourceError::Unmet {
        what: format!(
            "use {} of the role's package: it is damaged: {problem}",
            path.display()
        ),
        next: "install the role's package again".to_owned(),
    }
}

/// The error for a file that is another one, or is not there, in the version that is installed and not applied.
fn of_another_version(path: &Path, problem: &str) -> ResourceError {
    let how = match problem {
        GONE => "it does not have this file",
        _ => "this file differs in it",
    };
    ResourceError::Unmet {
        what: format!(
            "use {} of the role's package: {ANOTHER_VERSION}, and {how}",
            path.display()
        ),
        next: APPLY_VERSION.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;

    const SUMS: &str = "/opt/r/SHA256SUMS";
    const FILE: &str = "/opt/r/payload/debs/a b.deb";

    fn packed() -> (FakeHost, Checksums) {
        let digest = crate::model::hex(&Sha256::digest("content"));
        let text = format!("{digest}  payload/debs/a b.deb\n");
        let sums = Checksums {
            file: SUMS.into(),
            sha256: crate::model::hex(&Sha256::digest(&text)),
        };
        let host = FakeHost::new().with_file(SUMS, text);
        (host.with_file(FILE, "content"), sums)
    }

    async fn verdict(host: &FakeHost, sums: &Checksums, path: &str) -> String {
        match sums.verify(host, Path::new(path)).await {
            Ok(()) => "as packed".to_owned(),
            Err(error) => {
                assert!(error.is_permanent(), "trying again does not help: {error}");
                error.to_string()
            }
        }
    }

    #[tokio::test]
    async fn files_that_differ_from_the_package_are_refused() {
        let (host, sums) = packed();
        assert_eq!(verdict(&host, &sums, FILE).await, "as packed");
        let other = verdict(&host, &sums, "/opt/r/payload/debs/b.deb").await;
        assert!(other.contains("does not name it"), "{other}");
        host.with_world_mut(|world| world.file(FILE, "kontent"));
        let differs = verdict(&host, &sums, FILE).await;
        assert!(
            differs.contains("a b.deb of the role's package: it is damaged"),
            "{differs}"
        );
        host.with_world_mut(|world| world.remove(FILE));
        let gone = verdict(&host, &sums, FILE).await;
        assert!(gone.contains("it is not there"), "{gone}");
    }

    #[tokio::test]
    async fn each_damaged_file_of_a_package_is_named() {
        let host = FakeHost::new();
        let names: Vec<String> = (10..30).map(|n| format!("payload/debs/{n}.deb")).collect();
        let packed = crate::model::hex(&Sha256::digest("content"));
        let lines: String = names
            .iter()
            .map(|name| format!("{packed}  {name}\n"))
            .collect();
        let path = |name: &str| format!("/opt/r/{name}");
        host.with_world_mut(|world| {
            world.file(SUMS, &lines);
            for name in &names {
                world.file(path(name), "content");
            }
        });
        let sums = Checksums {
            file: SUMS.into(),
            sha256: crate::model::hex(&Sha256::digest(&lines)),
        };
        let none = BTreeSet::new();
        let asked = async || sums.problems(&host, &none).await.expect("it is read");
        assert_eq!(asked().await, []);
        host.with_world_mut(|world| {
            world.file(path(&names[3]), "kontent");
            world.file(path(&names[5]), "");
            world.remove(path(&names[7]));
        });
        let problem_text = asked().await;
        assert_eq!(problem_text.len(), 3, "{problem_text:?}");
        for ((what, next), (name, how)) in
            problem_text
                .iter()
                .zip([(&names[3], OTHER), (&names[5], OTHER), (&names[7], GONE)])
        {
            assert!(what.contains(name) && what.contains(how), "{what}");
            assert_eq!(next, "install the role's package again");
        }
        host.with_world_mut(|world| {
            for name in &names {
                world.file(path(name), "kontent");
            }
        });
        assert_eq!(asked().await.len(), NAMED, "the report is limited");
        let known = BTreeSet::from([PathBuf::from("/opt/r/payload/debs")]);
        let others = sums.problems(&host, &known).await.expect("it is read");
        assert_eq!(others, [], "all damaged files are in a known directory");
        host.with_world_mut(|world| world.file(SUMS, ""));
        let problem_text = asked().await;
        assert!(
            problem_text.len() == 1 && problem_text[0].0.contains("SHA256SUMS"),
            "{problem_text:?}"
        );
    }

    /// Its files are not damaged, but a program of a version that is not applied must not be started.
    #[tokio::test]
    async fn files_of_a_version_that_is_not_applied_are_not_called_damaged() {
        let digest = |text: &str| crate::model::hex(&Sha256::digest(text));
        let install = |host: &FakeHost, content: &str| {
            let sums = format!("{}  payload/debs/a b.deb\n", digest(content));
            let manifest = format!("checksums: {}\n", digest(&sums));
            host.with_world_mut(|world| {
                world.file(FILE, content);
                world.file("/opt/r/role.yaml", &manifest);
                world.file(SUMS, &sums);
            });
        };
        let (host, sums) = packed();
        // An apply creates its state directory first.
        host.with_world_mut(|world| world.file("/var/opt/pf9/nodelet/ledger.jsonl", ""));
        let without_copy = host.fork();
        assert_eq!(verdict(&host, &sums, FILE).await, "as packed");
        install(&host, "kontent");
        let differs = verdict(&host, &sums, FILE).await;
        let reason = format!("{FILE} of the role's package: {ANOTHER_VERSION}, and this file");
        assert!(differs.contains(&reason), "{differs}");
        // The package itself is as it was packed.
        let none = BTreeSet::new();
        let problems = async || sums.problems(&host, &none).await.expect("it is read");
        assert_eq!(problems().await, []);
        host.with_world_mut(|world| world.remove(FILE));
        let gone = verdict(&host, &sums, FILE).await;
        assert!(gone.contains("it does not have this file"), "{gone}");
        let damage = problems().await;
        assert_eq!(damage.len(), 1, "{damage:?}");
        assert!(damage[0].0.contains("it is damaged"), "{damage:?}");
        // A file that is the same in both versions is used. The copy of our checksums tells this.
        host.with_world_mut(|world| world.file(FILE, "content"));
        assert_eq!(verdict(&host, &sums, FILE).await, "as packed");
        // Without the copy this is not known.
        install(&without_copy, "kontent");
        let unknown = verdict(&without_copy, &sums, FILE).await;
        let reason = format!("{SUMS} of the role's package: {ANOTHER_VERSION}");
        assert!(unknown.contains(&reason), "{unknown}");
        // A checksum file that role.yaml does not name is damaged.
        without_copy.with_world_mut(|world| world.file("/opt/r/role.yaml", "checksums: 0\n"));
        let damaged = verdict(&without_copy, &sums, FILE).await;
        assert!(damaged.contains("it is damaged"), "{damaged}");
    }

    #[tokio::test]
    async fn the_checksums_themselves_are_those_that_the_role_names() {
        let (host, sums) = packed();
        let forged = crate::model::hex(&Sha256::digest("kontent"));
        host.with_world_mut(|world| {
            world.file(FILE, "kontent");
            world.file(SUMS, format!("{forged}  payload/debs/a b.deb\n"));
        });
        let problem_text = verdict(&host, &sums, FILE).await;
        assert!(
            problem_text.contains("SHA256SUMS") && problem_text.contains("role.yaml"),
            "{problem_text}"
        );
        host.with_world_mut(|world| world.remove(SUMS));
        let problem_text = verdict(&host, &sums, FILE).await;
        assert!(problem_text.contains("it is not there"), "{problem_text}");
    }

    #[tokio::test]
    async fn a_copy_says_what_was_packed_where_the_checksums_are_damaged() {
        let (host, sums) = packed();
        // An apply creates its state directory first.
        host.with_world_mut(|world| world.file("/var/opt/pf9/nodelet/ledger.jsonl", ""));
        assert_eq!(verdict(&host, &sums, FILE).await, "as packed");
        for damage in ["", "rubbish"] {
            host.with_world_mut(|world| world.file(SUMS, damage));
            assert_eq!(verdict(&host, &sums, FILE).await, "as packed");
            let problem_text = sums.problems(&host, &BTreeSet::new()).await;
            let problem_text = problem_text.expect("the host is read");
            assert!(problem_text[0].0.contains("SHA256SUMS"), "{problem_text:?}");
        }
        host.with_world_mut(|world| world.file(FILE, "kontent"));
        assert!(verdict(&host, &sums, FILE).await.contains("damaged"));
        host.with_world_mut(|world| {
            world.file(FILE, "content");
            world.file(COPY, "rubbish");
        });
        let problem_text = verdict(&host, &sums, FILE).await;
        assert!(problem_text.contains("SHA256SUMS"), "{problem_text}");
    }
}
