//! Whether this host can join its cluster, or begin one: asked before an apply touches anything.
//!
//! The steps themselves say the same. But they come after others, and a host that is refused has to stay as it is.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::exec::Runner;
use crate::facts::Requirement;
use crate::host::{AddressClaim, ClaimedAddress};
use crate::model::{Problem, chain};
use crate::plan::{PlannedPhase, PlannedStep};
use crate::resource::{Beginning, ResourceError, ResourceResult, Spec};

/// Bound on one question.
const BOUND: Duration = Duration::from_secs(10);
/// How long another host's claim on the virtual IP is listened for.
const CLAIM: Duration = Duration::from_secs(1);
const DOES_NOT_EXIST: &str = "the cluster that this host begins does not exist";

impl Runner<'_> {
    /// What keeps this host from its cluster: a join file that cannot be used, or a cluster that exists although this host is to begin it.
    /// What cannot be determined yet is left to the steps. Changes nothing. Cancel safe.
    pub(in crate::exec) async fn joining_problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for step in steps(&self.selection.phases(self.plan)) {
            let requirement = match &step.spec {
                Spec::JoinFile(_) | Spec::JoinMaster(_) => "this host can join its cluster",
                Spec::EtcdMember(_) => DOES_NOT_EXIST,
                _ => continue,
            };
            let answer = tokio::time::timeout(BOUND, self.may_join_or_begin(step)).await;
            if let Ok(Err(ResourceError::Unmet { what, next })) = answer {
                problems.push(Problem {
                    requirement: requirement.to_owned(),
                    span: step.span.clone(),
                    problem: what,
                    remedy: next,
                });
            }
        }
        problems
    }

    /// Claims the virtual IP if these phases begin a cluster there: no API server answers at it before several more phases are done, and another
    /// host could begin a cluster in this time. If an earlier run has begun the cluster and the address is not held yet, it is claimed without a
    /// look at other claims: this cluster was first.
    ///
    /// # Errors
    /// Another host begins a cluster there, too.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(in crate::exec) async fn claim_virtual_ip(
        &self,
        phases: &[&PlannedPhase],
    ) -> Result<ClaimedAddress, Problem> {
        let none = Ok(ClaimedAddress::default());
        let Some((address, link)) = self.virtual_ip() else {
            return none;
        };
        let Some((step, beginning)) = self.beginning(phases).await else {
            return none;
        };
        let during = match beginning {
            Beginning::Ahead => CLAIM,
            Beginning::Done if self.holds(address, link).await => return none,
            Beginning::Done => Duration::ZERO,
        };
        match self.host.claim_address(link, address, during).await {
            Ok(AddressClaim::Claimed(claim)) => Ok(claim),
            Ok(AddressClaim::Contested(others)) => Err(Problem {
                requirement: DOES_NOT_EXIST.to_owned(),
                span: step.span.clone(),
                problem: format!(
                    "another host on {link} (hardware address {}) claims {address} at this moment, so it begins a cluster there, too",
                    Vec::from_iter(others).join(", ")
                ),
                remedy: "set ETCD_INITIAL_CLUSTER_STATE to new on exactly one master and to existing on all others, then repeat the command".to_owned(),
            }),
            Err(error) => {
                unclaimed(&error);
                none
            }
        }
    }

    /// Whether these phases begin a cluster, or an earlier run has begun it, and the step that does.
    async fn beginning<'p>(
        &self,
        phases: &[&'p PlannedPhase],
    ) -> Option<(&'p PlannedStep, Beginning)> {
        for step in steps(phases) {
            let Spec::EtcdMember(member) = &step.spec else {
                continue;
            };
            match member.beginning(self.host).await {
                Ok(Some(beginning)) => return Some((step, beginning)),
                Ok(None) => {}
                Err(error) => unclaimed(&error),
            }
        }
        None
    }

    /// Whether this host has the address already.
    async fn holds(&self, address: Ipv4Addr, link: &str) -> bool {
        let found = self.host.link(link).await.ok().flatten();
        let mut its = found.iter().flat_map(|link| &link.addresses);
        its.any(|(one, _)| *one == address)
    }

    /// The virtual IP of the plan and the link that is to hold it; nothing if it is of IPv6.
    fn virtual_ip(&self) -> Option<(Ipv4Addr, &str)> {
        let phases = self.plan.phases.iter();
        let phases = phases.filter(|phase| phase.skipped.is_none());
        let mut requirements = phases.flat_map(|phase| &phase.requirements);
        requirements.find_map(|one| match &one.requirement {
            Requirement::VirtualIp {
                address: IpAddr::V4(address),
                interface,
            } => Some((*address, interface.as_str())),
            _ => None,
        })
    }

    async fn may_join_or_begin(&self, step: &PlannedStep) -> ResourceResult<()> {
        match &step.spec {
            Spec::EtcdMember(member) => member.may_begin(self.host).await,
            spec => spec.pending(&self.context(false)).await.map(drop),
        }
    }
}

/// What these phases are to make.
fn steps<'p>(phases: &[&'p PlannedPhase]) -> impl Iterator<Item = &'p PlannedStep> {
    let phases = phases.iter().filter(|phase| phase.skipped.is_none());
    let steps = phases.flat_map(|phase| &phase.steps);
    steps.filter(|step| !step.policy.absent)
}

fn unclaimed(error: &(dyn std::error::Error + 'static)) {
    tracing::warn!(
        "another host that begins a cluster at the virtual IP at this moment would not be noticed: {}",
        chain(error).join(": ")
    );
}
