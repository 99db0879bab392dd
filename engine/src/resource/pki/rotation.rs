//! Replacing an authority while all that trusts it goes on.
//!
//! Three steps, each of which everybody has to have taken in before the next: a successor is made and trusted beside
//! the present authority; it signs, and what its predecessor signed is renewed; the predecessor is trusted no more.
//! (<https://kubernetes.io/docs/tasks/tls/manual-rotation-of-ca-certificates/> has the same order.)
//!
//! Which files the authority has is the only state: `next.crt` from the first step on, `previous.crt` from the second. A step
//! changes the authority's record first ([`super::record`]), in one write; the files follow it. So a step that is cut has happened or
//! has not, and any later run brings the files in line.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::authority::AuthoritySpec;
use super::authority_files::{CERTIFICATE, KEY, NEXT_CERTIFICATE, NEXT_KEY, PREVIOUS};
use super::facts::Certificate;
use super::held::Content;
use super::record::KeptFiles;
use super::{Authority, PkiError, PrivateKey, issue, key};
use crate::resource::change::Differences;

/// A step of replacing an authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rotation {
    /// A successor is made, and trusted beside the present authority.
    Begin,
    /// The successor signs; its predecessor is still trusted.
    Switch,
    /// The predecessor is trusted no more.
    Finish,
}

/// How far an authority is in being replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// It is the only one.
    Settled,
    /// A successor is trusted as well.
    Begun,
    /// Its predecessor is trusted as well.
    Switched,
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Settled => "there is one authority, and no other is trusted",
            Self::Begun => "its successor is trusted and does not sign yet",
            Self::Switched => "its successor signs, and it is still trusted",
        })
    }
}

/// How far an authority with these files is in being replaced.
pub(super) fn stage_of(has: impl Fn(&str) -> bool) -> Stage {
    if has(PREVIOUS) {
        Stage::Switched
    } else if has(NEXT_CERTIFICATE) {
        Stage::Begun
    } else {
        Stage::Settled
    }
}

/// Notes what a step would do to an authority that has these files.
pub(super) fn note(wanted: Option<Rotation>, files: &KeptFiles, differences: &mut Differences) {
    match (wanted, stage_of(|name| files.contains_key(name))) {
        (Some(Rotation::Begin), Stage::Settled) => {
            differences.note("successor", "", "made, and trusted beside it");
        }
        (Some(Rotation::Switch), Stage::Begun) => {
            differences.note("signs", "the present one", "its successor");
        }
        (Some(Rotation::Finish), Stage::Switched) => {
            differences.note("predecessor", "trusted", "trusted no more");
        }
        _ => {}
    }
}

/// The files that an authority has after the step that is wanted of it: what [`note`] said.
pub(super) fn after(
    spec: &AuthoritySpec,
    mut files: KeptFiles,
    now: SystemTime,
) -> Result<KeptFiles, PkiError> {
    match (spec.rotation, stage_of(|name| files.contains_key(name))) {
        (Some(Rotation::Begin), Stage::Settled) => {
            let key = key::generate()?;
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
            // What it replaces is trusted until the last step.
            let present = next.and_then(|next| files.insert(CERTIFICATE, next));
            files.extend(present.map(|present| (PREVIOUS, present)));
            files.extend(key.map(|key| (KEY, key)));
        }
        (Some(Rotation::Finish), Stage::Switched) => {
            files.remove(PREVIOUS);
        }
        _ => {}
    }
    Ok(files)
}

/// The certificates that are trusted, the older first, so that a switch changes nothing for those who trust them.
pub(super) fn trusted(signer: (&Certificate, &[u8]), other: (&Certificate, &[u8])) -> Vec<u8> {
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
