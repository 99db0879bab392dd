//! Makes the ingress of this machine what the database wants, and says so there.
//!
//! The database has what was revoked; each ingress looks every few seconds. So an operator's command reaches any number of them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail};
use daemon::health::Beat;
use rand::Rng as _;
use sha2::{Digest as _, Sha256};
use sqlx::AnyPool;
use tokio_util::sync::CancellationToken;

use super::files::Files;
use super::master::Master;
use super::revocation::{self, Owed};
use crate::authority::{Authority, Revoked};
use crate::config::Configuration;
use crate::database::seconds;
use crate::host::{self, RevokedHost};
use crate::message_queue::MessageQueue;

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(2);
/// Users that are deleted in one look, and the time after which no other one is begun: a certificate that is revoked meanwhile waits for the next look.
const AT_A_TIME: usize = 100;
const USERS: Duration = Duration::from_secs(5);
/// HAProxy says for how many whole seconds a worker has run, and reads its files before that.
const MARGIN: Duration = Duration::from_secs(1);
/// Longest pause after failures.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// A look makes progress within this time. A user may wait for a host that is being enrolled.
const PROGRESS: Duration = LONGEST_PAUSE.saturating_mul(6);
/// The certificate of the ingress and the list of revoked ones are looked at this often.
const DAILY: Duration = Duration::from_secs(24 * 60 * 60);
/// A clock that has gone on by so much more or less than the time that has passed was set. Certificates begin a day before they are made.
const CLOCK_SET: Duration = Duration::from_secs(60 * 60);

/// An ingress and what it needs.
#[derive(Debug)]
pub struct Reconciler {
    /// The configuration of the plane.
    pub configuration: Configuration,
    /// What signs.
    pub authority: Arc<Authority>,
    /// What is wanted.
    pub database: AnyPool,
    /// Where hosts have users.
    pub message_queue: Option<Arc<MessageQueue>>,
    /// What HAProxy reads.
    pub files: Files,
    /// The running HAProxy.
    pub master: Master,
}

/// What was done.
#[derive(Debug, Default)]
struct Done {
    refuses: Option<String>,
    /// When the files were looked at.
    files_at: Option<Instant>,
    /// When HAProxy has read them last, also by the clock; before a reload, when this process began.
    clock: Option<(Instant, SystemTime)>,
    /// The time of the newest file at the last reload.
    read: Option<SystemTime>,
    /// Why what a power cut has left could not be removed; empty if it could.
    unswept: String,
    /// Hosts whose user of the message queue was deleted, and how many certificates of the host were revoked before.
    without_user: BTreeMap<String, i64>,
    /// Whether there are others.
    has_users_left: bool,
    /// What the running HAProxy has still to be told, if this process has begun to tell it.
    owed: Owed,
    has_begun: bool,
}

impl Reconciler {
    /// Runs until `end` is cancelled. Failures are logged, and tried again.
    pub async fn run(self, end: CancellationToken, beat: Beat) {
        let mut done = Done::default();
        let mut failures = 0_u32;
        let mut said = String::new();
        loop {
            beat.within(PROGRESS);
            // Cut off, it is done again at the next start.
            let looked = tokio::select! {
                () = end.cancelled() => break,
                looked = self.once(&mut done, SystemTime::now(), &beat) => looked,
            };
            let pause = match looked {
                Ok(()) => {
                    if failures > 0 {
                        tracing::info!("the ingress is as wanted again");
                    }
                    failures = 0;
                    said.clear();
                    match done.has_users_left {
                        true => Duration::ZERO,
                        false => PAUSE,
                    }
                }
                Err(error) => {
                    if let Some(message) = news(&mut said, &error) {
                        tracing::error!("could not {message}; it is tried again");
                    }
                    let grown = (PAUSE * 2_u32.saturating_pow(failures.min(8))).min(LONGEST_PAUSE);
                    failures = failures.saturating_add(1);
                    grown.mul_f64(rand::rng().random_range(0.75..1.0))
                }
            };
            tokio::select! {
                () = end.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
        beat.finish();
    }

    async fn once(&self, done: &mut Done, now: SystemTime, beat: &Beat) -> Result<()> {
        let name = name()?;
        // Also if it fails below: then `planectl host revoke` says that this ingress is behind.
        let refuses = done.refuses.clone().unwrap_or_default();
        let mut recorded = record(&self.database, &name, &refuses, now).await;
        let mut revoked = host::revoked(&self.database, now).await?;
        if recorded.is_err() {
            self.keep_refused(&mut revoked, now)?;
        }
        let wanted = digest(&revoked);
        let is_as_wanted = done.refuses.as_ref() == Some(&wanted);
        // One does not wait for the other: a disk that is full, a database that is read-only, or a message queue that does not answer, keeps no revoked certificate in use.
        let refused = match is_as_wanted {
            true => Ok(()),
            false => self.refuse(done, &revoked, now).await,
        };
        let removed = match is_as_wanted && !done.has_users_left {
            true => Ok(()),
            false => self.remove_users(done, now, beat).await,
        };
        let clock = (Instant::now(), now);
        let was_set = was_set(*done.clock.get_or_insert(clock), clock);
        let are_recent = done.files_at.is_some_and(|at| at.elapsed() < DAILY);
        let kept = match are_recent && !was_set {
            true => Ok(()),
            false => self.keep_files(done, &revoked, now, was_set, beat).await,
        };
        if refused.is_ok() && removed.is_ok() && !is_as_wanted {
            tracing::info!("the ingress refuses {} certificates", revoked.len());
            done.refuses = Some(wanted.clone());
            recorded = record(&self.database, &name, &wanted, now).await;
        }
        let errors = [recorded, refused, removed, kept]
            .into_iter()
            .filter_map(Result::err);
        revocation::together(&errors.collect::<Vec<_>>())
    }

    /// Adds what the files have. A database that cannot be written may be a copy which is behind: what is missing there was not taken back.
    fn keep_refused(&self, revoked: &mut Vec<Revoked>, now: SystemTime) -> Result<()> {
        let known: BTreeSet<String> = revoked.iter().map(|its| its.serial.clone()).collect();
        let serials = self.files.serials()?;
        let missing = serials.into_iter().filter(|its| !known.contains(its));
        revoked.extend(missing.map(|serial| Revoked { serial, at: now }));
        revoked.sort();
        Ok(())
    }

    /// Ends what these certificates have.
    async fn refuse(&self, done: &mut Done, revoked: &[Revoked], now: SystemTime) -> Result<()> {
        // For an HAProxy that starts now. If it cannot be written, the running one is told all the same.
        let list = self.authority.revocation_list(revoked, now)?;
        let written = self.files.write_revoked(&list, revoked);
        if !self.master.is_there().await? {
            bail!(
                "find HAProxy: nothing listens on {}; start it, and no host reaches the plane before",
                self.master.0.display()
            );
        }
        // Once: a later look may owe more.
        if !done.has_begun {
            done.has_begun = true;
            done.owed = Owed::at_start(revoked, now);
        }
        let told = revocation::apply(&self.master, &self.files, &list, revoked, &mut done.owed);
        let told = told.await;
        written.context("write the list of revoked certificates")?;
        told
    }

    /// Deletes the users of hosts that have no certificate any more. Some of many: the others have their turn at the next look, which is no failure. After a start, those of
    /// all revoked hosts are deleted once more, so the host that was revoked last is the first one.
    async fn remove_users(&self, done: &mut Done, now: SystemTime, beat: &Beat) -> Result<()> {
        let Some(queue) = &self.message_queue else {
            return Ok(());
        };
        let hosts = host::revoked_hosts(&self.database, now).await?;
        let mut todo: Vec<RevokedHost> = hosts
            .into_iter()
            .filter(|its| done.without_user.get(&its.id) != Some(&its.revocations))
            .collect();
        todo.sort_by_key(|its| Reverse(its.at));
        let (began, mut count) = (Instant::now(), 0);
        for its in &todo {
            if count == AT_A_TIME || began.elapsed() > USERS {
                break;
            }
            beat.within(PROGRESS);
            let still = async {
                let has_one = host::has_certificate(&self.database, &its.id, now).await?;
                Ok(!has_one)
            };
            queue
                .remove(&its.id, still)
                .await
                .context("delete the user of a revoked host")?;
            done.without_user.insert(its.id.clone(), its.revocations);
            count += 1;
        }
        done.has_users_left = count < todo.len();
        Ok(())
    }

    /// Writes what HAProxy reads, and makes the running one read it if it has not. If the clock was set, it reads all of it: the list of revoked certificates that it has may have
    /// ended, or not have begun.
    async fn keep_files(
        &self,
        done: &mut Done,
        revoked: &[Revoked],
        now: SystemTime,
        was_set: bool,
        beat: &Beat,
    ) -> Result<()> {
        // A check of the configuration may take 30 s, and a reload 25 s: 10 s for its first look at the workers, and 15 s for the new one.
        beat.within(PROGRESS);
        // A failure below is tried again soon.
        done.files_at = None;
        // Before anything is written: what was left may fill the disk.
        if let Some(message) = self.sweep(done) {
            tracing::warn!("could not {message}; HAProxy does not read what stays there");
        }
        let list = self.authority.revocation_list(revoked, now)?;
        let written = self.files.write_revoked(&list, revoked);
        written.context("write the list of revoked certificates")?;
        let written = self
            .files
            .write_others(&self.configuration, &self.authority, now);
        let written = written.await.context("write what HAProxy reads");
        beat.within(PROGRESS);
        // Also if HAProxy refuses a new configuration: the one before stays, and the certificate and the list may be new ones.
        let read = self.have_files_read(done, now, was_set).await;
        if let (Ok(()), Ok(true)) = (&written, &read) {
            done.files_at = Some(Instant::now());
        }
        let errors = [written, read.map(drop)]
            .into_iter()
            .filter_map(Result::err);
        revocation::together(&errors.collect::<Vec<_>>())
    }

    /// Removes what a power cut has left beside the files. Returns why it could not, once for as long as that is the same.
    fn sweep(&self, done: &mut Done) -> Option<String> {
        match self.files.sweep() {
            Ok(()) => {
                done.unswept.clear();
                None
            }
            Err(error) => news(&mut done.unswept, &error),
        }
    }

    /// Makes the running HAProxy read its files if they are newer, or if `all` says so. Returns whether one runs.
    async fn have_files_read(&self, done: &mut Done, now: SystemTime, all: bool) -> Result<bool> {
        if !self.master.is_there().await? {
            // It reads them when it starts; then they are compared with that time.
            return Ok(false);
        }
        let read_at = self.master.present_since(now).await? - MARGIN;
        let changed_at = self.files.changed_at()?;
        // The time of a file is ahead if the clock was set back: one reload is enough.
        if all || (changed_at >= read_at && done.read != Some(changed_at)) {
            self.master.reload().await?;
            done.read = Some(changed_at);
            done.clock = Some((Instant::now(), now));
            tracing::info!("HAProxy has read its configuration again");
        }
        // A key that is known to others opens what was said with its tickets.
        if is_older_than(&self.files.ticket_keys, DAILY)? {
            revocation::rotate_ticket_keys(&self.master, &self.files).await?;
        }
        Ok(true)
    }
}

/// The words of an error if they are not the ones that were said last, which they replace: what lasts is said once.
fn news(said: &mut String, error: &anyhow::Error) -> Option<String> {
    let message = format!("{error:#}");
    let is_new = *said != message;
    said.clone_from(&message);
    is_new.then_some(message)
}

/// Whether the clock was set between these times: certificates and lists that were made before may be of no use.
fn was_set(before: (Instant, SystemTime), now: (Instant, SystemTime)) -> bool {
    let passed = now.0.duration_since(before.0);
    let difference = match now.1.duration_since(before.1) {
        Ok(by_clock) => by_clock.abs_diff(passed),
        Err(back) => back.duration() + passed,
    };
    difference > CLOCK_SET
}

/// Whether a file was written longer ago than this, or in the future.
fn is_older_than(path: &Path, age: Duration) -> Result<bool> {
    let written = path.metadata().and_then(|its| its.modified());
    let written = written.with_context(|| format!("look at {}", path.display()))?;
    Ok(written.elapsed().map_or(true, |its| its > age))
}

/// The name of this ingress: that of its machine, with the first digits of the machine's id.
fn name() -> Result<String> {
    let name = nix::unistd::gethostname().context("ask for the name of this machine")?;
    let id = daemon::files::first_line(Path::new("/etc/machine-id"), 64)?.unwrap_or_default();
    let id = String::from_utf8_lossy(&id);
    let id: String = id.chars().take(8).collect();
    Ok(format!("{}-{id}", name.to_string_lossy()))
}

fn digest(revoked: &[Revoked]) -> String {
    let mut hash = Sha256::new();
    for its in revoked {
        hash.update(its.serial.as_bytes());
        hash.update(b"\n");
    }
    hash.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

async fn record(database: &AnyPool, name: &str, refuses: &str, now: SystemTime) -> Result<()> {
    sqlx::query(
        "INSERT INTO ingresses (name, refuses, seen_at) VALUES ($1, $2, $3) \
         ON CONFLICT (name) DO UPDATE SET refuses = $2, seen_at = $3",
    )
    .bind(name)
    .bind(refuses)
    .bind(seconds(now))
    .execute(database)
    .await
    .context("write to the database what this ingress refuses")?;
    Ok(())
}

/// An ingress, as the database knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Its name.
    pub name: String,
    /// When it was seen last, in seconds since 1970, by its own clock.
    pub seen_at: i64,
    /// Whether it refuses all revoked certificates.
    pub is_as_wanted: bool,
}

/// All ingresses. One that is not seen any more is among them until it is forgotten: its HAProxy may accept hosts.
///
/// # Errors
/// The database does not answer.
pub async fn list(database: &AnyPool, now: SystemTime) -> Result<Vec<Known>> {
    let wanted = digest(&host::revoked(database, now).await?);
    let all: Vec<(String, String, i64)> =
        sqlx::query_as("SELECT name, refuses, seen_at FROM ingresses ORDER BY name")
            .fetch_all(database)
            .await
            .context("read the ingresses in the database")?;
    let known = all.into_iter().map(|(name, refuses, seen_at)| Known {
        name,
        seen_at,
        is_as_wanted: refuses == wanted,
    });
    Ok(known.collect())
}

/// Forgets an ingress that does not run any more. Returns whether there was one.
///
/// # Errors
/// The database does not answer.
pub async fn forget(database: &AnyPool, name: &str) -> Result<bool> {
    let done = sqlx::query("DELETE FROM ingresses WHERE name = $1")
        .bind(name)
        .execute(database)
        .await
        .context("forget the ingress in the database")?;
    Ok(done.rows_affected() > 0)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use daemon::health::Health;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixListener;

    use super::*;
    use crate::database;

    /// The socket of an HAProxy that has nothing to do, and counts how often it has read its files again.
    fn listen(socket: &Path, reloads: Arc<AtomicU32>) {
        let listener = UnixListener::bind(socket).expect("a socket");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut command = String::new();
                // Who only looks whether it is there says nothing.
                let _ = stream.read_to_string(&mut command).await;
                if command.starts_with("reload") {
                    reloads.fetch_add(1, Ordering::Relaxed);
                }
                let worker = 100 + reloads.load(Ordering::Relaxed);
                let answer = match &command {
                    its if its.starts_with("show proc") => {
                        format!("# workers\n{worker} worker 0 0d01h00m00s 2.6\n")
                    }
                    its if its.contains(" set ssl crl-file ") => "transaction created".to_owned(),
                    its if its.contains(" commit ssl crl-file ") => "Success!".to_owned(),
                    _ => String::new(),
                };
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
    }

    /// What keeps the ingress of a plane with this state, with an HAProxy that counts how often it has read its files again.
    async fn reconciler_in(state: &Path, reloads: &Arc<AtomicU32>) -> Reconciler {
        for name in ["authority", "ingress"] {
            std::fs::create_dir(state.join(name)).expect("it is made");
        }
        let path = state.join("plane.yaml");
        let text = format!(
            "host: plane.test\nstate: {}\ningress: {{user: null, connections: 2000}}\n",
            state.display()
        );
        std::fs::write(&path, text).expect("it is written");
        let configuration = Configuration::read(&path).expect("it is right");
        let authority = Authority::create(state, "plane.test", SystemTime::now());
        let url = configuration.database_url().expect("a default");
        let socket = state.join("master.sock");
        listen(&socket, Arc::clone(reloads));
        Reconciler {
            configuration,
            authority: Arc::new(authority.expect("it is made")),
            database: database::create(&url).await.expect("it is made"),
            message_queue: None,
            files: Files::below(state),
            master: Master(socket),
        }
    }

    #[tokio::test]
    async fn the_files_have_their_own_time_for_progress() {
        let directory = tempfile::tempdir().expect("a directory");
        let reconciler = reconciler_in(directory.path(), &Arc::default()).await;
        let health = Health::default();
        // What was done before them has taken all of its time.
        let beat = health.part("ingress", Duration::ZERO);
        let (mut done, now) = (Done::default(), SystemTime::now());
        let looked = reconciler.once(&mut done, now, &beat).await;
        looked.expect("it is as wanted");
        assert!(health.problems().is_empty());
    }

    #[tokio::test]
    async fn what_was_left_is_removed_also_if_nothing_can_be_written() {
        let directory = tempfile::tempdir().expect("a directory");
        let reconciler = reconciler_in(directory.path(), &Arc::default()).await;
        let left = directory.path().join("ingress/.new-000old");
        let file = std::fs::File::create(&left).expect("it is made");
        let now = SystemTime::now();
        let before = now - daemon::files::ABANDONED * 2;
        file.set_modified(before).expect("its time");
        // As on a disk that is full.
        std::fs::create_dir(&reconciler.files.revoked).expect("it is made");
        let beat = Health::default().part("ingress", DAILY);
        let looked = reconciler.once(&mut Done::default(), now, &beat).await;
        let said = looked.expect_err("it cannot be written").to_string();
        assert!(said.contains("write the list of revoked"), "{said}");
        assert!(!left.exists());
    }

    #[tokio::test]
    async fn why_what_was_left_stays_is_said_once() {
        let directory = tempfile::tempdir().expect("a directory");
        let reconciler = reconciler_in(directory.path(), &Arc::default()).await;
        let [present, away] = ["ingress", "away"].map(|name| directory.path().join(name));
        let mut done = Done::default();
        for _ in 0..2 {
            std::fs::rename(&present, &away).expect("it is moved");
            let said = reconciler.sweep(&mut done).expect("it is not there");
            assert!(said.contains("list "), "{said}");
            assert_eq!(reconciler.sweep(&mut done), None);
            std::fs::rename(&away, &present).expect("it is moved back");
            assert_eq!(reconciler.sweep(&mut done), None);
        }
    }

    #[tokio::test]
    async fn haproxy_reads_new_files_if_the_clock_was_set() {
        let directory = tempfile::tempdir().expect("a directory");
        let reloads = Arc::<AtomicU32>::default();
        let mut reconciler = reconciler_in(directory.path(), &reloads).await;
        let files = reconciler.files.clone();
        let now = SystemTime::now();
        let beat = Health::default().part("ingress", DAILY);
        let mut done = Done::default();
        let mut before = String::new();
        for (at, wanted, is_new) in [
            (now, 1, true),
            (now + PAUSE, 1, false),
            (now + DAILY * 2, 2, true),
            (now + DAILY * 2 + PAUSE, 2, false),
            (now, 3, true),
        ] {
            let looked = reconciler.once(&mut done, at, &beat).await;
            looked.expect("it is as wanted");
            assert_eq!(reloads.load(Ordering::Relaxed), wanted, "{at:?}");
            let list = std::fs::read_to_string(&files.revoked).expect("it is there");
            assert_eq!(list != before, is_new, "{at:?}");
            before = list;
        }
        // HAProxy refuses this configuration at each look, and reads the other files once.
        reconciler.configuration.ingress.user = Some("no-such-user".to_owned());
        let mut done = Done::default();
        for (at, wanted) in [
            // As a process that has begun: it does not know what HAProxy has read.
            (now, 4),
            (now + DAILY * 2, 5),
            (now + DAILY * 2 + PAUSE, 5),
            (now, 6),
            (now + PAUSE, 6),
        ] {
            let looked = reconciler.once(&mut done, at, &beat).await;
            let said = looked.expect_err("it is refused").to_string();
            assert!(said.contains("HAProxy refuses it"), "{said}");
            assert_eq!(reloads.load(Ordering::Relaxed), wanted, "{at:?}");
        }
    }
}
