//! The guard of etcd's quorum: a run that stops this host's member, or takes its data, is refused if too few others would be left.
//!
//! The members come from a list that has quorum; without one, from this host's file of masters. A host that knows no other master has
//! nothing to guard. A member whose own state cannot be asked for counts as one that works. The decision is in `kubernetes::etcd_members`.
//! `lost` tells checks that other members have taken the quorum. `lock` keeps two masters from passing the guard at the same time.

pub(in crate::exec) mod lock;
pub(in crate::exec) mod lost;

use std::error::Error;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::exec::Runner;
use crate::host::{EtcdMember, EtcdStatus, Host, HostError, HostResult};
use crate::kubernetes::etcd_members::{
    Loss, Me, OWN_ENDPOINT, Seen, after_loss, client_url, look, peer_url,
};
use crate::kubernetes::masters::{self, MASTERS, MasterEntry};
use crate::ledger::Ledger;
use crate::model::{Problem, Span, chain};
use crate::plan::{Plan, PlannedPhase, PlannedStep};
use crate::resource::{ContainerSpec, EtcdMemberSpec, Spec, etcd_has_data};

/// The flag with which an operator accepts the loss.
pub const ACCEPT_QUORUM_LOSS: &str = "--accept-quorum-loss";
/// Where the member keeps its data by default.
const DATA: &str = "/var/opt/pf9/kube/etcd/data";
/// How long the container runtime may take to answer.
const RUNTIME: Duration = Duration::from_secs(10);

/// What a host has recorded of itself. It serves a clean without a plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecordedNode {
    /// The name of its node.
    pub name: Option<String>,
    /// Its address.
    pub address: Option<IpAddr>,
    /// The data directory of its member.
    pub data: Option<PathBuf>,
}

/// This host's member, as a phase of the plan has it.
pub(in crate::exec) struct PlannedMember<'p> {
    pub(in crate::exec) step: &'p PlannedStep,
    pub(in crate::exec) member: &'p EtcdMemberSpec,
    /// Its container and the step of it.
    pub(in crate::exec) container: Option<(&'p PlannedStep, &'p ContainerSpec)>,
}

impl<'p> PlannedMember<'p> {
    /// The member that a phase runs; `None` if it runs none on this host.
    pub(in crate::exec) fn of(phase: &'p PlannedPhase) -> Option<Self> {
        if phase.skipped.is_some() {
            return None;
        }
        let (step, member) = phase.steps.iter().find_map(|step| match &step.spec {
            Spec::EtcdMember(member) => Some((step, member)),
            _ => None,
        })?;
        let container = phase.steps.iter().find_map(|step| match &step.spec {
            Spec::Container(container) => Some((step, container)),
            _ => None,
        });
        Some(Self {
            step,
            member,
            container,
        })
    }
}

impl Runner<'_> {
    /// Why a run must not do this to the member of etcd that these phases run; `None` if it may. Changes nothing. Cancel safe.
    pub(in crate::exec) async fn quorum_problem<'p>(
        &self,
        phases: impl IntoIterator<Item = &'p PlannedPhase>,
        loss: Loss,
    ) -> Option<Problem> {
        if self.accepts_quorum_loss {
            return None;
        }
        let planned = phases.into_iter().find_map(PlannedMember::of)?;
        let container = planned
            .container
            .map(|(_, container)| container.name.as_str());
        let span = Some(&planned.step.span);
        guard(self.host, planned.member.me(), container, loss, span).await
    }
}

/// Why a clean of this host must not begin; `None` if it may. Without a plan, the host's records and its own name tell its member. If the
/// member should be known and is not, it is refused. Changes nothing. Cancel safe.
pub async fn quorum_problem_of_clean(
    host: &dyn Host,
    plan: Option<&Plan>,
    recorded: &RecordedNode,
) -> Option<Problem> {
    let members = match etcd_members(host).await {
        Ok(members) => members,
        Err(error) => return Some(not_known(&chain(&error).join(": "), None)),
    };
    if let Some(planned) = plan.and_then(|plan| plan.phases.iter().find_map(PlannedMember::of)) {
        let (span, data) = (Some(&planned.step.span), planned.member.data.as_path());
        // A host that joined others had the file of masters.
        if members.is_empty()
            && planned.member.joined_others(host).await
            && is_installed(host).await
            && has_data(host, data).await
        {
            let why = format!("etcd does not answer, and {MASTERS} is missing");
            return Some(not_known(&why, span));
        }
        let lost = after_loss(planned.member.me(), &members, Loss::Clean);
        return lost.err().map(|lost| lose(&lost.to_string(), span));
    }
    let hostname = host.sysctl("kernel.hostname").await.ok().flatten();
    let hostname = hostname.map(|name| name.trim().to_lowercase());
    let peer = recorded.address.map(peer_url).unwrap_or_default();
    let names = recorded.name.iter().chain(&hostname).map(String::as_str);
    // No member has its URL as its name: the last one is found by its URL only. One that has not started yet has no name.
    let mut names = names.chain([peer.as_str()]).filter(|name| !name.is_empty());
    let found = names.find_map(|name| {
        let me = Me { name, peer: &peer };
        let is_listed = members.iter().any(|seen| me.is(&seen.member));
        is_listed.then_some(me)
    });
    if let Some(me) = found {
        let lost = after_loss(me, &members, Loss::Clean);
        return lost.err().map(|lost| lose(&lost.to_string(), None));
    }
    let data = recorded.data.as_deref().unwrap_or(Path::new(DATA));
    let must_be_known = plan.is_none()
        && (!members.is_empty() || is_installed(host).await && has_data(host, data).await);
    must_be_known.then(|| {
        let listed: Vec<String> = members.iter().map(Seen::shown).collect();
        let why = match listed.as_slice() {
            [] => "this host has data of etcd, and no member is known".to_owned(),
            listed => format!(
                "none of the members is known as this host's: {}",
                listed.join(", ")
            ),
        };
        not_known(&why, None)
    })
}

/// Whether anything of a role is on the host that is not only kept. A ledger that cannot be read says so, too.
async fn is_installed(host: &dyn Host) -> bool {
    match Ledger::read(host).await {
        Ok(records) => Ledger::live_in(&records).iter().any(|live| !live.keep),
        Err(_) => true,
    }
}

/// Whether etcd has written into its data directory. A directory that cannot be read counts as one with data.
async fn has_data(host: &dyn Host, data: &Path) -> bool {
    etcd_has_data(host, data).await.unwrap_or(true)
}

/// The members of etcd with their states, as this host can know them: from its own member, or from those of the other masters.
///
/// # Errors
/// No member answers with quorum, and the file of masters cannot be read.
pub async fn etcd_members(host: &dyn Host) -> HostResult<Vec<Seen>> {
    let masters = masters::read(host).await;
    let known = masters.as_deref().unwrap_or_default();
    let members = match host.member_list(&endpoints(known)).await {
        Ok(members) => members,
        Err(_) => masters?.iter().map(from_file).collect(),
    };
    Ok(look(host, members).await)
}

/// This host's own endpoint, and those of all masters that it knows.
#[must_use]
pub fn endpoints(masters: &[MasterEntry]) -> Vec<String> {
    let own = [OWN_ENDPOINT.to_owned()];
    let known = masters.iter().map(|master| client_url(master.address));
    own.into_iter().chain(known).collect()
}

/// Why this must not happen to the member of `me`; `None` if it may. `container` is the name of the member's container. Changes nothing.
/// Cancel safe.
pub(in crate::exec) async fn guard(
    host: &dyn Host,
    me: Me<'_>,
    container: Option<&str>,
    loss: Loss,
    span: Option<&Span>,
) -> Option<Problem> {
    let mut members = match etcd_members(host).await {
        Ok(members) => members,
        Err(error) => return Some(not_known(&chain(&error).join(": "), span)),
    };
    // This is also the answer if it is not known whether the member works: then it counts as one that does.
    let lost = after_loss(me, &members, Loss::Clean).err()?;
    let own = members.iter_mut().find(|seen| me.is(&seen.member))?;
    match loss {
        Loss::Restart | Loss::Stop if own.state.is_err() => {
            match own_state(host, me.peer, container).await {
                OwnState::Answers(state) => own.state = Ok(state),
                OwnState::Down => return None,
                OwnState::Unknown(why) => {
                    let why = format!("it cannot be asked how {} is: {why}; {lost}", own.shown());
                    return Some(not_known(&why, span));
                }
            }
        }
        Loss::Restart | Loss::Stop | Loss::Clean | Loss::Removal => {}
    }
    let lost = after_loss(me, &members, loss).err()?;
    Some(lose(&lost.to_string(), span))
}

/// How this host's own member is, as far as the host can tell.
enum OwnState {
    Answers(EtcdStatus),
    /// It does not work.
    Down,
    /// This host cannot ask it, for this reason. It may work.
    Unknown(String),
}

/// Asks this host's own member on the loopback. It is down if nothing listens there, if it gives in time no answer to this host or to other
/// members (`peer`, its URL for them), or if its container does not run. Any other error may be this host's alone, for example a client certificate
/// that is missing or has expired.
async fn own_state(host: &dyn Host, peer: &str, container: Option<&str>) -> OwnState {
    let error = match host.member_status(OWN_ENDPOINT).await {
        Ok(state) => return OwnState::Answers(state),
        Err(error) => error,
    };
    if is_connection_refused(&error) {
        return OwnState::Down;
    }
    // On a busy host, a member may vote and be late for its clients.
    if matches!(error, HostError::Deadline { .. }) && !masters::answers_peers(host, peer).await {
        return OwnState::Down;
    }
    if let Some(name) = container {
        let state = tokio::time::timeout(RUNTIME, host.container(name)).await;
        if let Ok(Ok(state)) = state
            && !state.is_some_and(|state| state.running)
        {
            return OwnState::Down;
        }
    }
    OwnState::Unknown(chain(&error).join(": "))
}

/// Whether one of the causes is that nothing listens at the port.
fn is_connection_refused(error: &(dyn Error + 'static)) -> bool {
    let mut at = Some(error);
    while let Some(error) = at {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            // An I/O error hides the error that it wraps: its `source` is the source of the wrapped error.
            let inner = error.get_ref().map(|inner| inner as &(dyn Error + 'static));
            if error.kind() == io::ErrorKind::ConnectionRefused
                || inner.is_some_and(is_connection_refused)
            {
                return true;
            }
        }
        at = error.source();
    }
    false
}

/// The refusal of a run with which etcd would lose its quorum.
fn lose(lost: &str, span: Option<&Span>) -> Problem {
    problem(
        span,
        lost.to_owned(),
        format!(
            "bring the other members up first (`nodelet etcd members`); {ACCEPT_QUORUM_LOSS} goes on all the same, and the cluster then accepts no writes until enough members work"
        ),
    )
}

/// The refusal of a run of which it is not known whether etcd would keep its quorum.
fn not_known(why: &str, span: Option<&Span>) -> Problem {
    problem(
        span,
        format!("it is not known whether etcd would keep its quorum: {why}"),
        format!(
            "remove the cause of that, or use {ACCEPT_QUORUM_LOSS}: on the only master of a cluster nothing is lost by it"
        ),
    )
}

fn problem(span: Option<&Span>, problem: String, remedy: String) -> Problem {
    Problem {
        requirement: "etcd keeps its quorum".to_owned(),
        span: span.cloned().unwrap_or_else(|| Span::file(MASTERS)),
        problem,
        remedy,
    }
}

/// A member as the file of masters has it.
fn from_file(master: &MasterEntry) -> EtcdMember {
    EtcdMember {
        id: master.etcd_id.unwrap_or_default(),
        name: master.name.clone(),
        peer_urls: vec![peer_url(master.address)],
        client_urls: vec![client_url(master.address)],
        learner: !master.voter,
    }
}

#[cfg(test)]
pub(in crate::exec) mod tests {
    use super::*;
    use crate::exec::Recording;
    use crate::facts::Facts;
    use crate::host::RestartPolicy;
    use crate::host::fake::{FakeHost, FaultPlan};
    use crate::model::{Outcome, PhaseName, StepId};
    use crate::plan::StepPolicy;
    use crate::resource::{InitialState, NoSecrets};

    const ME: Me<'_> = Me {
        name: "m-1",
        peer: "https://172.30.0.11:2380",
    };
    const IMAGE: &str = "etcd:3.4";
    const SETTINGS: &str = "/etc/member.env";
    /// The list of three masters.
    pub(in crate::exec) const THREE_MASTERS: &str = r#"{"version":1,"masters":[{"name":"m-1","address":"172.30.0.11","voter":true},{"name":"m-2","address":"172.30.0.12","voter":true},{"name":"m-3","address":"172.30.0.13","voter":true}]}"#;

    /// One of three masters, whose members all work. Its container does not run yet.
    pub(in crate::exec) fn host() -> FakeHost {
        let host = FakeHost::new()
            .with_docker()
            .with_image(IMAGE)
            .with_file(MASTERS, THREE_MASTERS)
            .with_file(SETTINGS, "")
            .with_file(format!("{DATA}/member/wal/0.wal"), "log");
        host.with_world_mut(|world| {
            world.etcd.voter("m-1", "172.30.0.11", 11);
            world.etcd.voter("m-2", "172.30.0.12", 12);
            world.etcd.voter("m-3", "172.30.0.13", 13);
        });
        host
    }

    /// The phase of this host's member.
    pub(in crate::exec) fn phase() -> PlannedPhase {
        let name: PhaseName = "etcd".parse().expect("a name");
        let step = |kind: &str, label: &str, spec| PlannedStep {
            id: StepId::new(&name, kind, label),
            span: Span::file("phases/etcd.rhai"),
            spec,
            policy: StepPolicy::default(),
        };
        let member = Spec::EtcdMember(EtcdMemberSpec {
            name: ME.name.to_owned(),
            data: DATA.into(),
            peer: ME.peer.to_owned(),
            settings: SETTINGS.into(),
            initial_state: InitialState::Existing,
            token: "t".to_owned(),
            api: None,
            data_id: None,
        });
        let container = Spec::Container(ContainerSpec {
            name: "etcd".to_owned(),
            image: IMAGE.to_owned(),
            command: vec!["etcd".to_owned()],
            env: [].into(),
            env_files: Vec::new(),
            mounts: Vec::new(),
            host_network: true,
            privileged: false,
            user: String::new(),
            restart: RestartPolicy::Always,
            inputs: Vec::new(),
        });
        PlannedPhase {
            steps: vec![
                step("etcd_member", ME.name, member),
                step("container", "etcd", container),
            ],
            ..PlannedPhase::bare(name.clone())
        }
    }

    fn text(problem: Option<Problem>) -> Option<String> {
        problem.map(|problem| format!("{}; {}", problem.problem, problem.remedy))
    }

    async fn problem(host: &FakeHost, loss: Loss) -> Option<String> {
        text(guard(host, ME, None, loss, None).await)
    }

    #[tokio::test]
    async fn the_second_of_three_masters_is_not_stopped() {
        let host = host();
        assert_eq!(problem(&host, Loss::Stop).await, None);
        host.with_world_mut(|world| world.etcd.silence("172.30.0.13"));
        let said = problem(&host, Loss::Stop).await.expect("it is refused");
        assert!(
            said.contains("m-3") && said.contains(ACCEPT_QUORUM_LOSS),
            "{said}"
        );
        assert_eq!(host.mutations(), 0);
    }

    /// No member has quorum, so the file says who they are.
    #[tokio::test]
    async fn a_cluster_without_quorum_can_be_repaired_but_not_cleaned() {
        let host = host();
        host.with_world_mut(|world| world.etcd.states.clear());
        assert_eq!(problem(&host, Loss::Restart).await, None);
        let said = problem(&host, Loss::Clean).await.expect("it is refused");
        assert!(said.contains("of its 3 voters 2 have to work"), "{said}");
    }

    /// A missing client certificate for example is no sign that the member is down.
    #[tokio::test]
    async fn a_member_that_cannot_be_asked_counts_as_one_that_works() {
        let cannot_ask = || FaultPlan::none().fail("member_status", OWN_ENDPOINT);
        let host = host();
        host.with_world_mut(|world| world.etcd.silence("172.30.0.11"));
        host.set_faults(cannot_ask());
        assert_eq!(
            problem(&host, Loss::Restart).await,
            None,
            "others have quorum"
        );
        host.with_world_mut(|world| world.etcd.silence("172.30.0.13"));
        let said = problem(&host, Loss::Restart).await.expect("it is refused");
        assert!(said.contains("it cannot be asked how m-1 is"), "{said}");
        assert!(said.contains(ACCEPT_QUORUM_LOSS), "{said}");
        // A container that does not run is one.
        host.set_faults(cannot_ask());
        let known = guard(&host, ME, Some("etcd"), Loss::Restart, None).await;
        assert_eq!(text(known), None);
    }

    /// It votes, and its host is too busy for its clients.
    #[tokio::test(start_paused = true)]
    async fn a_late_member_that_answers_other_members_counts_as_one_that_works() {
        for votes in [true, false] {
            let mut host = host();
            if votes {
                host = host.with_endpoint("172.30.0.11:2380", 200, "{}");
            }
            for file in ["ca.crt", "request.crt", "request.key"] {
                host = host.with_file(format!("/etc/pf9/kube.d/certs/etcd/peer/{file}"), "pem");
            }
            host.with_world_mut(|world| world.etcd.silence("172.30.0.13"));
            host.with_world_mut(|world| world.etcd.silence("172.30.0.11"));
            host.set_faults(FaultPlan::none().hang("member_status", OWN_ENDPOINT));
            let said = problem(&host, Loss::Restart).await;
            assert_eq!(said.is_some(), votes, "{said:?}");
        }
    }

    #[tokio::test]
    async fn a_host_that_knows_no_other_master_has_nothing_to_guard() {
        for loss in [Loss::Restart, Loss::Stop, Loss::Clean] {
            assert_eq!(problem(&FakeHost::new(), loss).await, None, "{loss:?}");
        }
        let (bare, recorded) = (FakeHost::new(), RecordedNode::default());
        let clean = quorum_problem_of_clean(&bare, None, &recorded).await;
        assert!(clean.is_none());
    }

    #[tokio::test]
    async fn a_damaged_file_of_masters_is_no_permission() {
        let host = FakeHost::new().with_file(MASTERS, "{");
        let said = problem(&host, Loss::Stop).await.expect("it is refused");
        assert!(said.contains(MASTERS), "{said}");
    }

    #[tokio::test]
    async fn a_clean_without_a_plan_finds_the_member_by_what_the_host_has_recorded() {
        let host = host();
        let by_name = RecordedNode {
            name: Some("m-1".to_owned()),
            ..RecordedNode::default()
        };
        let by_address = RecordedNode {
            address: "172.30.0.11".parse().ok(),
            ..RecordedNode::default()
        };
        for lost in [false, true] {
            if lost {
                host.with_world_mut(|world| world.etcd.silence("172.30.0.13"));
            }
            for recorded in [&by_name, &by_address] {
                let said = text(quorum_problem_of_clean(&host, None, recorded).await);
                assert_eq!(said.is_some_and(|said| said.contains("m-3")), lost);
            }
        }
        let unknown = quorum_problem_of_clean(&host, None, &RecordedNode::default()).await;
        let said = text(unknown).expect("it is refused");
        assert!(said.contains("none of the members is known"), "{said}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_file_of_masters_makes_no_only_master() {
        let host = host();
        let plan = Plan::bare(vec![phase()]);
        let recorded = RecordedNode::default();
        let forget = |host: &FakeHost| {
            host.with_world_mut(|world| {
                world.remove(MASTERS);
                world.etcd.states.clear();
            });
        };
        {
            let (facts, heard) = (Facts::nothing_about("m-1"), Recording::default());
            let runner = Runner::new(&plan, &host, &facts, &NoSecrets, &heard);
            let outcome = runner.apply().await.expect("it is written down");
            assert_eq!(outcome, Outcome::Converged);
        }
        forget(&host);
        for plan in [Some(&plan), None] {
            let refused = quorum_problem_of_clean(&host, plan, &recorded).await;
            let said = text(refused).expect("it is refused");
            assert!(said.contains("it is not known"), "{said}");
        }
        // An only master has begun alone, also if its settings have the default, `existing`.
        let alone =
            "ETCD_INITIAL_CLUSTER_STATE=new\nETCD_INITIAL_CLUSTER=m-1=https://172.30.0.11:2380\n";
        host.with_world_mut(|world| world.file_with_mode(SETTINGS, alone, 0o600));
        let first = quorum_problem_of_clean(&host, Some(&plan), &recorded).await;
        assert_eq!(text(first), None);
        // Nothing of a role is left to be stopped.
        let bare = self::host();
        forget(&bare);
        let kept = quorum_problem_of_clean(&bare, None, &recorded).await;
        assert_eq!(text(kept), None);
    }
}
