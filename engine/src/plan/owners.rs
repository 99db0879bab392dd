//! Each resource on a host has one owner in a role: the step of one phase. If two phases had the same file, each apply would write it
//! twice, and a rollback of one phase would take it from the other.
//!
//! Packages may be in several phases: they have no options that could differ, and only the phase that installed one takes it back.

use std::collections::{BTreeMap, BTreeSet};

use super::{PlannedPhase, PlannedStep};
use crate::model::Diagnostic;

/// A finding for each step about a resource that a step of an earlier phase is about, too. Phases that do nothing on this host do not
/// count, so phases with opposite conditions may have the same resources.
pub(crate) fn shared_resources(phases: &[PlannedPhase]) -> Vec<Diagnostic> {
    let mut owners: BTreeMap<String, (&PlannedPhase, &PlannedStep)> = BTreeMap::new();
    let mut findings = Vec::new();
    for phase in phases.iter().filter(|phase| phase.skipped.is_none()) {
        for step in &phase.steps {
            // A step may have several resources in common with another one.
            let mut reported = BTreeSet::new();
            for resource in step.spec.keys() {
                let (owner, first) = *owners.entry(resource).or_insert((phase, step));
                if owner.name != phase.name && reported.insert(first.id.clone()) {
                    findings.push(shared((phase, step), (owner, first)));
                }
            }
        }
    }
    findings
}

fn shared(
    (phase, step): (&PlannedPhase, &PlannedStep),
    (owner, first): (&PlannedPhase, &PlannedStep),
) -> Diagnostic {
    let message = format!(
        "phase `{}` makes {} `{}`, but phase `{}` makes {} `{}` at {}, and both have the same path or name",
        phase.name,
        step.spec.kind(),
        step.spec.label(),
        owner.name,
        first.spec.kind(),
        first.spec.label(),
        first.span
    );
    Diagnostic::new("P0408", step.span.clone(), message).help(format!(
        "remove it from one of the two phases; if `{}` needs it from `{}`, write .requires([\"{}\"])",
        phase.name, owner.name, owner.name
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Attributes;
    use crate::model::{Span, StepId};
    use crate::plan::StepPolicy;
    use crate::resource::{DirectorySpec, Owner, Spec, SymlinkSpec};

    fn directory(path: &str) -> Spec {
        Spec::Directory(DirectorySpec {
            path: path.into(),
            attributes: Attributes::root(0o755),
            owner: Owner::default(),
            exclusive: false,
            spared: None,
        })
    }

    fn link(path: &str) -> Spec {
        Spec::Symlink(SymlinkSpec {
            path: path.into(),
            target: "/etc".to_owned(),
        })
    }

    fn phase(name: &str, specs: Vec<Spec>) -> PlannedPhase {
        let mut phase = PlannedPhase::bare(name.parse().expect("a name"));
        for (index, spec) in specs.into_iter().enumerate() {
            phase.steps.push(PlannedStep {
                id: StepId::new(&phase.name, spec.kind(), &spec.label()),
                span: Span::new(format!("phases/{name}.rhai"), index + 5, 1),
                spec,
                policy: StepPolicy::default(),
            });
        }
        phase
    }

    fn messages(phases: &[PlannedPhase]) -> Vec<String> {
        let findings = shared_resources(phases);
        findings
            .into_iter()
            .map(|finding| format!("{}: {}", finding.span, finding.message))
            .collect()
    }

    #[test]
    fn a_resource_in_two_phases_is_reported_with_both_positions() {
        let first = phase("a", vec![directory("/etc/app"), link("/etc/one")]);
        let second = phase("b", vec![link("/etc/two"), link("/etc/one")]);
        assert_eq!(
            messages(&[first, second]),
            [
                "phases/b.rhai:6:1: phase `b` makes symlink `/etc/one`, but phase `a` makes symlink `/etc/one` at phases/a.rhai:6:1, and both have the same path or name"
            ]
        );
    }

    #[test]
    fn resources_of_two_kinds_at_one_path_conflict() {
        let reported = messages(&[
            phase("a", vec![directory("/etc/app")]),
            phase("b", vec![link("/etc/app")]),
        ]);
        assert_eq!(reported.len(), 1, "{reported:?}");
    }

    #[test]
    fn phases_that_do_nothing_have_nothing() {
        let mut first = phase("a", vec![link("/etc/one")]);
        first.skipped = Some("its condition is false".to_owned());
        assert_eq!(
            messages(&[first, phase("b", vec![link("/etc/one")])]),
            [""; 0]
        );
    }
}
