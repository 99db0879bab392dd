//! The digests of a plan: of all of it, and of what it wants of the cluster.

use std::borrow::Cow;
use std::path::PathBuf;

use serde::Serialize;
use sha2::Digest as _;

use super::{Plan, PlannedPhase};
use crate::model::{StepId, hex};
use crate::resource::Spec;

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

    /// SHA-256 over the steps whose state only the API server knows, in hex. It stays the same when other parts of the plan change, for
    /// example the list of masters.
    #[must_use]
    pub fn cluster_digest(&self) -> String {
        let phases = self.phases.iter().filter(|phase| phase.skipped.is_none());
        let steps = phases.flat_map(|phase| &phase.steps);
        let digested: Vec<(&StepId, &Spec, bool)> = steps
            .filter(|step| step.spec.is_of_cluster())
            .map(|step| (&step.id, &step.spec, step.policy.absent))
            .collect();
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
    use super::super::{PlannedStep, SkippedWord, StepPolicy};
    use super::*;
    use crate::model::{PhaseName, Span, Text};
    use crate::resource::{ManifestSpec, SymlinkSpec};

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

    #[test]
    fn the_digest_of_the_cluster_follows_its_steps_alone() {
        let name: PhaseName = "addons".parse().expect("a name");
        let plan = |text: &str, target: &str, line: usize| {
            let step = |spec: Spec| PlannedStep {
                id: StepId::new(&name, spec.kind(), "a"),
                span: Span::new("phases/addons.rhai", line, 1),
                spec,
                policy: StepPolicy::default(),
            };
            let mut phase = PlannedPhase::bare(name.clone());
            phase.steps = vec![
                step(Spec::Symlink(SymlinkSpec {
                    path: "/a".into(),
                    target: target.into(),
                })),
                step(Spec::Manifest(ManifestSpec {
                    name: "a".to_owned(),
                    text: Text::Known(text.to_owned()),
                    kubeconfig: "/etc/kubeconfig".into(),
                })),
            ];
            Plan::bare(vec![phase])
        };
        let first = plan("kind: Namespace", "/b", 3);
        let moved = plan("kind: Namespace", "/c", 7);
        assert_ne!(first.digest(), moved.digest());
        assert_eq!(first.cluster_digest(), moved.cluster_digest());
        let other = plan("kind: ConfigMap", "/b", 3);
        assert_ne!(first.cluster_digest(), other.cluster_digest());
        let mut absent = first.clone();
        absent.phases[0].steps[1].policy.absent = true;
        assert_ne!(first.cluster_digest(), absent.cluster_digest());
    }
}
