//! The checksums of a role package: what of its payload is about to be used is what was packed.
//!
//! `SHA256SUMS` beside `role.yaml` names the digest of each file below `payload/` and `phases/`, and `role.yaml` that of `SHA256SUMS`. Of
//! the payload only what a step is about to use is read for it, so a run that changes nothing reads nothing. Scripts and templates are
//! compared when the role is loaded.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::file::PRIVATE;
use super::{READ_LIMIT, ResourceError, ResourceResult};
use crate::host::Host;

/// Our copy of the file. What it says counts for nothing but by its own checksum.
const COPY: &str = "/var/opt/pf9/nodelet/SHA256SUMS";
/// Most damaged files that are named at once.
const NAMED: usize = 10;
const GONE: &str = "it is not there";
const OTHER: &str = "its checksum is not the one of the package";

/// The file of checksums, and its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checksums {
    /// Lines as `sha256sum` writes them; paths are relative to the file's directory.
    pub file: PathBuf,
    /// SHA-256 of the file.
    pub sha256: String,
}

impl Checksums {
    /// Whether the file at `path` is what was packed. A dry run reads no payload and takes its word for it.
    ///
    /// # Errors
    /// It differs, or cannot be told.
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
            Some(_) => Err(damaged(path, OTHER)),
            None => Err(damaged(path, GONE)),
        }
    }

    /// What is wrong with the files of the package, with what to do: the first ten; none if all are what was packed. Large files are read
    /// when they have changed. Cancel safe: what was read is remembered.
    ///
    /// # Errors
    /// A file cannot be read.
    pub(crate) async fn problems(&self, host: &dyn Host) -> ResourceResult<Vec<(String, String)>> {
        if !host.reads_payload() {
            return Ok(Vec::new());
        }
        let told = |error: ResourceError| match error {
            ResourceError::Unmet { what, next } => Ok((format!("could not {what}"), next)),
            other => Err(other),
        };
        let sums = match self.packed(host).await {
            Ok(sums) => sums,
            Err(error) => return Ok(vec![told(error)?]),
        };
        let root = self.file.parent().unwrap_or(Path::new("/"));
        let mut problems = Vec::new();
        for (packed, name) in sums.lines().filter_map(|line| line.split_once("  ")) {
            let path = root.join(name);
            let problem = match host.remembered_digest(&path).await? {
                Some(is) if is == packed => continue,
                Some(_) => OTHER,
                None => GONE,
            };
            problems.push(told(damaged(&path, problem))?);
            if problems.len() == NAMED {
                break;
            }
        }
        Ok(problems)
    }

    /// Whether one file is the one that was packed, by its remembered digest. Cancel safe.
    ///
    /// # Errors
    /// It is another one, or damaged; or a file cannot be read.
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
            None => Err(damaged(path, GONE)),
            is if is.as_deref() == digest_of(&sums, name) => Ok(()),
            Some(_) => Err(damaged(path, OTHER)),
        }
    }

    /// The lines of the file, which is the one that the role names.
    async fn packed(&self, host: &dyn Host) -> ResourceResult<String> {
        let sums = host.read(&self.file, READ_LIMIT).await?;
        let sums = sums.ok_or_else(|| damaged(&self.file, GONE))?;
        self.named(sums)
            .ok_or_else(|| damaged(&self.file, "it is not the one that role.yaml names"))
    }

    /// The same, or our copy of them: what is as it was packed is used though the file that says so is damaged.
    async fn packed_or_copy(&self, host: &dyn Host) -> ResourceResult<String> {
        match self.packed(host).await {
            Ok(sums) => Ok(sums),
            Err(error) => self.copy(host).await?.ok_or(error),
        }
    }

    /// The text, if it is the one that the role names.
    fn named(&self, sums: Vec<u8>) -> Option<String> {
        let is = crate::plan::hex(&Sha256::digest(&sums));
        (is == self.sha256).then(|| String::from_utf8_lossy(&sums).into_owned())
    }

    /// Our copy of the file, if it is the one that the role names.
    async fn copy(&self, host: &dyn Host) -> ResourceResult<Option<String>> {
        let copy = host.read(Path::new(COPY), READ_LIMIT).await?;
        Ok(copy.and_then(|sums| self.named(sums)))
    }

    /// Keeps a copy of the file, where it helps when the file is damaged.
    async fn remember(&self, host: &dyn Host, sums: &str) -> ResourceResult<()> {
        if self.copy(host).await?.is_none()
            && let Err(error) = host.write(Path::new(COPY), sums.as_bytes(), PRIVATE).await
        {
            tracing::warn!("there is no copy of the package's checksums: {error}");
        }
        Ok(())
    }
}

/// The digest that a line of `sha256sum` names for this file.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;

    const SUMS: &str = "/opt/r/SHA256SUMS";
    const FILE: &str = "/opt/r/payload/debs/a b.deb";

    fn packed() -> (FakeHost, Checksums) {
        let digest = crate::plan::hex(&Sha256::digest("content"));
        let text = format!("{digest}  payload/debs/a b.deb\n");
        let sums = Checksums {
            file: SUMS.into(),
            sha256: crate::plan::hex(&Sha256::digest(&text)),
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
    async fn what_differs_from_what_was_packed_is_refused() {
        let (host, sums) = packed();
        assert_eq!(verdict(&host, &sums, FILE).await, "as packed");
        let other = verdict(&host, &sums, "/opt/r/payload/debs/b.deb").await;
        assert!(other.contains("does not name it"), "{other}");
        host.meddle(|world| world.file(FILE, "kontent"));
        let differs = verdict(&host, &sums, FILE).await;
        assert!(
            differs.contains("a b.deb of the role's package: it is damaged"),
            "{differs}"
        );
        host.meddle(|world| world.remove(FILE));
        let gone = verdict(&host, &sums, FILE).await;
        assert!(gone.contains("it is not there"), "{gone}");
    }

    #[tokio::test]
    async fn each_damaged_file_of_a_package_is_named() {
        let host = FakeHost::new();
        let names: Vec<String> = (10..30).map(|n| format!("payload/debs/{n}.deb")).collect();
        let packed = crate::plan::hex(&Sha256::digest("content"));
        let lines: String = names
            .iter()
            .map(|name| format!("{packed}  {name}\n"))
            .collect();
        let path = |name: &str| format!("/opt/r/{name}");
        host.meddle(|world| {
            world.file(SUMS, &lines);
            for name in &names {
                world.file(path(name), "content");
            }
        });
        let sums = Checksums {
            file: SUMS.into(),
            sha256: crate::plan::hex(&Sha256::digest(&lines)),
        };
        let asked = async || sums.problems(&host).await.expect("the host is read");
        assert_eq!(asked().await, []);
        host.meddle(|world| {
            world.file(path(&names[3]), "kontent");
            world.file(path(&names[5]), "");
            world.remove(path(&names[7]));
        });
        let told = asked().await;
        assert_eq!(told.len(), 3, "{told:?}");
        for ((what, next), (name, how)) in
            told.iter()
                .zip([(&names[3], OTHER), (&names[5], OTHER), (&names[7], GONE)])
        {
            assert!(what.contains(name) && what.contains(how), "{what}");
            assert_eq!(next, "install the role's package again");
        }
        host.meddle(|world| {
            for name in &names {
                world.file(path(name), "kontent");
            }
        });
        assert_eq!(asked().await.len(), NAMED, "no more than can be read");
        host.meddle(|world| world.file(SUMS, ""));
        let told = asked().await;
        assert!(
            told.len() == 1 && told[0].0.contains("SHA256SUMS"),
            "{told:?}"
        );
    }

    #[tokio::test]
    async fn the_checksums_themselves_are_those_that_the_role_names() {
        let (host, sums) = packed();
        let forged = crate::plan::hex(&Sha256::digest("kontent"));
        host.meddle(|world| {
            world.file(FILE, "kontent");
            world.file(SUMS, format!("{forged}  payload/debs/a b.deb\n"));
        });
        let told = verdict(&host, &sums, FILE).await;
        assert!(
            told.contains("SHA256SUMS") && told.contains("role.yaml"),
            "{told}"
        );
        host.meddle(|world| world.remove(SUMS));
        let told = verdict(&host, &sums, FILE).await;
        assert!(told.contains("it is not there"), "{told}");
    }

    #[tokio::test]
    async fn a_copy_says_what_was_packed_where_the_checksums_are_damaged() {
        let (host, sums) = packed();
        // An apply makes its state's directory first.
        host.meddle(|world| world.file("/var/opt/pf9/nodelet/ledger.jsonl", ""));
        assert_eq!(verdict(&host, &sums, FILE).await, "as packed");
        for damage in ["", "rubbish"] {
            host.meddle(|world| world.file(SUMS, damage));
            assert_eq!(verdict(&host, &sums, FILE).await, "as packed");
            let told = sums.problems(&host).await.expect("the host is read");
            assert!(told[0].0.contains("SHA256SUMS"), "{told:?}");
        }
        host.meddle(|world| world.file(FILE, "kontent"));
        assert!(verdict(&host, &sums, FILE).await.contains("damaged"));
        host.meddle(|world| {
            world.file(FILE, "content");
            world.file(COPY, "rubbish");
        });
        let told = verdict(&host, &sums, FILE).await;
        assert!(told.contains("SHA256SUMS"), "{told}");
    }
}
