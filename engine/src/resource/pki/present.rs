//! How far this host is with a replacement, from its files.

use super::{Authority, ENCRYPTION, Replacement, encryption_key_ids, encryption_stage};
use crate::host::Host;
use crate::resource::ResourceResult;

impl Replacement {
    /// How far this host is with an authority, or with the encryption keys; `None` if it has none. Cancel safe.
    ///
    /// # Errors
    /// Its files exist but cannot be used.
    pub async fn read(host: &dyn Host, of: &str) -> ResourceResult<Option<Self>> {
        if of != ENCRYPTION {
            let authority = Authority::read(host, of).await?;
            return Ok(authority.as_ref().and_then(Self::of_authority));
        }
        let ids = encryption_key_ids(host).await?;
        if ids.is_empty() {
            return Ok(None);
        }
        let stage = encryption_stage(host).await?;
        Ok(Self::of_ids(stage, ids))
    }
}
