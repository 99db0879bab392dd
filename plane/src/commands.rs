//! What an operator does: `planectl init`, `token`, `host` and `ingress`.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};
use daemon::command::print;

use crate::authority::Authority;
use crate::config::Configuration;
use crate::database::{self, seconds};
use crate::host;
use crate::ingress::files::Files;
use crate::ingress::reconcile;
use crate::message_queue;
use crate::token::{self, BoundTo};

/// Time for all ingresses to end the connections of a revoked certificate.
const APPLIED: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(500);
/// Time for another `planectl init` to end: HAProxy may take 30 s to check a configuration.
const LOCKED: Duration = Duration::from_secs(60);

/// The list of revoked certificates is written so often at most if it grows meanwhile.
const ROUNDS: u32 = 10;

/// Makes the authority, the database and what HAProxy reads. What is there stays.
pub(crate) async fn init(path: &Path) -> Result<()> {
    let configuration = Configuration::read(path)?;
    let now = SystemTime::now();
    let state = &configuration.state;
    for directory in ["authority", "ingress"] {
        let directory = state.join(directory);
        std::fs::create_dir_all(&directory)
            .with_context(|| format!("make {}", directory.display()))?;
    }
    let _one = lock(state).await?;
    let files = Files::below(state);
    // Before anything is written: what was left may fill the disk.
    let warning = match files.sweep() {
        Ok(()) => String::new(),
        Err(error) => format!("Warning: could not {error:#}.\n"),
    };
    let database = database::create(&configuration.database_url()?).await?;
    let root = state.join("authority/root.crt");
    let has_root = root
        .try_exists()
        .with_context(|| format!("look for {}", root.display()))?;
    let authority = match has_root {
        true => {
            if !database::has_root(&database).await? && files.revoked.exists() {
                bail!(
                    "make the tables of the database: there is an authority with hosts that are not in it; bring back the database, or remove {} to begin anew",
                    state.display()
                );
            }
            Authority::read(state)?
        }
        false => {
            if database::has_root(&database).await? {
                bail!(
                    "make the authority: the database belongs to another one; bring back {}",
                    state.join("authority").display()
                );
            }
            Authority::create(state, &configuration.host, now)?
        }
    };
    database::note_root(&database, &authority.fingerprint()?).await?;
    message_queue::shared_secret(state, &database).await?;
    write_revoked(&database, &authority, &files, now).await?;
    files.write_others(&configuration, &authority, now).await?;
    // HAProxy may have taken half a minute to check its configuration, and may be started now.
    write_revoked(&database, &authority, &files, now).await?;
    print(&format!(
        "The plane {} is ready for `planectl serve`.\nHAProxy's configuration: {}\n{warning}Fingerprint of the root: {}\n",
        configuration.host,
        files.configuration.display(),
        authority.fingerprint()?
    ))
}

/// Writes what is revoked. `planectl serve` may write meanwhile what was revoked since, and does so once: so it is written until the database has no more. Otherwise an HAProxy
/// that starts later would not know it.
async fn write_revoked(
    database: &sqlx::AnyPool,
    authority: &Authority,
    files: &Files,
    now: SystemTime,
) -> Result<()> {
    let mut revoked = host::revoked(database, now).await?;
    for _ in 0..ROUNDS {
        files.write_revoked(&authority.revocation_list(&revoked, now)?, &revoked)?;
        let since = host::revoked(database, now).await?;
        if since == revoked {
            return Ok(());
        }
        revoked = since;
    }
    bail!(
        "write the list of revoked certificates: others were revoked {ROUNDS} times meanwhile; run `planectl init` again"
    )
}

/// Waits until no other process holds the lock of this directory. Two that begin one plane would make two authorities, and two secrets of the message queue. (The lock has no file of
/// its own: one of root would keep another user from it.)
async fn lock(path: &Path) -> Result<File> {
    let doing = || format!("lock {}", path.display());
    let file = File::open(path).with_context(doing)?;
    let began = tokio::time::Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(error).with_context(doing),
            Err(TryLockError::WouldBlock) if began.elapsed() > LOCKED => bail!(
                "{}: another `planectl init` has held it for {} s; wait for its end, or end it",
                doing(),
                LOCKED.as_secs()
            ),
            Err(TryLockError::WouldBlock) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Prints the fingerprint of the root.
pub(crate) fn fingerprint(path: &Path) -> Result<()> {
    let configuration = Configuration::read(path)?;
    let authority = Authority::read(&configuration.state)?;
    print(&format!("{}\n", authority.fingerprint()?))
}

/// Makes a token, and writes it to a file or to standard output.
pub(crate) async fn create_token(
    path: &Path,
    bound_to: &BoundTo,
    life: Duration,
    to: Option<&PathBuf>,
) -> Result<()> {
    let database = open(path).await?;
    let now = SystemTime::now();
    if let Some(to) = to {
        daemon::files::can_replace(to)?;
    }
    let token = token::create(&database, bound_to, now, now + life).await?;
    match to {
        Some(to) => daemon::files::replace(to, format!("{}\n", token.0).as_bytes(), 0o600),
        None => print(&format!("{}\n", token.0)),
    }
}

/// Shows tokens.
pub(crate) async fn list_tokens(path: &Path) -> Result<()> {
    let database = open(path).await?;
    let now = seconds(SystemTime::now());
    let mut text = format!("{:<14}{:<40}STATE\n", "ID", "FOR");
    for its in token::list(&database).await? {
        let bound_to = match &its.bound_to {
            BoundTo::Host(name) => format!("host {name}"),
            BoundTo::Group(name) => format!("group {name}"),
        };
        let state = match its.used_at {
            Some(at) => format!("used {}", shown(at)),
            None if its.expires_at <= now => format!("expired {}", shown(its.expires_at)),
            None => format!("valid until {}", shown(its.expires_at)),
        };
        text += &format!("{:<14}{bound_to:<40}{state}\n", its.id);
    }
    print(&text)
}

/// Deletes a token.
pub(crate) async fn delete_token(path: &Path, id: &str) -> Result<()> {
    let database = open(path).await?;
    if !token::delete(&database, id).await? {
        bail!(
            "delete a token: there is no unused one with the id {id}; `planectl token list` shows them"
        );
    }
    Ok(())
}

/// Shows hosts.
pub(crate) async fn list_hosts(path: &Path) -> Result<()> {
    let database = open(path).await?;
    let mut text = format!("{:<38}{:<32}{:<16}CERTIFICATE\n", "ID", "NAME", "GROUP");
    for its in host::list(&database, SystemTime::now()).await? {
        let certificate = match its.ends_at {
            Some(at) => format!("valid until {}", shown(at)),
            None => "none that is valid".to_owned(),
        };
        let group = its.group.as_deref().unwrap_or("-");
        text += &format!("{:<38}{:<32}{group:<16}{certificate}\n", its.id, its.name);
    }
    print(&text)
}

/// Revokes the certificates of a host, which is named by its id only if `is_id`, and waits until every ingress refuses them.
pub(crate) async fn revoke(path: &Path, name: &str, is_id: bool) -> Result<()> {
    let done = tokio::time::timeout(APPLIED * 2, revoke_and_wait(path, name, is_id)).await;
    done.context("revoke certificates: the database does not answer")?
}

async fn revoke_and_wait(path: &Path, name: &str, is_id: bool) -> Result<()> {
    let database = open(path).await?;
    let now = SystemTime::now();
    let revoked = match is_id {
        true => host::revoke_id(&database, name, now).await?,
        false => host::revoke(&database, name, now).await?,
    };
    print(&format!("Revoked {revoked} certificates of {name}.\n"))?;
    let began = tokio::time::Instant::now();
    loop {
        let all = reconcile::list(&database, SystemTime::now()).await?;
        if all.is_empty() {
            bail!("see the certificates refused: no `planectl serve` has run yet");
        }
        let behind: Vec<String> = all
            .iter()
            .filter(|its| !its.is_as_wanted)
            .map(|its| format!("{} (seen {})", its.name, shown(its.seen_at)))
            .collect();
        if behind.is_empty() {
            return print("Every ingress refuses them, and has ended their connections.\n");
        }
        if began.elapsed() > APPLIED {
            bail!(
                "see the certificates refused: after {} s, these ingresses have not ended all connections: {}; their logs have the reason, and `planectl ingress forget` is for one that is gone",
                APPLIED.as_secs(),
                behind.join(", ")
            );
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Shows ingresses.
pub(crate) async fn list_ingresses(path: &Path) -> Result<()> {
    let database = open(path).await?;
    let mut text = format!("{:<40}{:<24}REVOKED CERTIFICATES\n", "NAME", "SEEN");
    for its in reconcile::list(&database, SystemTime::now()).await? {
        let state = match its.is_as_wanted {
            true => "all are refused",
            false => "not all are refused yet",
        };
        text += &format!("{:<40}{:<24}{state}\n", its.name, shown(its.seen_at));
    }
    print(&text)
}

/// Forgets an ingress.
pub(crate) async fn forget_ingress(path: &Path, name: &str) -> Result<()> {
    let database = open(path).await?;
    if !reconcile::forget(&database, name).await? {
        bail!("forget the ingress {name}: there is none; `planectl ingress list` shows them");
    }
    Ok(())
}

async fn open(path: &Path) -> Result<sqlx::AnyPool> {
    let configuration = Configuration::read(path)?;
    database::open(&configuration.database_url()?).await
}

fn shown(at: i64) -> String {
    let at = Duration::from_secs(u64::try_from(at).unwrap_or_default());
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + at).to_string()
}
