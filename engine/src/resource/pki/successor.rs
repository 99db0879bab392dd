//! A successor is sent to another master: the file is encrypted to the host that gets it.
//!
//! Not here: how that host takes it (`received`).

pub(in crate::resource::pki) mod received;
pub(in crate::resource::pki) mod sent;

use std::path::Path;

use self::received::received;
use self::sent::SentSuccessor;
use crate::host::Host;
use crate::kubernetes::join_file::SuccessorFile;
use crate::resource::pki::authority::files::{
    AuthorityFiles, CERTIFICATE, KEY, NEXT_CERTIFICATE, NEXT_KEY,
};
use crate::resource::pki::authority::state::AuthorityState;
use crate::resource::pki::keys::encryption;
use crate::resource::pki::keys::record::KeyRecord;
use crate::resource::pki::replacement::Replacement;
use crate::resource::pki::{ENCRYPTION, Stage, authority_record};
use crate::resource::{ResourceError, ResourceResult};

/// The successor that this host has of an authority or of the encryption key, with its key, for another master. It has no expiry yet. Reads
/// only. Cancel safe.
///
/// # Errors
/// Nothing is being replaced, this host lacks the key, or the host cannot be read.
pub async fn successor_of(host: &dyn Host, of: &str) -> ResourceResult<SuccessorFile> {
    let present = Replacement::read(host, of).await?;
    let Some((present, id)) = present
        .as_ref()
        .and_then(|its| Some((its, its.successor()?)))
    else {
        return Err(ResourceError::Unmet {
            what: format!("send the successor of `{of}`: this host has none"),
            next: format!(
                "make one (`nodelet certs rotate {of} begin`), or send it from the master that has it (`nodelet certs rollout {of}`)"
            ),
        });
    };
    let (certificate, key) = match of {
        ENCRYPTION => (String::new(), newest_key(host, id).await?),
        name => of_authority(host, name, present.stage).await?,
    };
    Ok(SuccessorFile::new(
        of,
        present.predecessor(),
        id,
        certificate,
        key,
    ))
}

async fn newest_key(host: &dyn Host, id: &str) -> ResourceResult<String> {
    let keys = encryption::named(host).await?;
    let key = keys.into_iter().find(|key| key.name == id);
    key.map(|key| key.secret).ok_or_else(|| absent(ENCRYPTION))
}

/// Certificate and key of the successor, from its recorded files.
async fn of_authority(
    host: &dyn Host,
    name: &str,
    stage: Stage,
) -> ResourceResult<(String, String)> {
    let files = AuthorityFiles::read(host, name).await?;
    let record = KeyRecord::read(host, &authority_record(name)).await?;
    let AuthorityState::Whole { mut files, .. } =
        AuthorityState::of(name, &files, &record, host).await?
    else {
        return Err(absent(name));
    };
    let (certificate, key) = match stage {
        Stage::Begun => (NEXT_CERTIFICATE, NEXT_KEY),
        Stage::Switched | Stage::Settled => (CERTIFICATE, KEY),
    };
    let mut text = |file| {
        let bytes = files.remove(file).ok_or_else(|| absent(name))?;
        String::from_utf8(bytes).map_err(|_| absent(name))
    };
    Ok((text(certificate)?, text(key)?))
}

fn absent(of: &str) -> ResourceError {
    ResourceError::Unmet {
        what: format!("send the successor of `{of}`: this host does not have its key as text"),
        next: "run this on a master that `nodelet check` calls healthy".to_owned(),
    }
}

/// The id of the successor in the file at `path`; `None` if this host has it already, or has nothing that it could replace. Reads only. Cancel
/// safe.
///
/// # Errors
/// The file cannot be used on this host, with the reason and what to do; or the host cannot be read.
pub async fn received_id(host: &dyn Host, of: &str, path: &Path) -> ResourceResult<Option<String>> {
    let Some(present) = Replacement::read(host, of).await? else {
        return Ok(None);
    };
    let sent = SentSuccessor {
        path: path.to_owned(),
        id: None,
    };
    let file = received(host, &sent, of, &present).await?;
    Ok(file.map(|file| file.id))
}
