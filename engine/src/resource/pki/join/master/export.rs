//! Collects the keys of this master for the join file of another one.

use std::collections::BTreeMap;

use crate::host::Host;
use crate::kubernetes::join_file::{AuthorityPem, MASTER_AUTHORITIES, MasterJoinFile};
use crate::resource::pki::authority::files::{AuthorityFiles, CERTIFICATE, KEY};
use crate::resource::pki::authority::state::AuthorityState;
use crate::resource::pki::certificate::facts::show;
use crate::resource::pki::keys::record::KeyRecord;
use crate::resource::pki::keys::{encryption, service_account};
use crate::resource::pki::{Authority, ENCRYPTION, Stage, authority_record, encryption_stage};
use crate::resource::{ResourceError, ResourceResult};

/// Puts the authorities, the service-account key and the encryption keys of this host into a join file. Reads only. Cancel safe.
///
/// # Errors
/// This host does not have all of them, one of them is being replaced, an authority is not valid now, or the host cannot be read.
pub async fn export_keys(host: &dyn Host, file: &mut MasterJoinFile) -> ResourceResult<()> {
    let mut authorities = BTreeMap::new();
    for name in MASTER_AUTHORITIES {
        authorities.insert(name.to_owned(), authority(host, name).await?);
    }
    let key = service_account::present(host).await?;
    let key = key.ok_or_else(|| absent("the service-account key"))?;
    let encrypts = encryption::present(host).await?;
    let encrypts = encrypts.ok_or_else(|| absent("the encryption keys"))?;
    if encryption_stage(host).await? != Stage::Settled {
        return Err(in_replacement("the encryption key", ENCRYPTION));
    }
    file.service_account_key = text(key, "the service-account key")?;
    file.encryption_keys = encrypts;
    file.authorities = authorities;
    Ok(())
}

async fn authority(host: &dyn Host, name: &str) -> ResourceResult<AuthorityPem> {
    let what = format!("authority `{name}`");
    let files = AuthorityFiles::read(host, name).await?;
    let record = KeyRecord::read(host, &authority_record(name)).await?;
    let AuthorityState::Whole { mut files, .. } =
        AuthorityState::of(name, &files, &record, host).await?
    else {
        return Err(absent(&what));
    };
    let at = |error: crate::resource::pki::PkiError| error.at(format!("read {what}"));
    let read = Authority::of_kept(name, &files).map_err(at)?;
    let read = read.ok_or_else(|| absent(&what))?;
    if read.stage() != Stage::Settled {
        return Err(in_replacement(&what, name));
    }
    let (now, facts) = (host.now(), read.facts());
    if !facts.is_valid_at(now) {
        return Err(ResourceError::Unmet {
            what: format!(
                "export {what}: the clock of this host says {}, and it is valid from {} until {}",
                show(now),
                show(facts.not_before),
                show(facts.not_after)
            ),
            next: "set the clock, or replace the authority (`nodelet certs rotate`)".to_owned(),
        });
    }
    let (Some(certificate), Some(key)) = (files.remove(CERTIFICATE), files.remove(KEY)) else {
        return Err(absent(&format!("the key of {what}")));
    };
    Ok(AuthorityPem {
        certificate: text(certificate, &what)?,
        key: text(key, &what)?,
    })
}

/// PEM is text. The error quotes nothing of it.
fn text(bytes: Vec<u8>, what: &str) -> ResourceResult<String> {
    String::from_utf8(bytes).map_err(|_| ResourceError::Unmet {
        what: format!("export {what}: its file has bytes that are no text"),
        next: "write the file again in PEM without other content".to_owned(),
    })
}

fn absent(what: &str) -> ResourceError {
    ResourceError::Unmet {
        what: format!("export {what}: this host does not have it"),
        next: "run this on a master that `nodelet check` calls healthy".to_owned(),
    }
}

fn in_replacement(what: &str, name: &str) -> ResourceError {
    ResourceError::Unmet {
        what: format!(
            "export {what}: it is being replaced, and another master would not take part in that"
        ),
        next: format!("finish the replacement first: `nodelet certs rotate {name} STEP`"),
    }
}
