//! Asks at the virtual IP every 100 ms, each time on a new connection, and knows when there was no good answer.

use std::collections::VecDeque;
use std::mem;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lab_suites::{Credentials, poll};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::background::{Background, lock};
use super::client::SharedClient;

/// Time from one request to the next. A request does not wait for the one before.
const EVERY: Duration = Duration::from_millis(100);
/// Time limit of a request.
const LIMIT: Duration = Duration::from_secs(1);
/// How many requests are remembered: those of the last ten minutes.
const REMEMBERED: usize = 6000;

/// What the probe saw.
#[derive(Debug, Default)]
pub(crate) struct Probed {
    requests: VecDeque<Asked>,
    last_good: Option<Instant>,
    /// The longest time between two good answers since this was asked for.
    gap: Duration,
    /// The same since the start.
    pub(crate) longest_gap: Duration,
    /// Requests since the start.
    pub(crate) asked: u64,
    /// Those of them without a good answer.
    pub(crate) failed: u64,
}

/// A request that is over.
#[derive(Debug)]
struct Asked {
    began: Instant,
    ended: Instant,
    is_good: bool,
}

impl Probed {
    fn take(&mut self, asked: Asked) {
        self.asked += 1;
        if asked.is_good {
            if let Some(last) = self.last_good {
                self.gap = self.gap.max(asked.ended.saturating_duration_since(last));
                self.longest_gap = self.longest_gap.max(self.gap);
            }
            self.last_good = self.last_good.max(Some(asked.ended));
        } else {
            self.failed += 1;
        }
        if self.requests.len() == REMEMBERED {
            self.requests.pop_front();
        }
        self.requests.push_back(asked);
    }

    /// The time from `since` to the first good answer after the first failure after it. `None` if there are not both, yet.
    fn back_after(&self, since: Instant) -> Option<Duration> {
        let after = || {
            self.requests
                .iter()
                .filter(move |asked| asked.began >= since)
        };
        let failures = after().filter(|asked| !asked.is_good);
        let failed = failures.map(|asked| asked.began).min()?;
        let good = after().filter(|asked| asked.is_good && asked.began > failed);
        let answered = good.map(|asked| asked.ended).min()?;
        Some(answered - since)
    }
}

/// The probe.
pub(crate) struct Probe {
    probed: Background<Probed>,
    client: SharedClient,
}

impl Probe {
    /// Begins to ask.
    pub(crate) fn start(administrator: &Credentials, vip: &str) -> Self {
        let shared = SharedClient::new((administrator, 0));
        let client = shared.clone();
        let url = format!("https://{vip}/readyz");
        let task = move |note: Arc<Mutex<Probed>>, mut ended: watch::Receiver<bool>| async move {
            let mut ticks = tokio::time::interval(EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            let mut requests = JoinSet::new();
            loop {
                tokio::select! {
                    _ = ended.wait_for(|ended| *ended) => return,
                    _ = ticks.tick() => {}
                }
                while requests.try_join_next().is_some() {}
                let (client, url, note) = (client.now(), url.clone(), Arc::clone(&note));
                requests.spawn(async move {
                    let began = Instant::now();
                    let answer = client.get(&url, LIMIT).await;
                    let asked = Asked {
                        began,
                        ended: Instant::now(),
                        is_good: answer.is_ok_and(|answer| answer.status == 200),
                    };
                    lock(&note).take(asked);
                });
            }
        };
        Self {
            probed: Background::start(Probed::default(), task),
            client: shared,
        }
    }

    /// Asks with other credentials from the next request on.
    pub(crate) fn renew(&self, administrator: &Credentials) {
        self.client.renew(administrator);
    }

    /// The time from `since` to the first good answer after the first failure after it.
    #[track_caller]
    pub(crate) fn back_after(&self, since: Instant, limit: Duration) -> Duration {
        let back = poll(limit, || {
            self.probed.look(|probed| probed.back_after(since))
        });
        back.unwrap_or_else(|| {
            let (gap, failed) = self.probed.look(|probed| (probed.gap, probed.failed));
            panic!(
                "no failure and then a good answer of the virtual IP within {} s: {failed} failures, {gap:?} without a good answer",
                limit.as_secs()
            )
        })
    }

    /// The longest time between two good answers since the last call.
    pub(crate) fn take_gap(&self) -> Duration {
        self.probed.look(|probed| mem::take(&mut probed.gap))
    }

    /// Ends it.
    pub(crate) fn end(self) -> Probed {
        self.probed.end()
    }
}

#[test]
fn the_time_of_a_fail_over_ends_with_the_first_good_answer_after_a_failure() {
    let start = Instant::now();
    let at = |ms: u64| start + Duration::from_millis(ms);
    let mut probed = Probed::default();
    let mut ask = |began: u64, ended: u64, is_good: bool| {
        probed.take(Asked {
            began: at(began),
            ended: at(ended),
            is_good,
        });
        probed.back_after(at(50))
    };
    // What began before the fault says nothing, and neither does a good answer before the first failure.
    assert_eq!(ask(0, 20, true), None);
    assert_eq!(ask(40, 1040, false), None);
    assert_eq!(ask(100, 120, true), None);
    // Requests end in another order than they began: this one is answered before the limit of an earlier one is over.
    assert_eq!(ask(900, 950, true), None);
    let back = Some(Duration::from_millis(900));
    assert_eq!(ask(200, 1200, false), back);
    assert_eq!(ask(1000, 1010, true), back);
    assert_eq!(probed.gap, Duration::from_millis(830));
    assert_eq!((probed.asked, probed.failed), (6, 2));
}
