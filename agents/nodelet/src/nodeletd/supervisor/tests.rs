//! The loop on a test clock: minutes pass at once, and each attempt is recorded.

mod attempts;
mod journal;
mod ledger;
mod operator_requests;
mod renewals;
mod reports;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};
use engine::exec::{Condition, ConditionKind, Event, FailureCounts, PhaseHealth, Status};
use engine::model::{Failure, PhaseName, Problem, Span, StepId, Verb};

use super::*;
use crate::nodeletd::cluster_work::ClusterProblems;
use crate::nodeletd::status::kube_status::NodeState;
use crate::nodeletd::supervisor::worker::Change;
use crate::pass::{ServiceState, WithoutSubnet};
use crate::process::cgroup::Leaf;

/// The arguments of a full clean.
const CLEAN: &str = "repair --rebuild";

/// A host on which etcd cannot run as long as `broken`.
#[derive(Clone)]
struct Broken {
    broken: Arc<AtomicBool>,
    /// Whether it has just booted, so that all results are unknown.
    booting: Arc<AtomicBool>,
    /// Whether every change is refused, because an interface is missing.
    refuses: Arc<AtomicBool>,
    /// Whether a full clean is refused, because swap would keep the host from coming up again.
    refuses_clean: Arc<AtomicBool>,
    /// Whether `nodelet` cannot be run.
    unable: Arc<AtomicBool>,
    /// Whether a repair is interrupted before its end.
    interrupts: Arc<AtomicBool>,
    /// Whether `nodelet` still runs at the end of the time that it gets at the daemon's shutdown.
    lingers: Arc<AtomicBool>,
    /// The phase in which a stop or a repair fails, and why.
    phase_failure: Arc<Mutex<Option<(PhaseName, String)>>>,
    /// Whether what a pass saw failing is healthy when a repair checks it again.
    comes_and_goes: Arc<AtomicBool>,
    /// How often a repair has checked it again and found it healthy.
    found_well: Arc<AtomicUsize>,
    /// How long a pass takes.
    pass_time: Arc<Mutex<Duration>>,
    /// How long a change prints nothing.
    silent: Arc<Mutex<Duration>>,
    /// The service state that its settings ask for.
    wanted: Arc<Mutex<ServiceState>>,
    /// Digest of its plan.
    digest: Arc<Mutex<String>>,
    /// Id of its cluster; empty if it belongs to none.
    cluster: Arc<Mutex<String>>,
    /// Whether nothing of the role is on it.
    bare: Arc<AtomicBool>,
    /// Whether all passes fail.
    unseen: Arc<AtomicBool>,
    /// Whether a key that it keeps is lost.
    keyless: Arc<AtomicBool>,
    /// Phases that fail beside etcd while `broken`.
    others: Arc<Mutex<Vec<PhaseName>>>,
    /// Whether an event comes during each change.
    stirs: Arc<AtomicBool>,
    /// Why its ledger cannot be used; empty if it can.
    ledger_lost: Arc<Mutex<String>>,
    /// Components with a certificate that is due.
    due: Arc<Mutex<Vec<String>>>,
    /// Whether something of the role runs, though it was stopped.
    runs: Arc<AtomicBool>,
    /// Whether it is unknown if anything of the role runs.
    untold: Arc<AtomicBool>,
    /// Failures in a row of etcd's check, which may fail more than once, while not `broken`.
    failures: Arc<AtomicU32>,
    /// The counts of failures that the last pass got from the one before.
    before: Arc<Mutex<FailureCounts>>,
    /// The component that cannot be renewed.
    unrenewable: Arc<Mutex<String>>,
    /// Problems of the installed role.
    role_problems: Arc<Mutex<Vec<String>>>,
    refused: Arc<Mutex<Option<String>>>,
    /// The release of a role that waits for the right name of the host.
    pending_release: Arc<Mutex<Option<String>>>,
    /// Whether it is refused only because it has another name.
    renamed: Arc<AtomicBool>,
    without_subnet: Arc<Mutex<WithoutSubnet>>,
    cluster_problems: Arc<Mutex<ClusterProblems>>,
    /// Whether the last change was to use the last good settings and role.
    went_by_last_good: Arc<AtomicBool>,
    /// Whether the work beside the passes uses the last good settings.
    listens_with_last_good: Arc<AtomicBool>,
    /// Where the daemon writes.
    disk: Disk,
    /// Where the daemon gets its events.
    triggers: Arc<Mutex<Triggers>>,
    began: Instant,
    /// The changes, each with its time since the beginning.
    done: Arc<Mutex<Vec<(Duration, String)>>>,
}

impl Broken {
    fn new() -> Self {
        Self {
            broken: Arc::new(AtomicBool::new(true)),
            booting: Arc::default(),
            refuses: Arc::default(),
            refuses_clean: Arc::default(),
            unable: Arc::default(),
            interrupts: Arc::default(),
            lingers: Arc::default(),
            phase_failure: Arc::default(),
            comes_and_goes: Arc::default(),
            found_well: Arc::default(),
            pass_time: Arc::default(),
            silent: Arc::default(),
            wanted: Arc::new(Mutex::new(ServiceState::True)),
            digest: Arc::new(Mutex::new("plan".to_owned())),
            cluster: Arc::new(Mutex::new("c".to_owned())),
            bare: Arc::default(),
            unseen: Arc::default(),
            keyless: Arc::default(),
            others: Arc::default(),
            stirs: Arc::default(),
            ledger_lost: Arc::default(),
            due: Arc::default(),
            runs: Arc::default(),
            untold: Arc::default(),
            failures: Arc::default(),
            before: Arc::default(),
            unrenewable: Arc::default(),
            role_problems: Arc::default(),
            refused: Arc::default(),
            pending_release: Arc::default(),
            renamed: Arc::default(),
            without_subnet: Arc::default(),
            cluster_problems: Arc::default(),
            went_by_last_good: Arc::default(),
            listens_with_last_good: Arc::default(),
            disk: Disk::live(),
            triggers: Arc::default(),
            began: Instant::now(),
            done: Arc::default(),
        }
    }

    fn done(&self) -> Vec<(Duration, String)> {
        self.done.lock().expect("no test panicked").clone()
    }

    /// Writes settings with this service state.
    fn is_to_be(&self, wanted: ServiceState) {
        *self.wanted.lock().expect("no test panicked") = wanted;
        let triggers = self.triggers.lock().expect("no test panicked");
        triggers.add_for_settings("file /etc/pf9/nodelet/a.yaml".to_owned());
    }

    /// Each attempt that was made: when it began, and whether it was a full clean.
    fn attempts(&self) -> Vec<(Duration, bool)> {
        let done = self.done();
        let begins = done.iter().filter(|(_, words)| !words.starts_with("certs"));
        begins
            .map(|(at, words)| (*at, words.starts_with(CLEAN)))
            .collect()
    }

    /// From now on a stop and a repair fail in this phase.
    fn fails_in(&self, phase: &str, why: &str) {
        let phase = phase.parse().expect("a name");
        *self.phase_failure.lock().expect("no test panicked") = Some((phase, why.to_owned()));
    }

    fn tell_phase_failure(&self, event: &mut impl FnMut(String)) -> Result<()> {
        let failure = self.phase_failure.lock().expect("no test panicked");
        if let Some((phase, why)) = &*failure {
            let failure = Failure {
                what: "a step".to_owned(),
                span: Span::file("phases/etcd.rhai"),
                chain: vec![why.clone()],
                found: Vec::new(),
                next: "look at it".to_owned(),
            };
            event(serde_json::to_string(&Event::PhaseFailed {
                phase: phase.clone(),
                failure,
            })?);
        }
        Ok(())
    }

    /// How many of them were full cleans.
    fn cleans(&self) -> usize {
        self.attempts().iter().filter(|(_, cleans)| *cleans).count()
    }
}

impl HostOps for Broken {
    async fn pass(
        &self,
        _cgroup: Option<&Leaf>,
        before: &FailureCounts,
        progress: mpsc::UnboundedSender<PhaseName>,
    ) -> Result<Pass> {
        self.before
            .lock()
            .expect("no test panicked")
            .clone_from(before);
        let pass_time = *self.pass_time.lock().expect("no test panicked");
        // It reads the settings first.
        let wanted = *self.wanted.lock().expect("no test panicked");
        if !pass_time.is_zero() {
            progress.send("etcd".parse()?)?;
        }
        tokio::time::sleep(pass_time).await;
        if self.unseen.load(Ordering::Relaxed) {
            bail!("make a status pass: it was killed");
        }
        let etcd: PhaseName = "etcd".parse()?;
        let booting = self.booting.load(Ordering::Relaxed);
        let broken = self.broken.load(Ordering::Relaxed) && !booting;
        let failures = self.failures.load(Ordering::Relaxed);
        let mut failed: Vec<PhaseName> = broken.then(|| etcd.clone()).into_iter().collect();
        if broken {
            failed.extend(
                self.others
                    .lock()
                    .expect("no test panicked")
                    .iter()
                    .cloned(),
            );
        }
        let lost = self.keyless.load(Ordering::Relaxed);
        Ok(Pass {
            desired: Desired {
                service_state: wanted,
                node: "master".to_owned(),
                cluster_id: self.cluster.lock().expect("no test panicked").clone(),
                use_cgroups: false,
                ..Desired::default()
            },
            settings_problems: Vec::new(),
            role_problems: self.role_problems.lock().expect("no test panicked").clone(),
            pending_release: self
                .pending_release
                .lock()
                .expect("no test panicked")
                .clone(),
            refused: self.refused.lock().expect("no test panicked").clone(),
            restarts_only: self.renamed.load(Ordering::Relaxed),
            ledger_lost: self.ledger_lost.lock().expect("no test panicked").clone(),
            ledger_problem: String::new(),
            digest: self.digest.lock().expect("no test panicked").clone(),
            health: vec![PhaseHealth {
                phase: etcd,
                skipped: None,
                conditions: vec![Condition {
                    kind: ConditionKind::Check,
                    check: "member runs".to_owned(),
                    span: Span::file("phases/etcd.rhai"),
                    status: match (broken, failures) {
                        (true, _) => Status::False,
                        (false, 0) if !booting => Status::True,
                        (false, _) => Status::Unknown,
                    },
                    advisory: false,
                    failed_in_a_row: failures,
                    deferred: booting,
                    reason: String::new(),
                }],
            }],
            restart_set: failed.clone(),
            failed,
            watch_list: WatchList::default(),
            installed: !self.bare.load(Ordering::Relaxed),
            runs: (!self.untold.load(Ordering::Relaxed)).then(|| self.runs.load(Ordering::Relaxed)),
            lacks_backup: false,
            without_subnet: self
                .without_subnet
                .lock()
                .expect("no test panicked")
                .clone(),
            damaged: lost
                .then(|| "certs".parse())
                .transpose()?
                .into_iter()
                .collect(),
            due: self.due.lock().expect("no test panicked").clone(),
        })
    }

    async fn change(
        &self,
        words: &[&str],
        last_good: bool,
        mut event: impl FnMut(String),
    ) -> Result<(Change, String)> {
        self.went_by_last_good.store(last_good, Ordering::Relaxed);
        if self.stirs.load(Ordering::Relaxed) {
            let triggers = self.triggers.lock().expect("no test panicked");
            triggers.add("unit pf9-kubelet.service".to_owned());
        }
        if self.unable.load(Ordering::Relaxed) {
            bail!("run nodelet: no memory");
        }
        let well =
            !self.broken.load(Ordering::Relaxed) || self.comes_and_goes.load(Ordering::Relaxed);
        if well && words.first() == Some(&"repair") && words.contains(&"--if-failing") {
            self.found_well.fetch_add(1, Ordering::Relaxed);
            return Ok((Change::Done, String::new()));
        }
        let asks_for_clean = words.join(" ").starts_with(CLEAN);
        if self.refuses.load(Ordering::Relaxed)
            || asks_for_clean && self.refuses_clean.load(Ordering::Relaxed)
        {
            let problems = vec![Problem {
                requirement: "the interface is there".to_owned(),
                span: Span::file("phases/preflight.rhai"),
                problem: "there is no eth9".to_owned(),
                remedy: "name another".to_owned(),
            }];
            event(serde_json::to_string(&Event::PreflightFailed { problems })?);
            return Ok((Change::Failed, String::new()));
        }
        let verb = if asks_for_clean {
            Verb::Clean
        } else {
            Verb::Restart
        };
        event(serde_json::to_string(&Event::RunStarted {
            verb,
            role: "pf9-kube".to_owned(),
            host: "m".to_owned(),
            digest: String::new(),
            phases: Vec::new(),
        })?);
        let at = self.began.elapsed();
        let done = (at, words.join(" "));
        self.done.lock().expect("no test panicked").push(done);
        if words == ["stop"] && self.broken.load(Ordering::Relaxed) {
            let etcd: PhaseName = "etcd".parse()?;
            event(serde_json::to_string(&Event::StopFailed {
                step: StepId::new(&etcd, "container", "etcd"),
                phase: etcd,
                error: "it does not end".to_owned(),
            })?);
            self.tell_phase_failure(&mut event)?;
            return Ok((Change::Failed, String::new()));
        }
        if let ["certs", "renew", component] = words {
            if *self.unrenewable.lock().expect("no test panicked") == *component {
                return Ok((Change::Failed, "it did not".to_owned()));
            }
            let mut due = self.due.lock().expect("no test panicked");
            due.retain(|other| other != component);
            return Ok((Change::Done, String::new()));
        }
        event(serde_json::to_string(&Event::PhaseStarted {
            phase: "etcd".parse()?,
            about: String::new(),
        })?);
        let silent = *self.silent.lock().expect("no test panicked");
        tokio::time::sleep(silent).await;
        let change = if self.interrupts.load(Ordering::Relaxed) {
            // It needs a moment to reach a safe point.
            tokio::time::sleep(Duration::from_secs(1)).await;
            if self.lingers.load(Ordering::Relaxed) {
                tokio::time::sleep(GRACE).await;
                bail!("run nodelet: asked to end, and no end within 90 s");
            }
            Change::Interrupted
        } else if self.broken.load(Ordering::Relaxed) {
            self.tell_phase_failure(&mut event)?;
            Change::Failed
        } else {
            Change::Done
        };
        Ok((change, String::new()))
    }

    fn listen(
        &self,
        _: &WatchList,
        last_good: bool,
        _: &StatusFile,
        triggers: &Triggers,
        _: &CancellationToken,
    ) {
        self.listens_with_last_good
            .store(last_good, Ordering::Relaxed);
        *self.triggers.lock().expect("no test panicked") = triggers.clone();
    }

    fn cluster_problems(&self) -> ClusterProblems {
        self.cluster_problems
            .lock()
            .expect("no test panicked")
            .clone()
    }
}

impl Handles {
    /// Sends a request, and waits until it is in force.
    async fn ask(&self, request: Request) {
        let (pending, in_force) = request.pending();
        self.requests.send(pending).await.expect("it listens");
        // Whether it is saved is a test of its own.
        let _ = in_force.await.expect("it is taken");
    }
}

/// A pause of an hour.
fn pause() -> Request {
    Request::Pause {
        time: Duration::from_secs(3600),
        because: "a look".to_owned(),
    }
}

/// Status and reason of a condition of the daemon.
fn condition(handles: &Handles, name: &str) -> Option<(Status, String)> {
    let view = handles.view.borrow().clone().expect("it looks");
    let mut conditions = view.conditions.iter();
    let its = conditions.find(|one| one.name == name);
    its.map(|one| (one.status, one.reason.clone()))
}

/// Whether nothing may be changed on the host, and whether no role is to be on it.
fn restraints(handles: &Handles) -> (bool, bool) {
    let view = handles.view.borrow().clone().expect("it looks");
    (view.prevents_changes.is_some(), view.is_unassigned)
}

/// Runs a daemon on `host` with its files in `directory` for as long as `what` runs.
async fn beside(host: &Broken, directory: &std::path::Path, what: impl AsyncFnOnce(&Handles)) {
    let state_files = StateFiles {
        status: StatusFile::at(directory.join("kube_status")),
        state: directory.join("nodeletd.json"),
        disk: host.disk.clone(),
    };
    let shutdown = CancellationToken::new();
    let (_reload, hup) = watch::channel(0);
    let health = Health::default();
    let (supervisor, handles) =
        Supervisor::new(host.clone(), state_files, shutdown.clone(), hup, &health);
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let daemon = tokio::task::spawn_local(supervisor.run(false));
            // The watchdog must never have a reason to kill the daemon.
            let (parts, end) = (health.clone(), shutdown.clone());
            let well = tokio::task::spawn_local(async move {
                while !end.is_cancelled() {
                    assert_eq!(parts.problems(), [""; 0]);
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            });
            what(&handles).await;
            shutdown.cancel();
            daemon.await.expect("it ends well");
            well.await.expect("it was well all the time");
            assert_eq!(health.problems(), [""; 0], "it did not end by itself");
        })
        .await;
}

/// Waits until so many attempts have begun.
async fn attempts(host: &Broken, count: usize) {
    let long = Duration::from_secs(24 * 3600);
    tokio::time::timeout(long, async {
        while host.attempts().len() < count {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    })
    .await
    .expect("a day is enough");
}

fn kept(directory: &std::path::Path) -> KubeStatus {
    KubeStatus::read(&directory.join("kube_status"))
}
