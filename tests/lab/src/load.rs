//! Requests to an API server at a steady rate while a test changes something: on connections that are kept, and each on a new one.
//! Every request that fails is counted; none is tried again. `client` sends one request.

mod client;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

pub use client::{Answer, Credentials, HttpsClient};

/// Kept connections; the rate is shared among them.
const KEPT: u32 = 4;
/// Requests a second on kept connections.
const KEPT_RATE: u32 = 20;
/// Requests a second on new ones.
const NEW_RATE: u32 = 5;
/// A request that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(10);
/// How many failures are reported in full.
const TOLD: usize = 20;

/// A client and the URL that it asks for.
#[derive(Debug)]
pub struct Asker {
    /// What is requested, again and again.
    pub url: String,
    /// Whom it trusts, and what it shows.
    pub credentials: Credentials,
}

/// Requests that go on until they are ended.
#[derive(Debug)]
pub struct Load {
    end: watch::Sender<bool>,
    thread: JoinHandle<()>,
    results: Arc<Mutex<LoadResults>>,
    began: Instant,
}

/// The results.
#[derive(Debug, Default, Clone)]
pub struct LoadResults {
    /// Requests on kept connections.
    pub kept: u64,
    /// Requests on new connections.
    pub new: u64,
    /// Requests that failed.
    pub failed: u64,
    /// The first of them, with the time since the start.
    pub failures: Vec<String>,
    /// The time of the slowest request.
    pub slowest: Duration,
    /// The time since the first request.
    pub lasted: Duration,
}

impl LoadResults {
    /// Asserts that none failed, and that as many were made as the rate says.
    ///
    /// # Panics
    /// Some failed, or fewer were made.
    #[track_caller]
    pub fn is_steady(&self) {
        assert_eq!(self.failed, 0, "{self}");
        let few = |rate: u32| self.lasted.as_secs() * u64::from(rate) * 9 / 10;
        let enough = self.kept >= few(KEPT_RATE) && self.new >= few(NEW_RATE);
        assert!(enough, "in {} s only {self}", self.lasted.as_secs());
    }
}

impl fmt::Display for LoadResults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} requests on kept connections and {} on new ones, {} failed, the slowest took {} ms",
            self.kept,
            self.new,
            self.failed,
            self.slowest.as_millis()
        )?;
        self.failures
            .iter()
            .try_for_each(|one| write!(f, "\n  {one}"))
    }
}

impl Load {
    /// Begins to send requests.
    ///
    /// # Panics
    /// The asker's certificates or its key are invalid.
    #[must_use]
    pub fn start(asker: &Asker) -> Self {
        let (end, ended) = watch::channel(false);
        let results = Arc::new(Mutex::new(LoadResults::default()));
        // One client for each task, the last one without a connection that is kept.
        let clients: Vec<HttpsClient> = (0..=KEPT)
            .map(|number| HttpsClient::new(&asker.credentials, usize::from(number < KEPT)))
            .collect();
        let (url, shared) = (asker.url.clone(), Arc::clone(&results));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(ask(&url, clients, &shared, ended));
        });
        Self {
            end,
            thread,
            results,
            began: Instant::now(),
        }
    }

    /// The results so far.
    #[must_use]
    pub fn so_far(&self) -> LoadResults {
        let results = self.results.lock();
        let results = results.unwrap_or_else(PoisonError::into_inner).clone();
        LoadResults {
            lasted: self.began.elapsed(),
            ..results
        }
    }

    /// Ends the requests and gives the results.
    ///
    /// # Panics
    /// The task that sends requests failed.
    #[must_use]
    pub fn end(self) -> LoadResults {
        let results = self.so_far();
        self.end.send_replace(true);
        self.thread.join().expect("the asking ends");
        results
    }
}

async fn ask(
    url: &str,
    clients: Vec<HttpsClient>,
    results: &Arc<Mutex<LoadResults>>,
    ended: watch::Receiver<bool>,
) {
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for (number, client) in (0..).zip(clients) {
        let is_kept = number < KEPT;
        let every = if is_kept {
            Duration::from_secs(1) * KEPT / KEPT_RATE
        } else {
            Duration::from_secs(1) / NEW_RATE
        };
        let (url, results, mut ended) = (url.to_owned(), Arc::clone(results), ended.clone());
        tasks.spawn(async move {
            let mut ticks = tokio::time::interval(every);
            // A request that came late is followed by the next ones at once, so that the rate is as promised.
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            loop {
                tokio::select! {
                    _ = ended.wait_for(|ended| *ended) => return,
                    _ = ticks.tick() => {}
                }
                let asked = Instant::now();
                let result = one(&client, &url).await;
                let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
                if is_kept {
                    results.kept += 1;
                } else {
                    results.new += 1;
                }
                results.slowest = results.slowest.max(asked.elapsed());
                if let Err(why) = result {
                    results.failed += 1;
                    if results.failures.len() < TOLD {
                        let on = if is_kept { "a kept" } else { "a new" };
                        let at = began.elapsed().as_secs_f64();
                        results
                            .failures
                            .push(format!("after {at:.1} s on {on} connection: {why}"));
                    }
                }
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("it asks to its end");
    }
}

/// One request, which has to be answered with status 200 and a whole body.
async fn one(client: &HttpsClient, url: &str) -> Result<(), String> {
    let answer = client.get(url, LIMIT).await?;
    match answer.status {
        200 => Ok(()),
        status => Err(format!("status {status}")),
    }
}
