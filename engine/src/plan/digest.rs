//! The digest of a plan.

use std::borrow::Cow;
use std::path::PathBuf;

use serde::Serialize;
use sha2::Digest as _;

use super::{Plan, PlannedPhase};
use crate::model::hex;

/// What the digest covers: all of a plan that decides what is done on a host.
#[derive(Serialize)]
struct Digested<'a> {
    version: u32,
    role: &'a str,
    host: &'a str,
    node: &'a str,
    payload: &'a [PathBuf],
    phases: Vec<Cow<'a, PlannedPhase>>,
}

impl Plan {
    /// SHA-256 over the serialized plan without its skipped words, in hex: equal plans have equal digests on every machine.
    #[must_use]
    pub fn digest(&self) -> String {
        // A field that is new in the plan has to be placed here as well.
        let Self {
            version,
            role,
            host,
            node,
            payload,
            phases,
        } = self;
        let digested = Digested {
            version: *version,
            role,
            host,
            node,
            payload,
            phases: phases.iter().map(without_skipped_words).collect(),
        };
        let json =
            serde_json::to_vec(&digested).expect("a plan holds nothing that JSON cannot say");
        hex(&sha2::Sha256::digest(json))
    }
}

fn without_skipped_words(phase: &PlannedPhase) -> Cow<'_, PlannedPhase> {
    if phase.skipped_words.is_empty() {
        return Cow::Borrowed(phase);
    }
    let mut phase = phase.clone();
    phase.skipped_words.clear();
    Cow::Owned(phase)
}

#[cfg(test)]
mod tests {
    use super::super::SkippedWord;
    use super::*;
    use crate::model::Span;

    #[test]
    fn skipped_words_are_not_part_of_the_digest() {
        let phase = PlannedPhase::bare("etcd".parse().expect("a name"));
        let plain = Plan::bare(vec![phase]);
        // Plans that were made by earlier versions have the same digest.
        let json = serde_json::to_vec(&plain).expect("a plan is JSON");
        assert_eq!(plain.digest(), hex(&sha2::Sha256::digest(json)));
        let mut skipping = plain.clone();
        skipping.phases[0].skipped_words.push(SkippedWord {
            word: "directory".to_owned(),
            label: "/etc/x".to_owned(),
            span: Span::new("phases/etcd.rhai", 3, 1),
            reason: "the condition at phases/etcd.rhai:4:6 is false".to_owned(),
        });
        assert_ne!(skipping, plain);
        assert_eq!(skipping.digest(), plain.digest());
        let json = serde_json::to_value(&skipping).expect("a plan is JSON");
        let read: Plan = serde_json::from_value(json).expect("it can be read back");
        assert_eq!(read, skipping);
    }
}
