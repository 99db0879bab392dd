//! Starts the listeners, replaces them at a reload, and ends them.
//!
//! A reload checks everything before it changes anything: with a wrong configuration, what runs goes on. Open connections go on in any case.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail};
use daemon::health::Health;
use daemon::{shutdown, systemd};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wire::comms::{Status, VERSION};

use crate::activity::{Activity, seconds};
use crate::config::{Configuration, IdentityFiles, Listener, Plane, Settings};
use crate::identity::{Identity, Origin};
use crate::listener::{Service, Shared, serve};
use crate::owner;
use crate::path::connect::authority;
use crate::path::network;
use crate::spares::Spares;
use crate::status;
use crate::threads::Threads;
use crate::tunnel::PlaneRoute;

/// Time for open connections to end when the daemon is asked to end.
pub const DRAIN: Duration = Duration::from_secs(30);
/// Most readers of the status at a time.
const READERS: usize = 8;
/// How often the daemon reports that it makes progress, and looks whether the host was enrolled again.
const BEAT: Duration = Duration::from_secs(3);
/// It hangs if it does not report for so long.
const HANGS: Duration = Duration::from_secs(60);
/// A new identity that could not be used is tried again after this pause. Each further pause is twice as long, up to the longest.
const AGAIN: Duration = Duration::from_secs(1);
const LONGEST_AGAIN: Duration = Duration::from_secs(60);

/// Runs until the daemon is asked to end.
///
/// # Errors
/// The configuration or the identity cannot be used, or a port is in use.
pub async fn run(path: &Path) -> Result<()> {
    let mut signals = shutdown::listen()?;
    let mut comms = Comms::start(path).await?;
    let health = comms.health.clone();
    let beat = health.part("the supervisor", HANGS);
    systemd::feed_watchdog(signals.shutdown.clone(), health)?;
    let socket = match status::bind(&comms.socket) {
        Ok(socket) => Some(socket),
        Err(error) => {
            tracing::error!("could not {error:#}; without it, there is no status");
            None
        }
    };
    systemd::status(&comms.summary());
    systemd::ready();
    tracing::info!("{}", comms.summary());
    let readers = Arc::new(Semaphore::new(READERS));
    let mut look = tokio::time::interval(BEAT);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        beat.within(HANGS);
        tokio::select! {
            reader = status::reader(socket.as_ref()) => {
                // A reader too many gets nothing.
                if let (Some(stream), Ok(permit)) = (reader, Arc::clone(&readers).try_acquire_owned()) {
                    let status = comms.status();
                    tokio::spawn(async move {
                        status::write(stream, status).await;
                        drop(permit);
                    });
                }
            }
            () = signals.shutdown.cancelled() => break,
            _ = look.tick() => {
                if comms.has_another_identity() {
                    tracing::info!("the identity of this host was replaced");
                    comms.reload_or_say_why(path).await;
                } else if comms.is_due_again() {
                    comms.try_again(path).await;
                }
            }
            asked = signals.reload.changed() => {
                if asked.is_err() {
                    break;
                }
                comms.reload_or_say_why(path).await;
            }
        }
    }
    beat.within(DRAIN * 2);
    let aborted = comms.drain(DRAIN).await;
    if aborted > 0 {
        tracing::warn!(
            "ended {aborted} connections that did not end within {} s",
            DRAIN.as_secs()
        );
    }
    beat.finish();
    Ok(())
}

/// The running listeners.
#[derive(Debug)]
pub struct Comms {
    running: BTreeMap<SocketAddr, Running>,
    shared: Shared,
    /// The health of the daemon: the threads that carry tunnels are parts of it.
    health: Health,
    /// What each listener has carried, by its name, also earlier ones.
    activities: BTreeMap<String, Arc<Activity>>,
    status: Status,
    socket: PathBuf,
    identity: IdentityFiles,
    /// The files that were read last, also if they could not be used.
    origin: Origin,
    /// The files that are in use.
    used: Origin,
    /// When a reload that failed may be tried again, and the pause before that.
    again: Option<(Instant, Duration)>,
}

/// A listener on one address.
#[derive(Debug)]
struct Running {
    service: watch::Sender<Arc<Service>>,
    stop: CancellationToken,
}

impl Comms {
    /// Reads the configuration and starts what it names.
    ///
    /// # Errors
    /// As [`run`].
    pub async fn start(path: &Path) -> Result<Self> {
        let health = Health::default();
        let mut comms = Self {
            running: BTreeMap::new(),
            shared: Shared {
                open: Arc::default(),
                tunnels: TaskTracker::new(),
                threads: Arc::new(Threads::start(&health).context("start the threads of tunnels")?),
                end: CancellationToken::new(),
                network: network::changes().context("listen for changes of the network")?,
            },
            health,
            activities: BTreeMap::new(),
            status: Status::default(),
            socket: PathBuf::new(),
            identity: IdentityFiles::default(),
            origin: Origin::default(),
            used: Origin::default(),
            again: None,
        };
        comms.reload(path).await?;
        Ok(comms)
    }

    /// Reads the configuration and the identity again, and starts and stops listeners accordingly.
    ///
    /// # Errors
    /// As [`run`]; then nothing has changed.
    pub async fn reload(&mut self, path: &Path) -> Result<()> {
        // Before anything is read: what changes meanwhile is read again, and what is wrong is said once.
        self.origin = Origin::of(&self.identity);
        let use_it = || format!("use the configuration {}", path.display());
        if !path.try_exists().with_context(use_it)? {
            bail!(
                "{}: there is no such file; this host is not enrolled",
                use_it()
            );
        }
        let configuration: Configuration = daemon::config::read(path)
            .context("use the configuration, which the user of pf9-comms has to be able to read")?;
        let settings = Settings::new(configuration).with_context(use_it)?;
        if self.identity != settings.identity {
            self.identity.clone_from(&settings.identity);
            self.origin = Origin::of(&self.identity);
        }
        let identity = Identity::read(&settings.identity, SystemTime::now());
        let identity = identity.context(
            "use the identity of this host, which the user of pf9-comms has to be able to read",
        )?;
        if settings.listeners.iter().any(Listener::asks_for_users) {
            owner::check().context("find the users of connections")?;
        }
        let mut wanted: BTreeMap<SocketAddr, Listener> = BTreeMap::new();
        let mut bound: BTreeMap<SocketAddr, TcpListener> = BTreeMap::new();
        for listener in &settings.listeners {
            for address in &listener.addresses {
                let address = SocketAddr::new(*address, listener.port);
                if !self.running.contains_key(&address) {
                    let Some(socket) = bind(listener, address).await? else {
                        continue;
                    };
                    bound.insert(address, socket);
                }
                wanted.insert(address, listener.clone());
            }
        }
        // From here on, nothing fails.
        self.used.clone_from(&self.origin);
        self.again = None;
        for warning in &identity.warnings {
            tracing::warn!("{warning}");
        }
        let route = Arc::new(PlaneRoute {
            plane: settings.plane.clone(),
            proxies: settings.proxies,
            tls: identity.tls,
        });
        let Plane { host, port } = &settings.plane;
        self.status = Status {
            version: VERSION,
            plane: authority(host, *port),
            proxy: route.proxies.to(host, *port).map(ToString::to_string),
            subject: identity.subject,
            certificate_ends: seconds(identity.ends),
            reload_problem: None,
            tasks: 0,
            listeners: Vec::new(),
        };
        self.socket = settings.socket;
        let mut spares: BTreeMap<String, Arc<Spares>> = BTreeMap::new();
        for (address, listener) in &wanted {
            let activity = self.activities.entry(listener.name.clone()).or_default();
            let service = Arc::new(Service {
                listener: listener.clone(),
                route: Arc::clone(&route),
                spares: Arc::clone(spares.entry(listener.name.clone()).or_insert_with(|| {
                    let (route, activity) = (Arc::clone(&route), Arc::clone(activity));
                    let network = self.shared.network.clone();
                    Spares::new(route, listener.sni.clone(), activity, network)
                })),
                activity: Arc::clone(activity),
                all_connections: settings.connections,
            });
            match bound.remove(address) {
                Some(socket) => {
                    let (sender, receiver) = watch::channel(service);
                    let stop = CancellationToken::new();
                    tokio::spawn(serve(socket, receiver, self.shared.clone(), stop.clone()));
                    self.running.insert(
                        *address,
                        Running {
                            service: sender,
                            stop,
                        },
                    );
                }
                None => {
                    if let Some(running) = self.running.get(address) {
                        let before = running.service.send_replace(service);
                        before.spares.retire();
                    }
                }
            }
        }
        self.running.retain(|address, running| {
            let stays = wanted.contains_key(address);
            if !stays {
                running.service.borrow().spares.retire();
                running.stop.cancel();
            }
            stays
        });
        Ok(())
    }

    /// Whether the files of the identity are others than those that were read last.
    #[must_use]
    pub fn has_another_identity(&self) -> bool {
        self.origin != Origin::of(&self.identity)
    }

    /// Whether it is time to try a new identity again that could not be used: its certificate before may be revoked. What an operator has changed in
    /// the configuration alone waits for the operator.
    fn is_due_again(&self) -> bool {
        let is_late = |(at, _): (Instant, Duration)| at <= Instant::now();
        self.origin != self.used && self.again.is_some_and(is_late)
    }

    /// Reads the configuration and the identity again. If anything is wrong, the log and the status have it, and what runs goes on.
    async fn reload_or_say_why(&mut self, path: &Path) {
        self.again = None;
        self.status.reload_problem = None;
        self.try_again(path).await;
    }

    /// The same as a further attempt: the log has a problem only if it is another one than before.
    async fn try_again(&mut self, path: &Path) {
        let Err(error) = self.reload(path).await else {
            tracing::info!("reloaded: {}", self.summary());
            systemd::status(&self.summary());
            return;
        };
        let next = |(_, pause): (Instant, Duration)| (pause * 2).min(LONGEST_AGAIN);
        let pause = self.again.map_or(AGAIN, next);
        self.again = Some((Instant::now() + pause, pause));
        let problem = format!("{error:#}");
        if self.status.reload_problem.as_ref() != Some(&problem) {
            tracing::error!(
                "could not reload, so the running configuration stays in use: {problem}"
            );
            systemd::status(&format!("{}; could not reload: {problem}", self.summary()));
            self.status.reload_problem = Some(problem);
        }
    }

    /// One line about what runs.
    #[must_use]
    pub fn summary(&self) -> String {
        let listeners: Vec<String> = self
            .running
            .iter()
            .map(|(address, running)| {
                format!("{} on {address}", running.service.borrow().listener.name)
            })
            .collect();
        format!(
            "{} carries {} to {}",
            self.status.subject,
            listeners.join(", "),
            self.status.plane
        )
    }

    /// What is carried at the moment. Runs on the runtime of the listeners.
    #[must_use]
    pub fn status(&self) -> Status {
        let mut status = self.status.clone();
        let mut listeners: BTreeMap<String, wire::comms::Listener> = BTreeMap::new();
        for (address, running) in &self.running {
            let service = running.service.borrow();
            let its = &service.listener;
            let listener =
                listeners
                    .entry(its.name.clone())
                    .or_insert_with(|| wire::comms::Listener {
                        name: its.name.clone(),
                        sni: its.sni.to_str().into_owned(),
                        limit: its.connections as u64,
                        spares: service.spares.count() as u64,
                        ..service.activity.report()
                    });
            listener.addresses.push(address.to_string());
        }
        // A reload may have removed a listener whose tunnels go on.
        for (name, activity) in &self.activities {
            if activity.open.count() > 0 && !listeners.contains_key(name) {
                let removed = wire::comms::Listener {
                    name: name.clone(),
                    ..activity.report()
                };
                listeners.insert(name.clone(), removed);
            }
        }
        status.listeners = listeners.into_values().collect();
        let own = Handle::current().metrics().num_alive_tasks();
        status.tasks = (own + self.shared.threads.tasks()) as u64;
        status
    }

    /// Accepts no more connections, and waits until the open ones have ended. Returns how many were ended after the time limit.
    pub async fn drain(self, limit: Duration) -> usize {
        for running in self.running.values() {
            running.stop.cancel();
        }
        self.shared.tunnels.close();
        if tokio::time::timeout(limit, self.shared.tunnels.wait())
            .await
            .is_ok()
        {
            return 0;
        }
        let aborted = self.shared.tunnels.len();
        self.shared.end.cancel();
        self.shared.tunnels.wait().await;
        aborted
    }
}

/// Without [`Comms::drain`], listeners end, and open connections go on.
impl Drop for Comms {
    fn drop(&mut self) {
        for running in self.running.values() {
            running.stop.cancel();
        }
    }
}

/// Listens on an address; `None` if this host has no IPv6 and the configuration does not ask for it.
async fn bind(listener: &Listener, address: SocketAddr) -> Result<Option<TcpListener>> {
    let error = match TcpListener::bind(address).await {
        Ok(socket) => return Ok(Some(socket)),
        Err(error) => error,
    };
    if let Some(what) = lacks_ipv6(listener, address, &error) {
        tracing::info!("{what}");
        return Ok(None);
    }
    if error.kind() == io::ErrorKind::AddrInUse {
        let holder = owner::of_address(address).unwrap_or_else(|| "another program".to_owned());
        bail!(
            "listen on {address} for `{}`: {holder} has this port; end it, or give the listener another port",
            listener.name
        );
    }
    Err(error).with_context(|| format!("listen on {address} for `{}`", listener.name))
}

/// What the log says if the kernel's answer means that this host has no IPv6; `None` if it means something else, or if the configuration names the address.
fn lacks_ipv6(listener: &Listener, address: SocketAddr, answer: &io::Error) -> Option<String> {
    let lacks_it = matches!(
        answer.kind(),
        io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported
    ) || answer.raw_os_error() == Some(nix::libc::EAFNOSUPPORT);
    (address.is_ipv6() && lacks_it && !listener.names_addresses).then(|| {
        format!(
            "{}: this host has no IPv6, so it does not listen on {address}",
            listener.name
        )
    })
}

#[cfg(test)]
mod tests {
    use nix::libc::{EACCES, EADDRINUSE, EADDRNOTAVAIL, EAFNOSUPPORT};
    use rustls_pki_types::ServerName;

    use super::*;
    use crate::config::Users;

    fn listener(names_addresses: bool) -> Listener {
        Listener {
            name: "echo".to_owned(),
            port: 5001,
            addresses: Vec::new(),
            names_addresses,
            sni: ServerName::try_from("echo.plane.test").expect("a name"),
            users: Users::All,
            connections: 1,
            connections_per_user: 1,
        }
    }

    #[tokio::test]
    async fn a_host_without_ipv6_is_told_from_other_errors() {
        let (any, named) = (listener(false), listener(true));
        let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let (v4, v6) = (address("127.0.0.1:5001"), address("[::1]:5001"));
        // A kernel with IPv6 that no link may have, and one without it.
        for code in [EADDRNOTAVAIL, EAFNOSUPPORT] {
            let answer = io::Error::from_raw_os_error(code);
            let said = "echo: this host has no IPv6, so it does not listen on [::1]:5001";
            assert_eq!(lacks_ipv6(&any, v6, &answer).as_deref(), Some(said));
            assert_eq!(lacks_ipv6(&named, v6, &answer), None);
            assert_eq!(lacks_ipv6(&any, v4, &answer), None);
        }
        for code in [EADDRINUSE, EACCES] {
            let answer = io::Error::from_raw_os_error(code);
            assert_eq!(lacks_ipv6(&any, v6, &answer), None);
        }
        // No host has an address of documentation: the kernel answers as without IPv6.
        let foreign = address("[2001:db8::1]:5001");
        let skipped = bind(&any, foreign).await.expect("it goes on without");
        assert!(skipped.is_none(), "{skipped:?}");
        let error = bind(&named, foreign).await.expect_err("it is named");
        assert_eq!(
            error.to_string(),
            "listen on [2001:db8::1]:5001 for `echo`",
            "{error:#}"
        );
    }
}
