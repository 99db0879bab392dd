//! The database: SQLite, or PostgreSQL where one server is not enough.
//!
//! All statements are the same for both. A transaction begins with a statement that writes: SQLite lets a reader not become a writer if
//! another one has written in between.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};
use sqlx::AnyPool;
use sqlx::any::AnyPoolOptions;
use sqlx::migrate::Migrator;

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
    sqlx::query(
        "INSERT INTO plane (name, value) VALUES ('root', $1) ON CONFLICT (name) DO NOTHING",
    )
    .bind(fingerprint)
    .execute(database)
    .await
    .context("write the fingerprint of the root to the database")?;
    check_root(database, fingerprint).await
}

/// Whether a root belongs to this database.
///
/// # Errors
/// The database does not answer.
pub async fn has_root(database: &AnyPool) -> Result<bool> {
    Ok(root(database).await?.is_some())
}

/// Checks that the root belongs to this database: its hosts have certificates of that one.
///
/// # Errors
/// Another one does, none does, or the database does not answer.
pub async fn check_root(database: &AnyPool, fingerprint: &str) -> Result<()> {
    match root(database).await? {
        Some(noted) if noted == fingerprint => Ok(()),
        Some(noted) => bail!(
            "use the authority with the root {fingerprint}: the database belongs to the root {noted}; bring back that one, or name the database of this one"
        ),
        None => bail!("use the database: it has no root; run `planectl init`"),
    }
}

async fn root(database: &AnyPool) -> Result<Option<String>> {
    sqlx::query_scalar("SELECT value FROM plane WHERE name = 'root'")
        .fetch_optional(database)
        .await
        .context("read the fingerprint of the root in the database")
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
