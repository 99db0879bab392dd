//! Requests to an API server at a steady rate while a test changes something: on connections that are kept, and each on a new one.
//! Every request that fails is counted; none is tried again.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

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

type Connections = Client<hyper_rustls::HttpsConnector<HttpConnector>, Empty<Bytes>>;

/// A client and the URL that it asks for.
#[derive(Debug)]
pub struct Asker {
    /// What is requested, again and again.
    pub url: String,
    /// Roots of the server, in PEM.
    pub roots: String,
    /// The client's certificate, in PEM.
    pub certificate: String,
    /// Its key, in PEM.
    pub key: String,
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
        let tls = tls(asker);
        let (url, shared) = (asker.url.clone(), Arc::clone(&results));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(ask(&url, &tls, &shared, ended));
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
    tls: &ClientConfig,
    results: &Arc<Mutex<LoadResults>>,
    ended: watch::Receiver<bool>,
) {
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..=KEPT {
        let is_kept = number < KEPT;
        let every = if is_kept {
            Duration::from_secs(1) * KEPT / KEPT_RATE
        } else {
            Duration::from_secs(1) / NEW_RATE
        };
        let kept = connections(tls, 1);
        let (url, tls, results, mut ended) = (
            url.to_owned(),
            tls.clone(),
            Arc::clone(results),
            ended.clone(),
        );
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
                let result = if is_kept {
                    one(&kept, &url).await
                } else {
                    one(&connections(&tls, 0), &url).await
                };
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
async fn one(client: &Connections, url: &str) -> Result<(), String> {
    let chain = |error: &(dyn std::error::Error + 'static)| engine::model::chain(error).join(": ");
    let request = Request::get(url)
        .body(Empty::new())
        .map_err(|error| chain(&error))?;
    let answer = tokio::time::timeout(LIMIT, async {
        let answer = client
            .request(request)
            .await
            .map_err(|error| chain(&error))?;
        let status = answer.status();
        let body = answer.into_body().collect().await;
        body.map_err(|error| chain(&error))?;
        Ok::<_, String>(status)
    });
    match answer.await {
        Ok(Ok(status)) if status == 200 => Ok(()),
        Ok(Ok(status)) => Err(format!("status {status}")),
        Ok(Err(why)) => Err(why),
        Err(_) => Err(format!("no answer within {} s", LIMIT.as_secs())),
    }
}

fn connections(tls: &ClientConfig, idle: usize) -> Connections {
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls.clone())
        .https_only()
        .enable_http1()
        .build();
    Client::builder(TokioExecutor::new())
        .pool_max_idle_per_host(idle)
        .pool_idle_timeout(None)
        .retry_canceled_requests(false)
        .build(connector)
}

fn tls(asker: &Asker) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(asker.roots.as_bytes()) {
        roots.add(root.expect("a certificate")).expect("a root");
    }
    let chain = CertificateDer::pem_slice_iter(asker.certificate.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .expect("certificates");
    let key = PrivateKeyDer::from_pem_slice(asker.key.as_bytes()).expect("a key");
    let mut tls = ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::aws_lc_rs::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .expect("the provider has them")
    .with_root_certificates(roots)
    .with_client_auth_cert(chain, key)
    .expect("the key fits");
    // Every new connection makes a full handshake, without a session ticket of an earlier one.
    tls.resumption = rustls::client::Resumption::disabled();
    tls
}
