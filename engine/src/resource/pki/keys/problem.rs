//! What a status reports about the keys, authorities and data ids that a host has recorded.

use std::path::{Path, PathBuf};

use super::encryption::encryption_config;
use crate::host::Host;
use crate::resource::pki::certificate::spec::CLUSTER;
use crate::resource::pki::{
    EncryptionKeysSpec, JoinFileSpec, ServiceAccountKeySpec, authority_paths, service_account_paths,
};
use crate::resource::{
    Context, NoSecrets, Outputs, RecordedKey, Resource as _, ResourceError, ResourceResult, Spec,
};

/// What is wrong with the authority, service-account key, encryption keys or data id of a step, with the name of the file and the
/// remedy; `None` if all is as recorded, and for other kinds of steps. Cancel safe.
///
/// # Errors
/// A key or authority is a foreign one, or is lost without a copy; or the host cannot be read.
pub async fn key_problem(host: &dyn Host, spec: &Spec) -> ResourceResult<Option<String>> {
    let cx = Context {
        host,
        outputs: &Outputs::default(),
        secrets: &NoSecrets,
        absent: false,
        cancel: None,
    };
    Ok(match spec.properties().recorded_key {
        Some(RecordedKey::Authority(spec)) => {
            let directory = authority_paths(&spec.name).directory;
            let found = spec.observe(&cx).await?.problem();
            found.map(|(file, problem)| format!("{}: {problem}", directory.join(file).display()))
        }
        Some(RecordedKey::Joined) => {
            let directory = authority_paths(CLUSTER).directory;
            let found = JoinFileSpec::problem(host).await?;
            found.map(|(file, problem)| format!("{}: {problem}", directory.join(file).display()))
        }
        Some(RecordedKey::ServiceAccountKey(spec)) => {
            let path = service_account_paths().0;
            let found = spec.observe(&cx).await?.problem();
            found.map(|problem| format!("{}: {problem}", path.display()))
        }
        Some(RecordedKey::EncryptionKeys(spec)) => spec.observe(&cx).await?.problem(),
        Some(RecordedKey::DataId(spec)) => spec.problem(&cx).await?,
        None => None,
    })
}

/// Maximum size of a key file in bytes.
const MOST: u64 = 64 * 1024;

/// Checks before the start of a component that it may read these files: the service-account key, its copies, its public half and the keys
/// that encrypt Secrets have to be the recorded ones. With other keys, an API server refuses every token of the cluster or cannot read
/// Secrets, and a controller-manager signs tokens that are refused. Cancel safe.
///
/// # Errors
/// A file differs, with the remedy; or the host cannot be read.
pub(crate) async fn may_be_read(host: &dyn Host, files: &[PathBuf]) -> ResourceResult<()> {
    let cx = Context {
        host,
        outputs: &Outputs::default(),
        secrets: &NoSecrets,
        absent: false,
        cancel: None,
    };
    let (key, public) = service_account_paths();
    let encrypts = encryption_config();
    for file in files {
        let is_copy = *file != key && file.file_name() == key.file_name();
        let (what, is_ours) = if is_copy || *file == key || *file == public {
            let observed = ServiceAccountKeySpec {}.observe(&cx).await?;
            let is_same = !is_copy || is_same_file(host, file, &key).await?;
            (
                "the service-account key is not the one that this host has recorded",
                observed.is_whole() && is_same,
            )
        } else if *file == encrypts {
            let observed = EncryptionKeysSpec {
                rotation: None,
                successor: None,
            }
            .observe(&cx)
            .await?;
            (
                "the encryption keys are not the ones that this host has recorded",
                observed.is_right(file),
            )
        } else {
            continue;
        };
        if !is_ours {
            return Err(ResourceError::Unmet {
                what: format!("start a program that reads {}: {what}", file.display()),
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

/// Whether both files exist and have the same content.
async fn is_same_file(host: &dyn Host, one: &Path, other: &Path) -> ResourceResult<bool> {
    let content = host.read(one, MOST).await?;
    Ok(content.is_some() && content == host.read(other, MOST).await?)
}
