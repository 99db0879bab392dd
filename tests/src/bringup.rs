//! Bring-ups on fake hosts.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use engine::exec::{
    Event, EventSink, PhaseHealth, Recording, Runner, Selection, UnmetRequires, overlay_host,
    simulated_host,
};
use engine::facts::Facts;
use engine::host::fake::{FakeHost, WorldSnapshot, difference};
use engine::model::{Outcome, PhaseName};
use engine::plan::{Graph, Plan, PlannedCheck, PlannedPhase, Probe};
use engine::report::{Detail, render};
use engine::resource::{MaskedSecrets, Spec};

use tokio_util::sync::CancellationToken;

use engine::ledger::{Ledger, Record};

use crate::masters::{self, AuthorityFiles};
use crate::{Case, Scripts, block_on};

/// A plan, and the host it is for.
#[derive(Debug)]
pub struct Bringup {
    /// The plan.
    pub plan: Plan,
    /// The facts of the host.
    pub facts: Facts,
}

/// The authority of all simulated clusters that a worker joins. It is made once, because a key takes time.
fn cluster_authority() -> &'static AuthorityFiles {
    static MADE: OnceLock<AuthorityFiles> = OnceLock::new();
    MADE.get_or_init(|| {
        let scripts = Scripts::default().phase("example", AuthorityFiles::SCRIPT);
        let master = Bringup::of_scripts(&scripts);
        let host = master.bare_host();
        let run = master.apply(&host);
        AuthorityFiles::of(&host).unwrap_or_else(|| panic!("there is no authority: {}", run.text()))
    })
}

/// How a run went.
#[derive(Debug)]
pub struct Run {
    /// How it ended.
    pub outcome: Outcome,
    /// What happened.
    pub events: Vec<Event>,
}

impl Run {
    /// What happened, as people read it.
    #[must_use]
    pub fn text(&self) -> String {
        let detail = Detail {
            unchanged: true,
            diffs: false,
            times: false,
        };
        self.events
            .iter()
            .map(|event| render(event, detail))
            .collect()
    }

    /// The steps that a run began to change.
    #[must_use]
    pub fn changes(&self) -> Vec<String> {
        let step = |event: &Event| match event {
            Event::StepChanging { step, .. } => Some(step.to_string()),
            _ => None,
        };
        self.events.iter().filter_map(step).collect()
    }
}

impl Bringup {
    /// The bring-up of a case.
    #[must_use]
    pub fn of(case: &str) -> Self {
        Self::from_case(Case::named(case))
    }

    /// The bring-up of a case, and its host after it.
    ///
    /// # Panics
    /// The bring-up fails.
    #[must_use]
    pub fn brought_up(case: &str) -> (Self, FakeHost) {
        let bringup = Self::of(case);
        let host = bringup.bare_host();
        let run = bringup.apply(&host);
        assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
        (bringup, host)
    }

    /// The bring-up of this case.
    #[must_use]
    pub fn from_case(case: Case) -> Self {
        Self {
            plan: case.planned(),
            facts: case.facts,
        }
    }

    /// The bring-up of these scripts, on the host of case `cp-1`.
    ///
    /// # Panics
    /// The scripts have mistakes.
    #[must_use]
    pub fn of_scripts(scripts: &Scripts) -> Self {
        let case = Case::named("cp-1");
        Self {
            plan: scripts
                .plan(&case)
                .unwrap_or_else(|message| panic!("{message}")),
            facts: case.facts,
        }
    }

    /// The same with a check in this phase that never holds: all its steps are done, and then it fails.
    ///
    /// # Panics
    /// The plan does not have the phase.
    #[must_use]
    pub fn with_failing_check(&self, phase: &PlannedPhase) -> Self {
        let mut plan = self.plan.clone();
        let its = plan.phases.iter_mut().find(|its| its.name == phase.name);
        its.expect("a phase of this plan")
            .checks
            .push(PlannedCheck {
                name: "nothing is enough".to_owned(),
                span: phase.span.clone(),
                probe: Probe::FileExists("/nowhere".into()),
                every: Duration::from_secs(1),
                timeout: Duration::from_secs(1),
                failures: 1,
                advisory: false,
                needs_api: None,
                needs_quorum: false,
            });
        Self {
            plan,
            facts: self.facts.clone(),
        }
    }

    /// The same plan with its phases in another allowed order: of all phases that may come next, the one that is last in the usual
    /// order comes first.
    ///
    /// # Panics
    /// The plan's own order is not allowed.
    #[must_use]
    pub fn latest_first(&self) -> Self {
        let graph = Graph::of(&self.plan);
        let mut waiting: Vec<&PlannedPhase> = self.plan.phases.iter().collect();
        let mut ordered: Vec<PlannedPhase> = Vec::new();
        while !waiting.is_empty() {
            let free = waiting.iter().rposition(|phase| {
                let over = |name: &PhaseName| ordered.iter().any(|done| done.name == *name);
                graph.before(&phase.name).iter().all(over)
            });
            let free = free.expect("the plan's own order is allowed, so some phase is free");
            ordered.push(waiting.remove(free).clone());
        }
        let mut plan = self.plan.clone();
        plan.phases = ordered;
        Self {
            plan,
            facts: self.facts.clone(),
        }
    }

    /// The same with this phase as early as it may come: after what it needs, before all others.
    #[must_use]
    pub fn earliest(&self, phase: &PhaseName) -> Self {
        let needed = Graph::of(&self.plan).before(phase);
        let mut plan = self.plan.clone();
        plan.phases.sort_by_key(|its| match &its.name {
            name if needed.contains(name) => 0,
            name if name == phase => 1,
            _ => 2,
        });
        Self {
            plan,
            facts: self.facts.clone(),
        }
    }

    /// What is on a host and with which modes. Contents (they hold random keys), digests of contents and nodelet's own records are
    /// left out.
    #[must_use]
    pub fn shape(host: &FakeHost) -> Vec<String> {
        let state = |state: &str| {
            let state = state.split(['"', '{']).next().unwrap_or_default();
            state.trim().to_owned()
        };
        host.snapshot()
            .without_path(engine::model::STATE)
            .resources()
            .filter(|(name, _)| !name.starts_with("object "))
            .map(|(name, full)| format!("{name}: {}", state(full)))
            .collect()
    }

    /// Predicts on an overlay what [`Bringup::apply`] would do to a host, as `nodelet plan` does.
    ///
    /// # Panics
    /// The dry run fails.
    #[must_use]
    pub fn predict(&self, host: &FakeHost) -> Run {
        let recording = Recording::default();
        let outcome = block_on(async {
            let overlay = overlay_host(host, &self.plan).await;
            let runner = Runner::new(
                &self.plan,
                &overlay,
                &self.facts,
                &MaskedSecrets,
                &recording,
            );
            runner.dry_run().await.expect("a dry run comes to its end")
        });
        Run {
            outcome,
            events: recording.events(),
        }
    }

    /// The bring-up of a case, without the containers of static pods, which a fake host does not have.
    #[must_use]
    pub fn without_pods(case: &str) -> Self {
        let mut bringup = Self::of(case);
        for phase in &mut bringup.plan.phases {
            phase
                .checks
                .retain(|check| !matches!(check.probe, Probe::PodRunning { .. }));
        }
        bringup
    }

    /// A bare host on which the role's programs leave traces, with files and firewall rules of another owner.
    #[must_use]
    pub fn populated_host(&self) -> FakeHost {
        let host = self
            .bare_host()
            .with_kubernetes(|rules| rules.leaves_traces = true);
        host.with_world_mut(|world| {
            world.file_with_mode(
                "/etc/docker/daemon.json",
                "{\"log-driver\": \"journald\"}",
                0o600,
            );
            world.firewall_rule("iptables", "filter", "MINE", "-p tcp -j ACCEPT");
            world.firewall_rule("iptables", "filter", "INPUT", "-j MINE");
            world.file("/opt/mine", "x");
        });
        host
    }

    /// The host before anything happened, with the role's payload and a controller-manager that gives subnets. A worker has a join file
    /// of its masters.
    #[must_use]
    pub fn bare_host(&self) -> FakeHost {
        let host = simulated_host(&self.facts, &self.plan)
            .with_kubernetes(|rules| rules.pod_cidr = "10.20.0.0/24".to_owned());
        masters::admit(&self.plan, cluster_authority, host)
    }

    /// Applies the whole plan.
    #[must_use]
    pub fn apply(&self, host: &FakeHost) -> Run {
        self.run(host, &[], Verb::Apply)
    }

    /// Applies only one phase.
    #[must_use]
    pub fn apply_phase(&self, host: &FakeHost, phase: &PlannedPhase) -> Run {
        self.run(host, &[phase.name.to_string()], Verb::Apply)
    }

    /// Applies only these phases.
    #[must_use]
    pub fn apply_only(&self, host: &FakeHost, phases: &[&str]) -> Run {
        let only: Vec<String> = phases.iter().map(ToString::to_string).collect();
        self.run(host, &only, Verb::Apply)
    }

    /// Why `nodelet apply` refuses to apply only these phases.
    ///
    /// # Panics
    /// The ledger cannot be read.
    #[must_use]
    pub fn unmet_requires(&self, host: &FakeHost, only: &[&str]) -> Option<UnmetRequires> {
        let ignored_events = Recording::default();
        let mut runner = Runner::new(
            &self.plan,
            host,
            &self.facts,
            &MaskedSecrets,
            &ignored_events,
        );
        runner.selection = Selection {
            only: only.iter().map(ToString::to_string).collect(),
            ..Selection::default()
        };
        block_on(runner.unmet_requires()).expect("the ledger can be read")
    }

    /// Stops only one phase.
    #[must_use]
    pub fn stop_phase(&self, host: &FakeHost, phase: &str) -> Run {
        self.run(host, &[phase.to_owned()], Verb::Stop)
    }

    /// The records in a host's ledger.
    ///
    /// # Panics
    /// It cannot be read.
    #[must_use]
    pub fn records(host: &FakeHost) -> Vec<Record> {
        block_on(Ledger::read(host)).expect("the ledger can be read")
    }

    /// Stops everything.
    #[must_use]
    pub fn stop(&self, host: &FakeHost) -> Run {
        self.run(host, &[], Verb::Stop)
    }

    /// Makes every check once.
    #[must_use]
    pub fn check(&self, host: &FakeHost) -> Vec<PhaseHealth> {
        let ignored_events = Recording::default();
        let runner = Runner::new(
            &self.plan,
            host,
            &self.facts,
            &MaskedSecrets,
            &ignored_events,
        );
        block_on(runner.check())
    }

    fn run(&self, host: &FakeHost, only: &[String], verb: Verb) -> Run {
        let recording = Recording::default();
        let outcome = self.run_for(host, only, verb, &recording);
        Run {
            outcome,
            events: recording.events(),
        }
    }

    /// Applies the whole plan. `events` gets the events while it runs, and may change the host.
    pub fn apply_for(&self, host: &FakeHost, events: &dyn EventSink) -> Outcome {
        self.run_for(host, &[], Verb::Apply, events)
    }

    fn run_for(
        &self,
        host: &FakeHost,
        only: &[String],
        verb: Verb,
        events: &dyn EventSink,
    ) -> Outcome {
        let mut runner = Runner::new(&self.plan, host, &self.facts, &MaskedSecrets, events);
        runner.selection = Selection {
            only: only.to_vec(),
            ..Selection::default()
        };
        let work = async {
            match verb {
                // A crash may hit a write of the ledger: then the run ends, as the program would.
                Verb::Apply => runner.apply().await.unwrap_or(Outcome::Failed),
                Verb::Stop => runner.stop().await.unwrap_or(Outcome::Failed),
            }
        };
        match masters::of(&self.plan, cluster_authority) {
            None => block_on(work),
            Some(masters) => block_on(async {
                masters.admit_again(host);
                tokio::select! {
                    biased;
                    outcome = work => outcome,
                    never = masters.sign(host) => match never {},
                }
            }),
        }
    }

    /// Cleans a host; uses only the ledger.
    #[must_use]
    pub fn clean(host: &FakeHost, purge: bool) -> Run {
        let recording = Recording::default();
        let cancel = CancellationToken::new();
        let outcome = block_on(engine::exec::clean(host, &recording, &cancel, purge))
            .unwrap_or(Outcome::Failed);
        Run {
            outcome,
            events: recording.events(),
        }
    }

    /// What a clean left behind, compared with `before`. Ignored are nodelet's own records, kept data, the directories above it,
    /// and the objects that the API server has in kept data.
    #[must_use]
    pub fn not_cleaned(&self, before: &WorldSnapshot, host: &FakeHost, purge: bool) -> Vec<String> {
        let mut kept = vec![PathBuf::from(engine::model::STATE)];
        if purge {
            // It was there before the role. A purge removes it, because it is of a cluster.
            kept.push(PathBuf::from(engine::kubernetes::join_file::JOIN_FILE));
        } else {
            kept.extend(self.plan.phases.iter().flat_map(kept_paths));
        }
        snapshot_differences(
            before.clone().without_cluster(),
            host.snapshot().without_cluster(),
            &kept,
        )
    }

    /// Each phase that does something, with the world right before it: all phases before have been applied.
    ///
    /// # Panics
    /// One of them does not converge.
    #[must_use]
    pub fn worlds(&self) -> Vec<(&PlannedPhase, FakeHost)> {
        let host = self.bare_host();
        let mut worlds = Vec::new();
        for phase in self
            .plan
            .phases
            .iter()
            .filter(|phase| phase.skipped.is_none())
        {
            worlds.push((phase, host.fork()));
            let run = self.apply_phase(&host, phase);
            assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
        }
        worlds
    }

    /// What a phase left behind, compared with `before`. Ignored are data that its script keeps, the directories above it, and
    /// nodelet's own records.
    #[must_use]
    pub fn left_behind(
        phase: &PlannedPhase,
        before: &WorldSnapshot,
        host: &FakeHost,
    ) -> Vec<String> {
        let mut kept = vec![PathBuf::from(engine::model::STATE)];
        kept.extend(kept_paths(phase));
        let mut lines = snapshot_differences(before.clone(), host.snapshot(), &kept);
        if !phase
            .steps
            .iter()
            .any(|step| matches!(step.spec, Spec::Node(_)))
        {
            // kubelet registers the node by itself, and the node is stored in etcd's data, which is kept.
            lines.retain(|line| !line.starts_with("+ node "));
        }
        // Docker's bridge outlives docker; the phase that configures docker takes it back.
        lines.retain(|line| !line.starts_with("+ link docker0"));
        lines
    }
}

/// Paths that a phase's script keeps.
fn kept_paths(phase: &PlannedPhase) -> Vec<PathBuf> {
    let steps = phase.steps.iter().filter(|step| step.policy.keep);
    steps
        .flat_map(|step| match &step.spec {
            Spec::Directory(directory) => vec![directory.path.clone()],
            Spec::EncryptionKeys(_) => engine::resource::pki::encryption_directories().to_vec(),
            Spec::Authority(_) | Spec::ServiceAccountKey(_) => step
                .spec
                .paths()
                .iter()
                .filter_map(|path| Some(path.parent()?.to_owned()))
                .collect(),
            other => other.paths(),
        })
        .collect()
}

/// The differences, except at these paths and the directories above them.
fn snapshot_differences(
    mut before: WorldSnapshot,
    mut after: WorldSnapshot,
    but: &[PathBuf],
) -> Vec<String> {
    for path in but {
        before = before.without_path(path);
        after = after.without_path(path);
    }
    let mut lines = difference(&before, &after);
    lines.retain(|line| !but.iter().any(|path| leads_to(line, path)));
    lines
}

enum Verb {
    Apply,
    Stop,
}

/// Whether a line of a difference is about a new directory on the way to `path`.
fn leads_to(line: &str, path: &Path) -> bool {
    line.strip_prefix("+ path ")
        .and_then(|rest| rest.split_once(": directory"))
        .is_some_and(|(directory, _)| path.starts_with(directory))
}
