//! Events that start a pass early: something that the role runs has ended, or a file that the role wrote has changed.
//!
//! An event only triggers a status pass, which finds out whether anything is wrong, and what. Passes also come at their interval, without an
//! event. Each source connects again by itself when it has lost its connection.
//!
//! Not here: when a pass is made and what follows from it (`supervisor`). Start with `trigger`, then `docker` as an example of a source.

mod docker;
mod files;
mod links;
mod node;
mod node_routes;
mod status;
mod stopped;
mod systemd;
mod trigger;

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::nodeletd::status::kube_status::StatusFile;
use crate::pass::WatchList;
pub(super) use trigger::Triggers;

/// Pauses between attempts to listen to a source.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The longest pause for the node: its API server is on this host or behind a virtual IP, and comes up while the daemon waits.
const LONGEST_PAUSE_OF_NODE: Duration = Duration::from_secs(3);

/// Listens until `end` is cancelled.
pub(super) fn listen(
    targets: &WatchList,
    status: &StatusFile,
    triggers: &Triggers,
    end: &CancellationToken,
) {
    let (always, from_time_to_time) = (Source::always, Source::from_time_to_time);
    // These two may be missing until the role has come up.
    let docker = from_time_to_time("docker");
    spawn(end, again(docker, docker::listen, targets, triggers));
    let systemd = from_time_to_time("systemd");
    spawn(end, again(systemd, systemd::listen, targets, triggers));
    let files = always("files");
    spawn(end, again(files, files::listen, targets, triggers));
    let links = always("links");
    spawn(end, again(links, links::listen, targets, triggers));
    spawn(end, again(Source::NODE, node::listen, targets, triggers));
    let others = Source {
        name: "the other nodes",
        ..Source::NODE
    };
    spawn(end, again(others, node_routes::listen, targets, triggers));
    let processes = always("stopped processes");
    spawn(end, again(processes, stopped::listen, targets, triggers));
    let file = always("the status file");
    spawn(end, again(file, status::listen, status, triggers));
}

/// A source of events.
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

/// Listens to a source again and again; failures are logged if the source always exists. The loss of a source after a while is an event, too.
fn again<T, F>(
    source: Source,
    listen: impl Fn(T, Triggers) -> F + Send + 'static,
    about: &T,
    triggers: &Triggers,
) -> impl Future<Output = ()> + Send + 'static
where
    T: Clone + Send + 'static,
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let (about, triggers) = (about.clone(), triggers.clone());
    let Source {
        name,
        always,
        longest_pause,
    } = source;
    async move {
        let mut pause = FIRST_PAUSE;
        loop {
            let began = tokio::time::Instant::now();
            let said = match listen(about.clone(), triggers.clone()).await {
                Ok(()) => "it closed the connection".to_owned(),
                Err(error) => {
                    if always {
                        triggers.warn_once(format!("could not listen to {name}: {error:#}"));
                    }
                    format!("{error:#}")
                }
            };
            tracing::debug!("not listening to {name}: {said}");
            if began.elapsed() > LONGEST_PAUSE {
                pause = FIRST_PAUSE;
                triggers.add(format!("{name} went away"));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest_pause);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// The API server may take minutes to come up, and its events are needed soon after that.
    #[tokio::test(start_paused = true)]
    async fn the_node_is_asked_for_again_soon_however_long_it_did_not_answer() {
        let longest_of = async |source: Source| {
            let times = Arc::new(Mutex::new(Vec::new()));
            let heard = Arc::clone(&times);
            let listen = move |_: (), _: Triggers| {
                let heard = Arc::clone(&heard);
                async move {
                    let mut heard = heard.lock().expect("no test panicked");
                    heard.push(tokio::time::Instant::now());
                    anyhow::bail!("connection refused")
                }
            };
            let triggers = Triggers::default();
            let listening = again(source, listen, &(), &triggers);
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
}
