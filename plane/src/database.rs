//! The database: SQLite, or PostgreSQL where one server is not enough.
//!
//! All statements are the same for both. A transaction begins with a statement that writes: SQLite lets a reader not become a writer if
//! another one has written in between.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};
use sqlx::AnyPool;
use sqlx::any::AnyPoolOptions;
use sqlx::migrate::Migrator;

/// What the table `plane` has: the fingerprint of the root, and a check value of the secret that passwords of the message queue are made from.
const ROOT: &str = "root";
const QUEUE_SECRET: &str = "message-queue-secret";

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// Time to get a connection: after that a request is refused.
const ACQUIRE: Duration = Duration::from_secs(10);
/// Connections of a process.
const CONNECTIONS: u32 = 8;

/// Opens the database.
///
/// # Errors
/// It cannot be reached; its tables are missing, or of a later version.
pub async fn open(url: &str) -> Result<AnyPool> {
    let database = connect(url).await?;
    let applied = sqlx::query_scalar::<_, i64>("SELECT MAX(version) FROM _sqlx_migrations")
        .fetch_one(&database)
        .await
        .context("find the tables of the plane in the database; `planectl init` makes them")?;
    let known = MIGRATIONS.iter().map(|its| its.version).max().unwrap_or(0);
    if applied > known {
        bail!(
            "use the database: its tables are of version {applied}, and this program knows {known}; install a later version of it"
        );
    }
    MIGRATIONS
        .run(&database)
        .await
        .context("bring the tables of the database up to date")?;
    Ok(database)
}

/// Makes the tables, and for SQLite the file. Tables that are there stay.
///
/// # Errors
/// As [`open`].
pub async fn create(url: &str) -> Result<AnyPool> {
    let url = match url.starts_with("sqlite:") && !url.contains('?') {
        true => format!("{url}?mode=rwc"),
        false => url.to_owned(),
    };
    let database = connect(&url).await?;
    MIGRATIONS
        .run(&database)
        .await
        .context("make the tables of the database")?;
    Ok(database)
}

/// Notes which root belongs to this database, if none does.
///
/// # Errors
/// Another one does, or the database does not answer.
pub async fn note_root(database: &AnyPool, fingerprint: &str) -> Result<()> {
    note(database, ROOT, fingerprint).await?;
    check_root(database, fingerprint).await
}

/// Whether a root belongs to this database.
///
/// # Errors
/// The database does not answer.
pub async fn has_root(database: &AnyPool) -> Result<bool> {
    Ok(noted(database, ROOT).await?.is_some())
}

/// Checks that the root belongs to this database: its hosts have certificates of that one.
///
/// # Errors
/// Another one does, none does, or the database does not answer.
pub async fn check_root(database: &AnyPool, fingerprint: &str) -> Result<()> {
    match noted(database, ROOT).await? {
        Some(noted) if noted == fingerprint => Ok(()),
        Some(noted) => bail!(
            "use the authority with the root {fingerprint}: the database belongs to the root {noted}; bring back that one, or name the database of this one"
        ),
        None => bail!("use the database: it has no root; run `planectl init`"),
    }
}

/// Notes which secret of the message queue belongs to this database, if none does, by its check value (`message_queue::check_value`).
///
/// # Errors
/// Another one does, or the database does not answer.
pub async fn note_queue_secret(database: &AnyPool, check_value: &str) -> Result<()> {
    note(database, QUEUE_SECRET, check_value).await?;
    if noted(database, QUEUE_SECRET).await?.as_deref() != Some(check_value) {
        bail!(
            "the passwords of hosts in this database are made from another secret; bring that one back, or copy it from another plane with this database"
        );
    }
    Ok(())
}

/// Whether a secret of the message queue belongs to this database.
///
/// # Errors
/// The database does not answer.
pub async fn has_queue_secret(database: &AnyPool) -> Result<bool> {
    Ok(noted(database, QUEUE_SECRET).await?.is_some())
}

/// Writes a value to the table `plane`, if it has none with this name.
async fn note(database: &AnyPool, name: &str, value: &str) -> Result<()> {
    sqlx::query("INSERT INTO plane (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING")
        .bind(name)
        .bind(value)
        .execute(database)
        .await
        .with_context(|| format!("write `{name}` of the plane to the database"))?;
    Ok(())
}

async fn noted(database: &AnyPool, name: &str) -> Result<Option<String>> {
    sqlx::query_scalar("SELECT value FROM plane WHERE name = $1")
        .bind(name)
        .fetch_optional(database)
        .await
        .with_context(|| format!("read `{name}` of the plane in the database"))
}

async fn connect(url: &str) -> Result<AnyPool> {
    sqlx::any::install_default_drivers();
    AnyPoolOptions::new()
        .max_connections(CONNECTIONS)
        .acquire_timeout(ACQUIRE)
        .connect(url)
        .await
        // The URL is not shown: it may have a password.
        .context("open the database of the plane")
}

/// A time as the database has it: seconds since 1970.
#[must_use]
pub fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |its| i64::try_from(its.as_secs()).unwrap_or(i64::MAX))
}
