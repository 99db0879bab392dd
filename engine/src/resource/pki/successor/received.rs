//! A successor is taken from the file that another master has sent. The file is encrypted to this host, which takes only the successor of what
//! it has, and never a second one.

use std::path::Path;

use crate::host::Host;
use crate::kubernetes::join_file::{
    IDENTITY, JoinContent as _, JoinFileError, LONGEST, SuccessorFile,
};
use crate::model::chain;
use crate::resource::change::content_digest;
use crate::resource::pki::certificate::facts::Certificate;
use crate::resource::pki::replacement::Replacement;
use crate::resource::pki::stored::{Content, Stored};
use crate::resource::pki::successor::sent::SentSuccessor;
use crate::resource::pki::{Authority, Stage};
use crate::resource::{ResourceError, ResourceResult};

/// The successor in this file, for a host that is so far; `None` if the host has it already. Reads only. Cancel safe.
///
/// # Errors
/// The file cannot be used on this host, with the reason and what to do; or the host cannot be read.
pub(in crate::resource::pki) async fn received(
    host: &dyn Host,
    sent: &SentSuccessor,
    of: &str,
    present: &Replacement,
) -> ResourceResult<Option<SuccessorFile>> {
    let path = sent.path.as_path();
    let refused = |why: &str| unusable(path, of, why);
    let sealed = content(host, path).await?.map_err(|why| refused(&why))?;
    let identity = content(host, Path::new(IDENTITY)).await?;
    let identity = identity.map_err(|why| refused(&format!("{IDENTITY}: {why}")))?;
    let opened = SuccessorFile::open(&sealed, &String::from_utf8_lossy(&identity));
    let checked = opened.and_then(|file| file.check(host.now()).map(|()| file));
    let file = checked.map_err(|error: JoinFileError| refused(&chain(&error).join(": ")))?;
    if file.of != of {
        return Err(refused(&format!("it is the successor of `{}`", file.of)));
    }
    if present.successor() == Some(file.id.as_str()) || present.uses == file.id {
        return Ok(None);
    }
    if sent.id.as_ref().is_some_and(|id| *id != file.id) {
        return Err(refused(
            "it has another successor than when it was checked, so it was exchanged",
        ));
    }
    if present.stage != Stage::Settled {
        return Err(refused(
            "this host has another successor already, so two were made",
        ));
    }
    if present.uses != file.replaces {
        return Err(refused(
            "it does not replace what this host has: it is of another cluster or of another replacement",
        ));
    }
    Ok(Some(file))
}

/// The content of a file, or why it cannot be read.
async fn content(host: &dyn Host, path: &Path) -> ResourceResult<Result<Vec<u8>, String>> {
    Ok(match Stored::read(host, path).await?.1 {
        Content::Bytes(bytes) if bytes.len() > LONGEST => Err("it is too long".to_owned()),
        Content::Bytes(bytes) => Ok(bytes),
        Content::Missing => Err("it is not there".to_owned()),
        Content::Unfit(why) => Err(why),
    })
}

/// A file with a successor that this host cannot take.
pub(in crate::resource::pki) fn unusable(path: &Path, of: &str, why: &str) -> ResourceError {
    ResourceError::Unmet {
        what: format!(
            "take the successor of `{of}` from {}: {why}",
            path.display()
        ),
        next: format!(
            "see which master has the successor (`nodelet certs rollout {of}`), run `nodelet pki key` on this host and `nodelet certs send {of} --to KEY` with that key there"
        ),
    }
}

/// The successor as an authority that can sign now.
///
/// # Errors
/// Its certificate and its key do not match, its id is another one, or it is not valid now.
pub(in crate::resource::pki) fn as_authority(
    path: &Path,
    file: &SuccessorFile,
    host: &dyn Host,
) -> ResourceResult<(Vec<u8>, Vec<u8>)> {
    let refused = |why: &str| unusable(path, &file.of, why);
    let pem = |text: &String| text.clone().into_bytes();
    let (certificate, key) = (pem(&file.certificate), pem(&file.key));
    let bytes = |bytes: &[u8]| Content::Bytes(bytes.to_vec());
    Authority::can_succeed(&file.of, &bytes(&certificate), &bytes(&key), host.now())
        .map_err(|error| refused(&chain(&error).join(": ")))?;
    let parsed = Certificate::parse(path, &certificate);
    let parsed = parsed.map_err(|why| refused(&why))?;
    if content_digest(&parsed.der) != file.id {
        return Err(refused("its certificate is another one than it says"));
    }
    Ok((certificate, key))
}
