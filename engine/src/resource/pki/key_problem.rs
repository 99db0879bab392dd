//! What a status says of the keys, authorities and data that a host keeps.

use std::path::PathBuf;

use super::{ServiceAccountKeySpec, authority_paths, service_account_paths};
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

/// Whether what is about to read these files at its start may do so: the key of service-account tokens and its public half have to be
/// those that the host keeps. Whoever started with others would refuse every token of the cluster. Cancel safe.
///
/// # Errors
/// They are not, with what to do; or the host cannot be read.
pub(crate) async fn may_be_read(host: &dyn Host, files: &[PathBuf]) -> ResourceResult<()> {
    let (key, public) = service_account_paths();
    let Some(file) = files.iter().find(|file| **file == key || **file == public) else {
        return Ok(());
    };
    let cx = Context {
        host,
        outputs: &Outputs::default(),
        secrets: &NoSecrets,
        absent: false,
    };
    let spec = ServiceAccountKeySpec {};
    if spec.observe(&cx).await?.is_whole() {
        return Ok(());
    }
    Err(ResourceError::Unmet {
        what: format!(
            "let {} be read: the service-account key is not as this host keeps it",
            file.display()
        ),
        next: "run `nodelet apply`: it restores the key first".to_owned(),
    })
}
