//! Replacing an authority while all that trusts it goes on.
//!
//! Three steps, each of which everybody has to have taken in before the next: a successor is made and trusted beside
//! the present authority; it signs, and what its predecessor signed is renewed; the predecessor is trusted no more.
//! (<https://kubernetes.io/docs/tasks/tls/manual-rotation-of-ca-certificates/> has the same order.)
//!
//! The files in the authority's directory are the only state. `next.crt` is there from the first step on, `previous.crt`
//! from the second; both of them together are a switch that was cut: the successor signs from the moment `previous.crt`
//! is there, and whoever converges next puts the rest in place.

use serde::{Deserialize, Serialize};

use super::authority::AuthoritySpec;
use super::facts::Certificate;
use super::held::{Content, Held, PUBLIC};
use super::{Authority, PkiError, PrivateKey, authority_paths, issue, key};
use crate::host::{Attributes, Host};
use crate::resource::change::Differences;
use crate::resource::file::PRIVATE;
use crate::resource::{Context, Receipt, ResourceResult};

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

/// The files of an authority, with what is in them.
pub(super) struct Files {
    pub(super) certificate: (Held, Content),
    pub(super) key: (Held, Content),
    next_certificate: (Held, Content),
    next_key: (Held, Content),
    previous: (Held, Content),
}

/// Without what is in them: there are keys among them.
impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Files")
            .field("stage", &self.stage())
            .finish_non_exhaustive()
    }
}

impl Files {
    /// Reads them. Cancel safe.
    pub(super) async fn read(host: &dyn Host, name: &str) -> ResourceResult<Self> {
        let paths = authority_paths(name);
        Ok(Self {
            certificate: Held::read(host, &paths.certificate).await?,
            key: Held::read(host, &paths.key).await?,
            next_certificate: Held::read(host, &paths.next_certificate).await?,
            next_key: Held::read(host, &paths.next_key).await?,
            previous: Held::read(host, &paths.previous).await?,
        })
    }

    /// Whether a switch was cut.
    pub(super) fn is_cut(&self) -> bool {
        self.next_certificate.0.is_there() && self.previous.0.is_there()
    }

    pub(super) fn stage(&self) -> Stage {
        if self.previous.0.is_there() {
            Stage::Switched
        } else if self.next_certificate.0.is_there() {
            Stage::Begun
        } else {
            Stage::Settled
        }
    }

    /// Certificate and key of the one that signs.
    pub(super) fn signer(&self) -> (&Content, &Content) {
        if !self.is_cut() {
            return (&self.certificate.1, &self.key.1);
        }
        let key = match self.next_key.1 {
            // It has been put in place already.
            Content::Missing => &self.key.1,
            _ => &self.next_key.1,
        };
        (&self.next_certificate.1, key)
    }

    /// The other one that is trusted: the successor, or the predecessor.
    pub(super) fn other(&self) -> &Content {
        match self.stage() {
            Stage::Switched => &self.previous.1,
            Stage::Begun | Stage::Settled => &self.next_certificate.1,
        }
    }

    /// All of them, each with the mode and owner that it should have.
    pub(super) fn all(&self) -> [(&Held, Attributes); 5] {
        [
            (&self.certificate.0, PUBLIC),
            (&self.key.0, PRIVATE),
            (&self.next_certificate.0, PUBLIC),
            (&self.next_key.0, PRIVATE),
            (&self.previous.0, PUBLIC),
        ]
    }
}

/// Notes what a step would do to an authority that stands; a switch that was cut is finished by any run.
pub(super) fn note(wanted: Option<Rotation>, files: &Files, differences: &mut Differences) {
    if files.is_cut() {
        differences.note("signs", "its successor, not all in place", "its successor");
        return;
    }
    match (wanted, files.stage()) {
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

/// Does what [`note`] said.
pub(super) async fn carry_out(
    spec: &AuthoritySpec,
    files: &Files,
    cx: &Context<'_>,
    receipt: &mut Receipt<'_>,
) -> ResourceResult<()> {
    let failed = |error: PkiError| error.at(format!("replace authority `{}`", spec.name));
    match (spec.rotation, files.stage()) {
        _ if files.is_cut() => switch(files, cx, receipt).await,
        (Some(Rotation::Begin), Stage::Settled) => {
            let key = key::generate().map_err(failed)?;
            let certificate = issue::self_signed(spec, &key, cx.host.now()).map_err(failed)?;
            let pem = PrivateKey::from(&key);
            // The key first: with its certificate the successor is there.
            let next = &files.next_key.0;
            next.put(cx.host, pem.expose_pem().as_bytes(), PRIVATE, receipt)
                .await?;
            let next = &files.next_certificate.0;
            next.put(cx.host, certificate.as_bytes(), PUBLIC, receipt)
                .await
        }
        (Some(Rotation::Switch), Stage::Begun) => {
            let (next, key) = (&files.next_certificate.1, &files.next_key.1);
            Authority::can_succeed(&spec.name, next, key, cx.host.now()).map_err(failed)?;
            switch(files, cx, receipt).await
        }
        (Some(Rotation::Finish), Stage::Switched) => {
            files.previous.0.remove(cx.host, receipt).await
        }
        _ => Ok(()),
    }
}

/// Puts the successor in its predecessor's place. It signs as soon as `previous.crt` is there; the rest may be cut anywhere.
async fn switch(files: &Files, cx: &Context<'_>, receipt: &mut Receipt<'_>) -> ResourceResult<()> {
    let present = files.certificate.1.bytes();
    if let Some(present) = present
        && !files.previous.0.is_there()
    {
        let previous = &files.previous.0;
        previous.put(cx.host, present, PUBLIC, receipt).await?;
    }
    // What a cut has left undone.
    if let Some(next) = files.next_key.1.bytes()
        && files.key.1.bytes() != Some(next)
    {
        files.key.0.put(cx.host, next, PRIVATE, receipt).await?;
    }
    if let Some(next) = files.next_certificate.1.bytes()
        && present != Some(next)
    {
        let certificate = &files.certificate.0;
        certificate.put(cx.host, next, PUBLIC, receipt).await?;
    }
    files.next_key.0.remove(cx.host, receipt).await?;
    files.next_certificate.0.remove(cx.host, receipt).await
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
