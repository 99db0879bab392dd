//! Replacing an authority while all components that trust it continue to work.
//!
//! There are three steps. Before the next step, every component has to use the result of the one before: (1) a successor is made and
//! trusted beside the present authority; (2) the successor signs, and certificates of its predecessor are renewed; (3) the predecessor is
//! no longer trusted. (<https://kubernetes.io/docs/tasks/tls/manual-rotation-of-ca-certificates/> has the same order.)
//!
//! The files of the authority are the only state: `next.crt` exists after the first step, `previous.crt` after the second. A step first
//! changes the authority's record ([`crate::resource::pki::keys::record`]) in one write, then the files. So an interrupted step has either happened or not,
//! and any later run aligns the files with the record.

use std::time::SystemTime;

use crate::resource::change::Differences;
use crate::resource::pki::authority::files::{
    CERTIFICATE, KEY, NEXT_CERTIFICATE, NEXT_KEY, PREVIOUS,
};
use crate::resource::pki::authority::spec::AuthoritySpec;
use crate::resource::pki::certificate::facts::Certificate;
use crate::resource::pki::certificate::issue;
use crate::resource::pki::keys::record::KeptFiles;
use crate::resource::pki::stage::{PREDECESSOR, Rotation, Stage};
use crate::resource::pki::stored::Content;
use crate::resource::pki::{Authority, PkiError, PrivateKey, keys};

/// The stage of the replacement of an authority that has these files.
pub(in crate::resource::pki) fn stage_of(has: impl Fn(&str) -> bool) -> Stage {
    if has(PREVIOUS) {
        Stage::Switched
    } else if has(NEXT_CERTIFICATE) {
        Stage::Begun
    } else {
        Stage::Settled
    }
}

/// Notes what a step would do to an authority that has these files.
pub(in crate::resource::pki) fn note(
    wanted: Option<Rotation>,
    files: &KeptFiles,
    differences: &mut Differences,
) {
    match (wanted, stage_of(|name| files.contains_key(name))) {
        (Some(Rotation::Begin), Stage::Settled) => {
            differences.note("successor", "", "made, and trusted beside it");
        }
        (Some(Rotation::Switch), Stage::Begun) => {
            differences.note("signs", "the present one", "its successor");
        }
        (Some(Rotation::Finish), Stage::Switched) => {
            differences.note(PREDECESSOR, "trusted", "trusted no more");
        }
        (None, _)
        | (Some(Rotation::Begin), Stage::Begun | Stage::Switched)
        | (Some(Rotation::Switch), Stage::Settled | Stage::Switched)
        | (Some(Rotation::Finish), Stage::Settled | Stage::Begun) => {}
    }
}

/// The files that an authority has after its requested step. [`note`] describes the same step. `received` has the files of a successor that
/// another master has made, if there is one.
pub(in crate::resource::pki) fn after(
    spec: &AuthoritySpec,
    mut files: KeptFiles,
    received: KeptFiles,
    now: SystemTime,
) -> Result<KeptFiles, PkiError> {
    match (
        spec.step(&received),
        stage_of(|name| files.contains_key(name)),
    ) {
        (Some(Rotation::Begin), Stage::Settled) if !received.is_empty() => files.extend(received),
        (Some(Rotation::Begin), Stage::Settled) => {
            let key = keys::generate()?;
            let certificate = issue::self_signed(spec, &key, now)?;
            let pem = PrivateKey::from(&key);
            files.insert(NEXT_KEY, pem.expose_pem().as_bytes().to_vec());
            files.insert(NEXT_CERTIFICATE, certificate.into_bytes());
        }
        (Some(Rotation::Switch), Stage::Begun) => {
            let next = files.remove(NEXT_CERTIFICATE);
            let key = files.remove(NEXT_KEY);
            let content =
                |bytes: &Option<Vec<u8>>| bytes.clone().map_or(Content::Missing, Content::Bytes);
            Authority::can_succeed(&spec.name, &content(&next), &content(&key), now)?;
            // The replaced authority is trusted until the last step.
            let present = next.and_then(|next| files.insert(CERTIFICATE, next));
            files.extend(present.map(|present| (PREVIOUS, present)));
            files.extend(key.map(|key| (KEY, key)));
        }
        (Some(Rotation::Finish), Stage::Switched) => {
            files.remove(PREVIOUS);
        }
        (None, _)
        | (Some(Rotation::Begin), Stage::Begun | Stage::Switched)
        | (Some(Rotation::Switch), Stage::Settled | Stage::Switched)
        | (Some(Rotation::Finish), Stage::Settled | Stage::Begun) => {}
    }
    Ok(files)
}

/// The trusted certificates, the older first, so that the file does not change at a switch.
pub(in crate::resource::pki) fn trusted(
    signer: (&Certificate, &[u8]),
    other: (&Certificate, &[u8]),
) -> Vec<u8> {
    let mut all = [signer, other];
    all.sort_by_key(|(certificate, _)| (certificate.facts.not_before, certificate.der.clone()));
    let mut pem = Vec::new();
    for (_, its) in all {
        if !pem.is_empty() && !pem.ends_with(b"\n") {
            pem.push(b'\n');
        }
        pem.extend_from_slice(its);
    }
    pem
}
