//! A host that has joined and was admitted again: it has taken another join file while its certificates were still valid.
//!
//! The record of the new admission has no key, and after a removal no address: until the masters sign again, another node may get the address.
//! The masters must not take the address from elsewhere. A kubelet reports its own, and the address of a tombstone is free for others. So the
//! host itself asks for each certificate once more, with the token of the join file: only a token's request notes the key.
//!
//! What was asked for is the state of this program, as the key of a request is: no effect of a step. A clean removes it.

use std::path::PathBuf;

use super::access::{bootstrap, is_usable, token};
use crate::host::Host;
use crate::resource::files::file::PRIVATE;
use crate::resource::pki::request_keys;
use crate::resource::pki::stored::Stored;
use crate::resource::{Receipt, ResourceResult};

/// The admission of a host that had joined before.
struct Readmission {
    /// The id of its token.
    token: String,
    /// The certificates that were signed since then.
    signed: Vec<String>,
}

/// The id of the token, then a certificate in each line.
fn path() -> PathBuf {
    request_keys().join("readmission")
}

impl Readmission {
    async fn read(host: &dyn Host) -> ResourceResult<Option<Self>> {
        let (_, content) = Stored::read(host, &path()).await?;
        let text = content
            .bytes()
            .and_then(|bytes| std::str::from_utf8(bytes).ok());
        let mut lines = text.unwrap_or_default().lines().map(str::to_owned);
        Ok(lines.next().map(|token| Self {
            token,
            signed: lines.collect(),
        }))
    }

    async fn write(&self, host: &dyn Host) -> ResourceResult<()> {
        let mut text = format!("{}\n", self.token);
        for certificate in &self.signed {
            text.push_str(certificate);
            text.push('\n');
        }
        let stored = Stored::read_entry(host, &path()).await?;
        let mut not_part_of_the_step = Receipt::default();
        stored
            .put(host, text.as_bytes(), PRIVATE, &mut not_part_of_the_step)
            .await
    }
}

/// Notes that this host, which has joined, takes a join file with another token. `id` is that of the token.
///
/// # Errors
/// An operation of the host failed.
pub(in crate::resource::pki) async fn begin(host: &dyn Host, id: &str) -> ResourceResult<()> {
    let readmission = Readmission {
        token: id.to_owned(),
        signed: Vec::new(),
    };
    readmission.write(host).await
}

/// Whether this host has to ask for a certificate with the token of its join file, although the certificate is valid. False if the join file
/// is no longer there or has expired: then its token brings nothing. Cancel safe.
///
/// # Errors
/// The host cannot be read.
pub(in crate::resource::pki) async fn is_open(
    host: &dyn Host,
    certificate: &str,
) -> ResourceResult<bool> {
    let Some(readmission) = Readmission::read(host).await? else {
        return Ok(false);
    };
    if readmission.signed.iter().any(|its| its == certificate) {
        return Ok(false);
    }
    let Some(bootstrap) = bootstrap(host).await? else {
        return Ok(false);
    };
    match token(&bootstrap) {
        Some((id, token)) if id == readmission.token => is_usable(host, token).await,
        Some(_) | None => Ok(false),
    }
}

/// Notes that the masters have signed this certificate.
///
/// # Errors
/// An operation of the host failed.
pub(super) async fn signed(host: &dyn Host, certificate: &str) -> ResourceResult<()> {
    let Some(mut readmission) = Readmission::read(host).await? else {
        return Ok(());
    };
    if readmission.signed.iter().any(|its| its == certificate) {
        return Ok(());
    }
    readmission.signed.push(certificate.to_owned());
    readmission.write(host).await
}
