//! Everything that expires: authorities, certificates and the client certificates inside kubeconfigs, with the components that use
//! them. For operators and programs; only reads files.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::facts::{Certificate, rfc3339};
use crate::host::{EntryKind, Host};
use crate::resource::ResourceResult;
use crate::resource::kubernetes::pki::kubeconfig::kubeconfig_yaml::KubeconfigYaml;
use crate::resource::pki::stored::{Content, Stored};
use crate::resource::pki::{BASE, CertificateFacts, certificates_in, consumer_of};

/// The kind of file that contains a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// An authority.
    Authority,
    /// A certificate with its key.
    Certificate,
    /// A kubeconfig that holds a client certificate.
    Kubeconfig,
    /// A copy of an authority's certificate, beside a certificate whose user verifies its peers with it.
    Trust,
}

/// One certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// The kind of file.
    pub kind: Kind,
    /// Its name or path below its directory, for example `etcd/peer`.
    pub name: String,
    /// Its facts.
    pub certificate: CertificateFacts,
    /// Seconds until it expires; 0 if it has expired.
    pub seconds_left: u64,
    /// When it is due for renewal; authorities and copies are not renewed by themselves.
    #[serde(serialize_with = "maybe_rfc3339")]
    pub due: Option<SystemTime>,
    /// The component that uses it.
    pub component: Option<&'static str>,
    /// Its purpose.
    pub purpose: Option<&'static str>,
    /// How the component starts to use a renewed one.
    pub reload: Option<String>,
}

/// All certificates, and the files that could not be read.
#[derive(Debug, Default, Serialize)]
pub struct Inventory {
    /// In order of kind and name.
    pub certificates: Vec<Listed>,
    /// Files that should hold a certificate and do not, and why.
    pub unreadable: Vec<(PathBuf, String)>,
    /// Whether a bound ended the search.
    pub cut_short: bool,
}

/// Lists everything below `/etc/pf9/kube.d`. Cancel safe.
///
/// # Errors
/// The directory cannot be read, most likely because the caller is not root.
pub async fn inventory(host: &dyn Host) -> ResourceResult<Inventory> {
    let now = host.now();
    let scan = certificates_in(host, Path::new(BASE)).await?;
    let mut inventory = Inventory {
        unreadable: scan.unreadable,
        cut_short: scan.cut_short,
        ..Inventory::default()
    };
    for facts in scan.certificates {
        let Some((kind, name)) = placed(&facts.path) else {
            continue;
        };
        inventory
            .certificates
            .push(Listed::of(kind, name, facts, now));
    }
    let directory = Path::new(BASE).join("kubeconfigs");
    for file in kubeconfigs(host, &directory).await? {
        let path = directory.join(&file);
        let Some(name) = file.strip_suffix(".yaml") else {
            continue;
        };
        let (_, content) = Stored::read(host, &path).await?;
        match inside(&path, &content) {
            Ok(Some(facts)) => inventory.certificates.push(Listed::of(
                Kind::Kubeconfig,
                name.to_owned(),
                facts,
                now,
            )),
            Ok(None) => {}
            Err(problem) => inventory.unreadable.push((path, problem)),
        }
    }
    inventory
        .certificates
        .sort_by(|one, other| (one.kind, &one.name).cmp(&(other.kind, &other.name)));
    Ok(inventory)
}

/// Names of files in `directory` and in the directories in it.
async fn kubeconfigs(host: &dyn Host, directory: &Path) -> ResourceResult<Vec<String>> {
    let mut names = Vec::new();
    for name in host.list(directory).await? {
        let path = directory.join(&name);
        let entry = host.entry(&path).await?;
        if entry.is_some_and(|entry| entry.kind == EntryKind::Directory) {
            let below = host.list(&path).await?;
            names.extend(below.iter().map(|file| format!("{name}/{file}")));
        } else {
            names.push(name);
        }
    }
    Ok(names)
}

impl Listed {
    fn of(kind: Kind, name: String, certificate: CertificateFacts, now: SystemTime) -> Self {
        let its = (kind == Kind::Certificate)
            .then(|| consumer_of(&name))
            .flatten();
        let left = certificate.not_after.duration_since(now);
        Self {
            kind,
            seconds_left: left.unwrap_or(Duration::ZERO).as_secs(),
            due: (kind == Kind::Certificate).then(|| certificate.renew_at()),
            component: its.map(|its| its.component),
            purpose: its.map(|its| its.purpose),
            reload: its.map(|its| its.reload.to_string()),
            name,
            certificate,
        }
    }
}

/// Kind and name of a file according to its path below [`BASE`].
fn placed(path: &Path) -> Option<(Kind, String)> {
    let below = path.strip_prefix(BASE).ok()?.to_str()?;
    if let Some(name) = below.strip_prefix("ca/") {
        let (name, file) = name.split_once('/')?;
        let name = match file {
            "ca.crt" => name.to_owned(),
            "next.crt" => format!("{name}, its successor"),
            "previous.crt" => format!("{name}, its predecessor"),
            _ => return None,
        };
        return Some((Kind::Authority, name));
    }
    let name = below.strip_prefix("certs/")?;
    match name.strip_suffix("/request.crt") {
        Some(name) => Some((Kind::Certificate, name.to_owned())),
        None => Some((Kind::Trust, name.strip_suffix("/ca.crt")?.to_owned())),
    }
}

/// The client certificate inside a kubeconfig; `None` if the kubeconfig names a file instead.
fn inside(path: &Path, content: &Content) -> Result<Option<CertificateFacts>, String> {
    let Some(kubeconfig_yaml) = content.parse(|bytes| {
        serde_yaml::from_slice::<KubeconfigYaml>(bytes)
            .map_err(|_| "it is not a kubeconfig".to_owned())
    }) else {
        return Ok(None);
    };
    match kubeconfig_yaml?.client_certificate()? {
        Some(pem) => Ok(Some(Certificate::parse(path, &pem)?.facts)),
        None => Ok(None),
    }
}

fn maybe_rfc3339<S: serde::Serializer>(
    value: &Option<SystemTime>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(time) => rfc3339(time, serializer),
        None => serializer.serialize_none(),
    }
}
