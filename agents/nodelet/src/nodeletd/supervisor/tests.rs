//! The loop on a clock of its own: minutes pass in no time, and each attempt is on the record.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};
use engine::exec::{Condition, Event, PhaseHealth, Problem, Verb};
use engine::plan::{PhaseName, Span};

use super::*;
use crate::nodeletd::cgroup::Leaf;
use crate::nodeletd::worker::Change;
use crate::pass::PassInterests;

/// How a full clean is asked for.
const CLEAN: &str = "repair --afresh";

/// A host on which etcd cannot run as long as `broken`.
#[derive(Clone)]
struct Broken {
    broken: Arc<AtomicBool>,
    /// Whether whatever would change it is refused, for an interface that it does not have.
    refuses: Arc<AtomicBool>,
    /// Whether a full clean is, for swap that would keep it from coming up again.
    refuses_clean: Arc<AtomicBool>,
    /// Whether `nodelet` cannot even begin.
    unable: Arc<AtomicBool>,
    /// Whether a repair is interrupted before its end.
    interrupts: Arc<AtomicBool>,
    /// Whether `nodelet` is still at work when the daemon's patience with it at its own end is over.
    lingers: Arc<AtomicBool>,
    /// Whether what a pass saw failing is well once a repair looks again.
    comes_and_goes: Arc<AtomicBool>,
    /// How long a pass takes.
    looks: Arc<Mutex<Duration>>,
    /// How long a change says nothing.
    silent: Arc<Mutex<Duration>>,
    /// Of its plan.
    digest: Arc<Mutex<String>>,
    /// Whose it is; empty for nobody's.
    cluster: Arc<Mutex<String>>,
    /// Whether no pass comes to its end.
    unseen: Arc<AtomicBool>,
    /// Components with a certificate that is due.
    due: Arc<Mutex<Vec<String>>>,
    /// The one of them that cannot be renewed.
    unrenewable: Arc<Mutex<String>>,
    began: Instant,
    /// When what was done, since the beginning.
    done: Arc<Mutex<Vec<(Duration, String)>>>,
}

impl Broken {
    fn new() -> Self {
        Self {
            broken: Arc::new(AtomicBool::new(true)),
            refuses: Arc::default(),
            refuses_clean: Arc::default(),
            unable: Arc::default(),
            interrupts: Arc::default(),
            lingers: Arc::default(),
            comes_and_goes: Arc::default(),
            looks: Arc::default(),
            silent: Arc::default(),
            digest: Arc::new(Mutex::new("plan".to_owned())),
            cluster: Arc::new(Mutex::new("c".to_owned())),
            unseen: Arc::default(),
            due: Arc::default(),
            unrenewable: Arc::default(),
            began: Instant::now(),
            done: Arc::default(),
        }
    }

    fn done(&self) -> Vec<(Duration, String)> {
        self.done.lock().expect("nobody panicked").clone()
    }

    /// Each attempt that was made: when it began, and whether by a full clean.
    fn attempts(&self) -> Vec<(Duration, bool)> {
        let done = self.done();
        let begins = done.iter().filter(|(_, words)| !words.starts_with("certs"));
        begins.map(|(at, words)| (*at, words == CLEAN)).collect()
    }

    /// How many of them were full cleans.
    fn cleans(&self) -> usize {
        self.attempts().iter().filter(|(_, cleans)| *cleans).count()
    }
}

impl Hands for Broken {
    async fn pass(&self, _cgroup: Option<&Leaf>) -> Result<Pass> {
        let looks = *self.looks.lock().expect("nobody panicked");
        tokio::time::sleep(looks).await;
        if self.unseen.load(Ordering::Relaxed) {
            bail!("make a status pass: it was killed");
        }
        let etcd: PhaseName = "etcd".parse()?;
        let broken = self.broken.load(Ordering::Relaxed);
        let failed: Vec<PhaseName> = broken.then(|| etcd.clone()).into_iter().collect();
        Ok(Pass {
            desired: Desired {
                service_state: ServiceState::True,
                node: "master".to_owned(),
                cluster_id: self.cluster.lock().expect("nobody panicked").clone(),
                use_cgroups: false,
                ..Desired::default()
            },
            settings_problems: Vec::new(),
            refused: None,
            digest: self.digest.lock().expect("nobody panicked").clone(),
            health: vec![PhaseHealth {
                phase: etcd,
                skipped: None,
                conditions: vec![Condition {
                    check: "member runs".to_owned(),
                    span: Span::file("phases/etcd.rhai"),
                    status: if broken { Status::False } else { Status::True },
                    warns: false,
                    reason: String::new(),
                }],
            }],
            restart_set: failed.clone(),
            failed,
            interests: PassInterests::default(),
            stands: true,
            lacks_backup: false,
            due: self.due.lock().expect("nobody panicked").clone(),
        })
    }

    async fn change(
        &self,
        words: &[&str],
        _last_good: bool,
        mut event: impl FnMut(String),
    ) -> Result<(Change, String)> {
        if self.unable.load(Ordering::Relaxed) {
            bail!("run nodelet: no memory");
        }
        let well =
            !self.broken.load(Ordering::Relaxed) || self.comes_and_goes.load(Ordering::Relaxed);
        if well && words.first() == Some(&"repair") && words.get(1) == Some(&"--if-failing") {
            return Ok((Change::Done, String::new()));
        }
        let asks_for_clean = words.join(" ") == CLEAN;
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
        self.done.lock().expect("nobody panicked").push(done);
        if let ["certs", "renew", component] = words {
            if *self.unrenewable.lock().expect("nobody panicked") == *component {
                return Ok((Change::Failed, "it did not".to_owned()));
            }
            let mut due = self.due.lock().expect("nobody panicked");
            due.retain(|other| other != component);
            return Ok((Change::Done, String::new()));
        }
        let silent = *self.silent.lock().expect("nobody panicked");
        tokio::time::sleep(silent).await;
        let change = if self.interrupts.load(Ordering::Relaxed) {
            // Asked to end, it takes a moment to a safe point.
            tokio::time::sleep(Duration::from_secs(1)).await;
            if self.lingers.load(Ordering::Relaxed) {
                tokio::time::sleep(GRACE).await;
                bail!("run nodelet: asked to end, and no end within 90 s");
            }
            Change::Interrupted
        } else if self.broken.load(Ordering::Relaxed) {
            Change::Failed
        } else {
            Change::Done
        };
        Ok((change, String::new()))
    }

    fn listen(&self, _: &Interests, _: &StatusFile, _: &Wake, _: &CancellationToken) {}
}

impl Outside {
    /// Asks for something, and waits until it is in force.
    async fn ask(&self, request: Request) {
        let (asked, in_force) = request.asked();
        self.requests.send(asked).await.expect("it listens");
        in_force.await.expect("it is taken");
    }
}

/// For an hour.
fn pause() -> Request {
    Request::Pause {
        time: Duration::from_secs(3600),
        because: "a look".to_owned(),
    }
}

/// Runs `what` beside a daemon on `host` that remembers in `directory`, and ends with it.
async fn beside(host: &Broken, directory: &std::path::Path, what: impl AsyncFnOnce(&Outside)) {
    let memory = Memory {
        status: StatusFile::at(directory.join("kube_status")),
        state: directory.join("nodeletd.json"),
    };
    let shutdown = CancellationToken::new();
    let (_reload, hup) = watch::channel(0);
    let health = Health::default();
    let (supervisor, outside) =
        Supervisor::new(host.clone(), memory, shutdown.clone(), hup, &health);
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let daemon = tokio::task::spawn_local(supervisor.run(false));
            // Whatever happens, systemd has no reason to kill it.
            let (looked_at, looks) = (health.clone(), shutdown.clone());
            let well = tokio::task::spawn_local(async move {
                while !looks.is_cancelled() {
                    assert_eq!(looked_at.problems(), [""; 0]);
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            });
            what(&outside).await;
            shutdown.cancel();
            daemon.await.expect("it ends well");
            well.await.expect("it was well all the time");
            assert_eq!(health.problems(), [""; 0], "it did not end by itself");
        })
        .await;
}

/// Waits until so many attempts were begun.
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

/// As long as a change may take, and as long as nothing happens.
#[tokio::test(start_paused = true)]
async fn a_daemon_that_changes_or_waits_for_long_is_well() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    *host.silent.lock().expect("nobody panicked") = CHANGE + GRACE;
    beside(&host, directory.path(), async |_outside| {
        attempts(&host, 3).await;
        host.broken.store(false, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(24 * 3600)).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn attempts_one_to_twelve_at_the_usual_intervals() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    beside(&host, directory.path(), async |_outside| {
        for number in 1..=12 {
            attempts(&host, number).await;
            let status = kept(directory.path());
            let number = u32::try_from(number).expect("a small number");
            assert_eq!(status.pf9_kube_start_attempt, number);
            let state = match number {
                1 => NodeState::Converging,
                2..=10 => NodeState::Retrying,
                _ => NodeState::Failed,
            };
            assert_eq!(status.pf9_kube_node_state, state, "attempt {number}");
        }
        let all = host.attempts();
        let full: Vec<usize> = (1..=12).filter(|number| all[number - 1].1).collect();
        assert_eq!(full, [10], "the tenth and no other cleans");
        // Each pause is as decided, and at most a fifth longer.
        for (number, pair) in all.windows(2).enumerate() {
            let waited = pair[1].0 - pair[0].0;
            let failed = u32::try_from(number + 1).expect("a small number");
            let least = decide::backoff(failed, Duration::from_secs(60));
            assert!(
                waited >= least && waited <= least.mul_f64(1.2) + Duration::from_secs(60),
                "after attempt {failed}: {waited:?} for {least:?}"
            );
        }
        // With its cause removed the next attempt heals it, and is forgotten.
        host.broken.store(false, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(600)).await;
        let status = kept(directory.path());
        assert_eq!(
            (status.pf9_kube_start_attempt, status.pf9_kube_node_state),
            (0, NodeState::Ok)
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn attempts_are_counted_on_by_the_next_daemon() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    for so_far in [4, 8, 11] {
        beside(&host, directory.path(), async |_| {
            attempts(&host, so_far).await;
        })
        .await;
    }
    let full: Vec<usize> = (0..11).filter(|at| host.attempts()[*at].1).collect();
    assert_eq!(full, [9], "three daemons counted to ten together");
}

#[tokio::test(start_paused = true)]
async fn a_paused_daemon_looks_and_touches_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    beside(&host, directory.path(), async |outside| {
        attempts(&host, 1).await;
        outside.ask(pause()).await;
        let view = outside.view.borrow().clone().expect("it has looked");
        assert!(view.paused_until.is_some(), "it is seen at once");
        tokio::time::sleep(Duration::from_secs(30)).await;
        let done = host.done().len();
        tokio::time::sleep(Duration::from_secs(1800)).await;
        assert_eq!(host.done().len(), done, "nothing was touched");
        let view = outside.view.borrow().clone().expect("it looks");
        assert_eq!(view.doing, "paused");
        outside.ask(Request::Resume).await;
        let view = outside.view.borrow().clone().expect("it looks");
        assert_eq!(view.paused_until, None);
        attempts(&host, 2).await;
    })
    .await;
}

/// A wrong setting never takes a node down, however long it stands there.
#[tokio::test(start_paused = true)]
async fn a_host_that_is_refused_is_never_cleaned() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    host.refuses.store(true, Ordering::Relaxed);
    beside(&host, directory.path(), async |outside| {
        tokio::time::sleep(Duration::from_secs(4 * 3600)).await;
        assert_eq!(host.attempts(), [], "nothing was touched");
        assert_eq!(kept(directory.path()).pf9_kube_start_attempt, 0);
        let view = outside.view.borrow().clone().expect("it looks");
        let fits = view.conditions.iter().find(|one| one.name == "HostFits");
        let fits = fits.expect("it is a condition");
        assert_eq!(fits.status, Status::False);
        assert!(fits.reason.contains("no eth9"), "{}", fits.reason);
        // Once it fits again, attempts go on as ever.
        host.refuses.store(false, Ordering::Relaxed);
        host.broken.store(false, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(600)).await;
        let view = outside.view.borrow().clone().expect("it looks");
        assert!(view.conditions.iter().all(|one| one.status == Status::True));
    })
    .await;
}

/// The tenth attempt comes when the host no longer fits: nothing is taken off that could not be put there again.
#[tokio::test(start_paused = true)]
async fn nothing_is_cleaned_that_could_not_be_brought_up_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    beside(&host, directory.path(), async |_outside| {
        attempts(&host, 9).await;
        host.refuses_clean.store(true, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(4 * 3600)).await;
        assert_eq!(host.cleans(), 0);
        assert_eq!(kept(directory.path()).pf9_kube_start_attempt, 9);
        // What can be mended is, all the while.
        assert!(host.attempts().len() > 20, "{:?}", host.attempts());
        host.refuses_clean.store(false, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(1800)).await;
        assert_eq!(host.cleans(), 1, "its turn was kept");
    })
    .await;
}

/// Nine failures of another life: of a program that is mended by now, or before a boot.
#[tokio::test(start_paused = true)]
async fn a_daemon_tries_for_itself_before_it_cleans() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    beside(&host, directory.path(), async |_| attempts(&host, 9).await).await;
    // Whoever starts the daemon again and again never sees it clean.
    for start in 0..5 {
        beside(&host, directory.path(), async |_| {
            attempts(&host, 10 + start).await;
        })
        .await;
        assert_eq!(host.cleans(), 0);
        assert_eq!(kept(directory.path()).pf9_kube_start_attempt, 9);
    }
    // And with the new plan it is another matter altogether.
    "another plan".clone_into(&mut host.digest.lock().expect("nobody panicked"));
    beside(&host, directory.path(), async |_| attempts(&host, 20).await).await;
    assert_eq!(host.cleans(), 0);
}

/// Somebody who asks wants a repair, and not his node to be taken off.
#[tokio::test(start_paused = true)]
async fn nobodys_haste_cleans_a_host() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    beside(&host, directory.path(), async |outside| {
        attempts(&host, 9).await;
        for (number, request) in [Request::Now, Request::Repair(vec!["kube-proxy".to_owned()])]
            .into_iter()
            .cycle()
            .take(6)
            .enumerate()
        {
            outside.ask(request).await;
            attempts(&host, 10 + number).await;
        }
        assert_eq!(host.cleans(), 0);
        // Who pauses and resumes has done something in between: it is counted anew.
        outside.ask(pause()).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        outside.ask(Request::Resume).await;
        let before = host.attempts().len();
        attempts(&host, before + 5).await;
        assert_eq!(host.cleans(), 0);
    })
    .await;
}

/// What ends before its end is no attempt, and neither is what never began.
#[tokio::test(start_paused = true)]
async fn what_did_not_come_to_its_end_or_never_began_is_not_counted() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    host.interrupts.store(true, Ordering::Relaxed);
    for start in 1..15 {
        beside(&host, directory.path(), async |_| {
            attempts(&host, start).await;
        })
        .await;
        assert_eq!(kept(directory.path()).pf9_kube_start_attempt, 0);
    }
    host.interrupts.store(false, Ordering::Relaxed);
    host.unable.store(true, Ordering::Relaxed);
    beside(&host, directory.path(), async |outside| {
        tokio::time::sleep(Duration::from_secs(4 * 3600)).await;
        assert_eq!(kept(directory.path()).pf9_kube_start_attempt, 0);
        let view = outside.view.borrow().clone().expect("it looks");
        let fits = view.conditions.iter().find(|one| one.name == "HostFits");
        assert!(fits.is_some_and(|fits| fits.reason.contains("no memory")));
    })
    .await;
    assert_eq!(host.cleans(), 0);
}

/// kube_status is for others to read, and for others to break.
#[tokio::test(start_paused = true)]
async fn what_others_write_into_the_status_file_counts_for_nothing() {
    for number in ["9", "4294967295"] {
        let directory = tempfile::tempdir().expect("a directory");
        let status = format!("{{\"pf9_kube_start_attempt\": {number}}}");
        std::fs::write(directory.path().join("kube_status"), status).expect("somebody writes");
        let host = Broken::new();
        beside(&host, directory.path(), async |_| attempts(&host, 1).await).await;
        assert_eq!(host.cleans(), 0);
        assert_eq!(kept(directory.path()).pf9_kube_start_attempt, 1);
    }
}

/// What fails for months takes no other's certificates with it.
#[tokio::test(start_paused = true)]
async fn certificates_are_renewed_beside_a_phase_that_never_succeeds() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    *host.due.lock().expect("nobody panicked") = ["etcd", "kubelet"].map(str::to_owned).into();
    beside(&host, directory.path(), async |_| {
        attempts(&host, 5).await;
        let renewed: Vec<String> = host
            .done()
            .into_iter()
            .map(|(_, words)| words)
            .filter(|words| words.starts_with("certs"))
            .collect();
        assert_eq!(
            renewed,
            ["certs renew kubelet"],
            "etcd itself is what fails"
        );
        host.broken.store(false, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(900)).await;
        let (_, last) = host.done().pop().expect("something was done");
        assert_eq!(last, "certs renew etcd");
    })
    .await;
}

/// A component whose renewal fails is tried again with growing pauses, is told, and keeps no other from its renewal.
#[tokio::test(start_paused = true)]
async fn a_renewal_that_fails_holds_up_no_other() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    host.broken.store(false, Ordering::Relaxed);
    *host.due.lock().expect("nobody panicked") = ["etcd", "kubelet"].map(str::to_owned).into();
    *host.unrenewable.lock().expect("nobody panicked") = "etcd".to_owned();
    let renewals = |of: &str| -> Vec<Duration> {
        let done = host.done().into_iter();
        let its = done.filter(|(_, words)| *words == format!("certs renew {of}"));
        its.map(|(at, _)| at).collect()
    };
    beside(&host, directory.path(), async |outside| {
        tokio::time::sleep(Duration::from_secs(24 * 3600)).await;
        assert_eq!(renewals("kubelet").len(), 1, "{:?}", host.done());
        let tried = renewals("etcd");
        assert!((3..100).contains(&tried.len()), "in a day: {tried:?}");
        let pauses: Vec<Duration> = tried.windows(2).map(|two| two[1] - two[0]).collect();
        let growing = pauses[1..].is_sorted() && pauses[1] < Duration::from_secs(65);
        let hourly = pauses
            .last()
            .is_some_and(|last| (3600..3700).contains(&last.as_secs()));
        assert!(growing && hourly, "{pauses:?}");
        let view = outside.view.borrow().clone().expect("it looks");
        let told = view.conditions.iter().any(|condition| {
            condition.status == Status::False && condition.reason.contains("etcd")
        });
        assert!(told, "{:?}", view.conditions);
        assert_eq!(kept(directory.path()).pf9_kube_start_attempt, 0);
        host.unrenewable.lock().expect("nobody panicked").clear();
        tokio::time::sleep(Duration::from_secs(24 * 3600)).await;
        assert_eq!(renewals("etcd").len(), tried.len() + 1);
    })
    .await;
}

/// Whoever reads the status file must not go on believing what nobody sees any more; nothing is done to the host for it.
#[tokio::test(start_paused = true)]
async fn the_third_pass_that_sees_nothing_is_told() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    host.broken.store(false, Ordering::Relaxed);
    beside(&host, directory.path(), async |_outside| {
        let interval = Duration::from_secs(60);
        tokio::time::sleep(interval / 2).await;
        assert_eq!(kept(directory.path()).pf9_kube_service_state, "true");
        host.unseen.store(true, Ordering::Relaxed);
        tokio::time::sleep(2 * interval).await;
        assert_eq!(kept(directory.path()).pf9_kube_service_state, "true");
        tokio::time::sleep(interval).await;
        let status = kept(directory.path());
        assert_eq!(status.pf9_kube_service_state, "false");
        assert_eq!(status.last_failed_status_check, "a status pass");
        assert_eq!(status.pf9_kube_start_attempt, 0);
        host.unseen.store(false, Ordering::Relaxed);
        tokio::time::sleep(interval).await;
        assert_eq!(kept(directory.path()).pf9_kube_service_state, "true");
        assert!(host.done().is_empty(), "{:?}", host.done());
    })
    .await;
}

/// Nor is it shown while the daemon waits for its next attempt.
#[tokio::test(start_paused = true)]
async fn the_status_file_shows_what_the_daemon_has_counted() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    beside(&host, directory.path(), async |_| attempts(&host, 5).await).await;
    let status = r#"{"pf9_kube_start_attempt": 77}"#;
    std::fs::write(directory.path().join("kube_status"), status).expect("somebody writes");
    beside(&host, directory.path(), async |_| {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(kept(directory.path()).pf9_kube_start_attempt, 5);
    })
    .await;
}

/// Whoever was told that it holds has begun to work on the host.
#[tokio::test(start_paused = true)]
async fn a_pause_that_comes_during_a_pass_holds_for_what_follows_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    *host.looks.lock().expect("nobody panicked") = Duration::from_secs(20);
    beside(&host, directory.path(), async |outside| {
        tokio::time::sleep(Duration::from_secs(10)).await;
        let asked = Instant::now();
        outside.ask(pause()).await;
        assert!(
            asked.elapsed() < Duration::from_secs(1),
            "it is not waited for"
        );
        let remembered = State::read(&directory.path().join("nodeletd.json"));
        assert!(remembered.paused_until.is_some());
        tokio::time::sleep(Duration::from_secs(1800)).await;
        assert_eq!(host.done(), [], "nothing was touched");
        // And so does what else is asked meanwhile.
        outside.ask(Request::Resume).await;
        attempts(&host, 1).await;
        let (at, _) = host.attempts()[0];
        assert!(at < Duration::from_secs(1900), "{at:?}");
    })
    .await;
}

/// Nobody sets the clock by which it is counted: here the time of day stands still.
#[tokio::test(start_paused = true)]
async fn a_pause_ends_with_its_time() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    beside(&host, directory.path(), async |outside| {
        attempts(&host, 1).await;
        outside.ask(pause()).await;
        tokio::time::sleep(Duration::from_secs(3590)).await;
        assert_eq!(host.attempts().len(), 1);
        attempts(&host, 2).await;
        let (at, _) = host.attempts()[1];
        assert!(at < Duration::from_secs(3700), "{at:?}");
        let remembered = State::read(&directory.path().join("nodeletd.json"));
        assert_eq!(remembered.paused_until, None, "no start goes on with it");
    })
    .await;
}

/// A pass that is on may have looked before: who asks for one gets one.
#[tokio::test(start_paused = true)]
async fn a_look_that_is_asked_for_during_a_pass_is_another_pass() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    host.broken.store(false, Ordering::Relaxed);
    *host.looks.lock().expect("nobody panicked") = Duration::from_secs(4);
    beside(&host, directory.path(), async |outside| {
        tokio::time::sleep(Duration::from_secs(2)).await;
        outside.ask(Request::Now).await;
        tokio::time::sleep(Duration::from_secs(8)).await;
        let view = outside.view.borrow().clone().expect("it looks");
        assert_eq!(view.counters.passes, 2);
    })
    .await;
}

/// Killed, for want of memory for one: whether it would have helped nobody knows, and whoever killed it may do so again.
#[tokio::test(start_paused = true)]
async fn a_repair_that_is_killed_is_no_failed_attempt_and_no_hot_loop() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    host.interrupts.store(true, Ordering::Relaxed);
    beside(&host, directory.path(), async |outside| {
        tokio::time::sleep(Duration::from_secs(4 * 3600)).await;
        let tried = host.attempts();
        assert!((20..100).contains(&tried.len()), "{}", tried.len());
        let usual = |(number, pair): (usize, &[(Duration, bool)])| {
            let number = u32::try_from(number + 1).expect("a small number");
            pair[1].0 - pair[0].0 >= decide::backoff(number, Duration::from_secs(60))
        };
        assert!(tried.windows(2).enumerate().all(usual), "{tried:?}");
        assert_eq!(host.cleans(), 0);
        attempts(&host, tried.len() + 1).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(kept(directory.path()).pf9_kube_start_attempt, 0);
        let told = || {
            let view = outside.view.borrow().clone().expect("it looks");
            let mut conditions = view.conditions.iter();
            let changes = conditions.find(|one| one.name == "ChangesComplete");
            changes.map(|one| (one.status, one.reason.clone()))
        };
        let (status, reason) = told().expect("it is a condition");
        assert_eq!(status, Status::False);
        assert!(reason.starts_with("`nodelet repair"), "{reason}");
        host.interrupts.store(false, Ordering::Relaxed);
        host.broken.store(false, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(told().expect("it is a condition").0, Status::True);
    })
    .await;
}

/// What does not end in time when the daemon ends is killed with it, and says nothing of the host.
#[tokio::test(start_paused = true)]
async fn what_is_cut_short_by_the_daemons_own_end_is_not_counted() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    host.interrupts.store(true, Ordering::Relaxed);
    host.lingers.store(true, Ordering::Relaxed);
    for start in 1..12 {
        beside(&host, directory.path(), async |_| {
            attempts(&host, start).await
        })
        .await;
        assert_eq!(kept(directory.path()).pf9_kube_start_attempt, 0);
    }
    assert_eq!(host.cleans(), 0);
}

/// Somebody has restarted it by hand, say, between the pass and the lock.
#[tokio::test(start_paused = true)]
async fn what_is_well_again_is_not_restarted_but_for_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    host.comes_and_goes.store(true, Ordering::Relaxed);
    beside(&host, directory.path(), async |outside| {
        attempts(&host, 1).await;
        // What every pass sees failing is repaired at last, whatever it is like in between.
        let (at, words) = host.done().remove(0);
        assert_eq!(words, "repair etcd");
        assert!(at < Duration::from_secs(10), "{at:?}");
        assert_eq!(kept(directory.path()).pf9_kube_start_attempt, 1);
        host.broken.store(false, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(600)).await;
        let done = host.done().len();
        // Seen well meanwhile, it is looked at again.
        host.broken.store(true, Ordering::Relaxed);
        host.comes_and_goes.store(false, Ordering::Relaxed);
        attempts(&host, done + 1).await;
        assert_eq!(host.done()[done].1, "repair --if-failing etcd");
        tokio::time::sleep(Duration::from_secs(1)).await;
        let view = outside.view.borrow().clone().expect("it looks");
        assert_eq!(view.counters.repairs, host.done().len() as u64);
    })
    .await;
}

/// Both were accepted.
#[tokio::test(start_paused = true)]
async fn a_second_repair_that_is_asked_for_does_not_replace_the_first() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    host.broken.store(false, Ordering::Relaxed);
    *host.looks.lock().expect("nobody panicked") = Duration::from_secs(5);
    beside(&host, directory.path(), async |outside| {
        tokio::time::sleep(Duration::from_secs(2)).await;
        for phase in ["kubelet", "docker", "kubelet"] {
            outside.ask(Request::Repair(vec![phase.to_owned()])).await;
        }
        attempts(&host, 1).await;
        assert_eq!(host.done()[0].1, "repair kubelet docker");
    })
    .await;
}

/// Nobody waits for hours for what was asked before the daemon went blind.
#[tokio::test(start_paused = true)]
async fn what_was_asked_before_passes_failed_is_not_done_after_them() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    host.broken.store(false, Ordering::Relaxed);
    beside(&host, directory.path(), async |outside| {
        tokio::time::sleep(Duration::from_secs(2)).await;
        host.unseen.store(true, Ordering::Relaxed);
        outside
            .ask(Request::Repair(vec!["kubelet".to_owned()]))
            .await;
        outside.ask(pause()).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let view = outside.view.borrow().clone().expect("it looks");
        assert_eq!((view.failed_in_a_row, view.counters.passes), (2, 1));
        assert!(view.paused_until.is_some(), "a pause holds all the same");
        outside.ask(Request::Resume).await;
        tokio::time::sleep(Duration::from_secs(300)).await;
        host.unseen.store(false, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(300)).await;
        assert_eq!(host.done(), []);
    })
    .await;
}

/// Nobody will ever make an attempt.
#[tokio::test(start_paused = true)]
async fn a_host_that_is_nobodys_does_not_converge_for_ever() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    host.cluster.lock().expect("nobody panicked").clear();
    beside(&host, directory.path(), async |_| {
        tokio::time::sleep(Duration::from_secs(600)).await;
        let status = kept(directory.path());
        assert_eq!(status.pf9_kube_node_state, NodeState::Ok);
        assert_eq!(status.pf9_kube_start_attempt, 0);
        assert_eq!(status.pf9_kube_service_state, "false");
        assert_eq!(host.done(), []);
    })
    .await;
}
