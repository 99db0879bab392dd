//! The authorities that masters have published for workers while they replace authority `cluster`.
//!
//! A join file does not say which of two authorities signs; this does. nodeletd on a worker fetches it as its node, over a connection that a
//! trusted authority verifies, and writes it to [`PUBLISHED`]. The step `join_file` takes it from there, only if it has a recorded authority.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::trust;
use crate::host::Host;
use crate::resource::files::file::PRIVATE;
use crate::resource::pki::authority::files::{CERTIFICATE, NEXT_CERTIFICATE, PREVIOUS};
use crate::resource::pki::certificate::facts::Certificate;
use crate::resource::pki::certificate::spec::CLUSTER;
use crate::resource::pki::keys::record::KeptFiles;
use crate::resource::pki::replacement::Replacement;
use crate::resource::pki::stored::{Content, Stored};
use crate::resource::pki::{Authority, PkiError, Stage};
use crate::resource::{ResourceError, ResourceResult};

/// Where a worker keeps what the masters have published last.
pub const PUBLISHED: &str = "/var/opt/pf9/nodelet/published-authorities.json";
/// Longest certificate, in bytes of PEM.
const LONGEST: usize = 8 * 1024;

/// Certificates of authority `cluster` as PEM. There is at most one beside the current one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishedAuthorities {
    /// The one that signs.
    pub current: String,
    /// Its successor, that does not sign yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Its predecessor, that is still trusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
}

impl PublishedAuthorities {
    /// Those of this master; `None` if it has none. Cancel safe.
    ///
    /// # Errors
    /// Its files exist but cannot be used.
    pub async fn of_master(host: &dyn Host) -> ResourceResult<Option<Self>> {
        let Some(authority) = Authority::read(host, CLUSTER).await? else {
            return Ok(None);
        };
        let pem = |its: &Certificate| String::from_utf8_lossy(&trust::pem(&its.der)).into_owned();
        let mut all = authority.trusted().map(pem);
        let (current, beside) = (all.next().unwrap_or_default(), all.next());
        let (next, previous) = match authority.stage() {
            Stage::Begun => (beside, None),
            Stage::Switched => (None, beside),
            Stage::Settled => (None, None),
        };
        Ok(Some(Self {
            current,
            next,
            previous,
        }))
    }

    /// Those in the entries of a ConfigMap; `None` if they are not such entries, or cannot be used.
    #[must_use]
    pub fn of_data(data: &BTreeMap<String, String>) -> Option<Self> {
        let its = Self {
            current: data.get("current")?.clone(),
            next: data.get("next").cloned(),
            previous: data.get("previous").cloned(),
        };
        its.files().map(|_| its)
    }

    /// The entries of a ConfigMap.
    #[must_use]
    pub fn data(&self) -> BTreeMap<&'static str, &str> {
        let all = [
            ("current", Some(self.current.as_str())),
            ("next", self.next.as_deref()),
            ("previous", self.previous.as_deref()),
        ];
        let all = all.into_iter();
        all.filter_map(|(name, pem)| Some((name, pem?))).collect()
    }

    /// How far the masters are.
    #[must_use]
    pub fn replacement(&self) -> Option<Replacement> {
        Replacement::of_authority(&of_files(&self.files()?)?)
    }

    /// As files of an authority without a key; `None` if they are not certificates of authorities.
    pub(super) fn files(&self) -> Option<KeptFiles> {
        if self.next.is_some() && self.previous.is_some() {
            return None;
        }
        let all = [
            (CERTIFICATE, Some(&self.current)),
            (NEXT_CERTIFICATE, self.next.as_ref()),
            (PREVIOUS, self.previous.as_ref()),
        ];
        let mut files = KeptFiles::new();
        for (name, pem) in all {
            let Some(pem) = pem else { continue };
            if pem.len() > LONGEST {
                return None;
            }
            let mut parsed = Certificate::parse_all("", pem.as_bytes());
            let its = parsed.next()?.ok().filter(Certificate::is_authority)?;
            if parsed.next().is_some() {
                return None;
            }
            files.insert(name, trust::pem(&its.der));
        }
        Some(files)
    }

    /// Whether this host is further: it uses the newest of these at a later stage, or trusts a newer authority, and these do not replace the
    /// one that it uses. Cancel safe.
    ///
    /// # Errors
    /// What this host has cannot be read.
    pub async fn are_older(&self, host: &dyn Host) -> ResourceResult<bool> {
        let known = Authority::read(host, CLUSTER).await?;
        let published = self.files().and_then(|files| of_files(&files));
        Ok(published.is_none_or(|its| known.is_some_and(|known| is_older(&known, &its))))
    }

    /// Writes them to [`PUBLISHED`] on a worker, if they differ.
    ///
    /// # Errors
    /// None of them is an authority that this host has recorded, or the host cannot be read or written.
    ///
    /// # Cancel safety
    /// The file has its earlier content or the new one.
    pub async fn keep(&self, host: &dyn Host) -> ResourceResult<()> {
        let known = Authority::read(host, CLUSTER).await?;
        let is_known = known.is_some_and(|known| {
            let published = self.files().unwrap_or_default();
            let mut known = known.trusted();
            known.any(|its| published.values().any(|pem| *pem == trust::pem(&its.der)))
        });
        if !is_known {
            return Err(ResourceError::Unmet {
                what: "take the authorities that the masters have published: this host trusts none of them".to_owned(),
                next: "let this host join again: `nodelet pki issue NODE --to KEY --replace` on a master".to_owned(),
            });
        }
        if read(host).await?.as_ref() == Some(self) {
            return Ok(());
        }
        let json = serde_json::to_vec(self);
        let json = json
            .map_err(|error| PkiError::Build(error.to_string()).at(format!("write {PUBLISHED}")))?;
        Ok(host.write(Path::new(PUBLISHED), &json, PRIVATE).await?)
    }
}

/// Whether what was published is older than what a host has. The stages decide this if they can: begins of validity are from the clocks of
/// several masters, and one of these may have been ahead.
fn is_older(known: &Authority, published: &Authority) -> bool {
    let of = |its| Replacement::of_authority(its);
    if let (Some(known), Some(published)) = (of(known), of(published)) {
        if is_step_back(&known, &published) {
            return true;
        }
        if continues(&known, &published) {
            return false;
        }
    }
    let newest = |its: &Authority| its.trusted().map(|its| its.facts.not_before).max();
    newest(published) < newest(known)
}

/// Whether what was published would take a host back: to an earlier stage of the replacement by the authority that the host uses. It would trust
/// again what was replaced. A host at [`Stage::Begun`] may have the two in the wrong order, from a join file, which does not say which one signs.
fn is_step_back(known: &Replacement, published: &Replacement) -> bool {
    if known.stage == Stage::Begun && known.ids() == published.ids() {
        return false;
    }
    published.successor() == Some(known.uses.as_str())
        && (published.stage == Stage::Begun || known.stage != Stage::Switched)
}

/// Whether what was published goes on from where the host is: the authority that the host uses is replaced, by its successor or by another one in
/// its place; or the replacement that the host has begun is over.
fn continues(known: &Replacement, published: &Replacement) -> bool {
    match published.stage {
        Stage::Settled => known.successor() == Some(published.uses.as_str()),
        Stage::Begun | Stage::Switched => published.predecessor() == known.uses,
    }
}

/// As [`PublishedAuthorities::are_older`], for files. Files that are no authority are not usable, so they count as older ones.
pub(super) fn are_files_older(known: &KeptFiles, published: &KeptFiles) -> bool {
    match (of_files(known), of_files(published)) {
        (Some(known), Some(published)) => is_older(&known, &published),
        _ => true,
    }
}

fn of_files(files: &KeptFiles) -> Option<Authority> {
    Authority::of_kept(CLUSTER, files).ok().flatten()
}

/// What this worker keeps; `None` without a file, or if it is damaged: nodeletd fetches it again.
pub(super) async fn read(host: &dyn Host) -> ResourceResult<Option<PublishedAuthorities>> {
    let (_, content) = Stored::read(host, Path::new(PUBLISHED)).await?;
    Ok(match content {
        Content::Bytes(bytes) => serde_json::from_slice(&bytes).ok(),
        Content::Missing | Content::Unfit(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ids say nothing of the begin of validity.
    #[test]
    fn the_stages_tell_what_goes_on_and_what_goes_back() {
        for (known, published, goes_on, goes_back) in [
            ("settled a -", "begun a b", true, false),
            ("settled a -", "switched b a", true, false),
            ("begun a b", "begun a c", true, false),
            ("begun a b", "switched c a", true, false),
            ("begun a b", "switched b a", true, false),
            ("begun a b", "settled b -", true, false),
            ("switched b a", "settled b -", true, false),
            ("switched b a", "begun b c", true, false),
            ("switched b a", "begun a b", false, true),
            ("settled b -", "begun a b", false, true),
            ("settled b -", "switched b a", false, true),
            // Another authority replaced the present one before.
            ("begun b c", "switched b a", false, true),
            ("begun b c", "begun a b", false, true),
            // The same two in the other order, as a join file may have them.
            ("begun b a", "begun a b", false, false),
            ("begun b a", "switched b a", false, false),
            ("begun b a", "settled b -", false, false),
            // The begin of validity decides.
            ("begun a b", "settled a -", false, false),
        ] {
            let of = |text: &str| text.parse::<Replacement>().expect("it can be read");
            let (from, to) = (of(known), of(published));
            assert_eq!(continues(&from, &to), goes_on, "{known}, {published}");
            assert_eq!(is_step_back(&from, &to), goes_back, "{known}, {published}");
        }
    }
}
