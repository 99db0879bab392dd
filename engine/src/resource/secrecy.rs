//! Who may see the content of the files that a step makes, as far as the plan says.

use std::path::{Path, PathBuf};

use super::files::hidden::is_private;
use super::pki::{authority_paths, certificate_paths, service_account_paths};
use super::{FileSource, Spec};

/// Permission bits that let others read a secret, or a group replace it.
pub(crate) const TOO_OPEN: u32 = 0o027;

/// Whether systemd reads units or drop-ins from a directory above `path`. It shows their settings to all users.
pub(crate) fn is_read_by_systemd(path: &Path) -> bool {
    let directories = [
        "/etc/systemd/system",
        "/run/systemd/system",
        "/usr/local/lib/systemd/system",
        "/usr/lib/systemd/system",
        "/lib/systemd/system",
    ];
    directories
        .iter()
        .any(|directory| path.starts_with(directory))
}

/// Who may see the content of a file. The later ones are stricter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Secrecy {
    /// All users and reports.
    Open,
    /// All users of the host; it is in no report.
    Unshown,
    /// Its owner, and perhaps its group.
    Private,
}

impl Spec {
    /// The files of this step whose secrecy the plan says.
    pub(crate) fn secrecy(&self) -> Vec<(PathBuf, Secrecy)> {
        match self {
            Self::File(file) if matches!(file.source, FileSource::GuardedCopy(_)) => Vec::new(),
            Self::File(file) => of_file(&file.path, file.is_secret(), file.attributes.mode),
            Self::EnvFile(file) => of_file(&file.path, file.is_secret(), file.attributes.mode),
            Self::Certificate(certificate) => {
                let paths = certificate_paths(&certificate.path);
                vec![
                    (paths.certificate, Secrecy::Open),
                    (paths.trust, Secrecy::Open),
                    (paths.key, Secrecy::Private),
                ]
            }
            Self::Authority(authority) => {
                let paths = authority_paths(&authority.name);
                vec![
                    (paths.certificate, Secrecy::Open),
                    (paths.key, Secrecy::Private),
                    (paths.next_key, Secrecy::Private),
                ]
            }
            Self::ServiceAccountKey(_) => {
                let (key, public) = service_account_paths();
                vec![(key, Secrecy::Private), (public, Secrecy::Open)]
            }
            Self::EncryptionKeys(_) | Self::Kubeconfig(_) => {
                let paths = self.paths().into_iter();
                paths.map(|path| (path, Secrecy::Private)).collect()
            }
            Self::Directory(_)
            | Self::Symlink(_)
            | Self::DataId(_)
            | Self::Image(_)
            | Self::ImageDirectory(_)
            | Self::Container(_)
            | Self::Service(_)
            | Self::Sysctl(_)
            | Self::KernelModule(_)
            | Self::Packages(_)
            | Self::Link(_)
            | Self::Pods(_)
            | Self::PodContainer(_)
            | Self::Manifest(_)
            | Self::Node(_)
            | Self::Drain(_)
            | Self::Command(_)
            | Self::FirewallChains(_)
            | Self::Ipsets(_)
            | Self::IpvsServices(_)
            | Self::Cgroup(_)
            | Self::SysctlSnapshot(_)
            | Self::Group(_)
            | Self::Timer(_) => Vec::new(),
        }
    }
}

fn of_file(path: &Path, is_secret: bool, mode: u32) -> Vec<(PathBuf, Secrecy)> {
    let secrecy = match (is_secret, is_private(mode)) {
        (true, true) => Secrecy::Private,
        (true, false) => Secrecy::Unshown,
        (false, false) => Secrecy::Open,
        // The plan does not say why other users may not read it.
        (false, true) => return Vec::new(),
    };
    vec![(path.to_path_buf(), secrecy)]
}
