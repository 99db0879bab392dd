//! A status pass: what is wanted, how the host is, and what a repair would restart.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use engine::env::{KubeEnv, Value};
use engine::exec::{
    ChecksInProgress, PhaseHealth, Recording, Runner, Status, Streaks, failed_phases,
    left_over_phases, restart_set,
};
use engine::host::live::LiveHost;
use engine::host::{ClusterAccess, Host};
use engine::ledger::Ledger;
use engine::model::{PhaseName, STATE};
use engine::plan::{Plan, Probe};
use engine::resource::{NodeSpec, Spec};
use serde::{Deserialize, Serialize};
use tokio::time::error::Elapsed;

use crate::bound::{bound_to, stands};
use crate::cli::RoleArgs;
use crate::commands::say;
use crate::etcd::{self, Backups, Stored};
use crate::identity::Identity;
use crate::inputs::{Inputs, Role, current, settings, told};
use crate::nodeletd::pod_subnets::Allocation;
use crate::private_state;
use crate::settled::{self, last_good, last_good_if_any};

/// What nodeletd has to know after a pass.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Pass {
    pub(crate) desired: Desired,
    /// Why the settings in use are the last good ones and not those that stand in the files; empty if they are.
    pub(crate) settings_problems: Vec<String>,
    /// Why the role in use is the last good one and not the one that is installed; empty if it is that one.
    #[serde(default)]
    pub(crate) role_problems: Vec<String>,
    /// Why this host may not be worked on with these settings.
    pub(crate) refused: Option<String>,
    /// Why nothing may be changed before the ledger is recovered; empty if the ledger is good.
    #[serde(default)]
    pub(crate) ledger_lost: String,
    /// What is wrong with other data that a clean needs, such as saved contents of files; empty if nothing is.
    #[serde(default)]
    pub(crate) ledger_problem: String,
    /// Digest of the plan.
    pub(crate) digest: String,
    /// Conditions of all phases, in the plan's order.
    pub(crate) health: Vec<PhaseHealth>,
    /// Phases with a condition that does not hold.
    pub(crate) failed: Vec<PhaseName>,
    /// The phases that a repair would restart, and those of which it would take something back.
    pub(crate) restart_set: Vec<PhaseName>,
    /// Components with a certificate that is good and due for renewal, in the order in which they are renewed.
    pub(crate) due: Vec<String>,
    /// What the role has on the host: nodeletd watches it.
    pub(crate) interests: PassInterests,
    /// Whether anything of ours is on this host that a clean would remove.
    pub(crate) stands: bool,
    /// Whether anything of the role's own runs, if that is known; looked at only if the role is to be down.
    #[serde(default)]
    pub(crate) runs: Option<bool>,
    /// Backups are enabled, but their directory has no proven backup of this cluster.
    #[serde(default)]
    pub(crate) lacks_backup: bool,
    /// Phases with damage that no restart of them repairs: a lost key, a refused token, a damaged package. Nothing is restarted because
    /// of it.
    #[serde(default)]
    pub(crate) damaged: Vec<PhaseName>,
    /// Nodes of the cluster without a pod subnet. Filled only if this host may not change anything, and so assigns no subnets.
    #[serde(default)]
    pub(crate) without_subnet: WithoutSubnet,
}

/// Nodes without a pod subnet, as far as the API server reported them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WithoutSubnet {
    /// The first of them.
    pub(crate) named: Vec<String>,
    /// How many there are beside those.
    pub(crate) more: usize,
    /// Why they are not known; empty if they are, or if the API server was not asked.
    pub(crate) unknown: String,
}

/// Names of what a plan has on its host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PassInterests {
    pub(crate) containers: Vec<String>,
    pub(crate) units: Vec<String>,
    pub(crate) directories: Vec<PathBuf>,
    #[serde(default)]
    pub(crate) links: Vec<String>,
    #[serde(default)]
    pub(crate) addresses: Vec<IpAddr>,
    #[serde(default)]
    pub(crate) nodes: Vec<NodeSpec>,
    /// How this host assigns pod subnets to nodes of the cluster; `None` if it may not change anything.
    #[serde(default)]
    pub(crate) allocation: Option<Allocation>,
    /// The directory with the settings, one of them.
    pub(crate) settings: PathBuf,
}

impl PassInterests {
    fn of(plan: &Plan, config: &Path) -> Self {
        let mut containers = Vec::new();
        let mut units = Vec::new();
        let mut links = BTreeSet::new();
        let mut nodes = Vec::new();
        let mut directories = BTreeSet::from([config.to_path_buf()]);
        for step in plan.phases.iter().flat_map(|phase| &phase.steps) {
            match &step.spec {
                Spec::Container(container) => containers.push(container.name.clone()),
                Spec::Service(service) => units.push(service.unit.clone()),
                Spec::Link(link) if link.carries_pods => {
                    links.insert(link.name.clone());
                }
                Spec::Node(node) => nodes.push(node.clone()),
                _ => {}
            }
            let files = step.spec.paths();
            directories.extend(
                files
                    .iter()
                    .filter_map(|file| file.parent())
                    .map(Path::to_path_buf),
            );
        }
        let mut addresses = BTreeSet::new();
        for check in plan.phases.iter().flat_map(|phase| &phase.checks) {
            match &check.probe {
                Probe::LinkUp(link) | Probe::LinkAddressed(link) => {
                    links.insert(link.clone());
                }
                Probe::VirtualIp { address, .. } | Probe::AddressHeld(address) => {
                    addresses.insert(*address);
                }
                _ => {}
            }
        }
        let mut allocations = nodes.iter().filter_map(|node: &NodeSpec| {
            let kubeconfig = node.kubeconfig.clone();
            let pool = node.pod_subnets?;
            Some(Allocation { pool, kubeconfig })
        });
        Self {
            allocation: allocations.next_back(),
            links: links.into_iter().collect(),
            addresses: addresses.into_iter().collect(),
            nodes,
            containers,
            units,
            directories: directories.into_iter().collect(),
            settings: config.to_path_buf(),
        }
    }
}

/// The settings that nodeletd itself acts on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Desired {
    pub(crate) service_state: ServiceState,
    pub(crate) node: String,
    pub(crate) cluster_id: String,
    pub(crate) loop_interval: Duration,
    pub(crate) full_retry_count: u32,
    pub(crate) use_cgroups: bool,
    /// In percent of one CPU.
    pub(crate) cpu_limit: u32,
    /// On 127.0.0.1; 0 for none.
    pub(crate) metrics_port: u16,
    pub(crate) debug: bool,
}

/// `KUBE_SERVICE_STATE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ServiceState {
    /// The role is to be up.
    True,
    /// It is to be down.
    False,
    /// It is watched and left alone.
    Ignore,
}

/// Timeout for the directory of backups, the container engine or the API server to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Interval in which a pass reports the phase whose checks it waits for.
const TELL: Duration = Duration::from_millis(500);
/// Time for the other checks to end after one has failed: enough for those that answer at all.
const SETTLE: Duration = Duration::from_millis(250);

impl Default for Desired {
    /// Until the first good settings: watch, and touch nothing.
    fn default() -> Self {
        Self {
            service_state: ServiceState::Ignore,
            node: "none".to_owned(),
            cluster_id: String::new(),
            loop_interval: Duration::from_secs(60),
            full_retry_count: 10,
            use_cgroups: true,
            cpu_limit: 40,
            metrics_port: 0,
            debug: false,
        }
    }
}

impl Desired {
    /// Whether the role is to be up, but `CLUSTER_ID` is empty.
    pub(crate) fn lacks_cluster(&self) -> bool {
        self.service_state == ServiceState::True
            && self.node != "none"
            && self.cluster_id.is_empty()
    }

    fn of(settings: &KubeEnv) -> Self {
        let text = |name: &str| {
            settings
                .get(name)
                .map(ToString::to_string)
                .unwrap_or_default()
        };
        let number = |name: &str, otherwise: u32| match settings.get(name) {
            Some(Value::Integer(number)) => u32::try_from(*number).unwrap_or(otherwise),
            _ => otherwise,
        };
        let flag = |name: &str| matches!(settings.get(name), Some(Value::Bool(true)));
        let usual = Self::default();
        Self {
            service_state: match text("KUBE_SERVICE_STATE").as_str() {
                "true" => ServiceState::True,
                "false" => ServiceState::False,
                _ => ServiceState::Ignore,
            },
            node: text("ROLE"),
            cluster_id: text("CLUSTER_ID"),
            loop_interval: match settings.get("LOOP_INTERVAL") {
                Some(Value::Duration(interval)) => *interval,
                _ => usual.loop_interval,
            },
            full_retry_count: number("FULL_RETRY_COUNT", usual.full_retry_count),
            use_cgroups: flag("USE_CGROUPS"),
            cpu_limit: number("CPU_LIMIT", usual.cpu_limit),
            metrics_port: u16::try_from(number("METRICS_PORT", 0)).unwrap_or(0),
            debug: flag("DEBUG"),
        }
    }
}

impl Pass {
    /// Whether commands that change the host use the last good settings, and the last good role if the installed one cannot be used.
    pub(crate) fn goes_by_last_good(&self) -> bool {
        !self.settings_problems.is_empty() || !self.role_problems.is_empty()
    }

    /// Reads the settings, or takes the last good ones; plans; makes every check once. `before` has the failures in a row before this
    /// pass.
    ///
    /// # Errors
    /// There are no good settings at all, the role cannot be planned with them, or gathering the facts of the host timed out.
    pub(crate) async fn make(args: &RoleArgs, before: &Streaks, host: &LiveHost) -> Result<Self> {
        let mut now = current(args, host).await;
        // A timeout on a busy host, after a boot for example, says nothing about its settings: try once more.
        if now.as_ref().is_err_and(anyhow::Error::is::<Elapsed>) {
            now = current(args, host).await;
        }
        let bound = bound_to(args, host).await?;
        let bound = bound.as_ref();
        let mut service_state = None;
        let (settings, inputs, settings_problems) = match now {
            Ok((settings, inputs)) => {
                let now = obstacles(bound, &inputs, host).await?;
                let last = match now.as_slice() {
                    [] => None,
                    _ => last_good_if_any(args, host).await?,
                };
                let before = match &last {
                    Some((_, last)) => Some(obstacles(bound, last, host).await?),
                    None => None,
                };
                let another = bound.is_some_and(|b| b.changed_by(&inputs.identity).is_some());
                match (Verdict::of(now, before.as_deref(), another), last) {
                    (Verdict::Refused(worse), Some((good, last))) => {
                        let told = worse.iter().map(|one| one.at_its_place(&settings));
                        let told = told.collect();
                        (good, last, told)
                    }
                    (verdict, _) => {
                        if verdict == Verdict::Good {
                            keep(args, &settings, &inputs);
                        }
                        (settings, inputs, Vec::new())
                    }
                }
            }
            Err(error) if error.is::<Elapsed>() => return Err(error),
            Err(error) => {
                let problems = told(&error);
                // Missing settings count as wrong settings.
                let Ok((good, inputs)) = last_good(args, host).await else {
                    return Err(error);
                };
                let readable = settings(args, host).await.ok();
                match (&inputs.role, readable) {
                    // Only the role is wrong. KUBE_SERVICE_STATE of the current settings still decides whether the role is to be up.
                    (Role::LastGood(_), Some(settings)) => {
                        service_state = Some(Desired::of(&settings).service_state);
                        (good, inputs, Vec::new())
                    }
                    _ => (good, inputs, problems),
                }
            }
        };
        let role_problems = match &inputs.role {
            Role::LastGood(problems) => problems.clone(),
            Role::Installed(_) => Vec::new(),
        };
        let refused = bound
            .and_then(|stands| stands.changed_by(&inputs.identity))
            .map(|changed| changed.to_string());
        let unheard = Recording::default();
        let runner = Runner::new(&inputs.plan, host, &inputs.facts, &inputs.secrets, &unheard);
        let in_progress = runner.checks_in_progress.clone();
        let health = tell_progress(in_progress, runner.check_again(SETTLE, before)).await;
        let failed = failed_phases(&health);
        let due = runner.due().await;
        for problem in &due.problems {
            // A check of the certificate's phase reports the same problem.
            let problem = engine::model::chain(problem).join(": ");
            tracing::warn!("could not tell whether a certificate is due: {problem}");
        }
        let mut repaired = restart_set(&inputs.plan, &failed);
        for phase in left_over_phases(&health) {
            if !repaired.contains(&phase) {
                repaired.push(phase);
            }
        }
        let stands = stands(host, &runner).await;
        if stands && refused.is_none() && !inputs.are_of_no_role() {
            remember(&inputs.identity, &health);
        }
        let (ledger_lost, ledger_problem) = match inputs.are_of_no_role() {
            true => (String::new(), String::new()),
            false => ledger(&runner).await,
        };
        protect_state();
        let mut desired = Desired::of(&settings);
        desired.service_state = service_state.unwrap_or(desired.service_state);
        let runs = if desired.service_state == ServiceState::False {
            let looked = tokio::time::timeout(PATIENCE, runner.runs()).await;
            looked.unwrap_or_default()
        } else {
            None
        };
        let mut interests = PassInterests::of(&inputs.plan, &args.config);
        let mut without_subnet = WithoutSubnet::default();
        if (desired.service_state != ServiceState::True || refused.is_some())
            && let Some(allocation) = interests.allocation.take()
            && stands
        {
            without_subnet = nodes_without_subnet(host, allocation.kubeconfig).await;
        }
        Ok(Self {
            desired,
            settings_problems,
            role_problems,
            refused,
            ledger_lost,
            ledger_problem,
            digest: inputs.plan.digest(),
            interests,
            restart_set: repaired,
            failed: failed.into_iter().collect(),
            damaged: damaged(&inputs.plan, &health),
            without_subnet,
            due: due.components.into_iter().map(str::to_owned).collect(),
            health,
            stands,
            runs,
            lacks_backup: lacks_backup(&settings).await,
        })
    }
}

/// The phases with damage that no restart of them repairs, in the plan's order: an authority or key is lost or not the one that this host
/// keeps, the API server refuses the cluster's tokens, or the role's package is not as it was packed.
fn damaged(plan: &Plan, health: &[PhaseHealth]) -> Vec<PhaseName> {
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

/// Why the ledger cannot be relied on, and what else is wrong with it; each is empty if nothing is. Lost copies beside the ledger are
/// written again.
async fn ledger(runner: &Runner<'_>) -> (String, String) {
    let told = |error: &(dyn std::error::Error + 'static)| {
        format!("could not {}", engine::model::chain(error).join(": "))
    };
    if let Some(lost) = runner.lost_ledger().await {
        return (told(&lost), String::new());
    }
    match Ledger::renew_copies(runner.host).await {
        Ok(true) => tracing::warn!(
            "ledger.tip or ledger.backup.jsonl was lost or damaged; both are written again"
        ),
        Ok(false) => {}
        Err(error) => return (String::new(), told(&error)),
    }
    match Ledger::damaged_contents(runner.host).await {
        Ok(problems) => (String::new(), problems.join("; ")),
        Err(error) => (String::new(), told(&error)),
    }
}

/// Maximum number of node names in a report.
const NAMED_NODES: usize = 5;

/// The nodes that have no pod subnet.
async fn nodes_without_subnet(host: &dyn Host, kubeconfig: PathBuf) -> WithoutSubnet {
    let access = ClusterAccess { kubeconfig };
    let asked = tokio::time::timeout(PATIENCE, host.subnet_nodes(&access)).await;
    let unknown = |why: String| WithoutSubnet {
        unknown: why,
        ..WithoutSubnet::default()
    };
    let nodes = match asked {
        Ok(Ok(nodes)) => nodes,
        Ok(Err(error)) => {
            return unknown(format!(
                "could not {}",
                engine::model::chain(&error).join(": ")
            ));
        }
        Err(_) => return unknown("the API server did not answer".to_owned()),
    };
    let without = nodes.into_iter().filter(|node| node.subnets.is_empty());
    let mut named: Vec<String> = without.map(|node| node.name).collect();
    let more = named.len().saturating_sub(NAMED_NODES);
    named.truncate(NAMED_NODES);
    WithoutSubnet {
        named,
        more,
        unknown: String::new(),
    }
}

/// Sets back mode and owner of our own files.
fn protect_state() {
    match private_state::protect(Path::new(STATE)) {
        Ok(changed) => {
            for path in changed {
                let path = path.display();
                tracing::warn!("mode and owner of {path} are set back: it belongs to root alone");
            }
        }
        Err(error) => tracing::warn!("could not protect {STATE}: {error}"),
    }
}

/// What a pass reports while it runs: the phase whose checks it waits for. One JSON line each, before the line with the result of the
/// pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Progress {
    pub(crate) checking: PhaseName,
}

/// Reports the phase that `look` waits for, whenever it is another phase than before. If `look` ends quickly, nothing is reported.
async fn tell_progress<T>(in_progress: ChecksInProgress, look: impl Future<Output = T>) -> T {
    let mut look = std::pin::pin!(look);
    let mut said = None;
    loop {
        let tick = tokio::time::sleep(TELL);
        tokio::select! {
            looked = &mut look => return looked,
            () = tick => {}
        }
        let Some(checking) = in_progress.first() else {
            continue;
        };
        if said.as_ref() == Some(&checking) {
            continue;
        }
        said = Some(checking.clone());
        if let Ok(line) = serde_json::to_string(&Progress { checking }) {
            say(&format!("{line}\n"));
        }
    }
}

/// False if the directory cannot be read or does not answer: the phase has a condition for that.
async fn lacks_backup(settings: &KubeEnv) -> bool {
    let Ok(backups) = Backups::of(settings) else {
        return false;
    };
    let look = tokio::task::spawn_blocking(move || {
        let proven = |one: &Stored| {
            let manifest = one.manifest.as_ref();
            manifest.is_ok_and(|manifest| {
                manifest
                    .cluster_id
                    .eq_ignore_ascii_case(&backups.cluster_id)
            })
        };
        backups.enabled
            && etcd::stored(&backups.directory).is_ok_and(|stored| !stored.iter().any(proven))
    });
    matches!(tokio::time::timeout(PATIENCE, look).await, Ok(Ok(true)))
}

/// Saves the settings and the role in use as the last good ones, for when the files become wrong.
fn keep(args: &RoleArgs, settings: &KubeEnv, inputs: &Inputs) {
    if let Err(error) = settled::keep(settings) {
        tracing::warn!("could not save the settings as the last good ones: {error:#}");
    }
    if let Role::Installed(role) = &inputs.role
        && let Err(error) = settled::keep_role(&args.role, role)
    {
        tracing::warn!("could not save the role as the last good one: {error:#}");
    }
}

/// Writes a lost identity again. Called right after the role was seen on the host, because a `nodelet clean` may be removing it.
fn remember(seen: &Identity, health: &[PhaseHealth]) {
    let well = health.iter().all(|phase| phase.status() == Status::True);
    let renewed = Identity::renewed(Identity::recorded().as_ref(), seen, well);
    if let Some(Err(error)) = renewed.map(|renewed| renewed.write()) {
        tracing::warn!("{}: {error:#}", Identity::NOT_NOTED);
    }
}

/// Why a host with a role cannot go on with settings that were read without an error. Such settings are wrong, and must not keep nodeletd
/// from holding the host at the last good ones.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Obstacle {
    /// A sentence.
    why: String,
    /// The requirement, which may name the settings in question as well.
    about: String,
}

impl Obstacle {
    /// The sentence, after the place of the first setting that it names and that is set in a file.
    fn at_its_place(&self, settings: &KubeEnv) -> String {
        let all = format!("{} {}", self.about, self.why);
        let word = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        let mut words = all.split(|c| !word(c));
        match words.find_map(|name| settings.source_of(name)?.place()) {
            Some(place) => format!("{place}: {}", self.why),
            None => self.why.clone(),
        }
    }
}

/// What is done with settings that could be read.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    /// Used, and saved as the last good settings.
    Good,
    /// Used, but not saved as the last good settings: there are no better ones, or the last good ones have the same fault. Each command
    /// that would change the host reports why it does not.
    Borne,
    /// Not used: the last good settings stay in use. These are the obstacles that the current settings cause.
    Refused(Vec<Obstacle>),
}

impl Verdict {
    /// `now` has the obstacles of the current settings, `before` those of the last good ones, if there are any. `another` means that the
    /// current settings change the host's identity; then `now` has only that obstacle.
    fn of(now: Vec<Obstacle>, before: Option<&[Obstacle]>, another: bool) -> Self {
        if now.is_empty() {
            return Self::Good;
        }
        let Some(before) = before else {
            return Self::Borne;
        };
        let worse = made_worse(now, before);
        // All obstacles existed before: the current settings are as good as the last good ones, unless they change the host's identity.
        match (worse.is_empty(), another) {
            (false, _) => Self::Refused(worse),
            (true, false) => Self::Good,
            (true, true) => Self::Borne,
        }
    }
}

/// The obstacles that the current settings cause: those of `now` that are not in `before`.
fn made_worse(now: Vec<Obstacle>, before: &[Obstacle]) -> Vec<Obstacle> {
    let mut now = now;
    now.retain(|one| !before.iter().any(|other| other.why == one.why));
    now
}

/// The obstacles to these settings on a host that is bound to an identity; none on any other host.
async fn obstacles(
    bound: Option<&Identity>,
    inputs: &Inputs,
    host: &LiveHost,
) -> Result<Vec<Obstacle>> {
    let Some(stands) = bound else {
        return Ok(Vec::new());
    };
    if let Some(changed) = stands.changed_by(&inputs.identity) {
        return Ok(vec![Obstacle {
            why: changed.to_string(),
            about: String::new(),
        }]);
    }
    let unheard = Recording::default();
    let runner = Runner::new(&inputs.plan, host, &inputs.facts, &inputs.secrets, &unheard);
    let misfits = runner.misfits().await?;
    let told = misfits.into_iter().map(|one| Obstacle {
        why: format!("{}: {}", one.problem, one.remedy),
        about: one.requirement,
    });
    Ok(told.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn obstacle(why: &str, about: &str) -> Obstacle {
        Obstacle {
            why: why.to_owned(),
            about: about.to_owned(),
        }
    }

    /// The plan of a master with a virtual IP.
    async fn plan_of_master() -> Plan {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let facts = repository.join("tests/fixtures/hosts/cp-1.yaml");
        let facts = std::fs::read_to_string(facts).expect("a fixture");
        let facts = engine::facts::Facts::from_yaml(&facts).expect("facts");
        let role = repository.join("roles/pf9-kube").display().to_string();
        let role = engine::role::RolePackage::load(&LiveHost::new(), &role).await;
        let settings = repository.join("tests/fixtures/settings/cp-1-vip.yaml");
        let settings = std::fs::read(settings).expect("a fixture");
        let settings = KubeEnv::resolve(vec![("a.yaml".to_owned(), settings)]);
        let settings = settings.expect("good settings");
        let plan = engine::planner::plan(&role.expect("the role"), &settings, &facts);
        plan.expect("a plan")
    }

    #[tokio::test]
    async fn damage_that_no_restart_mends_is_told_by_its_phase() {
        let plan = plan_of_master().await;
        let health = |failing: fn(&Probe) -> bool, status: Status| -> Vec<PhaseHealth> {
            let phases = plan.phases.iter().map(|phase| PhaseHealth {
                phase: phase.name.clone(),
                skipped: None,
                conditions: phase
                    .checks
                    .iter()
                    .map(|check| engine::exec::Condition {
                        check: check.name.clone(),
                        span: check.span.clone(),
                        status: match failing(&check.probe) {
                            true => status,
                            false => Status::True,
                        },
                        reason: String::new(),
                        warns: check.warns,
                        failed_in_a_row: 0,
                        put_off: false,
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

    #[tokio::test]
    async fn what_changes_without_a_file_or_a_unit_is_listened_to() {
        let plan = plan_of_master().await;
        let found = PassInterests::of(&plan, Path::new("/etc/pf9/nodelet"));
        assert_eq!(found.links, ["cni0", "docker0", "eth0"]);
        let virtual_ip: IpAddr = "172.30.0.100".parse().expect("an address");
        assert_eq!(found.addresses, [virtual_ip]);
        let nodes: Vec<&str> = found.nodes.iter().map(|node| node.name.as_str()).collect();
        assert_eq!(nodes, ["cp-1"]);
        let allocation = found.allocation.expect("subnets are given");
        assert_eq!(allocation.pool.to_string(), "a /24 of 10.20.0.0/16");
        assert!(allocation.kubeconfig.ends_with("local-admin.yaml"));
    }

    #[test]
    fn settings_are_at_fault_for_nothing_that_was_so_before_them() {
        let all =
            |list: &[&str]| -> Vec<Obstacle> { list.iter().map(|why| obstacle(why, "")).collect() };
        let (payload, interface) = ("pause.tar is empty", "there is no eth9");
        for (now, before, worse) in [
            (&[][..], &[][..], &[][..]),
            (&[payload], &[payload], &[]),
            (&[interface], &[], &[interface]),
            (&[payload, interface], &[payload], &[interface]),
            (&[payload], &[interface], &[payload]),
        ] {
            assert_eq!(made_worse(all(now), &all(before)), all(worse), "{now:?}");
        }
    }

    #[test]
    fn settings_are_kept_if_they_are_as_good_as_those_before_them() {
        let all = || vec![obstacle("pause.tar is empty", "")];
        let verdict = |now, before: Option<Vec<Obstacle>>, another| {
            Verdict::of(now, before.as_deref(), another)
        };
        assert_eq!(verdict(Vec::new(), None, false), Verdict::Good);
        assert_eq!(verdict(all(), Some(all()), false), Verdict::Good);
        assert_eq!(verdict(all(), Some(all()), true), Verdict::Borne);
        assert_eq!(verdict(all(), None, false), Verdict::Borne);
        let refused = Verdict::Refused(all());
        assert_eq!(verdict(all(), Some(Vec::new()), false), refused);
        assert_eq!(verdict(all(), Some(Vec::new()), true), refused);
    }

    #[test]
    fn whoever_has_written_them_is_told_where() {
        let files = [
            (
                "/c/a.yaml",
                "ROLE: worker\nCLUSTER_ID: 11111111-2222-3333-4444-555555555555\nMASTER_IP: 192.0.2.1\n",
            ),
            ("/c/b.yaml", "\nETCD_BACKUP_DIR: /root/afile\n"),
        ];
        let files = files.map(|(path, text)| (path.to_owned(), text.as_bytes().to_vec()));
        let settings = KubeEnv::resolve(files.to_vec()).expect("they are good");
        for (why, about, told) in [
            (
                "/root/afile is no directory",
                "backups have a place that lasts (ETCD_BACKUP_DIR)",
                "/c/b.yaml:2",
            ),
            ("use ROLE=worker on this host", "", "/c/a.yaml:1"),
            ("pause.tar is empty", "the payload is complete", ""),
        ] {
            let said = obstacle(why, about).at_its_place(&settings);
            assert!(said.starts_with(told) && said.ends_with(why), "{said}");
            assert_eq!(told.is_empty(), said == why, "{said}");
        }
    }
}
