//! Who may see the content of the files that a step makes, as far as the plan says.

use std::path::{Path, PathBuf};

use super::files::hidden::is_private;
use super::pki::{
    BOOTSTRAP_KUBECONFIG, authority_paths, certificate_paths, kubeconfig_path,
    service_account_paths,
};
use super::{FileSource, SecrecyFrom, Spec};

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
        let Some(source) = self.properties().secrecy else {
            return Vec::new();
        };
        match source {
            SecrecyFrom::File(file) if matches!(file.source, FileSource::GuardedCopy(_)) => {
                Vec::new()
            }
            SecrecyFrom::File(file) => of_file(&file.path, file.is_secret(), file.attributes.mode),
            SecrecyFrom::EnvFile(file) => {
                of_file(&file.path, file.is_secret(), file.attributes.mode)
            }
            SecrecyFrom::Certificate(certificate) => {
                let paths = certificate_paths(&certificate.path);
                vec![
                    (paths.certificate, Secrecy::Open),
                    (paths.trust, Secrecy::Open),
                    (paths.key, Secrecy::Private),
                ]
            }
            SecrecyFrom::Authority(authority) => {
                let paths = authority_paths(&authority.name);
                vec![
                    (paths.certificate, Secrecy::Open),
                    (paths.key, Secrecy::Private),
                    (paths.next_key, Secrecy::Private),
                ]
            }
            SecrecyFrom::JoinFile => vec![
                (authority_paths("cluster").certificate, Secrecy::Open),
                (kubeconfig_path(BOOTSTRAP_KUBECONFIG), Secrecy::Private),
            ],
            SecrecyFrom::ServiceAccountKey => {
                let (key, public) = service_account_paths();
                vec![(key, Secrecy::Private), (public, Secrecy::Open)]
            }
            SecrecyFrom::AllPrivate => {
                let paths = self.paths().into_iter();
                paths.map(|path| (path, Secrecy::Private)).collect()
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::{GroupSpec, ServiceAccountKeySpec};

    #[test]
    fn a_private_key_is_private_and_its_public_half_is_open() {
        let (key, public) = service_account_paths();
        let spec = Spec::ServiceAccountKey(ServiceAccountKeySpec {});
        let expected = [(key, Secrecy::Private), (public, Secrecy::Open)];
        assert_eq!(spec.secrecy(), expected);
        let group = Spec::Group(GroupSpec {
            name: "docker".to_owned(),
        });
        assert!(group.secrecy().is_empty());
    }

    #[test]
    fn a_private_file_without_a_secret_has_no_known_secrecy() {
        let of = |is_secret, mode| {
            let found = of_file(Path::new("/etc/app.conf"), is_secret, mode);
            found.first().map(|(_, secrecy)| *secrecy)
        };
        assert_eq!(of(false, 0o644), Some(Secrecy::Open));
        assert_eq!(of(true, 0o644), Some(Secrecy::Unshown));
        assert_eq!(of(true, 0o600), Some(Secrecy::Private));
        assert_eq!(of(false, 0o600), None);
    }
}
