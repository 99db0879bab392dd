//! The authorities in a join file, as files of an authority without a key.

use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::kubernetes::join_file::{JoinFile, JoinFileError};
use crate::resource::change::content_digest;
use crate::resource::pki::authority::files::{CERTIFICATE, NEXT_CERTIFICATE, PREVIOUS};
use crate::resource::pki::certificate::facts::{Certificate, show};
use crate::resource::pki::keys::record::KeptFiles;

/// How much of a fingerprint is shown, in characters.
const SHOWN: usize = 16;
/// Characters in a line of PEM (RFC 7468).
const LINE: usize = 64;

/// The files of these authorities, the older one as `ca.crt`. A join file has one authority, or two while one replaces the other.
///
/// # Errors
/// They are not one or two certificates of authorities.
pub(super) fn files(file: &JoinFile) -> Result<KeptFiles, JoinFileError> {
    let refused = |problem: &str| JoinFileError::Content(problem.to_owned());
    let mut all = Vec::new();
    for parsed in Certificate::parse_all("", file.authorities.as_bytes()) {
        let authority = parsed.map_err(|problem| refused(&problem))?;
        if !authority.is_authority() {
            return Err(refused(
                "a certificate in it may not sign other certificates",
            ));
        }
        all.push(authority);
    }
    all.sort_by_key(|its| (its.facts.not_before, its.der.clone()));
    all.dedup_by(|one, other| one.der == other.der);
    let names = [CERTIFICATE, NEXT_CERTIFICATE];
    if all.is_empty() || all.len() > names.len() {
        return Err(refused("it has no authority, or more than two"));
    }
    Ok(names
        .into_iter()
        .zip(all.iter().map(|its| pem(&its.der)))
        .collect())
}

/// The files of a join file for a host that has recorded others. The authority that the host uses stays the current one: the file does not say
/// which of two authorities signs, and their order by age is wrong if the clock of a master was ahead. An unknown authority that begins earlier is
/// trusted as the predecessor, so it is not used. What the masters publish corrects both.
pub(super) fn arranged(mut files: KeptFiles, recorded: &KeptFiles) -> KeptFiles {
    let Some(later) = files.get(NEXT_CERTIFICATE).cloned() else {
        return files;
    };
    if are_known(&files, recorded) {
        return recorded.clone();
    }
    if recorded.get(CERTIFICATE) == Some(&later) {
        let mut begins = certificates(&files).into_iter();
        let mut begin = || begins.next().map(|its| its.facts.not_before);
        let name = match begin() < begin() {
            true => PREVIOUS,
            false => NEXT_CERTIFICATE,
        };
        files.remove(NEXT_CERTIFICATE);
        let other = files.insert(CERTIFICATE, later);
        files.extend(other.map(|other| (name, other)));
    }
    files
}

/// Whether all of the authorities are among the recorded ones.
pub(super) fn are_known(files: &KeptFiles, recorded: &KeptFiles) -> bool {
    let known = |pem| recorded.values().any(|known| known == pem);
    files.values().all(known)
}

/// A text if none of the authorities is valid at this time: the clock of the host is wrong then, or the file is very old.
pub(super) fn outside_of_validity(files: &KeptFiles, now: SystemTime) -> Option<String> {
    let all = certificates(files);
    if all.iter().any(|its| its.facts.is_valid_at(now)) {
        return None;
    }
    let first = all.first()?;
    Some(format!(
        "the clock of this host says {}, and the authority in it is valid from {} until {}",
        show(now),
        show(first.facts.not_before),
        show(first.facts.not_after)
    ))
}

/// Whether both have a certificate in common.
pub(super) fn overlap(one: &KeptFiles, other: &KeptFiles) -> bool {
    let other = certificates(other);
    certificates(one)
        .iter()
        .any(|its| other.iter().any(|known| known.der == its.der))
}

/// The authorities for a message: subjects and fingerprints.
pub(super) fn named(files: &KeptFiles) -> String {
    let mut names: Vec<String> = certificates(files)
        .iter()
        .map(|its| {
            let mut digest = content_digest(&its.der);
            digest.truncate(SHOWN);
            format!("{} (SHA-256 {digest}…)", its.facts.subject)
        })
        .collect();
    names.sort();
    names.join(", ")
}

fn certificates(files: &KeptFiles) -> Vec<Certificate> {
    files
        .values()
        .flat_map(|pem| Certificate::parse_all("", pem))
        .filter_map(Result::ok)
        .collect()
}

/// A certificate as PEM, in the same form for each form in the join file.
pub(super) fn pem(der: &[u8]) -> Vec<u8> {
    let mut text = "-----BEGIN CERTIFICATE-----\n".to_owned();
    let encoded = STANDARD.encode(der);
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(LINE));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str("-----END CERTIFICATE-----\n");
    text.into_bytes()
}
