//! Reasons to issue a certificate again. Pure functions.

use std::collections::BTreeSet;
use std::time::SystemTime;

use super::facts::{Certificate, show};
use super::issue;
use crate::resource::change::{Action, Change, Differences};
use crate::resource::pki::stored::Content;
use crate::resource::pki::{Authority, CertificateSpec, SignedBy, keys, validate};

/// The state of a certificate, its key and its authority at one time. Contains no private key.
#[derive(Debug)]
pub(in crate::resource::pki) struct Reading {
    now: SystemTime,
    /// `None` if there is no file; `Err` says what is wrong with it.
    leaf: Option<Result<Certificate, String>>,
    /// Public half of the key.
    public_key: Option<Result<Vec<u8>, String>>,
    /// `ca.crt` beside the certificate.
    trust: Option<Vec<u8>>,
    signer: Option<Signer>,
}

/// The authority that should have signed the certificate.
#[derive(Debug)]
struct Signer {
    certificate: Certificate,
    pem: Vec<u8>,
    /// Whether it signed the certificate.
    signed: bool,
    /// Whether its predecessor signed it, which is still trusted.
    signed_before: bool,
}

impl Reading {
    /// No file exists.
    pub(in crate::resource::pki) fn nothing(now: SystemTime) -> Self {
        Self {
            now,
            leaf: None,
            public_key: None,
            trust: None,
            signer: None,
        }
    }

    /// When the validity of a certificate begins, if our own authority signed it and the begin is in the future. Such a certificate was
    /// made in the past, so the clock is wrong, and no certificate can be judged by it.
    pub(in crate::resource::pki) fn still_to_come(&self) -> Option<SystemTime> {
        let Some(Ok(leaf)) = &self.leaf else {
            return None;
        };
        let ours = |signer: &Signer| signer.signed || signer.signed_before;
        let ours = self.signer.as_ref().is_some_and(ours);
        (ours && self.now < leaf.facts.not_before).then_some(leaf.facts.not_before)
    }

    /// Whether its authority is valid now, so that it can sign.
    pub(in crate::resource::pki) fn can_be_issued(&self) -> bool {
        let signer = self.signer.as_ref();
        signer.is_some_and(|signer| signer.certificate.facts.is_valid_at(self.now))
    }

    pub(in crate::resource::pki) fn of(
        now: SystemTime,
        [certificate, key, trust]: [&Content; 3],
        authority: Option<&Authority>,
        signed_by: SignedBy,
    ) -> Self {
        let leaf = certificate.parse(|pem| Certificate::parse("", pem));
        let is_of =
            |signer: &Certificate| matches!(&leaf, Some(Ok(leaf)) if leaf.is_signed_by(signer));
        let signer = authority.map(|authority| {
            let (signed, signed_before) = match (signed_by, authority.predecessor()) {
                // A worker knows which of two authorities signs only if the masters have published it.
                (SignedBy::Api { .. }, None) => (authority.trusted().any(is_of), false),
                (SignedBy::Authority | SignedBy::Api { .. }, predecessor) => (
                    is_of(authority.certificate()),
                    predecessor.is_some_and(is_of),
                ),
            };
            Signer {
                certificate: authority.certificate().clone(),
                pem: authority.pem().to_vec(),
                signed,
                signed_before,
            }
        });
        Self {
            now,
            leaf,
            public_key: key.parse(|pem| keys::parse(pem).map(|pair| keys::public(&pair))),
            trust: trust.bytes().map(<[u8]>::to_vec),
            signer,
        }
    }

    /// Whether `ca.crt` contains the trusted certificates of this authority.
    pub(in crate::resource::pki) fn trusts(&self, authority: &Authority) -> bool {
        self.trust.as_deref() == Some(authority.pem())
    }

    /// What is wrong with `ca.crt`; `None` if it is right, or if there is no authority to compare it with.
    pub(in crate::resource::pki) fn trust_problem(&self) -> Option<&'static str> {
        let signer = self.signer.as_ref()?;
        match &self.trust {
            None => Some("missing"),
            Some(trust) if *trust != signer.pem => Some("another certificate"),
            Some(_) => None,
        }
    }
}

/// Notes the reasons to issue the certificate again.
pub(in crate::resource::pki) fn reissue(
    spec: &CertificateSpec,
    reading: &Reading,
    reissue_reasons: &mut Differences,
) {
    let leaf = match &reading.leaf {
        Some(Ok(leaf)) => Some(leaf),
        Some(Err(problem)) => {
            reissue_reasons.note(
                "certificate",
                format!("unreadable: {problem}"),
                "issued again",
            );
            None
        }
        None => {
            reissue_reasons.note("certificate", "missing", "issued again");
            None
        }
    };
    match (&reading.public_key, leaf) {
        (None, _) => reissue_reasons.note("key", "missing", "a new key"),
        (Some(Err(problem)), _) => {
            reissue_reasons.note("key", format!("unreadable: {problem}"), "a new key");
        }
        (Some(Ok(public)), Some(leaf)) if *public != leaf.public_key => {
            reissue_reasons.note("key", "does not match the certificate", "a new key");
        }
        _ => {}
    }
    let Some(leaf) = leaf else { return };
    compare(spec, leaf, reissue_reasons);
    authority(spec, leaf, reading, reissue_reasons);
    validity(spec, leaf, reading, reissue_reasons);
}

fn compare(spec: &CertificateSpec, leaf: &Certificate, reissue_reasons: &mut Differences) {
    let is = &leaf.facts;
    let (names, addresses) = spec.alternative_names();
    reissue_reasons.compare("common name", &is.common_name, &spec.common_name);
    reissue_reasons.compare(
        "organizations",
        &is.organizations.join(", "),
        &spec.organizations.join(", "),
    );
    reissue_reasons.compare("names", &list(&is.names), &list(&names));
    reissue_reasons.compare("addresses", &list(&is.addresses), &list(&addresses));
    reissue_reasons.compare("usage", &is.usage, &spec.usage.to_string());
}

fn authority(
    spec: &CertificateSpec,
    leaf: &Certificate,
    reading: &Reading,
    reissue_reasons: &mut Differences,
) {
    let issuer = &leaf.facts.issuer;
    let name = &spec.authority;
    match &reading.signer {
        Some(signer) if signer.signed || signer.signed_before => {}
        Some(signer) => {
            let subject = &signer.certificate.facts.subject;
            let before = if issuer == subject {
                format!("{issuer}, but its signature does not verify")
            } else {
                issuer.clone()
            };
            reissue_reasons.note("authority", before, format!("`{name}` ({subject})"));
        }
        None => reissue_reasons.note(
            "authority",
            issuer,
            format!("`{name}`, which is not there yet"),
        ),
    }
}

fn validity(
    spec: &CertificateSpec,
    leaf: &Certificate,
    reading: &Reading,
    reissue_reasons: &mut Differences,
) {
    let (now, is) = (reading.now, &leaf.facts);
    if now >= is.not_after {
        let ends = show(is.not_after);
        reissue_reasons.note(
            "valid until",
            format!("{ends}, which is over"),
            from_now(spec),
        );
    } else if now < is.not_before {
        let begins = show(is.not_before);
        reissue_reasons.note(
            "valid from",
            format!("{begins}, which is still to come"),
            "now",
        );
    }
}

/// Whether a change of a certificate's files issues it again. Others set modes and owners or write the authority beside it.
pub(crate) fn is_issued_again(change: &Change) -> bool {
    let mut fields = change.differences.iter().map(|one| one.field.as_str());
    change.action == Action::Change
        && fields.any(|field| !["mode", "owner", "trust"].contains(&field))
}

/// Notes two reasons for a renewal: the predecessor of its authority signed it, or it is past three fifths of its life and a new one
/// would expire later. Near the end of its authority a new one would not: to issue it would only restart the components that use it,
/// again and again.
pub(in crate::resource::pki) fn due(
    spec: &CertificateSpec,
    reading: &Reading,
    reissue_reasons: &mut Differences,
) {
    let Some(Ok(leaf)) = &reading.leaf else {
        return;
    };
    let (now, is) = (reading.now, &leaf.facts);
    let replaced = |signer: &Signer| signer.signed_before && !signer.signed;
    if reading.signer.as_ref().is_some_and(replaced) {
        let name = &spec.authority;
        reissue_reasons.note(
            "authority",
            format!("the predecessor of `{name}`"),
            format!("`{name}`"),
        );
    }
    let gains = reading.signer.as_ref().is_none_or(|signer| {
        issue::end(spec, signer.certificate.facts.not_after, now) > is.not_after
    });
    if is.renew_at() <= now && now < is.not_after && gains {
        reissue_reasons.note(
            "valid until",
            format!("past three fifths of its life, ends {}", show(is.not_after)),
            from_now(spec),
        );
    }
}

fn from_now(spec: &CertificateSpec) -> String {
    match spec.signed_by {
        SignedBy::Authority => format!("{} from now", validate::life_text(spec.life)),
        SignedBy::Api { .. } => "known after apply".to_owned(),
    }
}

/// The values in order, separated by commas.
pub(in crate::resource::pki) fn list<T: ToString>(values: &BTreeSet<T>) -> String {
    values
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}
