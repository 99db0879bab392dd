//! Damage that no restart repairs.

use engine::exec::{PhaseHealth, Status};
use engine::model::PhaseName;
use engine::plan::{Plan, Probe};

/// The phases with damage that no restart of them repairs, in the plan's order: an authority or key is lost or not the one that this host
/// keeps, the API server refuses the cluster's tokens, or the role's package is not as it was packed.
pub(super) fn damaged(plan: &Plan, health: &[PhaseHealth]) -> Vec<PhaseName> {
    let is_about_damage = |probe: &Probe| {
        matches!(
            probe,
            Probe::KeysKept | Probe::TokenAccepted { .. } | Probe::PackageIntact { .. }
        )
    };
    let lost = |its: &&PhaseHealth| {
        let phase = plan.phases.iter().find(|phase| phase.name == its.phase);
        let checks = phase.into_iter().flat_map(|phase| &phase.checks);
        let mut about_damage = checks.filter(|check| is_about_damage(&check.probe));
        about_damage.any(|check| {
            let mut conditions = its.conditions.iter();
            conditions.any(|one| one.check == check.name && one.status == Status::False)
        })
    };
    let phases = health.iter().filter(lost);
    phases.map(|phase| phase.phase.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pass::tests::plan_of_master;

    #[tokio::test]
    async fn unrepairable_damage_is_reported_with_its_phase() {
        let plan = plan_of_master().await;
        let health = |failing: fn(&Probe) -> bool, status: Status| -> Vec<PhaseHealth> {
            let phases = plan.phases.iter().map(|phase| PhaseHealth {
                phase: phase.name.clone(),
                skipped: None,
                conditions: phase
                    .checks
                    .iter()
                    .map(|check| engine::exec::Condition {
                        kind: engine::exec::ConditionKind::Check,
                        check: check.name.clone(),
                        span: check.span.clone(),
                        status: match failing(&check.probe) {
                            true => status,
                            false => Status::True,
                        },
                        reason: String::new(),
                        advisory: check.advisory,
                        failed_in_a_row: 0,
                        deferred: false,
                    })
                    .collect(),
            });
            phases.collect()
        };
        let of_kept = |probe: &Probe| matches!(probe, Probe::KeysKept);
        let of_token = |probe: &Probe| matches!(probe, Probe::TokenAccepted { .. });
        let of_package = |probe: &Probe| matches!(probe, Probe::PackageIntact { .. });
        type Fails = fn(&Probe) -> bool;
        let cases: [(Fails, &[&str]); 3] = [
            (of_kept, &["certs", "etcd"]),
            (of_token, &["kubernetes-ready"]),
            (of_package, &["package"]),
        ];
        for (failing, phases) in cases {
            let lost = damaged(&plan, &health(failing, Status::False));
            let lost: Vec<&str> = lost.iter().map(PhaseName::as_str).collect();
            assert_eq!(lost, phases);
            assert!(damaged(&plan, &health(failing, Status::Unknown)).is_empty());
        }
        let others = |probe: &Probe| {
            !matches!(
                probe,
                Probe::KeysKept | Probe::TokenAccepted { .. } | Probe::PackageIntact { .. }
            )
        };
        assert!(damaged(&plan, &health(others, Status::False)).is_empty());
    }
}
