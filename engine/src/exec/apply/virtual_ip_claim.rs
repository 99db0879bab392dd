//! The claim on the virtual IP by a host that begins its cluster there. Another host that begins one at the same time hears it and is refused.
//!
//! The claim is made before an apply touches anything, and again before etcd begins. The host that holds its claim then goes on, also if another one asks
//! for it at this moment; two that hold it were deaf for each other before, and the one that notices ends. What it needs may fail: then the host begins its cluster, as before,
//! and a warning says that another one would not be noticed.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::joining::{CLUSTER_IS_NEW, steps};
use crate::exec::Runner;
use crate::facts::Requirement;
use crate::host::{ClaimKind, ClaimOutcome, ClaimedAddress};
use crate::model::{Problem, chain};
use crate::plan::{PlannedPhase, PlannedStep};
use crate::resource::{Bootstrap, Spec};

/// How long this host listens for the claims of others.
const LISTEN: Duration = Duration::from_secs(1);
/// Bound on the claim with all that it reads before.
const BOUND: Duration = Duration::from_secs(10);

impl Runner<'_> {
    /// Claims the virtual IP if these phases begin a cluster there: no API server answers at it before several more phases are done, and another
    /// host could begin a cluster in this time. If an earlier run has begun the cluster and the address is not held yet, it is claimed without a
    /// look at other claims: this cluster was first. Nothing is claimed where no cluster begins.
    ///
    /// # Errors
    /// Another host begins a cluster there, too.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(in crate::exec) async fn claim_virtual_ip(
        &self,
        phases: &[&PlannedPhase],
        kind: ClaimKind,
    ) -> Result<ClaimedAddress, Problem> {
        let claim = tokio::time::timeout(BOUND, self.claim_if_bootstrap(phases, kind)).await;
        claim.unwrap_or_else(|_| {
            warn(&format!("it took more than {} s", BOUND.as_secs()));
            Ok(ClaimedAddress::default())
        })
    }

    async fn claim_if_bootstrap(
        &self,
        phases: &[&PlannedPhase],
        kind: ClaimKind,
    ) -> Result<ClaimedAddress, Problem> {
        let none = Ok(ClaimedAddress::default());
        let Some((address, link)) = self.virtual_ip() else {
            return none;
        };
        let Some((step, bootstrap)) = self.bootstrap_step(phases).await else {
            return none;
        };
        let during = match bootstrap {
            Bootstrap::Pending => LISTEN,
            Bootstrap::Done if self.holds(address, link).await => return none,
            Bootstrap::Done => Duration::ZERO,
        };
        match self.host.claim_address(link, address, during, kind).await {
            Ok(ClaimOutcome::Claimed(claim)) => Ok(claim),
            Ok(ClaimOutcome::Conflict(others)) => Err(Problem {
                requirement: CLUSTER_IS_NEW.to_owned(),
                span: step.span.clone(),
                problem: format!(
                    "another host on {link} (hardware address {}) claims {address} at this moment, so it begins a cluster there, too",
                    Vec::from_iter(others).join(", ")
                ),
                remedy: "set ETCD_INITIAL_CLUSTER_STATE to new on exactly one master and to existing on all others, then repeat the command".to_owned(),
            }),
            Err(error) => {
                warn(&chain(&error).join(": "));
                none
            }
        }
    }

    /// The step that begins a cluster, and whether it has begun already.
    async fn bootstrap_step<'p>(
        &self,
        phases: &[&'p PlannedPhase],
    ) -> Option<(&'p PlannedStep, Bootstrap)> {
        for step in steps(phases) {
            let Spec::EtcdMember(member) = &step.spec else {
                continue;
            };
            match member.bootstrap(self.host).await {
                Ok(Some(bootstrap)) => return Some((step, bootstrap)),
                Ok(None) => {}
                Err(error) => warn(&chain(&error).join(": ")),
            }
        }
        None
    }

    /// Whether this host has the address already. If its links cannot be read, it claims the address: a claim beside its own address harms nothing.
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
}

fn warn(why: &str) {
    tracing::warn!(
        "another host that begins a cluster at the virtual IP at this moment would not be noticed: {why}"
    );
}
