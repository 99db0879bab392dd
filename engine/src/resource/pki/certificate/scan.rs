//! All certificates below a directory, for status and listings.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::facts::Certificate;
use crate::host::{EntryKind, Host};
use crate::resource::pki::CertificateFacts;
use crate::resource::pki::stored::{Content, Stored};
use crate::resource::{ResourceError, ResourceResult};

/// Maximum depth of directories below the first.
const DEPTH: usize = 4;

/// Maximum number of certificate files that are read.
const FILES: usize = 200;

/// Maximum number of directory entries that are examined.
const ENTRIES: usize = 2_000;

/// The result of a search. A check has to use all three fields: certificates that could not be read may exist.
#[derive(Debug, Default)]
pub struct Scan {
    /// Every certificate, in order of path; a file may hold several.
    pub certificates: Vec<CertificateFacts>,
    /// Files that should hold a certificate and do not, and why.
    pub unreadable: Vec<(PathBuf, String)>,
    /// Whether a bound (depth 4, 200 files, 2000 entries) ended the search.
    pub cut_short: bool,
}

/// The certificates in files that end in `.crt` or `.pem` below `directory`. Keys in `.pem` files are ignored, and links to
/// directories are not followed. Cancel safe.
///
/// # Errors
/// An operation of the host failed.
pub async fn certificates_in(host: &dyn Host, directory: &Path) -> ResourceResult<Scan> {
    let mut scan = Scan::default();
    let mut waiting = VecDeque::from([(directory.to_path_buf(), 0)]);
    let (mut files, mut entries) = (0, 0);
    while let Some((directory, depth)) = waiting.pop_front() {
        for name in host.list(&directory).await? {
            entries += 1;
            if entries > ENTRIES {
                scan.cut_short = true;
                return Ok(scan.sorted());
            }
            let path = directory.join(&name);
            let Some(entry) = host.entry(&path).await? else {
                continue;
            };
            match entry.kind {
                EntryKind::Directory if depth < DEPTH => waiting.push_back((path, depth + 1)),
                EntryKind::Directory => scan.cut_short = true,
                EntryKind::File(_) | EntryKind::Symlink(_) if is_candidate(&path) => {
                    files += 1;
                    if files > FILES {
                        scan.cut_short = true;
                        return Ok(scan.sorted());
                    }
                    let (_, content) = Stored::read(host, &path).await?;
                    scan.add(&path, &content);
                }
                _ => {}
            }
        }
    }
    Ok(scan.sorted())
}

/// The first certificate in a file, in DER: the one that a server presents. Cancel safe.
///
/// # Errors
/// The file does not exist, or contains no certificate.
pub async fn first_certificate(host: &dyn Host, path: &Path) -> ResourceResult<Vec<u8>> {
    let none = |problem: String| ResourceError::Missing {
        what: format!("find a certificate in {}: {problem}", path.display()),
    };
    match Stored::read(host, path).await?.1 {
        Content::Missing => Err(none("it is not there".to_owned())),
        Content::Unfit(problem) => Err(none(problem)),
        Content::Bytes(bytes) => CertificateDer::from_pem_slice(&bytes)
            .map(|certificate| certificate.to_vec())
            .map_err(|error| none(error.to_string())),
    }
}

/// The facts of the first certificate in a file; `None` if there is no readable one. Cancel safe.
///
/// # Errors
/// An operation of the host failed.
pub async fn certificate_in(
    host: &dyn Host,
    path: &Path,
) -> ResourceResult<Option<CertificateFacts>> {
    let (_, content) = Stored::read(host, path).await?;
    let parsed = content.parse(|pem| Certificate::parse(path, pem));
    Ok(parsed.and_then(Result::ok).map(|it| it.facts))
}

fn is_candidate(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "crt" || extension == "pem")
}

impl Scan {
    fn add(&mut self, path: &Path, content: &Content) {
        let bytes = match content {
            Content::Missing => return,
            Content::Unfit(problem) => return self.unreadable.push((path.into(), problem.clone())),
            Content::Bytes(bytes) => bytes,
        };
        let mut found = false;
        for certificate in Certificate::parse_all(path, bytes) {
            found = true;
            match certificate {
                Ok(certificate) => self.certificates.push(certificate.facts),
                Err(problem) => self.unreadable.push((path.into(), problem)),
            }
        }
        if !found && path.extension().is_some_and(|extension| extension == "crt") {
            self.unreadable
                .push((path.into(), "it holds no certificate in PEM".to_owned()));
        }
    }

    /// Sorts by path. The sort is stable, so several certificates of one file keep the order of the file.
    fn sorted(mut self) -> Self {
        self.certificates
            .sort_by(|one, other| one.path.cmp(&other.path));
        self.unreadable.sort();
        self
    }
}
