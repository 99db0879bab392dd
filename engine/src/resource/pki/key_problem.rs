//! What a status says of the keys, authorities and data that a host keeps.

use std::path::{Path, PathBuf};

use super::encryption::encryption_config;
use super::{EncryptionKeysSpec, ServiceAccountKeySpec, authority_paths, service_account_paths};
use crate::host::Host;
use crate::resource::{
    Context, NoSecrets, Outputs, Resource as _, ResourceError, ResourceResult, Spec,
};

/// What is wrong with the authority, service-account key encryption keys or data id that a step makes, by the name of the file and with what to do; `None`
/// where all is as the host keeps it, and for any other step. Cancel safe.
///
/// # Errors
/// A key or authority is not ours, or lost without a copy; or the host cannot be read.
pub async fn key_problem(host: &dyn Host, spec: &Spec) -> ResourceResult<Option<String>> {
    let cx = Context {
        host,
        outputs: &Outputs::default(),
        secrets: &NoSecrets,
        absent: false,
    };
    Ok(match spec {
        Spec::Authority(spec) => {
            let directory = authority_paths(&spec.name).directory;
            let found = spec.observe(&cx).await?.problem();
            found.map(|(file, problem)| format!("{}: {problem}", directory.join(file).display()))
        }
        Spec::ServiceAccountKey(spec) => {
            let path = service_account_paths().0;
            let found = spec.observe(&cx).await?.problem();
            found.map(|problem| format!("{}: {problem}", path.display()))
        }
        Spec::EncryptionKeys(spec) => spec.observe(&cx).await?.problem(),
        Spec::DataId(spec) => spec.problem(&cx).await?,
        _ => None,
    })
}

/// Most bytes of a key.
const MOST: u64 = 64 * 1024;

/// Whether what is about to read these files at its start may do so: the key of service-account tokens, its copies and its public half, and
/// the keys that encrypt Secrets, have to be those that the host keeps. An API server that starts with others refuses every token of the
/// cluster, or cannot read a Secret; a controller-manager signs tokens that are refused. Cancel safe.
///
/// # Errors
/// They are not, with what to do; or the host cannot be read.
pub(crate) async fn may_be_read(host: &dyn Host, files: &[PathBuf]) -> ResourceResult<()> {
    let cx = Context {
        host,
        outputs: &Outputs::default(),
        secrets: &NoSecrets,
        absent: false,
    };
    let (key, public) = service_account_paths();
    let encrypts = encryption_config();
    for file in files {
        let is_copy = *file != key && file.file_name() == key.file_name();
        let (what, is_ours) = if is_copy || *file == key || *file == public {
            let observed = ServiceAccountKeySpec {}.observe(&cx).await?;
            let is_same = !is_copy || is_same_file(host, file, &key).await?;
            (
                "the service-account key is not as this host keeps it",
                observed.is_whole() && is_same,
            )
        } else if *file == encrypts {
            let observed = EncryptionKeysSpec { rotation: None }.observe(&cx).await?;
            (
                "the encryption keys are not as this host keeps them",
                observed.is_right(file),
            )
        } else {
            continue;
        };
        if !is_ours {
            return Err(ResourceError::Unmet {
                what: format!("let {} be read: {what}", file.display()),
                next: "run `nodelet apply`: it restores the right ones first".to_owned(),
            });
        }
    }
    Ok(())
}

/// Whether one of these files is the service-account key or a copy of it.
pub(crate) fn has_service_account_key(files: &[PathBuf]) -> bool {
    let (key, _) = service_account_paths();
    let mut names = files.iter().map(|file| file.file_name());
    names.any(|name| name == key.file_name())
}

/// Whether two files are there with the same content.
async fn is_same_file(host: &dyn Host, one: &Path, other: &Path) -> ResourceResult<bool> {
    let content = host.read(one, MOST).await?;
    Ok(content.is_some() && content == host.read(other, MOST).await?)
}
