//! Events that start a pass early: something that the role runs has ended, or a file that the role wrote has changed.
//!
//! An event is only a hint: a status pass finds out whether anything is wrong, and what. Passes also come at their interval, without a
//! hint. Each source connects again by itself when it has lost its connection.

mod docker;
mod files;
mod links;
mod node;
mod status;
mod stopped;
mod systemd;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use engine::resource::NodeSpec;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::kube_status::StatusFile;
use super::pod_subnets::Allocation;

/// Hints that are remembered until the next pass, for people.
const REMEMBERED: usize = 20;
/// Most different warnings about what cannot be listened to.
const TOLD: usize = 300;
/// Pauses between attempts to listen to a source.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The longest pause for the node: its API server is on this host or behind a virtual IP, and comes up while the daemon waits.
const LONGEST_PAUSE_OF_NODE: Duration = Duration::from_secs(3);

/// What to listen for. Changes with the plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Interests {
    /// Names of containers.
    pub(super) containers: Vec<String>,
    /// Names of units.
    pub(super) units: Vec<String>,
    /// Directories whose files are ours.
    pub(super) directories: Vec<std::path::PathBuf>,
    /// Names of links. Events of the link itself, of its addresses and of the routes over it count.
    pub(super) links: Vec<String>,
    /// Addresses, on any link.
    pub(super) addresses: Vec<IpAddr>,
    /// Nodes of the cluster, as steps of the role make them.
    pub(super) nodes: Vec<NodeSpec>,
    /// How nodes of the cluster get their pod subnets, if this host assigns them.
    pub(super) allocation: Option<Allocation>,
    /// The one of `directories` that contains the settings; the daemon writes nothing to it.
    pub(super) settings: std::path::PathBuf,
}

/// Where hints arrive.
#[derive(Debug, Clone, Default)]
pub(super) struct Wake(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    notify: Notify,
    hints: Mutex<Vec<String>>,
    settings: AtomicBool,
    told: Mutex<BTreeSet<String>>,
    /// The last known state by name, for sources that report the same state repeatedly.
    states: Mutex<BTreeMap<String, String>>,
}

impl Wake {
    /// Records that something may have happened, and wakes the daemon.
    pub(super) fn hint(&self, hint: String) {
        let mut hints = self.hints();
        if hints.len() < REMEMBERED && !hints.contains(&hint) {
            hints.push(hint);
        }
        drop(hints);
        self.0.notify.notify_one();
    }

    /// Records that settings were written, and wakes the daemon.
    pub(super) fn hint_at_settings(&self, hint: String) {
        self.0.settings.store(true, Ordering::Relaxed);
        self.hint(hint);
    }

    /// Whether settings were written since the last [`Wake::take`].
    pub(super) fn settings_changed(&self) -> bool {
        self.0.settings.load(Ordering::Relaxed)
    }

    /// Waits for a hint that came since the last [`Wake::take`].
    ///
    /// # Cancel safety
    /// No hint is lost.
    pub(super) async fn wait(&self) {
        while self.hints().is_empty() {
            self.0.notify.notified().await;
        }
    }

    /// Returns all hints so far, and forgets them.
    pub(super) fn take(&self) -> Vec<String> {
        self.0.settings.store(false, Ordering::Relaxed);
        std::mem::take(&mut self.hints())
    }

    /// Forgets the hints that came during a change of our own, but not that settings were written.
    /// Returns whether there were any hints.
    pub(super) fn forget_our_own(&self) -> bool {
        let mut hints = self.hints();
        let heard = !hints.is_empty();
        hints.clear();
        if self.settings_changed() {
            hints.push("settings changed meanwhile".to_owned());
        }
        heard
    }

    /// Records the state of a thing; empty means as desired, which is the initial state. Returns whether the state has changed. States are
    /// kept when a source connects again.
    fn is_news(&self, thing: &str, state: String) -> bool {
        let states = &self.0.states;
        let mut states = states.lock().unwrap_or_else(PoisonError::into_inner);
        let before = states.insert(thing.to_owned(), state.clone());
        before.unwrap_or_default() != state
    }

    /// Logs once what cannot be listened to, and why. The pass at the next interval sees changes without a hint.
    fn warn_once(&self, deaf: String) {
        let mut told = self.0.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() < TOLD && !told.contains(&deaf) {
            tracing::warn!("{deaf}; only the next status pass sees changes there");
            told.insert(deaf);
        }
    }

    fn hints(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.0.hints.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Listens until `end` is cancelled.
pub(super) fn listen(
    interests: &Interests,
    status: &StatusFile,
    wake: &Wake,
    end: &CancellationToken,
) {
    let (always, from_time_to_time) = (Source::always, Source::from_time_to_time);
    // These two may be missing until the role has come up.
    let docker = from_time_to_time("docker");
    spawn(end, again(docker, docker::listen, interests, wake));
    let systemd = from_time_to_time("systemd");
    spawn(end, again(systemd, systemd::listen, interests, wake));
    let files = always("files");
    spawn(end, again(files, files::listen, interests, wake));
    let links = always("links");
    spawn(end, again(links, links::listen, interests, wake));
    spawn(end, again(Source::NODE, node::listen, interests, wake));
    let processes = always("stopped processes");
    spawn(end, again(processes, stopped::listen, interests, wake));
    let file = always("the status file");
    spawn(end, again(file, status::listen, status, wake));
}

/// A source of hints.
#[derive(Debug, Clone, Copy)]
struct Source {
    name: &'static str,
    /// It exists with and without the role, so a failure to listen to it is logged.
    always: bool,
    /// Longest pause between two attempts to listen.
    longest_pause: Duration,
}

impl Source {
    /// The role's node in the cluster.
    const NODE: Self = Self {
        name: "the node",
        always: false,
        longest_pause: LONGEST_PAUSE_OF_NODE,
    };

    fn always(name: &'static str) -> Self {
        Self {
            name,
            always: true,
            longest_pause: LONGEST_PAUSE,
        }
    }

    fn from_time_to_time(name: &'static str) -> Self {
        Self {
            always: false,
            ..Self::always(name)
        }
    }
}

fn spawn(end: &CancellationToken, work: impl Future<Output = ()> + Send + 'static) {
    let end = end.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = end.cancelled() => {}
            () = work => {}
        }
    });
}

/// Listens to a source again and again; failures are logged if the source always exists. The loss of a source after a while is a hint.
fn again<T, F>(
    source: Source,
    listen: impl Fn(T, Wake) -> F + Send + 'static,
    about: &T,
    wake: &Wake,
) -> impl Future<Output = ()> + Send + 'static
where
    T: Clone + Send + 'static,
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let (about, wake) = (about.clone(), wake.clone());
    let Source {
        name,
        always,
        longest_pause,
    } = source;
    async move {
        let mut pause = FIRST_PAUSE;
        loop {
            let began = tokio::time::Instant::now();
            let said = match listen(about.clone(), wake.clone()).await {
                Ok(()) => "it closed the connection".to_owned(),
                Err(error) => {
                    if always {
                        wake.warn_once(format!("could not listen to {name}: {error:#}"));
                    }
                    format!("{error:#}")
                }
            };
            tracing::debug!("not listening to {name}: {said}");
            if began.elapsed() > LONGEST_PAUSE {
                pause = FIRST_PAUSE;
                wake.hint(format!("{name} went away"));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest_pause);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn hints_wait_until_they_are_taken() {
        let wake = Wake::default();
        wake.hint("one".to_owned());
        wake.hint("one".to_owned());
        wake.wait().await;
        assert_eq!(wake.take(), ["one"]);
        let waited = tokio::time::timeout(Duration::from_millis(50), wake.wait()).await;
        assert!(waited.is_err(), "there is no hint left");
    }

    /// The API server may take minutes to come up, and its events are needed soon after that.
    #[tokio::test(start_paused = true)]
    async fn the_node_is_asked_for_again_soon_however_long_it_did_not_answer() {
        let longest_of = async |source: Source| {
            let times = Arc::new(Mutex::new(Vec::new()));
            let heard = Arc::clone(&times);
            let listen = move |_: (), _: Wake| {
                let heard = Arc::clone(&heard);
                async move {
                    let mut heard = heard.lock().expect("no test panicked");
                    heard.push(tokio::time::Instant::now());
                    anyhow::bail!("connection refused")
                }
            };
            let wake = Wake::default();
            let listening = again(source, listen, &(), &wake);
            let hour = Duration::from_secs(600);
            assert!(tokio::time::timeout(hour, listening).await.is_err());
            let times = times.lock().expect("no test panicked");
            let pauses = times.windows(2).map(|pair| pair[1] - pair[0]);
            pauses.max().expect("it tried again")
        };
        let seconds = |pause: Duration| pause.as_secs();
        assert_eq!(seconds(longest_of(Source::NODE).await), 3);
        assert_eq!(seconds(longest_of(Source::always("files")).await), 30);
    }

    #[test]
    fn new_settings_are_nothing_of_ours() {
        let wake = Wake::default();
        assert!(!wake.forget_our_own());
        wake.hint("unit pf9-kubelet.service".to_owned());
        assert!(wake.forget_our_own());
        assert_eq!(wake.take(), [""; 0]);
        wake.hint_at_settings("file /etc/pf9/nodelet/a.yaml".to_owned());
        wake.forget_our_own();
        assert!(wake.settings_changed());
        assert_eq!(wake.take(), ["settings changed meanwhile"]);
        assert!(!wake.settings_changed());
    }
}
