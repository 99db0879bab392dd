//! The wait of an apply or a repair for its host's node: it ends early if the node was deleted after its registration, because kubelet does not register it
//! again. A master restarts kubelet in its next repair; until the wait ends, that one cannot begin.
//!
//! The API server gives a worker the same answer before the first registration and after `nodelet cluster remove`: there is no such node. A node may
//! read neither the record of its admission nor its tombstone. But kubelet registers its node at its start, and tries again within seconds until
//! the API server takes it. So a node that is missing for a while was deleted if it was there while this kubelet ran, or if kubelet has run for long. Only
//! kubelet's log tells this from an API server that refuses the registration, so the error names both.
//!
//! Not here: a pass, which restarts nothing for a worker without a node (`status`).

use std::time::Duration;

use crate::exec::Runner;
use crate::exec::kubernetes::probes::{api_answers, no_node};
use crate::host::{ClusterAccess, Host};
use crate::plan::{NeededApi, Probe};
use crate::resource::{ResourceError, Spec};

/// How long a node has to be missing until it counts as deleted. kubelet pauses for at most 7 s between two tries to register it.
/// Source: `registerWithAPIServer` in `pkg/kubelet/kubelet_node_status.go`, Kubernetes 1.20.
const MISSING: Duration = Duration::from_secs(15);
/// How long kubelet may take from its start to its first try, on a busy host.
const STARTING: Duration = Duration::from_secs(60);
/// Pause between two questions to the API server: a step is tried several times a second.
const PAUSE: Duration = Duration::from_secs(1);

/// What a wait has seen of this host's node. Times are on the host's clock ([`crate::host::Clock::elapsed`]).
#[derive(Debug, Default)]
pub(in crate::exec) struct MissingNode {
    /// When the cluster last had it, if it is known to have had it.
    seen: Option<Duration>,
    /// Since when it has been missing.
    since: Option<Duration>,
    /// When the API server was last asked because of a step, and what the error said then if the node was deleted.
    asked: Option<(Duration, Option<Deleted>)>,
}

/// What is said of a deleted node, and what to do.
#[derive(Debug, Clone)]
struct Deleted {
    what: String,
    next: String,
}

impl From<Deleted> for ResourceError {
    fn from(Deleted { what, next }: Deleted) -> Self {
        Self::Unmet { what, next }
    }
}

impl MissingNode {
    /// For the wait of a check that begins at `now`. The step that waits for the registration of the node came before it.
    pub(in crate::exec) fn after_registration(now: Duration) -> Self {
        Self {
            seen: Some(now),
            ..Self::default()
        }
    }

    /// The API server did not say whether it has the node: the node may have been there in this time.
    pub(in crate::exec) fn is_not_known(&mut self) {
        self.since = None;
    }

    /// Takes what the API server says at `now`; `None` if it does not answer. Returns whether the node has been missing for long enough.
    fn is_missing(&mut self, is_there: Option<bool>, now: Duration) -> bool {
        match is_there {
            Some(true) => {
                *self = Self::after_registration(now);
                false
            }
            None => {
                self.is_not_known();
                false
            }
            Some(false) => {
                let since = *self.since.get_or_insert(now);
                now.saturating_sub(since) >= MISSING
            }
        }
    }

    /// As [`Self::is_missing`], for a longer time.
    fn has_been_missing_for(
        &mut self,
        limit: Duration,
        is_there: Option<bool>,
        now: Duration,
    ) -> bool {
        self.is_missing(is_there, now)
            && self
                .since
                .is_some_and(|since| now.saturating_sub(since) >= limit)
    }

    /// Whether a kubelet that has run for `running` at `now` has registered the node.
    fn was_registered(&self, now: Duration, running: Duration) -> bool {
        // A kubelet that started later may be about to register the node.
        let ran_then = |seen: Duration| running >= now.saturating_sub(seen);
        self.seen.is_some_and(ran_then) || running >= STARTING
    }
}

impl Runner<'_> {
    /// The error of a step: the same, or a permanent one if the step waits for a node that was deleted. Cancel safe.
    pub(in crate::exec) async fn error_of_step(
        &self,
        spec: &Spec,
        missing: &mut MissingNode,
        error: ResourceError,
    ) -> ResourceError {
        let Spec::Node(node) = spec else {
            return error;
        };
        let now = self.host.elapsed();
        if let Some((at, deleted)) = &missing.asked
            && now.saturating_sub(*at) < PAUSE
        {
            return deleted.clone().map_or(error, ResourceError::from);
        }
        let Some((kubelet, needed)) = self.kubelet_of(&node.name) else {
            return error;
        };
        let is_there = match needed {
            Some(needed) => api_answers(self.host, needed).await.ok(),
            None => {
                let access = ClusterAccess::with(&node.kubeconfig);
                let found = self.host.node(&access, &node.name).await;
                found.ok().map(|found| found.is_some())
            }
        };
        // At the first start of a cluster, kubelet runs long before its API server.
        if needed.is_none() && !missing.has_been_missing_for(STARTING, is_there, now) {
            missing.asked = Some((now, None));
            return error;
        }
        let deleted = self
            .deleted_node(&node.name, kubelet, is_there, missing)
            .await;
        missing.asked = Some((now, deleted.clone()));
        deleted.map_or(error, ResourceError::from)
    }

    /// The permanent error of a check that does not hold for this reason, if it waits for a node that was deleted. Cancel safe.
    pub(in crate::exec) async fn error_of_check(
        &self,
        probe: &Probe,
        reason: &str,
        missing: &mut MissingNode,
    ) -> Option<ResourceError> {
        let Probe::NodeReady { node, .. } = probe else {
            return None;
        };
        if reason != no_node(node) {
            // The API server need not be asked once more.
            *missing = MissingNode::after_registration(self.host.elapsed());
            return None;
        }
        let (kubelet, needed) = self.kubelet_of(node)?;
        let is_there = match needed {
            Some(needed) => api_answers(self.host, needed).await.ok(),
            // The API server of a master has just said so.
            None => Some(false),
        };
        let deleted = self.deleted_node(node, kubelet, is_there, missing).await;
        deleted.map(ResourceError::from)
    }

    async fn deleted_node(
        &self,
        node: &str,
        kubelet: &str,
        is_there: Option<bool>,
        missing: &mut MissingNode,
    ) -> Option<Deleted> {
        // A step is tried several times a second: systemd is asked only when its answer counts.
        if !missing.is_missing(is_there, self.host.elapsed()) {
            return None;
        }
        // A kubelet that does not run registers nothing: another check says so.
        let running = running_for(self.host, kubelet).await?;
        let was_registered = missing.was_registered(self.host.elapsed(), running);
        let is_worker = matches!(self.kubelet_of(node), Some((_, Some(_))));
        was_registered.then(|| Deleted {
            what: format!(
                "find node {node}: the cluster does not have it, and {kubelet} has run for at least {} s without registering it: it was deleted after its registration, or the API server refuses to register it",
                MISSING.as_secs()
            ),
            next: match is_worker {
                true => format!(
                    "see `journalctl -u {kubelet}`; if this worker was removed from the cluster (`nodelet cluster remove {node}`), run `nodelet clean --purge` here; to join again, run `nodelet pki key` here and `nodelet pki issue {node} --to KEY --replace` with that key on a master, and apply with this new join file; if only the node was deleted, `nodelet repair kubelet` registers it again"
                ),
                false => format!(
                    "`nodelet repair kubelet` registers it again, and nodeletd does so in its next pass; if this master was removed from the cluster (`nodelet cluster remove {node}`), run `nodelet clean --purge` here"
                ),
            },
        })
    }

    /// The unit of kubelet, if this is the node of this host, and on a worker the access to the API server.
    fn kubelet_of(&self, name: &str) -> Option<(&str, Option<&NeededApi>)> {
        let mut checks = self.plan.phases.iter().flat_map(|phase| &phase.checks);
        checks.find_map(|check| match &check.probe {
            Probe::NodeReady { node, kubelet, .. } if node == name => {
                Some((kubelet.as_str(), check.needs_api.as_ref()))
            }
            _ => None,
        })
    }
}

/// For how long a unit has run; `None` if it does not, or is not known to.
async fn running_for(host: &dyn Host, unit: &str) -> Option<Duration> {
    let unit = host.unit(unit).await.ok()?;
    unit.active_for.filter(|_| unit.is_active())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;

    #[test]
    fn a_node_is_deleted_only_if_kubelet_has_registered_it() {
        /// What the API server says, the time, and for how long kubelet has run.
        type Look = (Option<bool>, u64, Option<u64>);
        let seconds = Duration::from_secs;
        let gone = |at, running| (Some(false), at, Some(running));
        let cases: [(&[Look], bool, &str); 10] = [
            (&[gone(0, 90), gone(14, 104)], false, "not for long enough"),
            (
                &[gone(0, 90), gone(15, 105)],
                true,
                "kubelet has run for long",
            ),
            (
                &[gone(0, 5), gone(15, 20)],
                false,
                "kubelet has just started",
            ),
            (
                &[(Some(true), 0, None), gone(1, 5), gone(16, 20)],
                true,
                "it was there",
            ),
            (
                &[(Some(true), 0, None), gone(1, 30), gone(16, 2)],
                false,
                "kubelet has started since",
            ),
            (
                &[(Some(true), 0, None), gone(1, 30), gone(75, 61)],
                true,
                "kubelet has started since, and has run for long",
            ),
            (
                &[gone(0, 90), (None, 8, None), gone(16, 106)],
                false,
                "the API server was away in between",
            ),
            (
                &[gone(0, 90), (Some(true), 8, None), gone(16, 106)],
                false,
                "it came back in between",
            ),
            (
                &[(Some(false), 0, None), (Some(false), 99, None)],
                false,
                "kubelet does not run",
            ),
            (
                &[gone(0, 50), gone(10, 60), gone(15, 65)],
                true,
                "kubelet has run for long by then",
            ),
        ];
        for (looks, expected, why) in cases {
            let mut missing = MissingNode::default();
            let mut is_deleted = false;
            for (is_there, at, running) in looks {
                let now = seconds(*at);
                is_deleted = missing.is_missing(*is_there, now)
                    && running.is_some_and(|its| missing.was_registered(now, seconds(its)));
            }
            assert_eq!(is_deleted, expected, "{why}");
        }
        let mut missing = MissingNode::after_registration(seconds(0));
        assert!(!missing.is_missing(Some(false), seconds(0)));
        assert!(missing.is_missing(Some(false), seconds(15)));
        assert!(missing.was_registered(seconds(15), seconds(20)));
    }

    /// As chrony does a moment after kubelet's start, on a host that has begun with a wrong clock.
    #[tokio::test(start_paused = true)]
    async fn kubelet_does_not_look_old_after_the_clock_was_set() {
        let unit = "kubelet.service";
        let host = FakeHost::new().with_unit(unit, "[Service]\n");
        assert_eq!(running_for(&host, unit).await, None, "it does not run");
        host.with_world_mut(|world| world.start_unit(unit))
            .expect("it starts");
        let ran = Duration::from_secs(5);
        host.with_world_mut(|world| {
            world.advance(ran);
            world.begin_at(world.now() + Duration::from_secs(7200));
        });
        assert_eq!(running_for(&host, unit).await, Some(ran));
    }
}
