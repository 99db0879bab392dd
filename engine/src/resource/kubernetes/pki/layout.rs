//! Paths of keys, certificates and kubeconfigs. The names are the ones that tools and operators already use.

use std::path::{Path, PathBuf};

use crate::model::{RECORDS, STATE};

/// Directory of everything that belongs to the node's Kubernetes configuration.
pub const BASE: &str = "/etc/pf9/kube.d";

/// Path below `certs` of the certificate with which a node's kubelet asks the API server.
pub const NODE_CERTIFICATE: &str = "kubelet/apiserver";

/// Name of the kubeconfig of a node's kubelet.
pub const NODE_KUBECONFIG: &str = "kubelet";

/// Name of the kubeconfig with which a host asks for its first certificates: it has the token of its join file.
pub const BOOTSTRAP_KUBECONFIG: &str = "bootstrap";

/// Directories below [`BASE`] that only root may enter.
const PRIVATE: [&str; 4] = ["ca", "certs", "encryption", "kubeconfigs"];

/// Files of an authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorityPaths {
    /// Directory of all these files.
    pub directory: PathBuf,
    /// `ca.crt`.
    pub certificate: PathBuf,
    /// `ca.key`; does not exist on a worker.
    pub key: PathBuf,
    /// `next.crt` of a successor that is trusted and does not sign yet.
    pub next_certificate: PathBuf,
    /// `next.key`.
    pub next_key: PathBuf,
    /// `previous.crt` of a predecessor that is still trusted and does not sign any more.
    pub previous: PathBuf,
}

/// Files of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificatePaths {
    /// Directory of all three.
    pub directory: PathBuf,
    /// `request.crt`.
    pub certificate: PathBuf,
    /// `request.key`.
    pub key: PathBuf,
    /// `ca.crt`, the roots that its peers are verified against.
    pub trust: PathBuf,
}

/// Files of the authority of this name.
#[must_use]
pub fn authority_paths(name: &str) -> AuthorityPaths {
    let directory = Path::new(BASE).join("ca").join(name);
    AuthorityPaths {
        certificate: directory.join("ca.crt"),
        key: directory.join("ca.key"),
        next_certificate: directory.join("next.crt"),
        next_key: directory.join("next.key"),
        previous: directory.join("previous.crt"),
        directory,
    }
}

/// Files of the certificate at this path below `certs`, for example `etcd/peer`.
#[must_use]
pub fn certificate_paths(path: &str) -> CertificatePaths {
    let directory = Path::new(BASE).join("certs").join(path);
    CertificatePaths {
        certificate: directory.join("request.crt"),
        key: directory.join("request.key"),
        trust: directory.join("ca.crt"),
        directory,
    }
}

/// Private and public key that sign and verify service-account tokens.
#[must_use]
pub fn service_account_paths() -> (PathBuf, PathBuf) {
    let directory = Path::new(BASE).join("certs/apiserver");
    (directory.join("svcacct.key"), directory.join("svcacct.pub"))
}

/// The record of an authority: which certificates and keys it has, with a copy of each.
#[must_use]
pub fn authority_record(name: &str) -> PathBuf {
    Path::new(RECORDS).join(format!("authority-{name}.json"))
}

/// The record of the key that signs service-account tokens, with a copy of it.
#[must_use]
pub fn service_account_record() -> PathBuf {
    Path::new(RECORDS).join("service-account.json")
}

/// The keys of requests for certificates that are not answered yet. A clean removes the directory; a rollback leaves it, so that the next
/// try continues with the same request.
#[must_use]
pub fn request_keys() -> PathBuf {
    Path::new(STATE).join("requests")
}

/// The key for which the certificate at this path below `certs` is requested.
#[must_use]
pub fn request_key(certificate: &str) -> PathBuf {
    let name = certificate.replace('/', ".");
    request_keys().join(format!("{name}.key"))
}

/// The kubeconfig with which a node asks for certificates before it has its own kubeconfig. It names the files of its certificate and key,
/// and has no secret. A clean removes it.
#[must_use]
pub fn request_kubeconfig() -> PathBuf {
    request_keys().join("node.yaml")
}

/// The directory of all kubeconfigs. A clean removes it.
fn kubeconfigs() -> PathBuf {
    Path::new(BASE).join("kubeconfigs")
}

/// The kubeconfig at this path below `kubeconfigs`, for example `admin` or `kube-proxy/kubeconfig`.
#[must_use]
pub fn kubeconfig_path(name: &str) -> PathBuf {
    kubeconfigs().join(format!("{name}.yaml"))
}

/// Mode of a parent directory that has to be created for one of our files.
pub(in crate::resource) fn directory_mode(directory: &Path) -> u32 {
    let mut named = PRIVATE.iter().map(|name| Path::new(BASE).join(name));
    let private =
        named.any(|private| directory.starts_with(private)) || directory.starts_with(STATE);
    if private { 0o700 } else { 0o755 }
}
