//! The next encryption key of a master that does not make it itself.

use super::encryption::Key;
use super::retired::Named;
use crate::host::Host;
use crate::resource::ResourceResult;
use crate::resource::pki::replacement::Replacement;
use crate::resource::pki::successor::received::{received, unusable};
use crate::resource::pki::{ENCRYPTION, SentSuccessor, Stage};

/// The key in this file, for a host that has these keys; `None` if it has the key already. Reads only. Cancel safe.
///
/// # Errors
/// The file cannot be used on this host, with the reason and what to do; or the host cannot be read.
pub(super) async fn next_key(
    host: &dyn Host,
    sent: &SentSuccessor,
    stage: Stage,
    present: &[Key],
) -> ResourceResult<Option<Key>> {
    let ids = present.iter().map(Key::id).collect();
    let Some(replacement) = Replacement::of_ids(stage, ids) else {
        return Ok(None);
    };
    let Some(file) = received(host, sent, ENCRYPTION, &replacement).await? else {
        return Ok(None);
    };
    let named = Named {
        name: file.id,
        secret: file.key,
    };
    let key = Key::read(&named).map_err(|why| unusable(&sent.path, ENCRYPTION, &why))?;
    // The order of the numbers tells the stage.
    if present.iter().any(|its| its.number >= key.number) {
        let why = "its number is not above that of the present key";
        return Err(unusable(&sent.path, ENCRYPTION, why));
    }
    Ok(Some(key))
}
