//! The host itself, and the gate that every call passes: journal, faults, clock, effect.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::fault::{FaultKind, FaultPlan};
use super::world::World;
use crate::host::fake::late_writes::LateWrites;
use crate::host::fake::world::snapshot::WorldSnapshot;
use crate::host::{HostError, HostResult};

/// What one mutating call costs on the fake clock.
const EFFECT_TIME: Duration = Duration::from_millis(10);

/// A host that exists in memory. See the module's documentation.
#[derive(Debug)]
pub struct FakeHost {
    state: Mutex<State>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct State {
    pub(super) world: World,
    pub(super) faults: FaultPlan,
    /// Writes that have begun and not arrived.
    pub(super) late: LateWrites,
    /// Mutating calls since the fault plan was set.
    struck: usize,
    journal: Vec<Call>,
    crashed: bool,
    /// Worlds right before each mutating call, if they are kept.
    past: Option<Vec<World>>,
    /// Each call lets other futures run first.
    yields: bool,
}

/// One call that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Its number, counted from 1 over all calls.
    pub n: usize,
    /// Method name.
    pub name: &'static str,
    /// What it was about: a path, a unit, a command line.
    pub argument: String,
    /// Whether it may change the world.
    pub mutating: bool,
    /// How it failed, if it did.
    pub error: Option<String>,
}

impl FakeHost {
    /// A host around a world.
    #[must_use]
    pub fn of(world: World) -> Self {
        let state = State {
            world,
            ..State::default()
        };
        Self {
            state: Mutex::new(state),
        }
    }

    /// An independent copy of this host as it is now, without faults and with an empty journal.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self::of(self.lock().world.clone())
    }

    /// Replaces the fault plan; mutating calls are counted from 1 again for it.
    pub fn set_faults(&self, plan: FaultPlan) {
        let mut state = self.lock();
        state.faults = plan;
        state.struck = 0;
    }

    /// The same host with a fault plan.
    #[must_use]
    pub fn with_faults(self, plan: FaultPlan) -> Self {
        self.set_faults(plan);
        self
    }

    /// From now on, each call is pending once before it is made. So a test decides in which order several futures make their calls.
    #[must_use]
    pub fn yielding(self) -> Self {
        self.lock().yields = true;
        self
    }

    /// From now on, keeps the world as it is right before each mutating call.
    #[must_use]
    pub fn with_history(self) -> Self {
        self.lock().past = Some(Vec::new());
        self
    }

    /// A host for each mutating call since [`FakeHost::with_history`], as it was right before the call: what a program
    /// that ended there would have left. The host after the last call is this one.
    #[must_use]
    pub fn past(&self) -> Vec<Self> {
        let state = self.lock();
        state.past.iter().flatten().cloned().map(Self::of).collect()
    }

    /// Every call so far.
    #[must_use]
    pub fn journal(&self) -> Vec<Call> {
        self.lock().journal.clone()
    }

    /// Forgets the calls so far.
    pub fn clear_journal(&self) {
        self.lock().journal.clear();
    }

    /// The mutating calls so far; the one at index `n - 1` is the one `FaultPlan::fail_call(n)` would strike.
    #[must_use]
    pub fn mutating_calls(&self) -> Vec<Call> {
        self.lock()
            .journal
            .iter()
            .filter(|call| call.mutating)
            .cloned()
            .collect()
    }

    /// How many mutating calls were made so far.
    #[must_use]
    pub fn mutations(&self) -> usize {
        self.mutating_calls().len()
    }

    /// Whether an injected crash happened and [`FakeHost::end_crash`] was not called.
    #[must_use]
    pub fn crashed(&self) -> bool {
        self.lock().crashed
    }

    /// Lets calls through again after a crash, without any further fault. The world is as the crash left it.
    pub fn end_crash(&self) {
        let mut state = self.lock();
        state.crashed = false;
        state.faults = FaultPlan::none();
    }

    /// The world's state for comparison.
    #[must_use]
    pub fn snapshot(&self) -> WorldSnapshot {
        WorldSnapshot::of(&self.lock().world)
    }

    /// Reads the world directly, without journal and faults.
    pub fn with_world<T>(&self, view: impl FnOnce(&World) -> T) -> T {
        view(&self.lock().world)
    }

    /// Changes the world directly, without journal and faults, as another process on the host would.
    pub fn with_world_mut<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        let mut state = self.lock();
        let result = change(&mut state.world);
        state.world.settle();
        result
    }

    /// A call that only looks.
    pub(crate) async fn observe<T>(
        &self,
        name: &'static str,
        argument: impl Into<String>,
        deadline: Duration,
        view: impl FnOnce(&World) -> HostResult<T>,
    ) -> HostResult<T> {
        self.give_way().await;
        let effect = |world: &mut World| view(world);
        let passed = self.pass(name, argument.into(), false, deadline, effect);
        returned(passed).await
    }

    /// A call that may change the world.
    pub(crate) async fn mutate<T>(
        &self,
        name: &'static str,
        argument: impl Into<String>,
        deadline: Duration,
        effect: impl FnOnce(&mut World) -> HostResult<T>,
    ) -> HostResult<T> {
        self.give_way().await;
        let passed = self.pass(name, argument.into(), true, deadline, effect);
        returned(passed).await
    }

    async fn give_way(&self) {
        let yields = self.lock().yields;
        if yields {
            tokio::task::yield_now().await;
        }
    }

    /// The result of a call; `None` if it never returns.
    fn pass<T>(
        &self,
        name: &'static str,
        argument: String,
        mutating: bool,
        deadline: Duration,
        effect: impl FnOnce(&mut World) -> HostResult<T>,
    ) -> Option<HostResult<T>> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let call = format!("{name} {argument}");
        let result = state.outcome(name, &argument, mutating, deadline, &call, effect);
        let error = match &result {
            Some(result) => result.as_ref().err().map(ToString::to_string),
            None => Some("never returned".to_owned()),
        };
        state.journal.push(Call {
            n: state.journal.len() + 1,
            name,
            argument,
            mutating,
            error,
        });
        result
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // A panicking test must not hide its own message behind a poisoned lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the result of the call, or never returns.
async fn returned<T>(passed: Option<HostResult<T>>) -> HostResult<T> {
    match passed {
        Some(result) => result,
        None => std::future::pending().await,
    }
}

impl State {
    /// `None` if the call never returns.
    fn outcome<T>(
        &mut self,
        name: &str,
        argument: &str,
        mutating: bool,
        deadline: Duration,
        call: &str,
        effect: impl FnOnce(&mut World) -> HostResult<T>,
    ) -> Option<HostResult<T>> {
        let injected = || HostError::Injected {
            call: call.to_owned(),
        };
        if self.crashed {
            return Some(Err(injected()));
        }
        if mutating {
            self.struck += 1;
            if let Some(past) = &mut self.past {
                past.push(self.world.clone());
            }
        }
        let fault_kind = self
            .faults
            .take_fault(name, argument, mutating.then_some(self.struck));
        Some(match fault_kind {
            None => self.perform(mutating, effect),
            Some(FaultKind::Fail) => Err(injected()),
            Some(FaultKind::FailAfter) => self.perform(mutating, effect).and(Err(injected())),
            Some(FaultKind::Hang) => {
                self.world.advance(deadline);
                Err(HostError::Deadline {
                    action: call.to_owned(),
                    after: deadline,
                })
            }
            // The answer is the one the effect would have given; the effect happens to a copy.
            Some(FaultKind::Lie) => effect(&mut self.world.clone()),
            Some(FaultKind::CrashBefore) => {
                self.crashed = true;
                Err(injected())
            }
            Some(FaultKind::CrashAfter) => {
                let performed = self.perform(mutating, effect);
                self.crashed = true;
                performed.and(Err(injected()))
            }
            Some(FaultKind::Stall | FaultKind::Late) => return None,
            Some(FaultKind::StallAfter) => {
                self.perform(mutating, effect).ok()?;
                return None;
            }
            Some(FaultKind::Tear) if name != "append" => Err(injected()),
            Some(FaultKind::Tear) => {
                self.world.tears_appends = true;
                let torn = effect(&mut self.world);
                self.world.tears_appends = false;
                torn.and(Err(injected()))
            }
        })
    }

    fn perform<T>(
        &mut self,
        mutating: bool,
        effect: impl FnOnce(&mut World) -> HostResult<T>,
    ) -> HostResult<T> {
        if !mutating {
            return effect(&mut self.world);
        }
        self.world.advance(EFFECT_TIME);
        let result = effect(&mut self.world);
        self.world.settle();
        result
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::host::{Attributes, Clock, Files};

    async fn write(host: &FakeHost, path: &str) -> HostResult<()> {
        host.write(Path::new(path), b"x", Attributes::root(0o644))
            .await
    }

    fn is_there(host: &FakeHost, path: &str) -> bool {
        host.with_world(|world| world.text(path).is_some())
    }

    #[tokio::test]
    async fn the_journal_numbers_calls_and_marks_failures() {
        let host = FakeHost::new().with_faults(FaultPlan::none().fail_call(2));
        write(&host, "/etc/a").await.unwrap();
        host.list(Path::new("/etc")).await.unwrap();
        assert!(matches!(
            write(&host, "/etc/b").await,
            Err(HostError::Injected { .. })
        ));
        write(&host, "/etc/b").await.unwrap();
        let journal = host.journal();
        let seen: Vec<_> = journal
            .iter()
            .map(|call| (call.n, call.name, call.error.is_some()))
            .collect();
        assert_eq!(
            seen,
            [
                (1, "write", false),
                (2, "list", false),
                (3, "write", true),
                (4, "write", false)
            ]
        );
        assert_eq!(host.mutations(), 3);
        assert_eq!(host.mutating_calls()[1].argument, "/etc/b");
    }

    #[tokio::test]
    async fn a_hang_costs_the_deadline_and_has_no_effect() {
        let host = FakeHost::new().with_faults(FaultPlan::none().hang("write", "/etc/*"));
        let before = host.elapsed();
        assert!(matches!(
            write(&host, "/etc/a").await,
            Err(HostError::Deadline { .. })
        ));
        assert_eq!(host.elapsed() - before, Duration::from_secs(30));
        assert!(!is_there(&host, "/etc/a"));
    }

    #[tokio::test]
    async fn a_lie_reports_what_the_effect_would_have() {
        let host = FakeHost::new().with_faults(FaultPlan::none().lie("write", "*"));
        write(&host, "/etc/a").await.unwrap();
        assert!(!is_there(&host, "/etc/a"));
        write(&host, "/etc/a").await.unwrap();
        assert!(is_there(&host, "/etc/a"));
    }

    #[tokio::test]
    async fn after_a_crash_every_call_fails_until_revival_and_the_world_stays() {
        for (plan, there) in [
            (FaultPlan::none().crash_before(1), false),
            (FaultPlan::none().crash_after(1), true),
        ] {
            let host = FakeHost::new().with_faults(plan);
            assert!(matches!(
                write(&host, "/etc/a").await,
                Err(HostError::Injected { .. })
            ));
            assert!(host.crashed());
            assert!(host.list(Path::new("/etc")).await.is_err());
            host.end_crash();
            assert_eq!(is_there(&host, "/etc/a"), there);
            write(&host, "/etc/b").await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_stalled_call_never_returns_and_the_host_goes_on() {
        let wait = Duration::from_millis(10);
        for (plan, there) in [
            (FaultPlan::none().stall("write", "/etc/a"), false),
            (FaultPlan::none().stall_after_call(1), true),
        ] {
            let host = FakeHost::new().with_faults(plan);
            let given_up = tokio::time::timeout(wait, write(&host, "/etc/a")).await;
            assert!(given_up.is_err());
            assert_eq!(is_there(&host, "/etc/a"), there);
            write(&host, "/etc/b").await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_truncated_append_writes_half_of_the_line() {
        let host = FakeHost::new()
            .with_file("/etc/a", "12")
            .with_faults(FaultPlan::none().truncate_append("append", "*"));
        let (path, mode) = (Path::new("/etc/a"), Attributes::root(0o644));
        assert!(host.append(path, b"3456", mode).await.is_err());
        assert_eq!(
            host.with_world(|world| world.text("/etc/a")),
            Some("1234".to_owned())
        );
        host.set_faults(FaultPlan::none());
        host.append(path, b"5", mode).await.unwrap();
        assert_eq!(
            host.with_world(|world| world.text("/etc/a")),
            Some("12345".to_owned())
        );
    }

    #[tokio::test]
    async fn the_history_has_the_world_before_each_mutating_call() {
        let host = FakeHost::new().with_history();
        write(&host, "/etc/a").await.unwrap();
        host.list(Path::new("/etc")).await.unwrap();
        write(&host, "/etc/b").await.unwrap();
        let past = host.past();
        assert_eq!(past.len(), 2);
        assert!(!is_there(&past[0], "/etc/a"));
        assert!(is_there(&past[1], "/etc/a") && !is_there(&past[1], "/etc/b"));
    }

    #[tokio::test]
    async fn a_lost_answer_leaves_the_effect() {
        let host = FakeHost::new().with_faults(FaultPlan::none().fail_after_call(1));
        assert!(write(&host, "/etc/a").await.is_err());
        assert!(is_there(&host, "/etc/a"));
    }

    #[tokio::test]
    async fn a_fork_is_independent_and_time_moves_only_when_asked() {
        let host = FakeHost::new();
        let fork = host.fork();
        write(&fork, "/etc/a").await.unwrap();
        assert!(!is_there(&host, "/etc/a"));
        let start = host.now();
        assert_eq!(
            humantime::format_rfc3339(start).to_string(),
            "2026-01-01T00:00:00Z"
        );
        host.pause(Duration::from_secs(5)).await;
        assert_eq!(
            host.now().duration_since(start).unwrap(),
            Duration::from_secs(5)
        );
    }

    #[test]
    fn a_fake_is_a_host() {
        let host: Box<dyn crate::host::Host> = Box::new(FakeHost::new());
        drop(host);
    }
}
