//! What the certificates on disk prove about an authority without a record: the host was brought up by a version that wrote no
//! records, or the records are lost.

use std::path::{Path, PathBuf};

use crate::host::{EntryKind, Host};
use crate::resource::ResourceResult;
use crate::resource::pki::BASE;
use crate::resource::pki::certificate::facts::Certificate;
use crate::resource::pki::stored::{Content, Stored};

/// Maximum depth of directories below the first.
const DEPTH: usize = 4;
/// Maximum number of directory entries that are examined.
const ENTRIES: usize = 2_000;

/// A certificate on disk with the trusted certificates beside it.
struct Leaf {
    certificate: Option<Certificate>,
    trusted: Vec<Certificate>,
}

/// The certificates below `certs`, and the authorities below `ca`.
pub(in crate::resource::pki) struct Evidence {
    leaves: Vec<Leaf>,
    authorities: Vec<Certificate>,
}

impl Evidence {
    /// Reads the certificates, to a bounded depth and number. Cancel safe.
    ///
    /// # Errors
    /// An operation of the host failed.
    pub(in crate::resource::pki) async fn gather(host: &dyn Host) -> ResourceResult<Self> {
        let mut its = Self {
            leaves: Vec::new(),
            authorities: Vec::new(),
        };
        for directory in directories(host, &Path::new(BASE).join("certs")).await? {
            let certificate = certificates(host, &directory.join("request.crt")).await?;
            let trusted = certificates(host, &directory.join("ca.crt")).await?;
            if !certificate.is_empty() || !trusted.is_empty() {
                its.leaves.push(Leaf {
                    certificate: certificate.into_iter().next(),
                    trusted,
                });
            }
        }
        for directory in directories(host, &Path::new(BASE).join("ca")).await? {
            for file in ["ca.crt", "next.crt", "previous.crt"] {
                let found = certificates(host, &directory.join(file)).await?;
                its.authorities.extend(found);
            }
        }
        Ok(its)
    }

    /// Whether a certificate on disk was signed by this authority, or has it as a trusted certificate beside it.
    pub(in crate::resource::pki) fn proves(&self, authority: &Certificate) -> bool {
        self.leaves.iter().any(|leaf| leaf.is_of(authority))
    }

    /// Whether there is a certificate of an authority that is not on this host: that authority was lost or replaced.
    pub(in crate::resource::pki) fn has_orphans(&self) -> bool {
        let mut leaves = self.leaves.iter();
        leaves.any(|leaf| !self.authorities.iter().any(|its| leaf.is_of(its)))
    }
}

impl Leaf {
    fn is_of(&self, authority: &Certificate) -> bool {
        let signed = |leaf: &Certificate| leaf.is_signed_by(authority);
        self.certificate.as_ref().is_some_and(signed)
            || self.trusted.iter().any(|its| its.der == authority.der)
    }
}

/// This directory and those below it.
async fn directories(host: &dyn Host, first: &Path) -> ResourceResult<Vec<PathBuf>> {
    let mut all = vec![(first.to_path_buf(), 0)];
    let (mut at, mut entries) = (0, 0);
    while let Some((directory, depth)) = all.get(at).cloned() {
        at += 1;
        for name in host.list(&directory).await? {
            entries += 1;
            if entries > ENTRIES {
                return Ok(all.into_iter().map(|(path, _)| path).collect());
            }
            let path = directory.join(name);
            let entry = host.entry(&path).await?;
            let enters = entry.is_some_and(|entry| entry.kind == EntryKind::Directory);
            if enters && depth < DEPTH {
                all.push((path, depth + 1));
            }
        }
    }
    Ok(all.into_iter().map(|(path, _)| path).collect())
}

/// The readable certificates in a file.
async fn certificates(host: &dyn Host, path: &Path) -> ResourceResult<Vec<Certificate>> {
    Ok(match Stored::read(host, path).await?.1 {
        Content::Bytes(bytes) => Certificate::parse_all(path, &bytes)
            .filter_map(Result::ok)
            .collect(),
        Content::Missing | Content::Unfit(_) => Vec::new(),
    })
}
